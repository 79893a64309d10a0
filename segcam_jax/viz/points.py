"""Images as points of a plane, drawn as thumbnails with the colour of their group."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segcam_jax.types import InputError, counted
from segcam_jax.viz.checks import AnyArray, as_image
from segcam_jax.viz.layout import Words, finished, new_figure
from segcam_jax.viz.style import class_colour, drawing, wrap

_SIDE, _LOWEST = 6.6, 2.6  # inches: width of the panel that holds points, its smallest height
_LARGEST, _SMALLEST = 0.75, 0.32  # inches: the longer side of a thumbnail
_DENSITY = 0.55  # of the panel's width that thumbnails fill if they lie in a grid
_OVERLAP = 0.25  # of a thumbnail's extents that another may cover
_NO_GROUP = "#6b6b6b"
_GROUPS = 24  # the longest legend of groups


@drawing()
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
        groups: the group of each image; None, or one group only: no colours and no legend.
    """
    places = _places(points, len(thumbnails), groups)
    pictures = [as_image(image, f"thumbnail {n}") for n, image in enumerate(thumbnails)]
    names = sorted(set(groups)) if groups is not None else []
    names = names if len(names) > 1 else []
    side = min(_LARGEST, max(_SMALLEST, _DENSITY * _SIDE / math.sqrt(len(pictures))))
    spots, height = _spots(places, side)
    figure = new_figure(_SIDE + (2.0 if names else 0.4), height + 2.0)
    drawn = figure.subplots()
    # The axes count inches, so that thumbnails are as large as they should be.
    drawn.set(xlim=(0, _SIDE), ylim=(0, height), xticks=[], yticks=[], aspect="equal")
    drawn.set(xlabel=axes[0], ylabel=axes[1])
    every = [class_colour(place, background=None, ignored=None) for place in range(len(names))]
    colours = dict(zip(names, every, strict=True))
    shown = _spread(spots, side)
    for place, (spot, image) in enumerate(zip(spots, pictures, strict=True)):
        colour = colours[groups[place]] if names and groups else _NO_GROUP
        if place in shown:
            _thumbnail(drawn, spot, image, colour, side)
        else:
            drawn.plot(*spot, "o", color=colour, markersize=5, markeredgecolor="white", zorder=3)
    if names and groups:
        _group_legend(drawn, colours, list(groups))
    hidden = len(pictures) - len(shown)
    note = counted(len(pictures), "image")
    if hidden:
        note += f"; {counted(hidden, 'dot')} where thumbnails would hide each other"
    return finished(figure, Words(title, subtitle, note))


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
    inches = (places - (low + high) / 2) / extent * (_SIDE - 1.3 * side)
    height = max(_LOWEST, float(inches[:, 1].max() - inches[:, 1].min()) + 1.3 * side)
    return inches + np.array([[_SIDE / 2, height / 2]]), height


def _spread(spots: np.ndarray, side: float) -> set[int]:
    """Points whose thumbnails hardly cover each other: each the farthest from those before it."""
    chosen: list[int] = []
    distance = np.full(len(spots), np.inf)
    start = int(np.argmax(((spots - spots.mean(0, keepdims=True)) ** 2).sum(1)))
    while True:
        nearest = start if not chosen else int(np.argmax(distance))
        if distance[nearest] < (1 - _OVERLAP) * side:
            return set(chosen)
        chosen.append(nearest)
        far = np.abs(spots - spots[nearest][None]).max(1)
        distance = np.minimum(distance, far)
        distance[nearest] = -1.0


def _thumbnail(
    axes: Axes,
    spot: np.ndarray,
    image: np.ndarray,
    colour: str | tuple[float, float, float],
    side: float,
) -> None:
    height, width = image.shape[:2]
    across, up = (side * each / max(height, width) / 2 for each in (width, height))
    left, right, low, high = spot[0] - across, spot[0] + across, spot[1] - up, spot[1] + up
    axes.imshow(
        image,
        extent=(left, right, low, high),
        aspect="equal",
        interpolation="antialiased",
        zorder=2,
    )
    frame = ((left, right, right, left), (low, low, high, high))
    axes.fill(*frame, fill=False, edgecolor=colour, linewidth=2.2, zorder=2.5)


def _group_legend(
    axes: Axes, colours: Mapping[str, tuple[float, float, float]], groups: list[str]
) -> None:
    """The groups beside the panel, one a line, and how many are left out."""
    square = {"marker": "s", "linestyle": "none", "markersize": 7}
    shown = list(colours)[:_GROUPS]
    legend = [
        Line2D(
            [],
            [],
            color=colours[name],
            label=f"{wrap(name, 1.4, lines=1)} ({groups.count(name)})",
            **square,
        )
        for name in shown
    ]
    if len(colours) > len(shown):
        rest = f"and {len(colours) - len(shown)} more"
        legend.append(Line2D([], [], linestyle="none", label=rest))
    axes.legend(
        handles=legend, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderpad=0
    )
