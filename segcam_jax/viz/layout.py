"""A figure of panels or plots, laid out by matplotlib, with words and a legend around them.

Panels are as large as asked for, however long the words beside them are; the figure is cut to what
it holds.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from segcam_jax.viz.reuse import Laid, keep, kept, taken
from segcam_jax.viz.style import DPI, INK, LARGE, NORMAL, SMALL, SOFT, wrap

_MARGIN = 0.1  # inches: around all
_APART = 0.06  # inches: between words and panels
_NARROWEST = 2.0  # inches: room for a title
_BESIDE, _BELOW = 0.1, 1.2  # inches: around each panel, and for titles and colour bars, about
_LONGEST = 1.6  # sides: no panel is longer


@dataclasses.dataclass(frozen=True)
class Words:
    """What stands around the panels.

    Attributes:
        subtitle: a smaller line below the title.
        caption: small words below all.
    """

    title: str | None = None
    subtitle: str | None = None
    caption: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Panels:
    """A figure of panels in rows and columns, those of a row of one size.

    Attributes:
        axes: of each, by row and column.
        width: of a column, in inches.
    """

    figure: Figure
    axes: Sequence[Sequence[Axes]]
    width: float


class Picture(Figure):
    """A figure that a notebook shows, also where nobody has imported pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def new_figure(width: float, height: float, layout: LayoutEngine | str = "compressed") -> Figure:
    """An empty figure that belongs to nobody: no pyplot, no display."""
    figure = Picture(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)  # pyright: ignore
    FigureCanvasAgg(figure)
    return figure


