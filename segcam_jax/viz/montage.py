"""Many heatmaps of one image: methods x taps."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    LARGE,
    MARGIN,
    NORMAL,
    SMALL,
    Canvas,
    heading,
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

SIDES = (1.55, 1.3)  # inches: of a square cell in a small grid, in a grid of more than MANY
MANY = 5
BETWEEN = 0.08
NARROWEST = 1.2
LABEL = 1.5
LONGEST_BAR = 2.6

Maps = (
    Mapping[tuple[str, str], Float[AnyArray, "h w"] | None]
    | Sequence[Sequence[Float[AnyArray, "h w"] | None]]
    | Float[AnyArray, "rows columns h w"]
)
Cells = dict[tuple[int, int], np.ndarray]


def _cells(
    maps: Maps, rows: Sequence[str], columns: Sequence[str], shape: tuple[int, ...]
) -> Cells:
    """The maps there are, checked, by (row, column) number."""
    if isinstance(maps, Mapping):
        unknown = [key for key in maps if key not in {(r, c) for r in rows for c in columns}]
        if unknown:
            raise InputError(f"maps has key {unknown[0]!r}, expected (row label, column label)")
        table = [[maps.get((row, column)) for column in columns] for row in rows]
    else:
        table = [list(line) for line in maps]
        sizes = [len(line) for line in table]
        if sizes != [len(columns)] * len(rows):
            raise InputError(
                f"maps has rows of {sizes} cells, expected {len(rows)} rows of {len(columns)}; "
                "None stands for a missing map"
            )
    cells = {
        (i, j): as_map(values, f"the map of {rows[i]!r} at {columns[j]!r}", shape=shape)
        for i, line in enumerate(table)
        for j, values in enumerate(line)
        if values is not None
    }
    if not cells:
        raise InputError("maps holds no map; give at least one")
    return cells


def _labels(labels: Sequence[str], name: str) -> list[str]:
    if isinstance(labels, str) or not len(labels) or len(set(labels)) < len(labels):
        raise InputError(f"{name} is {labels!r}, expected a list of distinct labels")
    return [str(label) for label in labels]


class _Grid:
    """Where things lie: the input in the corner, title and colour bar beside it, cells below."""

    def __init__(
        self, shape: tuple[int, ...], rows: list[str], columns: list[str], title: str | None
    ):
        side = SIDES[max(len(rows), len(columns)) > MANY]
        self.image = panel_size(shape, side=side)
        self.slot = max(self.image[0], NARROWEST)
        self.rows = [wrap(row, max(self.slot, LABEL), NORMAL, lines=3) for row in rows]
        self.columns = [wrap(column, self.slot, NORMAL) for column in columns]
        lines = [line for row in self.rows for line in row.split("\n")]
        self.labels = max(self.image[0], *(text_width(line, NORMAL) for line in lines))
        self.left = MARGIN + self.labels + 0.12
        self.grid_width = len(columns) * (self.slot + BETWEEN) - BETWEEN
        self.title, above = heading(title, self.grid_width, lines=3)
        self.heads = max(text_height(column, NORMAL) for column in self.columns)
        beside = above + BAR_HEIGHT + 0.1 + self.heads
        self.bottom = MARGIN + max(self.image[1], beside)  # of the header
        self.top = self.bottom + 0.06
        self.width = self.left + self.grid_width + MARGIN
        self.height = self.top + len(rows) * (self.image[1] + BETWEEN) - BETWEEN + MARGIN

    def cell(self, i: int, j: int) -> tuple[float, float, float, float]:
        """Place and size of the picture in row i, column j."""
        x = self.left + j * (self.slot + BETWEEN) + (self.slot - self.image[0]) / 2
        return x, self.top + i * (self.image[1] + BETWEEN), *self.image

    def corner(self) -> tuple[float, float, float, float]:
        """Place and size of the input."""
        x = MARGIN + self.labels - self.image[0]
        return x, self.bottom - self.image[1], *self.image

    def write(self, canvas: Canvas) -> None:
        """Writes the title and the labels of rows and columns."""
        canvas.text(self.left, MARGIN, self.title, size=LARGE)
        for j, column in enumerate(self.columns):
            x, y, width, _ = self.cell(0, j)
            canvas.text(x + width / 2, y - 0.04, column, across="center", along="bottom")
        for i, row in enumerate(self.rows):
            _, y, _, height = self.cell(i, 0)
            canvas.text(self.left - 0.1, y + height / 2, row, across="right", along="center")


def montage(
    image: Float[AnyArray, "h w *c"],
    maps: Maps,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    region: Bool[AnyArray, "h w"] | None = None,
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    caption: str | None = None,
    notes: Mapping[tuple[str, str], str] | None = None,
) -> Figure:
    """Draws heatmaps of one image in a grid, usually methods x taps, on one shared scale.

    The corner holds the input. Maps are drawn as given: on the shared scale, a map whose values are
    small looks faint. Normalise each map first to compare where they look rather than how strongly.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        maps: heatmaps at image resolution, by (row label, column label), or nested row by row. A
            cell without a map (no key, or None) says "no map".
        rows: labels from top to bottom, for example the methods.
        columns: labels from left to right, for example the taps.
        region: boolean mask of the target's pixels, outlined in every cell.
        colormap: as in `overlay`.
        signed: as in `overlay`; None: if any map has negative values.
        alpha: as in `overlay`.
        fade: as in `overlay`.
        value_range: as in `overlay`; None takes the limits over all maps.
        title: words beside the input.
        caption: words below the maps.
        notes: by (row label, column label), a few words in the map's corner; in the middle of a
            map that is zero.

    Raises:
        InputError: if an input does not have the form above, or there is no map at all.
    """
    picture = as_image(image)
    shape = picture.shape[:2]
    rows, columns = _labels(rows, "rows"), _labels(columns, "columns")
    cells = _cells(maps, rows, columns, shape)
    mask = None if region is None else as_region(region, shape)
    scale = scale_of(
        cells.values(),
        colormap=colormap,
        signed=signed,
        value_range=value_range,
        alpha=alpha,
        fade=fade,
    )

    grid = _Grid(shape, rows, columns, title)
    told = wrap_caption(caption, grid.width - 2 * MARGIN)
    canvas = Canvas(grid.width, grid.height + text_height(told, SMALL))
    canvas.text(MARGIN, grid.height - MARGIN / 2, told, size=SMALL)
    grid.write(canvas)
    corner = canvas.axes(*grid.corner())
    show(corner, picture)
    outline(corner, mask)
    bar = grid.bottom - grid.heads - 0.1 - BAR_HEIGHT
    length = min(grid.grid_width, LONGEST_BAR)
    words = "importance; negative: against it" if scale.signed else "importance"
    words = words if text_width(words, SMALL) <= length else "importance"
    colour_bar(canvas, grid.left, bar, length, scale, words)
    base = grey(picture)
    for i in range(len(rows)):
        for j in range(len(columns)):
            axes = canvas.axes(*grid.cell(i, j))
            if (i, j) not in cells:
                blank(axes, "no map")
                continue
            words = (notes or {}).get((rows[i], columns[j]), "")
            show_overlay(axes, base, cells[i, j], scale, region=mask, zero=words or ZERO)
            tag(axes, words if cells[i, j].any() else "")
    return canvas.figure
