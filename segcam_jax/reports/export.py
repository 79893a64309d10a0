"""A stored run as files for other programs: a PNG and a `.npy` array per map, one table.

OUT/record.json                               of which run the files are
OUT/items.csv                                 all rows, those that failed too
OUT/cat/grad_cam.bottleneck.npy               raw and signed; `.attribution.npy` by channel
OUT/cat/grad_cam.bottleneck.weights.csv       of the channels, where the method weighs them
OUT/cat/guided_grad_cam.bottleneck.colours.png  of guided gradients of red, green and blue
OUT/cat/grad_cam.bottleneck.png               OUT/cat/montage.png: all maps of the image
OUT/cat.top2/...                              where several targets of an image are explained
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import polars

from segcam_jax import _files, viz
from segcam_jax.data.importance import importance_csv
from segcam_jax.methods import METHODS
from segcam_jax.reports.figures import Look, Subject
from segcam_jax.reports.images import Pair, map_figure, montage, pairs, subject_of
from segcam_jax.reports.processes import spread
from segcam_jax.runs import StoredRun
from segcam_jax.runs.folder import RECORD, has_record, write_export_record
from segcam_jax.types import counted

What = Literal["png", "npy", "csv"]
TABLE = "items.csv"


def row_names(run: StoredRun, items: Sequence[int] | None = None) -> dict[int, str]:
    """A name for each row that has results: that of its image, and of its target among several.

    Args:
        items: numbers of images; None: all.
    """
    names, several = run.names, run.manifest.targets > 1
    there = run.table.filter(polars.col("error").is_null())
    if items is not None:
        there = there.filter(polars.col("item").is_in(list(items)))
    targets = there.select("row", "item", "target").rows()
    full = [f"{names[item]}.{target}" if several else names[item] for _, item, target in targets]
    return dict(zip((row for row, _, _ in targets), _files.unique_names(full), strict=True))


def write_table(run: StoredRun, folder: Path) -> None:
    """Writes all rows that are there as CSV."""
    _files.write_bytes(folder / TABLE, run.table.write_csv().encode())


def export(
    run: StoredRun,
    folder: Path,
    *,
    what: Sequence[What] = get_args(What),
    items: Sequence[int] | None = None,
    look: Look = Look(),
    overwrite: bool = False,
    advance: Callable[[int, str], None] = lambda rows, text: None,
) -> int:
    """Writes the files of a run, each whole.

    Args:
        run: the run, finished or not.
        folder: made if it is not there.
        items: numbers of images; None: all. The table has all rows in any case.
        advance: is called with the number of rows done since the last call, and a name.

    Returns:
        How many files were written.

    Raises:
        InputError: if the folder is a file, or holds one of the names already; if an image changed.
        FileError: if something cannot be written.
    """
    names = row_names(run, items) if {"png", "npy"} & set(what) else {}
    own = [] if has_record(folder, export=True) else [RECORD]
    wanted = [*own, *([TABLE] if "csv" in what else []), *names.values()]
    _files.check_free(folder, () if overwrite else wanted)
    write_export_record(folder, run.path, run.manifest.key)
    count = 0
    if "csv" in what:
        write_table(run, folder)
        count += 1
    tasks = [
        RowTask(row, folder / name, row_files(run, [row], what)) for row, name in names.items()
    ]
    with viz.reused():
        for task in write_tasks(run, tasks, look):
            count += len(task.files)
            advance(1, task.folder.name)
    return count


@dataclasses.dataclass(frozen=True)
class RowFile:
    """A file that a row of a run has in its folder.

    Attributes:
        pair: method and tap of its map; of a montage, of the last one.
    """

    name: str
    kind: Literal["map", "attribution", "weights", "colours", "figure", "montage"]
    pair: Pair

    def write(
        self,
        run: StoredRun,
        row: int,
        folder: Path,
        look: Look,
        subject: Subject | None,
        mark: str | None = None,
    ) -> None:
        """Writes it whole; figures show the subject and carry the mark, as `viz.save` has it."""
        method, tap = self.pair
        path = folder / self.name
        match self.kind:
            case "map":
                _files.write_array(path, run.map(row, tap, method))
            case "attribution":
                values = run.attribution(row, tap, method)
                assert values is not None
                _files.write_array(path, values)
            case "colours":
                values = run.attribution(row, tap, method)
                assert values is not None
                viz.save_colours(values, path)
            case "weights":
                weights = run.weights(row, tap, method)
                assert weights is not None
                _files.write_bytes(path, importance_csv(weights))
            case "figure":
                viz.save(map_figure(run, row, self.pair, look, subject=subject), path, mark=mark)
            case "montage":
                viz.save(montage(run, row, look, subject=subject), path, mark=mark)


@dataclasses.dataclass(frozen=True)
class RowTask:
    """What is to be written of a row."""

    row: int
    folder: Path
    files: Sequence[RowFile]
    mark: str | None = None

    @property
    def figures(self) -> int:
        """How many of the files are drawn."""
        return sum(each.kind in ("figure", "montage") for each in self.files)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def said(self) -> str:
        """What is told once they are written."""
        return f"{self.name}: {counted(len(self.files), 'file')}"

    def is_there(self) -> bool:
        """Whether they are written, and show the row as it is."""
        there = all((self.folder / each.name).is_file() for each in self.files)
        last = self.folder / self.files[-1].name
        return there and (not self.figures or viz.mark_of(last) == self.mark)

    def write(self, run: StoredRun, look: Look) -> None:
        """Writes them; the image is read once for all figures."""
        subject = subject_of(run, self.row) if self.figures else None
        for each in self.files:
            each.write(run, self.row, self.folder, look, subject, self.mark)


def write_tasks(run: StoredRun, tasks: Sequence[Any], look: Look) -> Iterator[Any]:
    """Does tasks as `RowTask`s are, on all cores where it is much; yields each that is done.

    In a block of `viz.reused` it is faster.
    """
    figures = sum(task.figures for task in tasks)
    return spread(operator.methodcaller("write", run, look), tasks, figures)


def row_files(run: StoredRun, rows: Iterable[int], what: Sequence[What]) -> list[RowFile]:
    """The files that any of these rows has, in the order in which they are written."""
    slugs = _files.unique_names([_files.slug(tap, "tap") for tap in run.taps])
    taps = dict(zip(run.taps, slugs, strict=True))
    images = run.manifest.network.images
    in_colour = images is not None and images.channels == 3
    found: list[RowFile] = []
    for method, tap in (every := pairs(run, rows)):
        start, pair = f"{method}.{taps[tap]}", (method, tap)
        if "npy" in what:
            found.append(RowFile(f"{start}.npy", "map", pair))
            if run.has_attribution(tap, method):
                found.append(RowFile(f"{start}.attribution.npy", "attribution", pair))
            if run.has_weights(tap, method):
                found.append(RowFile(f"{start}.weights.csv", "weights", pair))
        if "png" in what and in_colour and METHODS[method].coloured:
            found.append(RowFile(f"{start}.colours.png", "colours", pair))
        if "png" in what:
            found.append(RowFile(f"{start}.png", "figure", pair))
    if "png" in what and every:
        found.append(RowFile("montage.png", "montage", every[-1]))
    return found