def panels(
    shapes: Sequence[tuple[int, int]],
    columns: int,
    side: float,
    beside: float = 0.0,
    words: Sequence[str] | None = None,
) -> Panels:
    """Makes a row of panels for pictures of each shape; or takes those of a figure before.

    Args:
        shapes: of the pictures of each row (h, w).
        columns: how many are in a row.
        side: in inches: of a square panel; others have the same area.
        beside: inches for what stands beside the rows, about.
    """
    key = (tuple(shapes), columns, side, beside, words)
    if words is not None and (there := taken(key)) is not None:
        return there
    sizes = [_size(shape, side) for shape in shapes]
    width = max(across for across, _ in sizes)
    ratios = [along / width for _, along in sizes]
    # More height than is needed: it is the width that says how large panels are.
    height = sum(along + _BESIDE for _, along in sizes) + _BELOW
    figure = new_figure(columns * (width + _BESIDE) + beside, height)
    axes = figure.subplots(
        len(shapes), columns, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for shape, ratio, row in zip(shapes, ratios, axes, strict=True):
        for each in row:
            fit(each, shape, ratio)
    made = Panels(figure, axes.tolist(), width)
    if words is not None:
        keep(key, made)
    return made


def _size(shape: tuple[int, int], side: float) -> tuple[float, float]:
    """Width and height in inches of a panel for an image (h, w): its aspect, the area side^2."""
    height, width = shape
    stretch = math.sqrt(width / height)
    shrink = min(1.0, _LONGEST / stretch, _LONGEST * stretch)
    return side * stretch * shrink, side / stretch * shrink


def fit(
    axes: Axes, shape: tuple[int, int], ratio: float, *, tall: float = 1.0, top: bool = False
) -> None:
    """Makes the axes `ratio` times as high as wide, with the picture in the middle, undistorted.

    Args:
        shape: pixels of the picture (h, w).
        ratio: of the axes; where it is not that of the picture, the rest stays white.
        tall: the height of a pixel in its widths.
        top: whether the picture is at the top in place of the middle.
    """
    height, width = shape
    across = max(width, height * tall / ratio)
    along = across * ratio / tall
    axes.set_box_aspect(ratio)
    x = (width - 1) / 2
    y = (along if top else height) / 2 - 0.5
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_visible(False)
    axes.set(xlim=(x - across / 2, x + across / 2), ylim=(y + along / 2, y - along / 2))
    framed = across < 1.02 * width and along < 1.02 * height
    axes.spines[:].set_visible(framed)


def finished(figure: Figure, words: Words, legend: Sequence[Artist] = ()) -> Figure:
    """Lays the axes of a figure out for good, and sets words and a legend above and below them.

    Args:
        legend: artists with labels, below the axes.

    Returns:
        `figure`, as large as what it holds.
    """
    there = kept(figure)
    laid = (None if there is None else there.laid) or _laid(figure)
    box, size = laid.box, laid.size
    width = max(box.width, _NARROWEST)
    texts = (
        (words.title, LARGE, INK, 3),
        (words.subtitle, NORMAL, SOFT, 3),
        (words.caption, SMALL, SOFT, 12),
    )
    title, subtitle, caption = (
        figure.text(
            0, 0, wrap(said, width, points, lines=lines), fontsize=points, color=colour, va="top"
        )
        for said, points, colour, lines in texts
    )
    key = _key_of(figure, legend, width)
    heights = [_height(figure, each) for each in (title, subtitle, key, caption)]
    around = (width + 2 * _MARGIN, box.height + sum(heights) + 2 * _MARGIN)
    figure.set_size_inches(*around)
    top = around[1] - _MARGIN
    left = _MARGIN / around[0]
    title.set_position((left, top / around[1]))
    subtitle.set_position((left, (top - heights[0]) / around[1]))
    top -= heights[0] + heights[1]
    middle = _MARGIN + (width - box.width) / 2
    shift = np.array([middle - box.x0, top - box.y1])
    place = (*around, *shift)
    for axes, (x, y, across, along) in laid.places.items() if place != laid.place else ():
        corner = (np.array([x, y]) * size + shift) / around
        axes.set_position((*corner, across * size[0] / around[0], along * size[1] / around[1]))
    if there is not None:
        there.forget_others()
        there.laid = dataclasses.replace(laid, place=place)
    top -= box.height + _APART
    if key is not None:
        anchor = (left, top / around[1])
        if tuple(figure.transFigure.transform(anchor)) != tuple(key.get_bbox_to_anchor().min):
            key.set_bbox_to_anchor(anchor, figure.transFigure)
    caption.set_position((left, (top - heights[2]) / around[1]))
    return figure


def _laid(figure: Figure) -> Laid:
    """Lays the axes of a figure out for good."""
    engine = figure.get_layout_engine()
    assert engine is not None
    for axes in figure.axes:
        # What lies inside asks for no room: words do.
        inside = (*axes.images, *axes.lines, *axes.patches, *axes.collections)
        for artist in (*inside, *axes.spines.values()):
            artist.set_in_layout(False)
    engine.execute(figure)
    figure.set_layout_engine("none")  # Once is enough: nothing moves any more.
    places = {axes: axes.get_position(original=True).bounds for axes in figure.axes}
    return Laid(figure.get_size_inches(), figure.get_tightbbox(), places)


def _height(figure: Figure, artist: Artist | None) -> float:
    """Of words or a legend with the space that sets it apart, in inches; 0 if there is none."""
    height = 0.0 if artist is None else artist.get_window_extent().height / figure.dpi
    return height + _APART if height else 0.0


def _key_of(figure: Figure, legend: Sequence[Artist], width: float) -> Legend | None:
    """The legend of these entries; that of a figure before, if it is the same."""
    there = kept(figure)
    patches = [each for each in legend if isinstance(each, Patch)]
    same = (width, *((each.get_label(), each.get_facecolor()) for each in patches))
    if there is not None and there.legend is not None:
        if len(patches) == len(legend) and there.legend[0] == same:
            return there.legend[1]
        there.legend[1].remove()
        there.legend = None
    made = _key(figure, legend, width) if legend else None
    if there is not None and made is not None:
        there.legend = same, made
    return made


def _key(figure: Figure, legend: Sequence[Artist], width: float) -> Legend:
    """A legend in as many columns as fit."""

    def drawn(columns: int) -> Legend:
        return figure.legend(
            handles=list(legend),
            loc="upper left",
            ncols=columns,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.2,
            handletextpad=0.4,
            columnspacing=1.2,
        )

    one = drawn(1)
    columns = int(width * figure.dpi / one.get_window_extent().width)
    one.remove()
    return drawn(min(max(columns, 1), len(legend)))
