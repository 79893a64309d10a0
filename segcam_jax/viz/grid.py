"""Figures of images: an overlay, a montage, a gallery."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcam_jax.types import InputError, counted
from segcam_jax.viz.checks import AnyArray, as_image, as_region
from segcam_jax.viz.layout import Panels, Words, finished, panels
from segcam_jax.viz.panels import (
    AnyMap,
    Noted,
    blank,
    colour_bar,
    entitle,
    hide,
    importance,
    noted,
    outline,
    overlaid,
    picture,
)
from segcam_jax.viz.reuse import element
from segcam_jax.viz.style import SMALL, SOFT, Scale, Style, drawing, wrap

# Inches: the side of a square panel that is alone, in rows, in many rows.
_ALONE, _IN_ROWS, _SMALL = 3.4, 1.6, 1.3
_MANY = 5  # rows or columns from which panels of a grid are small
_LABEL = 1.6  # inches: the longest line of a row's label


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row of a gallery.

    Attributes:
        image: `h w`, `h w 1` or `h w 3`, in [0, 1].
        maps: one heatmap per column, at the resolution of the image; None says "no map".
        label: what the row shows, for example a layer; left of the image.
        detail: what else there is to say of it, smaller; lines are kept.
        region: boolean mask of the target's pixels, outlined.
        regions: one for each map, outlined in it; None: `region` in all.
    """

    image: Float[AnyArray, "h w *c"]
    maps: Sequence[AnyMap | None]
    label: str = ""
    detail: str = ""
    region: Bool[AnyArray, "h w"] | None = None
    regions: Sequence[Bool[AnyArray, "h w"] | None] | None = None


@drawing()
def overlay(
    image: Float[AnyArray, "h w *c"],
    heatmap: AnyMap,
    *,
    region: Bool[AnyArray, "h w"] | None = None,
    style: Style = Style(),
    title: str | None = None,
) -> Figure:
    """Draws a heatmap over the grey image, with a colour bar and the region's outline.

    The opacity grows with the importance, so that the image stays visible where the map says
    nothing; the colour bar shows the colours as they look over middle grey.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        heatmap: finite numbers at image resolution; negative ones count against the target.
        region: boolean mask of the target's pixels.

    Returns:
        A figure that belongs to nobody: no pyplot, no display. An all-zero heatmap says so.
    """
    checked = as_image(image)
    shape = (checked.shape[0], checked.shape[1])
    values = noted(heatmap, "heatmap", shape)
    mask = None if region is None else as_region(region, shape)
    scale = style.scale([values.values])
    made = panels([shape], 1, _ALONE)
    axes = made.axes[0][0]
    overlaid(axes, checked, values, scale, mask, made.width)
    colour_bar([axes], scale, importance(scale), made.width)
    return finished(made.figure, Words(title))


