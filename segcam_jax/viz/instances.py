"""Figures of instances in volumes: one instance in three slices, and the peaks of all."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from segcam_jax.types import InputError, counted
from segcam_jax.viz.canvas import (
    FAINT,
    LARGE,
    MARGIN,
    NORMAL,
    PLAIN,
    SMALL,
    Canvas,
    font,
    heading,
    text_width,
    wrap,
)
from segcam_jax.viz.colour import grey, scale_of
from segcam_jax.viz.draw import (
    BAR_HEIGHT,
    OUTLINE,
    OUTLINE_SHADOW,
    colour_bar,
    number,
    outline,
    show,
)
from segcam_jax.viz.plot import BELOW, LEFT, plot_axes

SIDE, BETWEEN = 1.5, 0.08  # inches: a panel, and the space beside it
NAME = 0.2  # above a column
GROUP_COLOURS = {
    "TP": "#009E73",
    "WEAK": "#E69F00",
    "FP": "#D55E00",
    "IGNORED": "#8C8C8C",
    "FN": "#0072B2",
}
PLOT = 2.5
DIMMED = 0.6  # the brightness of an image under colours, so that pale ones show
# (name, the axis that is cut, the axis that runs to the right, the one that runs upwards)
_SLICES = (("axial", 2, 0, 1), ("coronal", 1, 0, 2), ("sagittal", 0, 1, 2))
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclasses.dataclass(frozen=True, eq=False)
class Portrait:
    """One instance as it is drawn; all volumes have axes to the right, the front and the top.

    Attributes:
        images: modality -> volume in [0, 1].
        probability: what the network predicts, in [0, 1].
        mask: the instance.
        maps: name -> (map, the modality that it is painted over).
        remarks: name of a map -> two short lines below its column.
        center: the voxel that all slices contain.
        spacing: size of a voxel in mm along each axis.
        extent: side in mm of the cube that is shown enlarged.
    """

    images: Mapping[str, Float[np.ndarray, "x y z"]]
    probability: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    maps: Mapping[str, tuple[Float[np.ndarray, "x y z"], str]]
    remarks: Mapping[str, str]
    center: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent: float


def instance_portrait(
    portrait: Portrait, *, limit: float, label: str = "importance", title: str | None = None
) -> Figure:
    """Draws an instance in three orthogonal slices: where it is, images, prediction, maps.

    Args:
        portrait: what to draw.
        limit: the colour scale of the maps ends at -limit and limit, and values beyond have the
            colour of its ends; give all instances that are to be compared the same.
        label: what the values of the maps are.
        title: a line above.

    Raises:
        InputError: if the limit is not positive, or there is no map.
    """
    if not (np.isfinite(limit) and limit > 0) or not portrait.maps:
        raise InputError(
            f"limit={limit} with {counted(len(portrait.maps), 'map')}; both must be positive"
        )
    scale = scale_of([np.zeros((1, 1))], signed=True, value_range=(-limit, limit), alpha=1.0)
    chance = scale_of([np.zeros((1, 1))], signed=False, value_range=(0, 1))
    names = ["where", *portrait.images, "prediction", *portrait.maps]
    width = 2 * MARGIN + 0.3 + len(names) * (SIDE + BETWEEN) - BETWEEN
    words, above = heading(title, width - 2 * MARGIN)
    top = MARGIN + above + NAME
    bottom = top + 3 * (SIDE + BETWEEN)
    canvas = Canvas(width, bottom + 0.36 + BAR_HEIGHT + MARGIN)
    canvas.text(width / 2, MARGIN / 2, words, size=LARGE, across="center")
    left = MARGIN + 0.3
    for column, name in enumerate(names):
        x = left + column * (SIDE + BETWEEN)
        shown = wrap(name, SIDE, NORMAL, lines=1)
        canvas.text(x + SIDE / 2, top - 0.04, shown, across="center", along="bottom")
        # Where a map and a modality share a name, the later column is the map's.
        is_map = column > len(portrait.images) + 1
        for row, plane in enumerate(_SLICES):
            y = top + row * (SIDE + BETWEEN)
            _panel(canvas, x, y, portrait, plane, name, is_map, scale, chance)
        if is_map:
            remark = portrait.remarks.get(name, "")
            canvas.text(x + SIDE / 2, bottom, remark, size=SMALL, across="center", colour=FAINT)
    for row, (plane, *_) in enumerate(_SLICES):
        middle = top + row * (SIDE + BETWEEN) + SIDE / 2
        canvas.figure.text(
            (MARGIN + 0.1) / canvas.width,
            1 - middle / canvas.height,
            plane,
            rotation=90,
            ha="center",
            va="center",
            fontproperties=font(NORMAL),
            **PLAIN,
        )
    note = "the maps' scale is that of all figures of the run;\nvalues beyond have its end's colour"
    beside = max(text_width(line, SMALL) for line in note.split("\n")) + 0.4
    bar = min(2.4, (width - MARGIN - left - beside) / 2)
    y = bottom + 0.36
    colour_bar(canvas, left, y, bar, chance, "predicted probability")
    colour_bar(canvas, width - MARGIN - bar, y, bar, scale, label)
    canvas.text(
        width - MARGIN - bar - 0.2, y - 0.03, note, size=SMALL, across="right", colour=FAINT
    )
    return canvas.figure


def _panel(canvas, x, y, portrait: Portrait, plane, name, is_map, scale, chance) -> None:
    """One slice of one column."""
    _, axis, *_ = plane
    first = next(iter(portrait.images))
    if name == "where" and not is_map:
        image = _sliced(portrait.images[first], plane, portrait.center[axis])
        _whole(canvas, x, y, image, plane, portrait)
        return
    under = portrait.maps[name][1] if is_map else name if name in portrait.images else first
    base = grey(_rgb(_zoomed(portrait.images[under], plane, portrait)))
    painted = is_map or name == "prediction"
    base = DIMMED * base if painted else base
    mask = _zoomed(portrait.mask, plane, portrait)
    axes = canvas.axes(x, y, SIDE, SIDE)
    if is_map:
        base = scale.blend(base, _zoomed(portrait.maps[name][0], plane, portrait))
    elif name == "prediction":
        base = chance.blend(base, _zoomed(portrait.probability, plane, portrait))
    show(axes, base, smooth=False)
    outline(axes, mask)


def _whole(canvas: Canvas, x: float, y: float, image, plane, portrait: Portrait) -> None:
    """A whole slice, a frame around what the other columns enlarge, and the patient's sides."""
    _, _, across, along = plane
    sizes = [portrait.mask.shape[a] * portrait.spacing[a] for a in (across, along)]
    shrink = SIDE / max(sizes)
    width, height = (size * shrink for size in sizes)
    axes = canvas.axes(x + (SIDE - width) / 2, y + (SIDE - height) / 2, width, height)
    show(axes, grey(_rgb(image)))
    half = [portrait.extent / 2 / portrait.spacing[a] for a in (across, along)]
    row = image.shape[0] - 1 - portrait.center[along]
    corner = (portrait.center[across] - half[0], row - half[1])
    axes.add_patch(
        Rectangle(corner, 2 * half[0], 2 * half[1], fill=False, edgecolor=OUTLINE, linewidth=1)
    )
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    marks = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    marks += ((0.5, 0.02, "center", "bottom"), (0.5, 0.98, "center", "top"))
    for (u, v, ha, va), letter in zip(marks, (*_ENDS[across], *_ENDS[along]), strict=True):
        style: dict[str, Any] = {"ha": ha, "va": va, "fontproperties": font(SMALL), **PLAIN}
        # A dark rim, as letters may lie on bright tissue.
        rim = [withStroke(linewidth=2, foreground=OUTLINE_SHADOW)]
        axes.text(u, v, letter, transform=axes.transAxes, color="white", path_effects=rim, **style)


