"""Images as points of a plane, drawn as thumbnails with the colour of their group."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    GAP,
    LARGE,
    MARGIN,
    NORMAL,
    SMALL,
    Canvas,
    font,
    text_height,
    wrap,
)
from segcam_jax.viz.checks import AnyArray, as_image
from segcam_jax.viz.colour import class_colour
from segcam_jax.viz.draw import FAINT, legend, legend_height

SIDE = 6.6  # inches: width of the panel that holds the points, and its largest height
LOWEST = 2.6  # inches: its smallest height
LEGEND = 1.9  # inches: width of the legend
_LARGEST, _SMALLEST = 0.75, 0.32  # inches: the longer side of a thumbnail
_DENSITY = 0.55  # of the panel's width that thumbnails fill if they lie in a grid
_OVERLAP = 0.25  # of a thumbnail's extents that another may cover
_NO_GROUP = "#6b6b6b"
_SOFT = "#555555"


def scatter(
    points: Float[np.ndarray, "n 2"],
    thumbnails: Sequence[Float[AnyArray, "h w *c"]],
    groups: Sequence[str] | None = None,
    *,
    title: str | None = None,
    subtitle: str | None = None,
    axes: tuple[str, str] = ("", ""),
) -> Figure:
    """Draws images at their points, framed in the colours of their groups.

    A thumbnail that would hide another is drawn as a dot; thumbnails are chosen so that they
    spread over the figure. The figure says how many there are. Both axes have one scale.

    Args:
        points: where each image lies.
        thumbnails: the images, in [0, 1].
        groups: the group of each image; None, or one group only: no colours and no legend.
        title: a line above all.
        subtitle: a smaller line below the title.
        axes: what the axes mean.

    Raises:
        InputError: if an input does not have the form above.
    """
    places = _places(points, len(thumbnails), groups)
    pictures = [as_image(image, f"thumbnail {n}") for n, image in enumerate(thumbnails)]
    names = sorted(set(groups)) if groups is not None else []
    names = names if len(names) > 1 else []
    width = SIDE + 2 * MARGIN + 0.25 + (LEGEND + GAP if names else 0.0)
    words = wrap(title, width - 2 * MARGIN, LARGE)
    below = wrap(subtitle, width - 2 * MARGIN, NORMAL)
    top = MARGIN + text_height(words, LARGE) + text_height(below, NORMAL) + 0.08
    side = min(_LARGEST, max(_SMALLEST, _DENSITY * SIDE / math.sqrt(len(pictures))))
    spots, height = _spots(places, side)
    canvas = Canvas(width, top + height + 0.62)
    canvas.text(MARGIN, MARGIN * 0.7, words, size=LARGE)
    canvas.text(MARGIN, MARGIN * 0.7 + text_height(words, LARGE), below, colour=_SOFT)
    left = MARGIN + 0.25
    drawn = canvas.axes(left, top, SIDE, height)
    colours = [class_colour(names.index(each), background=None, ignored=None) if names else
               _NO_GROUP for each in groups or [""] * len(pictures)]  # fmt: skip
    shown = _spread(spots, side)
    _draw(drawn, spots, pictures, colours, set(shown), side)
    # The axes count inches, so that thumbnails are as large as they should be.
    drawn.set(xlim=(0, SIDE), ylim=(0, height))
    canvas.text(left + SIDE / 2, top + height + 0.07, axes[0], across="center")
    figure = canvas.figure
    middle = 1 - (top + height / 2) / canvas.height
    figure.text(
        MARGIN / width, middle, axes[1], rotation=90, va="center", fontproperties=font(NORMAL)
    )
    hidden = len(pictures) - len(shown)
    note = f"{len(pictures)} images"
    note += f"; {hidden} are dots where thumbnails would hide each other" if hidden else ""
    canvas.text(left, top + height + 0.28, note, size=SMALL, colour=_SOFT)
    if names:
        _legend(canvas, left + SIDE + GAP, top, height, names, list(groups or ()))
    return figure


def _places(points: np.ndarray, count: int, groups: Sequence[str] | None) -> np.ndarray:
    places = np.asarray(points, np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise InputError(f"points has shape {places.shape}, expected (n, 2) with at least one")
    if not np.isfinite(places).all():
        raise InputError("points holds values that are NaN or infinite; all must be finite")
    if len(places) != count:
        raise InputError(f"{len(places)} points were given for {count} thumbnails")
    if groups is not None and len(groups) != count:
        raise InputError(f"{len(groups)} groups were given for {count} thumbnails")
    return places


def _spots(places: np.ndarray, side: float) -> tuple[np.ndarray, float]:
    """Points in inches from the lower left corner, on one scale, thumbnails inside.

    Returns:
        `(spots, height)`: and the height of the panel that they need.
    """
    low, high = places.min(0, keepdims=True), places.max(0, keepdims=True)
    extent = float((high - low).max()) or 1.0
    inches = (places - (low + high) / 2) / extent * (SIDE - 1.3 * side)
    height = max(LOWEST, float(inches[:, 1].max() - inches[:, 1].min()) + 1.3 * side)
    return inches + np.array([[SIDE / 2, height / 2]]), height


def _spread(spots: np.ndarray, side: float) -> list[int]:
    """Points whose thumbnails hardly cover each other: each the farthest from those before it."""
    chosen: list[int] = []
    distance = np.full(len(spots), np.inf)
    start = int(np.argmax(((spots - spots.mean(0, keepdims=True)) ** 2).sum(1)))
    while True:
        nearest = start if not chosen else int(np.argmax(distance))
        if distance[nearest] < (1 - _OVERLAP) * side:
            return chosen
        chosen.append(nearest)
        far = np.abs(spots - spots[nearest][None]).max(1)
        distance = np.minimum(distance, far)
        distance[nearest] = -1.0


def _draw(
    axes: Axes,
    spots: np.ndarray,
    pictures: Sequence[np.ndarray],
    colours: Sequence,
    shown: set[int],
    side: float,
) -> None:
    for number, ((x, y), picture, colour) in enumerate(zip(spots, pictures, colours, strict=True)):
        if number not in shown:
            axes.plot(x, y, "o", color=colour, markersize=5, markeredgecolor="white", zorder=3)
            continue
        height, width = picture.shape[:2]
        across, up = side * width / max(height, width) / 2, side * height / max(height, width) / 2
        box = (x - across, x + across, y - up, y + up)
        axes.imshow(picture, extent=box, aspect="auto", interpolation="antialiased", zorder=2)
        frame_x, frame_y = (box[0], box[1], box[1], box[0]), (box[2], box[2], box[3], box[3])
        axes.fill(frame_x, frame_y, fill=False, edgecolor=colour, linewidth=2.2, zorder=2.5)


def _legend(
    canvas: Canvas, x: float, y: float, height: float, names: list[str], groups: list[str]
) -> None:
    """The groups, one a line, as many as there is room for."""
    entries = [
        (f"{name} ({groups.count(name)})", class_colour(k, background=None, ignored=None), False)
        for k, name in enumerate(names)
    ]
    line = legend_height(entries[:1], LEGEND)
    room = max(1, int(height / line) - 1)
    for number, entry in enumerate(entries[:room]):
        legend(canvas, x, y + number * line, LEGEND, [_short(entry)])
    if len(entries) > room:
        rest = f"and {len(entries) - room} more"
        canvas.text(x, y + room * line, rest, size=SMALL, colour=FAINT)


def _short(entry):
    words, colour, bold = entry
    return (wrap(words, LEGEND - 0.3, NORMAL, lines=1), colour, bold)
