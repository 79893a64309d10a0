"""A heatmap in a volume: three orthogonal slices through a point."""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    FAINT,
    GAP,
    LARGE,
    MARGIN,
    NORMAL,
    PANEL,
    SMALL,
    Canvas,
    heading,
)
from segcam_jax.viz.checks import AnyArray, as_map, as_point, as_region, as_volume
from segcam_jax.viz.colour import ALPHA, grey, scale_of
from segcam_jax.viz.draw import BAR_HEIGHT, TITLE_HEIGHT, colour_bar, show_overlay

AXES = "dhw"
NARROWEST, THINNEST = 1.0, 0.25  # inches: the width of a slot, the side of a panel
RULE = 0.18  # inches: for the name of an axis


def _peak(values: np.ndarray, region: np.ndarray | None) -> tuple[int, ...]:
    """The most important voxel, inside the region if there is one; the middle of a zero map."""
    size = np.abs(values)
    if region is not None and region.any():
        size = np.where(region, size, -1.0)
    elif not size.any():
        return tuple(length // 2 for length in values.shape)
    return tuple(int(at) for at in np.unravel_index(np.argmax(size), values.shape))


def _crosshair(axes: Axes, row: int, column: int) -> None:
    """Shows where the two other slices pass."""
    for draw, at in ((axes.axhline, row), (axes.axvline, column)):
        draw(at, color="white", linewidth=0.7, linestyle=(0, (4, 4)), alpha=0.8, zorder=2)


def _spacing(spacing: tuple[float, float, float]) -> np.ndarray:
    sizes = np.asarray(spacing, dtype=float)
    if sizes.shape != (3,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(f"spacing is {spacing!r}, expected three positive lengths (d, h, w)")
    return sizes


def slices(
    volume: Float[AnyArray, "d h w *c"],
    heatmap: Float[AnyArray, "d h w"],
    *,
    center: tuple[int, int, int] | None = None,
    region: Bool[AnyArray, "d h w"] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws three orthogonal slices of a volume through one voxel, the heatmap over each.

    All slices share one scale of colours, that of the whole heatmap, and one scale of length.

    Args:
        volume: (d, h, w) or (d, h, w, 1), in [0, 1].
        heatmap: finite numbers at the volume's resolution.
        center: voxel (d, h, w) that all slices contain; None takes the most important one, of the
            region if given.
        region: boolean mask of the target's voxels, outlined.
        spacing: voxel size along (d, h, w), any unit.
        colormap: as in `overlay`.
        signed: as in `overlay`.
        alpha: as in `overlay`.
        fade: as in `overlay`.
        value_range: as in `overlay`.
        title: a line above the slices.

    Raises:
        InputError: if an input does not have the form above.
    """
    body = as_volume(volume)
    values = as_map(heatmap, shape=body.shape, rank=3)
    mask = None if region is None else as_region(region, body.shape)
    at = _peak(values, mask) if center is None else as_point(center, body.shape, "center")
    scale = scale_of(
        [values],
        colormap=colormap,
        signed=signed,
        value_range=value_range,
        alpha=alpha,
        fade=fade,
    )
    lengths = _spacing(spacing) * body.shape
    sides = np.maximum(lengths * PANEL / lengths.max(), THINNEST)
    # The axes that each slice keeps: down, across.
    kept = [(1, 2), (0, 2), (0, 1)]
    slots = [max(sides[across], NARROWEST) for _, across in kept]
    tallest = max(sides[down] for down, _ in kept)

    width = sum(slots) + 3 * RULE + 2 * GAP + 2 * MARGIN
    words, above = heading(title, width - 2 * MARGIN)
    top = MARGIN / 2 + above
    panels = top + TITLE_HEIGHT
    bar = panels + tallest + RULE + 0.06
    canvas = Canvas(width, bar + BAR_HEIGHT + MARGIN / 2)
    canvas.text(width / 2, MARGIN / 2, words, size=LARGE, across="center")
    x = MARGIN
    for axis, ((down, across), slot) in enumerate(zip(kept, slots, strict=True)):
        left, middle = x + RULE, x + RULE + slot / 2
        start = left + (slot - sides[across]) / 2
        canvas.text(middle, top, f"{AXES[axis]} = {at[axis]}", size=NORMAL, across="center")
        axes = canvas.axes(start, panels, sides[across], sides[down])
        cut = np.repeat(body.take(at[axis], axis)[..., None], 3, axis=-1)
        show_overlay(
            axes,
            grey(cut),
            values.take(at[axis], axis),
            scale,
            region=None if mask is None else mask.take(at[axis], axis),
            remark=not values.any(),
        )
        _crosshair(axes, at[down], at[across])
        faint = {"size": SMALL, "colour": FAINT, "across": "center"}
        canvas.text(middle, panels + sides[down] + 0.03, f"{AXES[across]} →", **faint)
        canvas.text(
            start - 0.09, panels + sides[down] / 2, f"{AXES[down]}\n↓", along="center", **faint
        )
        x += RULE + slot + GAP
    bar_width = min(width - 2 * MARGIN, 2.6)
    colour_bar(canvas, (width - bar_width) / 2, bar, bar_width, scale, "importance")
    return canvas.figure
