"""What is drawn on a canvas: pictures, outlines, marks, colour bars, class legends."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from segcam_jax.viz.canvas import (
    FAINT,
    INK,
    LINE,
    NORMAL,
    PLAIN,
    POINTS,
    SMALL,
    Canvas,
    flow,
    font,
    text_width,
    wrap,
)
from segcam_jax.viz.checks import ClassNames, class_name
from segcam_jax.viz.colour import GREY_RANGE, Scale, class_colour

# An outline is a bright line on a dark one, so that it stands out from any colour.
OUTLINE, OUTLINE_SHADOW = "#7CFF4F", "#101010"

BAR_THICKNESS = 0.09
BAR_HEIGHT = 0.46  # with its numbers and its label
SWATCH = 0.12
LEGEND_SIZE = SMALL + 0.5
LONGEST_NAME = 32  # characters of a class name
TITLE_HEIGHT = 0.22
ZERO = "zero map"


def show(axes: Axes, rgb: Float[np.ndarray, "h w 3"], *, smooth: bool = True) -> None:
    """Fills the axes with a picture; pixel (i, j) lies at x = j, y = i.

    Args:
        axes: where to draw; they already have the aspect of the picture.
        rgb: in [0, 1].
        smooth: whether to resample as for photographs; False keeps hard pixel edges.
    """
    axes.imshow(
        np.clip(rgb, 0, 1),
        interpolation="antialiased" if smooth else "nearest",
        aspect="auto",
        origin="upper",
    )


def edges(region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "edges 2 2"]:
    """The pixel edges that separate a region from the rest, as segments ((x, y), (x, y)).

    The image's border counts as outside, so that a region that touches it is closed there.
    """
    padded = np.pad(region, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # edge above row i
    along = padded[1:-1, 1:] != padded[1:-1, :-1]  # edge left of column j
    i, j = np.nonzero(across)
    horizontal = np.stack([np.stack([j, i], -1), np.stack([j + 1, i], -1)], 1)
    i, j = np.nonzero(along)
    vertical = np.stack([np.stack([j, i], -1), np.stack([j, i + 1], -1)], 1)
    return np.concatenate([horizontal, vertical]) - 0.5


def outline(axes: Axes, region: Bool[np.ndarray, "h w"] | None) -> None:
    """Draws the exact outline of a region; nothing for None or an empty region."""
    if region is None or not region.any():
        return
    segments = list(edges(region))
    box = axes.get_window_extent()
    side = math.sqrt(box.width * box.height) / axes.figure.dpi
    thickness = min(max(0.42 * side, 0.7), 1.3)  # points; finer in small panels
    for colour, width in ((OUTLINE_SHADOW, 2.2 * thickness), (OUTLINE, thickness)):
        axes.add_collection(
            LineCollection(
                segments,
                colors=colour,
                linewidths=width,
                capstyle="projecting",
                clip_on=False,
                label="region",
                zorder=3,
            ),
            autolim=False,
        )


def mark_pixel(axes: Axes, pixel: tuple[int, ...]) -> None:
    """Marks a pixel (row, column) with a ring around a dot."""
    row, column = pixel
    for size, face, edge, width in ((9, "none", OUTLINE_SHADOW, 3.2), (9, "none", OUTLINE, 1.6)):
        axes.plot(
            column,
            row,
            "o",
            markersize=size,
            markerfacecolor=face,
            markeredgecolor=edge,
            markeredgewidth=width,
            clip_on=False,
            zorder=4,
        )
    axes.plot(column, row, ".", color=OUTLINE, markersize=3, clip_on=False, zorder=4)


def note(axes: Axes, words: str, *, boxed: bool = False) -> None:
    """Writes a remark in the middle of the axes, in as many lines as it needs."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.5}
    width = axes.get_window_extent().width / axes.figure.dpi
    axes.text(
        0.5,
        0.5,
        wrap(words, width - 0.2, NORMAL, lines=5),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=INK if boxed else FAINT,
        fontproperties=font(NORMAL),
        bbox=box if boxed else None,
        zorder=5,
        **PLAIN,
    )


def tag(axes: Axes, words: str) -> None:
    """Writes a few small words into the lower left corner of the axes; nothing for none."""
    if words:
        width = axes.get_window_extent().width / axes.figure.dpi
        axes.text(
            0.03,
            0.03,
            words if text_width(words, SMALL) <= width - 0.1 else "\n".join(words.rsplit(" ", 1)),
            transform=axes.transAxes,
            color=INK,
            fontproperties=font(SMALL),
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            zorder=5,
            **PLAIN,
        )


def blank(axes: Axes, words: str) -> None:
    """An empty panel that says why."""
    axes.set_facecolor("#f4f4f4")
    note(axes, words)


