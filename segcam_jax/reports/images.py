"""The figures of a stored run of images, from the store and the images' files alone.

run = open_store("run.zarr")
figure = row_figure(run, 17)                        # all maps of a row
figure = page(run, best(run, "score", 8))           # a row of maps per image
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
from jaxtyping import Float
from matplotlib.figure import Figure

from segcam_jax import viz
from segcam_jax.heatmap import hidden_share, over_image
from segcam_jax.networks.image_inputs import read_sample
from segcam_jax.reports import words
from segcam_jax.reports.display import Display, display, in_words, is_signed
from segcam_jax.reports.figures import (
    Look,
    Subject,
    drawable,
    drawn,
    heading,
    legend,
    of_all,
    of_map,
)
from segcam_jax.runs import StoredRun
from segcam_jax.runs.manifest import NetworkRecord
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError, counted, near, shortened

Pair = tuple[str, str]
# More panels side by side are too small to be seen.
_WIDEST = 8


def pairs(run: StoredRun, rows: Iterable[int]) -> list[Pair]:
    """The maps that any of these rows has: (method, tap), in the order of the run."""
    every = [(method, tap) for tap in run.taps for method in run.methods(tap)]
    rows = list(rows)
    return [(m, tap) for m, tap in every if any(run.has_map(row, tap, m) for row in rows)]


def row_figure(
    run: StoredRun, row: int, look: Look = Look(), *, subject: Subject | None = None
) -> Figure:
    """All maps of a row, side by side; where there is one alone, its own figure.

    Args:
        subject: that of the row, where several figures share it; None: it is made.
    """
    subject = subject_of(run, row) if subject is None else subject
    every = pairs(run, [row])
    if len(every) == 1:
        return map_figure(run, row, every[0], look, subject=subject)
    return montage(run, row, look, subject=subject)


def montage(
    run: StoredRun,
    row: int,
    look: Look = Look(),
    *,
    subject: Subject | None = None,
    chosen: Sequence[Pair] | None = None,
) -> Figure:
    """Maps of a row, small, side by side: those chosen, or all; else as `row_figure`."""
    subject = subject_of(run, row) if subject is None else subject
    shown, signed = displays(run, row, pairs(run, [row]) if chosen is None else chosen, look)
    return of_all(subject, shown, look, signed=signed)


def map_figure(
    run: StoredRun, row: int, pair: Pair, look: Look = Look(), *, subject: Subject | None = None
) -> Figure:
    """One map of a row: six panels of a segmentation, input and overlay of a classifier.

    Arguments are those of `row_figure`, and method and tap of the map.
    """
    subject = subject_of(run, row) if subject is None else subject
    method, tap = pair
    raw = run.map(row, tap, method)
    shown, _ = displays(run, row, [pair], look)
    return of_map(subject, raw, shown[pair], tap, look)


def page(
    run: StoredRun,
    rows: Sequence[int],
    look: Look = Look(),
    *,
    title: str | None = None,
    column: str | None = None,
) -> Figure:
    """Many rows of a run below each other: the image, and maps beside it.

    Where a run has more maps than fit, those of one layer are shown: that of the column, or else
    the last one. A panel stays empty where a row has no such map.

    Args:
        rows: the numbers of the rows, from top to bottom.
        title: a line above all.
        column: of the table, whose value is told beside each image.
    """
    if not rows:
        raise InputError(f"{str(run.path)!r} has no results to draw yet")
    every = pairs(run, rows)
    chosen = every if len(every) <= _WIDEST else _of_layer(every, column)
    shown, signed = displays_of(run, dict.fromkeys(rows, chosen), look)
    taps = list(dict.fromkeys(tap for _, tap in chosen))
    lines = [_page_row(run, row, [shown[row].get(pair) for pair in chosen], column) for row in rows]
    at = f"at {taps[0]}" if len(taps) == 1 else "each at its layer"
    outlined = "" if run.manifest.network.classifies else "; outlined: the explained pixels"
    every_map = (each for found in shown.values() for each in found.values())
    how = in_words(every_map, chosen=look.profile, signed=signed)
    left = [tap for tap in dict.fromkeys(tap for _, tap in every) if tap not in taps]
    besides = f" Not shown: maps at {', '.join(left)}." if left else ""
    return viz.gallery(
        lines,
        [heading(m) + (f", {tap}" if len(taps) > 1 else "") for m, tap in chosen],
        style=look.style,
        title=title or f"{shortened(run.path.name)}: {counted(len(rows), 'result')}",
        subtitle=f"{run.manifest.network.title}, {at}{outlined}",
        caption=f"{_score(run)} {how}{besides}",
    )


def best(run: StoredRun, column: str, count: int, *, worst: bool = False) -> list[int]:
    """The rows with the largest (or smallest) values of a column of the table."""
    found = run.table.filter(polars.col("error").is_null())
    numbers = [name for name, kind in found.schema.items() if kind.is_numeric()]
    if column not in numbers:
        said = "holds no numbers" if column in found.columns else "is unknown"
        all_of = ", ".join(numbers)
        raise InputError(
            f"column {column!r} "
            f"{said}{near(column, numbers) or f'; the columns of numbers are {all_of}'}"
        )
    found = found.filter(polars.col(column).is_not_null())
    return found.sort([column, "row"], descending=[not worst, False])["row"].head(count).to_list()


def subject_of(run: StoredRun, row: int) -> Subject:
    """A row of a run, for figures; its image is read again where it was not stored."""
    about, network, options = run.row(row), run.manifest.network, run.manifest.options
    region, prediction = run.region(row), run.prediction(row)
    where = about["region"] or options.get("region", "predicted")
    kind = where.partition(":")[0]
    chosen = where if kind != "mask" else kind
    if chosen == "predicted" and region is not None and prediction is not None:
        # A list of images may ask for other pixels.
        chosen = chosen if (prediction[region] == about["class_index"]).all() else ""
    return Subject(
        name=run.names[about["item"]],
        said=_said(about, network),
        pixels=_pixels(run, about),
        padded=extent_of(about["padded"]),
        network=network.title,
        label=about["class"],
        rather_than=about["rather_than"] or "",
        class_index=about["class_index"],
        of=units(run),
        reduce=options.get("reduce", "sum"),
        legend=legend(network.labels, network.background),
        background=network.background_index if len(network.labels) > 1 else len(network.labels),
        region=region,
        chosen=chosen,
        prediction=prediction,
        truth=run.truth(row),
    )


def extent_of(words: str) -> tuple[int, int]:
    """Extents of the words `64x48`."""
    height, width = map(int, words.split("x"))
    return height, width


def _said(about: dict[str, Any], network: NetworkRecord) -> str:
    """What is explained, and what a classifier predicts."""
    return words.in_words(about, network) if network.classifies else words.explained(about)


def _score(run: StoredRun) -> str:
    """What is explained in all rows, in units of the output."""
    if run.manifest.network.classifies:
        return f"Explained: {units(run)}."
    how = {"sum": "summed", "mean": "averaged"}[run.manifest.options.get("reduce", "sum")]
    return f"Explained: {units(run)}, {how} over the outlined pixels."


def units(run: StoredRun) -> str:
    """What scores are of: logits or probabilities."""
    if run.manifest.network.meaning.outputs == "probabilities":
        return "probabilities"
    return run.manifest.options.get("of", "logits")


def _pixels(run: StoredRun, about: dict[str, Any]) -> Float[np.ndarray, "h w c"]:
    """The image of a row: stored, or read again; the same in either case."""
    stored = run.image(about["item"])
    if stored is not None:
        return stored
    form = run.manifest.network.images
    assert form is not None  # Runs of scans are opened otherwise.
    sample = read_sample(Path(about["path"]), form)
    if sample.sha256 != about["sha256"]:
        raise InputError(f"{about['path']!r} is not the file that was explained (SHA-256)")
    return sample.shown


def displays(
    run: StoredRun, row: int, chosen: Sequence[Pair], look: Look, *, signed: bool | None = None
) -> tuple[dict[Pair, Display], bool]:
    """What figures show of those of the maps that a row has, and whether with their signs.

    `signed` is None where these maps alone decide.
    """
    about = run.row(row)
    sizes = {"padded": extent_of(about["padded"]), "extent": extent_of(about["extent"])}
    maps = {
        (method, tap): run.map(row, tap, method)
        for method, tap in chosen
        if run.has_map(row, tap, method)
    }
    hidden = [(method, hidden_share(over_image(raw, **sizes))) for (method, _), raw in maps.items()]
    signed = is_signed(look.profile, hidden) if signed is None else signed
    shown = {
        (method, tap): display(
            raw,
            method,
            profile=look.profile,
            signed=signed,
            smoothing=look.smoothing,
            weights=run.weights(row, tap, method),  # pyright: ignore[reportArgumentType]
            **sizes,
        )
        for (method, tap), raw in maps.items()
    }
    return shown, signed


def displays_of(
    run: StoredRun, chosen: Mapping[int, Sequence[Pair]], look: Look
) -> tuple[dict[int, dict[Pair, Display]], bool]:
    """What a figure of several rows shows of the maps chosen of each: all with signs, or none."""
    own = {row: displays(run, row, pairs, look) for row, pairs in chosen.items()}
    signed = any(each for _, each in own.values())
    shown = {
        row: found if each == signed else displays(run, row, chosen[row], look, signed=signed)[0]
        for row, (found, each) in own.items()
    }
    return shown, signed


def _of_layer(every: Sequence[Pair], column: str | None) -> list[Pair]:
    """The maps of one layer, for a page: that which a column is of, or the last one."""
    taps = [tap for _, tap in every]
    named = [tap for method, tap in every if (column or "").startswith(f"{method}.{tap}.")]
    hidden = [tap for tap in taps if tap != INPUT] or taps
    tap = named[0] if named else hidden[-1]
    return [pair for pair in every if pair[1] == tap][:_WIDEST]


def _page_row(
    run: StoredRun, row: int, shown: Sequence[Display | None], column: str | None
) -> viz.Row:
    about, subject = run.row(row), subject_of(run, row)
    network = run.manifest.network
    detail = [_said(about, network)]
    if column is not None:
        detail.append(f"{column}: {about[column]:.4g}")
    pixels, name = drawable(subject.pixels), shortened(subject.name)
    return viz.Row(pixels, drawn(shown), name, "\n".join(detail), subject.region)
