"""Items that take long, one after the other: each in steps, which are kept as they are done.

A shard is one item. Its part of the table grows step by step and says whether any is left: a run
that was killed goes on with the next step. The next item is read ahead meanwhile.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from segcam_jax.runs.reading import read_ahead
from segcam_jax.runs.store import Store, Variable
from segcam_jax.runs.table import Part, failure
from segcam_jax.types import InputError

# The item that is computed, and the one after it.
_AHEAD = 2
OnItem = TypeVar("OnItem", contravariant=True)
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step of an item has come to.

    Attributes:
        variables: arrays.
        rows: of the table.
        last: whether no step is left.
    """

    variables: Sequence[Variable]
    rows: Sequence[Row]
    last: bool


class StepKernel(Protocol[OnItem]):
    """What computes an item in steps."""

    def steps(self, number: int, read: OnItem, part: Part | None) -> Generator[Step, None, None]:
        """The steps that are left of an item.

        Args:
            number: of the item.
            read: what was read of it, or why nothing was.
            part: what earlier steps have left; None: there was none.
        """
        ...


def run_steps(
    kernel: StepKernel[Any],
    read: Callable[[int], Any],
    part: Callable[[int], Part | None],
    count: int,
    store: Store,
    *,
    stop_on_error: bool = False,
) -> None:
    """Computes what is left of the items, and stores each step.

    Args:
        kernel: what computes.
        read: reads an item by its number; called in threads.
        part: what there is of an item, if it is of the item as it is now.
        count: of the items.
        store: where results go.
        stop_on_error: stop at the first failure; what is finished stays.

    Raises:
        SegcamError: if results cannot be written, or something failed and that is to stop the run.
    """

    def todo() -> Iterator[int]:
        for number in range(count):
            there = part(number)
            if there is None or there.unfinished:
                yield number

    entries = read_ahead(read, todo(), window=_AHEAD)
    with contextlib.closing(entries):
        for entry in entries:
            there = part(entry.item)
            steps = kernel.steps(entry.item, entry.read, there)
            with contextlib.closing(steps):
                for step in steps:
                    failed = [row for row in step.rows if row.get("error")]
                    if failed and stop_on_error:
                        raise InputError(failure(failed[0]))
                    there = store.add(entry.item, there, step.variables, step.rows, last=step.last)
