"""All layers of a network in one figure: a row for each, a column for each target of an image."""

from collections.abc import Iterator, Sequence
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
from segcam_jax.reports.images import displays, subject_of
from segcam_jax.runs import StoredRun
from segcam_jax.types import InputError, shortened

ENDING = ".layers.png"


def draw_layers(
    run: StoredRun, items: Sequence[int], folder: Path, look: Look = Look()
) -> Iterator[str]:
    """Draws the layers of images with several targets, a file for each method; yields their names.

    Those that show the same already stay.
    """
    for item in items:
        rows = _rows(run, item)
        if len(rows) < 2:
            continue
        for method in _methods(run, rows):
            name = f"{run.names[item]}.{method}{ENDING}"
            seen = [run.row(row) for row in rows]
            mark = _files.key_of(
                [segcam_jax.__version__, run.manifest.key, method, seen, repr(look)]
            )
            if viz.mark_of(folder / name) != mark:
                viz.save(layers_figure(run, item, method, look), folder / name, mark=mark)
            yield name


def layers_figure(run: StoredRun, item: int, method: str, look: Look = Look()) -> Figure:
    """Draws the maps of one method at all layers of a run, for all targets of an image.

    Args:
        run: the run.
        item: the number of the image.
        method: by name.
        look: how maps are drawn.

    Raises:
        InputError: if the image has no such maps, or its file changed or is gone.
    """
    rows = _rows(run, item)
    if method not in _methods(run, rows):
        raise InputError(f"image {item} of {str(run.path)!r} has no maps by {method}")
    subjects = {row: subject_of(run, row) for row in rows}
    columns = dict(zip(rows, _titles(run, rows), strict=True))
    taps = [tap for tap in run.taps if any(run.has_map(row, tap, method) for row in rows)]
    every = {row: [(method, tap) for tap in taps if run.has_map(row, tap, method)] for row in rows}
    first = {row: displays(run, row, pairs, look) for row, pairs in every.items()}
    signed = any(each for _, each in first.values())
    shown = {
        row: found if own == signed else displays(run, row, every[row], look, signed=signed)[0]
        for row, (found, own) in first.items()
    }
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
        caption=f"Each map relative to its own largest value; outlined: what is explained. {how}",
    )


def _rows(run: StoredRun, item: int) -> list[int]:
    there = run.table.filter(polars.col("error").is_null(), polars.col("item") == item)
    return there["row"].to_list()


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
