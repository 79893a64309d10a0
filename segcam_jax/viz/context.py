"""Figures of a context study: scores and detections against the context that is left."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    FAINT,
    LARGE,
    MARGIN,
    PLAIN,
    SMALL,
    Canvas,
    font,
    heading,
    wrap,
)
from segcam_jax.viz.plot import BELOW, LEFT, plot_axes

WIDTH, HEIGHT = 4.6, 2.7
MEAN, BAND, SINGLE = "#0072B2", "#0072B2", "#9a9a9a"
FULL = {"color": "#D55E00", "linewidth": 1.2, "linestyle": (0, (4, 2.5)), "zorder": 2}
_DISTANCE = "context left: dilations x smallest voxel extent (mm)"
_MANY = 40  # single curves are drawn up to this many instances


def context_scores(
    distance: Float[np.ndarray, "n"],
    scores: Float[np.ndarray, "instances n"],
    *,
    full: Float[np.ndarray, "instances"] | None = None,
    reach: Float[np.ndarray, "instances n"] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws the mean probability inside instances, ± one standard deviation, over the distance.

    Args:
        distance: dilations times the smallest extent of a voxel, in mm, ascending.
        scores: a row per instance.
        full: the score of each instance with all of the input; their mean is a dashed line.
        reach: the largest Euclidean distance in mm that each dilation reaches; where it exceeds
            `distance`, the caption says how far the last one goes.
        title: a line above the plot.

    Raises:
        InputError: if there is no instance, or lengths differ.
    """
    distance, scores = _checked(distance, scores)
    singles = 1 < len(scores) <= _MANY
    legend = "; band: ± 1 standard deviation" + ("; grey: single instances" if singles else "")
    counted = _counted(len(scores)) + (legend if len(scores) > 1 else "")
    canvas, top = _canvas(title, [counted, *_reaching(distance, reach)])
    axes = plot_axes(
        canvas,
        MARGIN + LEFT,
        top,
        WIDTH,
        HEIGHT,
        across=_ends(distance),
        along=(0, 1),
        across_name=_DISTANCE,
        along_name="mean probability inside",
    )
    mean, spread = scores.mean(0), scores.std(0)
    if singles:
        for row in scores:
            axes.plot(distance, row, color=SINGLE, linewidth=0.5, alpha=0.6, zorder=1)
    axes.fill_between(
        distance, mean - spread, mean + spread, color=BAND, alpha=0.2, linewidth=0, zorder=2
    )
    axes.plot(distance, mean, color=MEAN, linewidth=1.8, zorder=3)
    if full is not None:
        level = float(np.mean(full))
        axes.axhline(level, **FULL)
        _label(axes, level, f"all of the input: {level:.2f}")
    return canvas.figure


def context_detections(
    distance: Float[np.ndarray, "n"],
    detected: Bool[np.ndarray, "instances n"],
    *,
    full: Bool[np.ndarray, "instances"] | None = None,
    reach: Float[np.ndarray, "instances n"] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws how many instances are detected, as steps over the distance.

    Arguments and errors as `context_scores`, with detections in place of scores.
    """
    distance, found = _checked(distance, np.asarray(detected, float))
    count = len(found)
    canvas, top = _canvas(title, [_counted(count), *_reaching(distance, reach)])
    axes = plot_axes(
        canvas,
        MARGIN + LEFT,
        top,
        WIDTH,
        HEIGHT,
        across=_ends(distance),
        along=(0, count * 1.08),
        across_name=_DISTANCE,
        along_name="detected instances",
        whole=True,
    )
    # What is found at a distance is found until the next one is tried.
    axes.step(distance, found.sum(0), where="post", color=MEAN, linewidth=1.8, zorder=3)
    if full is not None:
        level = int(np.sum(full))
        axes.axhline(level, **FULL)
        _label(axes, level, f"all of the input: {level}")
    return canvas.figure


def _label(axes, level: float, words: str) -> None:
    """Names the dashed line at its left end, where curves are still low."""
    low, high = axes.get_ylim()
    above = level < low + 0.92 * (high - low)
    axes.annotate(
        words,
        (0.015, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3 if above else -3),
        textcoords="offset points",
        ha="left",
        va="bottom" if above else "top",
        color=FULL["color"],
        fontproperties=font(SMALL),
        **PLAIN,
    )


def _canvas(title: str | None, below: Sequence[str]) -> tuple[Canvas, float]:
    """A canvas for one plot, and where the frame's top is."""
    width = MARGIN + LEFT + WIDTH + MARGIN
    words, above = heading(title, width - 2 * MARGIN)
    top = MARGIN + above
    canvas = Canvas(width, top + HEIGHT + BELOW + 0.04 + 0.12 * len(below))
    canvas.text(width / 2, MARGIN / 2, words, size=LARGE, across="center")
    note = "\n".join(wrap(line, width - 2 * MARGIN, SMALL, lines=1) for line in below)
    canvas.text(
        width - MARGIN, top + HEIGHT + BELOW, note, size=SMALL, colour=FAINT, across="right"
    )
    return canvas, top


def _reaching(distance: np.ndarray, reach: np.ndarray | None) -> list[str]:
    """How far the last dilation goes, if that is farther than the axis says."""
    if reach is None or (farthest := float(np.max(np.asarray(reach)[:, -1]))) <= distance[-1]:
        return []
    near, far = (f"{mm:.3g}" for mm in (distance[-1], farthest))
    return [f"the last dilation reaches {near} to {far} mm, by direction (Euclidean)"]


def _counted(count: int) -> str:
    return f"{count} instance{'s' if count != 1 else ''}"


def _ends(distance: np.ndarray) -> tuple[float, float]:
    return 0.0, float(distance[-1]) * 1.02


def _checked(distance, values) -> tuple[np.ndarray, np.ndarray]:
    distance, values = np.asarray(distance, float), np.asarray(values, float)
    if values.ndim != 2 or not len(values) or values.shape[1:] != distance.shape:
        raise InputError(
            f"values have shape {values.shape}, distances {distance.shape}; expected a row per "
            "instance, at least one, and a column per distance"
        )
    return distance, values
