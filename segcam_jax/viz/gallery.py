"""A gallery: inputs beside the heatmaps of several methods, one row per layer, model or class."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from segcam_jax.types import InputError, counted
from segcam_jax.viz.canvas import (
    LARGE,
    MARGIN,
    NORMAL,
    SMALL,
    Canvas,
    panel_size,
    text_height,
    text_width,
    wrap,
    wrap_caption,
)
from segcam_jax.viz.checks import AnyArray, as_image, as_map, as_region
from segcam_jax.viz.colour import ALPHA, grey, scale_of
from segcam_jax.viz.draw import (
    BAR_HEIGHT,
    ZERO,
    blank,
    colour_bar,
    outline,
    show,
    show_overlay,
    tag,
)

SIDES = (1.9, 1.5)  # inches: of a square panel in a single row, in a grid
BETWEEN = 0.08
LABEL = 1.7  # inches: the longest line of a row's label
LONGEST_BAR = 2.8
SOFT = "#555555"
_LINES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row of a gallery.

    Attributes:
        image: `h w`, `h w 1` or `h w 3`, in [0, 1].
        maps: one heatmap per column, at the resolution of the image; None says "no map".
        label: what the row shows, for example a layer; left of the image.
        detail: what else there is to say of it, smaller; lines are kept.
        region: boolean mask of the target's pixels, outlined.
        notes: a few words in each map's corner; in the middle of one that is zero.
    """

    image: Float[AnyArray, "h w *c"]
    maps: Sequence[Float[AnyArray, "h w"] | None]
    label: str = ""
    detail: str = ""
    region: Bool[AnyArray, "h w"] | None = None
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class _Checked:
    image: np.ndarray
    maps: list[np.ndarray | None]
    label: str
    detail: str
    region: np.ndarray | None
    notes: Sequence[str]

    @property
    def label_height(self) -> float:
        return text_height(self.label, NORMAL) + text_height(self.detail, SMALL)


def gallery(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    title: str | None = None,
    subtitle: str | None = None,
    caption: str | None = None,
    colormap: str | Colormap | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
) -> Figure:
    """Draws rows of an input and its heatmaps: the figure of a comparison of methods.

    Each map is divided by its largest magnitude: colours tell where, not how strongly. All maps
    are drawn on one scale, sequential or, if any is signed, centred on zero.

    Args:
        rows: from top to bottom.
        columns: what the maps are called, for example methods.
        title: a line above all.
        subtitle: a smaller line below the title.
        caption: words below all.
        colormap: as in `overlay`.
        alpha: as in `overlay`.
        fade: as in `overlay`.

    Raises:
        InputError: if an input does not have the form above, or there is no map at all.
    """
    if not rows or not columns:
        raise InputError("a gallery needs at least one row and one column")
    checked = [_checked(number, row, len(columns)) for number, row in enumerate(rows)]
    maps = [values for row in checked for values in row.maps if values is not None]
    if not maps:
        raise InputError("rows hold no map; give at least one")
    # Zero belongs to every scale, so that a gallery of zero maps has one too.
    scale = scale_of([*maps, np.array([[0.0, 1.0]])], colormap=colormap, alpha=alpha, fade=fade)
    against = "; negative: against it" if scale.signed else ""
    words = f"importance, each map relative to its own largest value{against}"
    grid = _Grid(checked, columns, title, subtitle, words)
    told = wrap_caption(caption, grid.width - 2 * MARGIN)
    canvas = Canvas(grid.width, grid.height + text_height(told, SMALL))
    canvas.text(MARGIN, grid.height - MARGIN / 4, told, size=SMALL)
    grid.write(canvas)
    for number, row in enumerate(checked):
        panel = canvas.axes(*grid.cell(number, 0))
        show(panel, row.image)
        outline(panel, row.region)
        for column, values in enumerate(row.maps, 1):
            axes = canvas.axes(*grid.cell(number, column))
            if values is None:
                blank(axes, "no map")
                continue
            words = row.notes[column - 1]
            show_overlay(
                axes, grey(row.image), values, scale, region=row.region, zero=words or ZERO
            )
            tag(axes, words if values.any() else "")
    colour_bar(canvas, grid.bar_left, grid.bar_top, grid.bar_width, scale, grid.words)
    return canvas.figure


