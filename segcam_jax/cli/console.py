"""What a person sees: results on stdout, notes and progress on stderr, plain lines without one."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from segcam_jax.types import counted, shortened

if TYPE_CHECKING:
    from segcam_jax.runs.pipeline import Progress

# The exit code of a run that is finished, and of which something could not be explained.
WITH_FAILURES = 3
# Wide enough for every table of ours, where no terminal says otherwise.
_PIPE_WIDTH = 200
_NAME_WIDTH = 60
_LONGEST = 300 - len("segcam: ")


def results() -> Console:
    """Where results go."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)


def note(line: str) -> None:
    """Says something on stderr, in one line."""
    print(f"segcam: {one_line(line)}", file=sys.stderr, flush=True)


def error(problem: object) -> None:
    """Says what was wrong on stderr, in one line that a person reads to its end."""
    note(_readable(f"error: {problem}"))


def _readable(text: str) -> str:
    """A text of at most `_LONGEST` letters: of a longer one, long words lose their middle first."""
    line = one_line(text)
    for most in (80, 40):
        if len(line) > _LONGEST:
            line = " ".join(shortened(word, most) for word in line.split(" "))
    return shortened(line, _LONGEST)


def one_line(text: object) -> str:
    """The text without line breaks."""
    return " ".join(str(text).split())


def is_wide() -> bool:
    """Whether a table of ten columns fits."""
    return results().width >= 160


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; columns whose cells are numbers are set to the right."""
    drawn = Table(header_style="bold")
    for number, name in enumerate(columns):
        numeric = all(_is_number(row[number]) for row in rows) and bool(rows)
        widest = max((len(str(row[number])) for row in rows), default=0)
        drawn.add_column(
            name,
            justify="right" if numeric else "left",
            # A longer name would leave the other columns nothing.
            no_wrap=number == 0 and widest <= _NAME_WIDTH,
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    console = results()
    if title:
        console.print(title, style="bold", markup=False)
    console.print(drawn)


def facts(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints names and what there is to say of each, under a title."""
    drawn = Table.grid(padding=(0, 2))
    for name, words in rows:
        drawn.add_row(escape(name), escape(words))
    console = results()
    console.print(title, style="bold", markup=False)
    console.print(drawn)


def _is_number(cell: object) -> bool:
    try:
        float(str(cell).split(" ")[0].replace("—", "0"))
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows progress while the block runs.

    Yields:
        `advance(count=1, text="")`. On a terminal a bar moves; elsewhere the text of every
        advance by more than nothing is written as a line.
    """
    if not sys.stderr.isatty():

        def advance_plainly(count: int = 1, text: str = "") -> None:
            if text and count:
                note(text)

        yield advance_plainly
        return
    with _bar(what, total) as update:

        def advance(count: int = 1, text: str = "") -> None:
            update(advance=count, text=escape(one_line(text)))

        yield advance


@contextlib.contextmanager
def rates(what: str, total: int, unit: str = "images") -> Iterator[Callable[["Progress"], None]]:
    """Shows how far a run is while the block runs: items a second, what is left, what failed.

    Yields:
        A function of the run's `Progress`.
    """
    if not sys.stderr.isatty():
        yield lambda done: note(f"{done.items + done.before} of {total}, {_rates(done, unit)}")
        return
    with _bar(what, total, TextColumn("left"), TimeRemainingColumn()) as update:
        yield lambda done: update(completed=done.items + done.before, text=_rates(done, unit))


@contextlib.contextmanager
def _bar(what: str, total: int, *left: ProgressColumn) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, what it says of the time that is left, and a text behind it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    columns = (*columns, TimeElapsedColumn(), *left, TextColumn("{task.fields[text]}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield functools.partial(bars.update, bars.add_task(what, total=total, text=""))


def _rates(done: "Progress", unit: str) -> str:
    failed = f", {counted(done.failures, 'failure')}" if done.failures else ""
    busy = f"device busy {100 * done.busy_share:.0f} %"
    return f"{done.rate:.1f} {unit} a second, {busy}{failed}"