def show_map(
    axes: Axes,
    values: Float[np.ndarray, "h w"],
    scale: Scale,
    *,
    smooth: bool,
    zero: str = ZERO,
) -> None:
    """Draws a map by itself, in opaque colours; `zero` is said of a map that is zero."""
    show(axes, scale.colours(values), smooth=smooth)
    if not values.any():
        note(axes, zero, boxed=True)


def show_overlay(
    axes: Axes,
    base: Float[np.ndarray, "h w 3"],
    values: Float[np.ndarray, "h w"],
    scale: Scale,
    *,
    region: Bool[np.ndarray, "h w"] | None = None,
    remark: bool = True,
    zero: str = ZERO,
) -> None:
    """Draws a map over a grey image, the region outlined; `remark`: says `zero` of a zero map."""
    show(axes, scale.blend(base, values))
    outline(axes, region)
    if remark and not values.any():
        note(axes, zero, boxed=True)


def number(value: float) -> str:
    """A number on a scale: two significant digits, no exponent for everyday sizes."""
    text = f"{float(f'{value:.2g}'):g}" if value else "0"
    return text.replace("-", "\N{MINUS SIGN}")


def colour_bar(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    scale: Scale,
    label: str,
    *,
    opaque: bool = False,
) -> Axes:
    """Draws the bar of a scale: as it looks over middle grey, or the colours alone if `opaque`."""
    axes = canvas.axes(x, y, width, BAR_THICKNESS)
    values = np.linspace(scale.low, scale.high, 256)[None]
    middle = np.full((1, 256, 3), sum(GREY_RANGE) / 2)
    pixels = scale.colours(values) if opaque else scale.blend(middle, values)
    axes.imshow(np.clip(pixels, 0, 1), extent=(0, 1, 0, 1), aspect="auto")
    ends = (scale.low, (scale.low + scale.high) / 2, scale.high)
    below = y + BAR_THICKNESS + 0.035
    for place, value, across in zip((0, 0.5, 1), ends, ("left", "center", "right"), strict=True):
        canvas.text(x + place * width, below, number(value), size=SMALL, across=across)
    canvas.text(
        x + width / 2, below + LINE * SMALL / POINTS, label, size=SMALL, across="center", colour=INK
    )
    return axes


Entry = tuple[str, tuple[float, float, float], bool]


def legend_entries(
    labels: Iterable[Int[np.ndarray, "h w"]],
    *,
    names: ClassNames | None,
    explained: int | None,
    background: int | None,
    ignored: int | None,
) -> list[Entry]:
    """(name, colour, bold) of every class that is present or explained, in order of index."""
    present = {int(index) for values in labels for index in np.unique(values)}
    if explained is not None:
        present.add(explained)
    entries: dict[str, Entry] = {}
    for index in sorted(present, key=lambda k: (k < 0 or k == ignored, k == background, k)):
        hidden = index < 0 or index == ignored
        named = names is not None and class_name(index, names) != f"class {index}"
        if hidden:
            words = "ignored" if index == ignored else "not predicted"
        elif index == background and not named:
            words = "background"
        else:
            words = class_name(index, names)
        bold = index == explained
        colour = class_colour(index, background=background, ignored=ignored)
        words = words if len(words) <= LONGEST_NAME else f"{words[: LONGEST_NAME - 1]}…"
        words = f"{words} (explained)" if bold else words
        entries.setdefault(words if hidden else f"{index}", (words, colour, bold))
    return list(entries.values())


LEGEND_LINE = 0.18


def _places(entries: Sequence[Entry], width: float) -> list[tuple[float, int]]:
    lengths = [
        SWATCH + 0.06 + text_width(words, LEGEND_SIZE, bold=bold) for words, _, bold in entries
    ]
    return flow(lengths, width, gap=0.16)


def legend_height(entries: Sequence[Entry], width: float) -> float:
    """The height in inches of `legend`."""
    return LEGEND_LINE * (1 + max(line for _, line in _places(entries, width)))


def legend(canvas: Canvas, x: float, y: float, width: float, entries: Sequence[Entry]) -> None:
    """Writes a legend of classes in as many lines as it needs, top left corner at (x, y)."""
    height = legend_height(entries, width)
    axes = canvas.axes(x, y, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for (words, colour, bold), (left, line) in zip(entries, _places(entries, width), strict=True):
        middle = (line + 0.5) * LEGEND_LINE
        axes.add_patch(
            Rectangle(
                (left, middle - SWATCH / 2),
                SWATCH,
                SWATCH,
                facecolor=colour,
                edgecolor=FAINT,
                linewidth=0.6,
                clip_on=False,
            )
        )
        axes.text(
            left + SWATCH + 0.06,
            middle,
            words,
            fontproperties=font(LEGEND_SIZE, bold=bold),
            color=INK,
            va="center_baseline",
            **PLAIN,
        )