def _checked(number: int, row: Row, columns: int) -> _Checked:
    name = f"row {number + 1}"
    picture = as_image(row.image, f"the image of {name}")
    shape = picture.shape[:2]
    if len(row.maps) != columns:
        raise InputError(
            f"{name} has {counted(len(row.maps), 'map')} for {counted(columns, 'column')}"
        )
    maps: list[np.ndarray | None] = []
    for values in row.maps:
        if values is None:
            maps.append(None)
            continue
        one = as_map(values, f"a map of {name}", shape=shape)
        largest = np.abs(one).max()
        maps.append(one / largest if largest > 0 else one)
    region = None if row.region is None else as_region(row.region, shape)
    detail = "\n".join(wrap(line, LABEL, SMALL, lines=2) for line in row.detail.split("\n"))
    label = wrap(row.label, LABEL, NORMAL, lines=_LINES)
    return _Checked(picture, maps, label, detail, region, row.notes or [""] * columns)


class _Grid:
    """Where things lie: labels on the left, headers above, the colour bar below the maps."""

    def __init__(
        self,
        rows: Sequence[_Checked],
        columns: Sequence[str],
        title: str | None,
        subtitle: str | None,
        words: str,
    ):
        self.rows = rows
        side = SIDES[len(rows) > 1]
        self.sizes = [panel_size(row.image.shape[:2], side=side) for row in rows]
        self.slot = max(width for width, _ in self.sizes)
        lines = [
            text_width(line, size, bold=size == NORMAL)
            for row in rows
            for words, size in ((row.label, NORMAL), (row.detail, SMALL))
            for line in words.split("\n")
            if line
        ]
        self.left = MARGIN + (max(lines) + 0.12 if lines else 0.0)
        count = len(columns) + 1
        self.width = self.left + count * (self.slot + BETWEEN) - BETWEEN + MARGIN
        room = self.width - 2 * MARGIN
        self.title = wrap(title, room, LARGE)
        self.subtitle = wrap(subtitle, room, NORMAL)
        self.headers = [wrap(words, self.slot, NORMAL) for words in ("Input", *columns)]
        y = MARGIN + text_height(self.title, LARGE)
        y += text_height(self.subtitle, NORMAL) + 0.08
        self.header_bottom = y + max(text_height(words, NORMAL) for words in self.headers)
        y = self.header_bottom + 0.04
        self.tops = []
        for (_, height), row in zip(self.sizes, rows, strict=True):
            self.tops.append(y)
            y += max(height, row.label_height) + BETWEEN
        self.bar_top = y + 0.04
        self.bar_left = self.left + self.slot + BETWEEN
        self.bar_width = min(self.width - MARGIN - self.bar_left, LONGEST_BAR)
        self.words = wrap(words, self.bar_width, SMALL, lines=4)
        more = text_height(self.words, SMALL) - text_height("one line", SMALL)
        self.height = self.bar_top + BAR_HEIGHT + more + MARGIN / 2

    def cell(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Place and size of a panel; column 0 is the input."""
        width, height = self.sizes[row]
        x = self.left + column * (self.slot + BETWEEN) + (self.slot - width) / 2
        return x, self.tops[row], width, height

    def write(self, canvas: Canvas) -> None:
        """Writes the title, the headers and the labels of rows."""
        canvas.text(MARGIN, MARGIN * 0.7, self.title, size=LARGE)
        below = MARGIN * 0.7 + text_height(self.title, LARGE)
        canvas.text(MARGIN, below, self.subtitle, colour=SOFT)
        for column, words in enumerate(self.headers):
            x = self.left + column * (self.slot + BETWEEN) + self.slot / 2
            canvas.text(x, self.header_bottom, words, across="center", along="bottom")
        for number, row in enumerate(self.rows):
            top = self.tops[number] + (self.sizes[number][1] - row.label_height) / 2
            top = max(top, self.tops[number])
            canvas.text(MARGIN, top, row.label, bold=True)
            canvas.text(
                MARGIN, top + text_height(row.label, NORMAL), row.detail, size=SMALL, colour=SOFT
            )