@drawing()
def montage(
    image: Float[AnyArray, "h w *c"],
    maps: Mapping[tuple[str, str], AnyMap | None],
    *,
    region: Bool[AnyArray, "h w"] | None = None,
    regions: Mapping[str, Bool[AnyArray, "h w"] | None] | None = None,
    style: Style = Style(),
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws heatmaps of one image in a grid, usually methods x taps, on one shared scale.

    The input stands before the first row. Maps are drawn as given: on the shared scale, a map whose
    values are small looks faint. Normalise each map first to compare where they look rather than
    how strongly.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        maps: heatmaps at image resolution, by (label of the row, label of the column), rows and
            columns in the order of their first appearance. A cell without a map (no key, or None)
            says "no map".
        region: boolean mask of the target's pixels, outlined in every cell.
        regions: by the label of the column, where columns are of targets of their own.
        style: how the maps are coloured; limits are those of all maps.
        caption: words below the maps.

    Raises:
        InputError: if an input does not have the form above, or there is no map at all.
    """
    checked = as_image(image)
    mask = None if region is None else as_region(region, checked.shape[:2])
    rows, columns = (list(dict.fromkeys(key[place] for key in maps)) for place in (0, 1))
    own = None if regions is None else [regions.get(each) for each in columns]
    table = [
        _checked(
            Row(checked, [maps.get((row, each)) for each in columns], row, "", mask, own),
            repr(row),
            columns,
        )
        for row in rows
    ]
    scale = style.scale(_values(table))
    made = _rows(table, columns, scale, importance(scale), once=True)
    return finished(made.figure, Words(title, caption=caption))


@drawing()
def gallery(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    style: Style = Style(),
    title: str | None = None,
    subtitle: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws rows of an input and its heatmaps: the figure of a comparison of methods.

    Each map is divided by its largest magnitude: colours tell where, not how strongly. All maps
    are drawn on one scale, sequential or, if any is signed, centred on zero.

    Args:
        rows: from top to bottom.
        columns: what the maps are called, for example methods.
        subtitle: a smaller line below the title.
        caption: words below all.

    Raises:
        InputError: if an input does not have the form above, or there is no map at all.
    """
    if not rows or not columns:
        raise InputError("a gallery needs at least one row and one column")
    table = [_checked(row, f"row {number + 1}", columns) for number, row in enumerate(rows)]
    table = [dataclasses.replace(row, maps=[_relative(each) for each in row.maps]) for row in table]
    # Zero belongs to every scale, so that a gallery of zero maps has one too.
    scale = style.scale([*_values(table), np.array([[0.0, 1.0]])])
    against = "; negative: against it" if scale.signed else ""
    label = f"importance, each map relative to its own largest value{against}"
    made = _rows(table, columns, scale, label, once=False)
    return finished(made.figure, Words(title, subtitle, caption))


def _checked(row: Row, name: str, columns: Sequence[str]) -> Row:
    """A row with arrays of numpy, and all maps noted."""
    if len(row.maps) != len(columns):
        raise InputError(
            f"{name} has {counted(len(row.maps), 'map')} for {counted(len(columns), 'column')}"
        )
    image = as_image(row.image, f"the image of {name}")
    shape = image.shape[:2]
    maps = [
        None if each is None else noted(each, f"the map of {name} at {column!r}", shape)
        for each, column in zip(row.maps, columns, strict=True)
    ]
    region = None if row.region is None else as_region(row.region, shape)
    own = [region] * len(maps)
    if row.regions is not None:
        own = [None if each is None else as_region(each, shape) for each in row.regions]
    return dataclasses.replace(row, image=image, maps=maps, region=region, regions=own)


def _values(rows: Sequence[Row]) -> list[AnyArray]:
    """All maps of checked rows; raises `InputError` if there is none."""
    found = [each.values for row in rows for each in row.maps if isinstance(each, Noted)]
    if not found:
        raise InputError("no map was given; give at least one")
    return found


def _relative(given: AnyMap | None) -> Noted | None:
    """A checked map divided by its largest magnitude."""
    if not isinstance(given, Noted):
        return None
    largest = np.abs(given.values).max()
    return Noted(given.values / largest, given.note) if largest > 0 else given


def _rows(
    rows: Sequence[Row], columns: Sequence[str], scale: Scale, label: str, *, once: bool
) -> Panels:
    """Draws checked rows: the input, in the first alone if `once`, the maps, and their bar."""
    labels = [wrap(row.label, _LABEL, lines=3) for row in rows]
    details = [
        "\n".join(wrap(line, _LABEL, SMALL, lines=3) for line in row.detail.split("\n"))
        for row in rows
    ]
    longest = max(
        width * len(line)  # In inches, about.
        for pieces, width in ((labels, 0.075), (details, 0.055))
        for words in pieces
        for line in words.split("\n")
    )
    shapes = [(row.image.shape[0], row.image.shape[1]) for row in rows]
    side = _SMALL if len(columns) > _MANY or (once and len(rows) > _MANY) else _IN_ROWS
    around = (label, *columns, *labels, *details, str(once))
    made = panels(shapes, 1 + len(columns), side, longest, words=around)
    for number, (row, (first, *others)) in enumerate(zip(rows, made.axes, strict=True)):
        if once and number:
            hide(first)
        else:
            picture(first, row.image)
            outline(first, row.region)
        for axes, given, region in zip(others, row.maps, row.regions or (), strict=True):
            if isinstance(given, Noted):
                overlaid(axes, row.image, given, scale, region, made.width)
            else:
                blank(axes, "no map", made.width)
        _label(others[0] if once else first, labels[number], details[number])
    for axes, words in zip(made.axes[0], ("input", *columns), strict=True):
        entitle(axes, words, made.width, lines=3)
    maps = made.axes[-1][1:]
    colour_bar(maps, scale, label, len(maps) * made.width)
    return made


@element
def _label(axes: Axes, label: str, detail: str) -> None:
    """Writes left of a panel what its row shows: the label above its middle, the detail below."""
    beside: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "right",
    }
    if label:
        above = "bottom" if detail else "center"
        axes.annotate(label, (0, 0.5), (-5, 1 if detail else 0), va=above, weight="bold", **beside)
    if detail:
        below = "top" if label else "center"
        words: dict[str, Any] = {"fontsize": SMALL, "color": SOFT}
        axes.annotate(detail, (0, 0.5), (-5, -1 if label else 0), va=below, **words, **beside)
