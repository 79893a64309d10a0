"""All layers of a network in one figure: a row for each, a column for each target of an image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import polars
from matplotlib.figure import Figure

import segcam_jax
from segcam_jax import _files, viz
from segcam_jax.methods import METHODS
from segcam_jax.networks.regions import short_words
from segcam_jax.reports import words
from segcam_jax.reports.display import in_words
from segcam_jax.reports.figures import Look, clipped, drawable, heading, own_scale
from segcam_jax.reports.images import displays_of, subject_of
from segcam_jax.runs import StoredRun
from segcam_jax.types import InputError, shortened


@dataclasses.dataclass(frozen=True)
class LayersTask:
    """A figure of all layers that is to be written."""

    item: int
    method: str
    path: Path
    mark: str

    @property
    def figures(self) -> int:
        """How many files are drawn."""
        return 1

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name

    @property
    def said(self) -> str:
        """What is told once it is written."""
        return self.name

    def is_there(self) -> bool:
        """Whether it is written."""
        return viz.mark_of(self.path) == self.mark

    def write(self, run: StoredRun, look: Look) -> None:
        """Draws the figure."""
        viz.save(layers_figure(run, self.item, self.method, look), self.path, mark=self.mark)


def layers_tasks(
    run: StoredRun, folder: Path, look: Look, items: Sequence[int] | None = None
) -> list[LayersTask]:
    """The figures of images with several targets, one for each method.

    Args:
        items: numbers of the images; None: all.
    """
    if run.manifest.targets < 2:
        return []
    there = run.table.filter(polars.col("error").is_null())
    tasks = []
    for item in there["item"].unique(maintain_order=True) if items is None else items:
        rows = there.filter(polars.col("item") == item)["row"].to_list()
        seen = [run.row(row) for row in rows]
        for method in _methods(run, rows) if len(rows) > 1 else ():
            facts = [method, seen, dataclasses.asdict(look)]
            mark = _files.key_of([segcam_jax.__version__, run.manifest.key, *facts])
            path = folder / file_of(run.names[item], method)
            tasks.append(LayersTask(item, method, path, mark))
    return tasks


def file_of(image: str, method: str) -> str:
    """The name of the figure of an image, by its name, and a method."""
    return f"{image}.{method}.layers.png"


def layers_figure(run: StoredRun, item: int, method: str, look: Look = Look()) -> Figure:
    """Draws the maps of one method at all layers of a run, for all targets of an image."""
    there = run.table.filter(polars.col("error").is_null(), polars.col("item") == item)
    rows = there["row"].to_list()
    if method not in _methods(run, rows):
        raise InputError(f"image {item} of {str(run.path)!r} has no maps by {method}")
    subjects = {row: subject_of(run, row) for row in rows}
    columns = dict(zip(rows, _titles(run, rows), strict=True))
    taps = [tap for tap in run.taps if any(run.has_map(row, tap, method) for row in rows)]
    every = {row: [(method, tap) for tap in taps if run.has_map(row, tap, method)] for row in rows}
    shown, signed = displays_of(run, every, look)
    maps = {
        (tap, columns[row]): viz.Noted(
            own_scale(clipped(method, shown[row][method, tap].heat)), shown[row][method, tap].zero
        )
        for tap in taps
        for row in rows
        if (method, tap) in shown[row]
    }
    subject = subjects[rows[0]]
    how = in_words(
        (each for found in shown.values() for each in found.values()),
        chosen=look.profile,
        signed=signed,
    )
    return viz.montage(
        drawable(subject.pixels),
        maps,
        regions={columns[row]: subjects[row].region for row in rows},
        style=look.style,
        title=f"{shortened(subject.name)}: {heading(method)} at every layer, {subject.network}",
        caption=(
            f"Each map is relative to its own largest value. Outlined: the explained pixels. {how}"
        ),
    )


def _methods(run: StoredRun, rows: Sequence[int]) -> list[str]:
    """The methods whose maps are of several layers."""
    found: dict[str, set[str]] = {}
    for tap in run.taps:
        for method in run.methods(tap):
            there = any(run.has_map(row, tap, method) for row in rows)
            if there and METHODS[method].explains == "activation":
                found.setdefault(method, set()).add(tap)
    return [method for method, taps in found.items() if len(taps) > 1]


def _titles(run: StoredRun, rows: Sequence[int]) -> list[str]:
    """A heading for each target: its class, and its pixels where they are told."""
    titles = []
    for row in rows:
        about = run.row(row)
        title = words.explained(about)
        where = about["region"]
        titles.append(f"{title}, {short_words(where)}" if where else title)
    return _files.unique_names(titles)