def _rgb(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return np.repeat(values[..., None], 3, axis=-1)


def _sliced(volume: np.ndarray, plane, at: int) -> np.ndarray:
    """A slice as a picture: rows from the top down, columns to the right."""
    _, axis, _, _ = plane
    return volume.take(at, axis).T[::-1]


def _zoomed(volume: np.ndarray, plane, portrait: Portrait) -> np.ndarray:
    """The enlarged part of a slice; 0 beyond the volume."""
    _, axis, across, along = plane
    cut = volume.take(portrait.center[axis], axis)
    reach = [max(1, round(portrait.extent / 2 / portrait.spacing[a])) for a in (across, along)]
    padded = np.pad(cut, [(each, each) for each in reach])
    part = tuple(
        slice(portrait.center[a], portrait.center[a] + 2 * each + 1)
        for a, each in zip((across, along), reach, strict=True)
    )
    return padded[part].T[::-1]


def peak_table(
    peaks: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    label: str = "peak of the map",
    title: str | None = None,
) -> Figure:
    """Draws the peaks of all instances, by group: a panel per modality, on one scale.

    Args:
        peaks: modality -> group -> (positive peak, negative peak) of each instance. A group is TP,
            WEAK, FP, IGNORED or FN, or any other name where nothing is known.
        label: what the values are.
        title: a line above.

    Raises:
        InputError: if there is no modality.
    """
    if not peaks:
        raise InputError("there is no map to draw peaks of")
    every = [v for groups in peaks.values() for each in groups.values() for p in each for v in p]
    low, high = min(every, default=0.0), max(every, default=0.0)
    room = 0.08 * (high - low) or 1.0
    width = MARGIN + len(peaks) * (LEFT + PLOT + 0.1) + MARGIN
    words, above = heading(title, width - 2 * MARGIN)
    top = MARGIN + above + NAME
    canvas = Canvas(width, top + PLOT + BELOW + MARGIN)
    canvas.text(width / 2, MARGIN / 2, words, size=LARGE, across="center")
    for column, (modality, groups) in enumerate(peaks.items()):
        x = MARGIN + LEFT + column * (LEFT + PLOT + 0.1)
        name = wrap(modality, PLOT, NORMAL, lines=1)
        canvas.text(x + PLOT / 2, top - 0.04, name, across="center", along="bottom")
        axes = plot_axes(
            canvas,
            x,
            top,
            PLOT,
            PLOT,
            across=(-0.5, max(1, len(groups)) - 0.5),
            along=(low - room, high + room),
            along_name=label if column == 0 else "",
            across_ticks=False,
        )
        axes.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
        names = [f"{group} ({len(found)})" for group, found in groups.items()]
        # Many groups, or long names: the counts go below the names.
        crowded = max((text_width(name, NORMAL) for name in names), default=0) > PLOT / len(names)
        size = SMALL if crowded else NORMAL
        for place, (group, found) in enumerate(groups.items()):
            _swarm(axes, place, group, found)
            middle = x + PLOT * (place + 0.5) / len(groups)
            name = names[place].replace(" (", "\n(") if crowded else names[place]
            canvas.text(middle, top + PLOT + 0.06, name, size=size, across="center")
        note = wrap("dots: each instance's highest and lowest value; bars: medians", PLOT, SMALL)
        below = top + PLOT + (0.34 if crowded else 0.26)
        canvas.text(x + PLOT / 2, below, note, size=SMALL, across="center", colour=FAINT)
    return canvas.figure


def _swarm(axes, place: int, group: str, found: Sequence[tuple[float, float]]) -> None:
    """Dots side by side, and the median, of the positive and the negative peaks of a group."""
    colour = GROUP_COLOURS.get(group, "#5a5a5a")
    for side in range(2):
        values = np.sort([pair[side] for pair in found])
        if not len(values):
            continue
        # Neighbours in value lie beside each other, so that few dots hide one another.
        offset = 0.24 * (((np.arange(len(values)) * 0.618034) % 1) - 0.5)
        axes.plot(
            place + (offset if len(values) > 1 else 0.0),
            values,
            "o",
            color=colour,
            markersize=4,
            markeredgewidth=0,
            alpha=0.65,
            zorder=3,
        )
        median = float(np.median(values))
        axes.plot([place - 0.2, place + 0.2], [median] * 2, color=colour, linewidth=2, zorder=4)


def peak_words(positive: float, at: float | None, negative: float) -> str:
    """What stands below a map: its peaks."""
    where = "" if at is None else f" at {number(at)} mm"
    return f"peak {number(positive)}{where}\nlowest {number(negative)}"
