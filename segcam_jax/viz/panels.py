"""What is drawn into one pair of axes: pictures, maps, outlines, marks, words, a colour bar."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path

from segcam_jax.viz.checks import AnyArray, ClassNames, as_map, check_class, class_name
from segcam_jax.viz.pixels import show
from segcam_jax.viz.reuse import element, inner, kept
from segcam_jax.viz.style import (
    FAINT,
    GREY_RANGE,
    INK,
    SMALL,
    Scale,
    class_colour,
    grey,
    label_colours,
    number,
    wrap,
)

# An outline is a bright line on a dark one, so that it stands out from any colour.
OUTLINE, OUTLINE_SHADOW = "#7CFF4F", "#101010"
ZERO = "zero map"
LONGEST_NAME = 32  # characters of a class name
_BAR = 0.09  # inches: the thickness of a colour bar
_LONGEST_BAR = 2.8  # inches


@inner
def picture(
    axes: Axes,
    rgb: Float[AnyArray, "h w 3"],
    *,
    smooth: bool = True,
    over: tuple[int, int] | None = None,
) -> None:
    """Draws a picture into axes; pixel (i, j) lies at x = j, y = i.

    Args:
        smooth: whether to resample as for photographs; False keeps hard pixel edges.
        over: extents (h, w) of the image that it covers, where it has a resolution of its own.
    """
    height, width = over or rgb.shape[:2]
    colours = np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
    show(axes, colours, (-0.5, width - 0.5, height - 0.5, -0.5), smooth=smooth)


def edges(region: Bool[AnyArray, "h w"]) -> Float[np.ndarray, "edges 2 2"]:
    """The straight lines between a region and the rest, as segments ((x, y), (x, y)).

    The image's border counts as outside, so that a region that touches it is closed there.
    """
    padded = np.pad(region, 1)
    i, j, end = _stretches(padded[1:, 1:-1] != padded[:-1, 1:-1])  # above row i
    horizontal = np.stack([np.stack([j, i], -1), np.stack([end, i], -1)], 1)
    j, i, end = _stretches((padded[1:-1, 1:] != padded[1:-1, :-1]).T)  # left of column j
    vertical = np.stack([np.stack([j, i], -1), np.stack([j, end], -1)], 1)
    return np.concatenate([horizontal, vertical]) - 0.5


def _stretches(mask: Bool[np.ndarray, "rows n"]) -> tuple[Int[np.ndarray, "stretches"], ...]:
    """Row, start and end of what is true without a gap."""
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(change == 1)
    return row, start, np.nonzero(change == -1)[1]


@inner
def outline(axes: Axes, region: Bool[AnyArray, "h w"] | None, colour: str = OUTLINE) -> None:
    """Draws the exact outline of a region; nothing for None or an empty region."""
    if region is None or not region.any():
        return
    ends = edges(region).reshape(-1, 2)
    path = Path(ends, np.tile([Path.MOVETO, Path.LINETO], len(ends) // 2))
    path.should_simplify = False
    for each, width in ((OUTLINE_SHADOW, 2.0), (colour, 0.9)):
        look = {"fill": False, "capstyle": "projecting", "clip_on": False, "snap": True}
        lines = PathPatch(path, edgecolor=each, linewidth=width, label="region", zorder=3, **look)
        axes.add_artist(lines)  # It asks for no other limits.


@element
def mark_pixel(axes: Axes, pixel: tuple[int, ...]) -> None:
    """Marks a pixel (row, column) with a ring around a dot."""
    row, column = pixel
    for colour, width in ((OUTLINE_SHADOW, 3.2), (OUTLINE, 1.6)):
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": colour}
        axes.plot(
            column, row, "o", markersize=9, markeredgewidth=width, clip_on=False, zorder=4, **ring
        )
    axes.plot(column, row, ".", color=OUTLINE, markersize=3, clip_on=False, zorder=4)


@inner
def note(axes: Axes, words: str, width: float, *, boxed: bool = False) -> None:
    """Writes a remark in the middle of axes of `width` inches, in as many lines as it needs."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.5}
    axes.text(
        0.5,
        0.5,
        wrap(words, width - 0.2, lines=5),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=INK if boxed else FAINT,
        bbox=box if boxed else None,
        zorder=5,
        in_layout=False,
    )


@inner
def tag(axes: Axes, words: str, width: float) -> None:
    """Writes a few small words into the lower left corner of the axes; nothing for none."""
    if words:
        axes.text(
            0.03,
            0.03,
            wrap(words, width - 0.1, SMALL),
            transform=axes.transAxes,
            fontsize=SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            zorder=5,
            in_layout=False,
        )


def beside(
    axes: Axes,
    words: str,
    side: Literal["left", "below"],
    point: tuple[float, float] | None = None,
    **look: Any,
) -> None:
    """Writes words left of axes or below them, or of a point of their picture (x, y)."""
    left = side == "left"
    middle = (0, 0.5) if left else (0.5, 0)
    axes.annotate(
        words,
        middle if point is None else point,
        (-4, 0) if left else (0, -3),
        xycoords="data" if point else "axes fraction",
        textcoords="offset points",
        ha="right" if left else "center",
        va="center" if left else "top",
        **look,
    )


def blank(axes: Axes, words: str, width: float) -> None:
    """An empty panel that says why."""
    _fill(axes, "#f4f4f4")
    note(axes, words, width)


@element
def _fill(axes: Axes, colour: str) -> None:
    around = Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor=colour, zorder=-1)
    axes.add_patch(around)


@element
def entitle(axes: Axes, words: str, width: float, *, lines: int = 2) -> None:
    """Writes a title above axes of `width` inches."""
    axes.set_title(wrap(words, width, lines=lines))


@element
def hide(axes: Axes) -> None:
    """Leaves nothing of axes to be seen."""
    axes.set_axis_off()


def colour_bar(
    axes: Sequence[Axes], scale: Scale, label: str, width: float, *, opaque: bool = False
) -> Axes:
    """Draws the bar of a scale below axes.

    Args:
        axes: the panels that it is of, in one row or in several.
        scale: its ends and its middle are labelled.
        width: of the axes together, in inches.
        opaque: the colours alone; False: as they look over middle grey.
    """
    values = np.linspace(scale.low, scale.high, 256)
    middle = np.full((256, 3), sum(GREY_RANGE) / 2)
    pixels = scale.colours(values) if opaque else scale.blend(middle, values)
    length = min(width, _LONGEST_BAR)
    words = wrap(label, length, SMALL, lines=4)
    ends = (scale.low, (scale.low + scale.high) / 2, scale.high)
    there = kept(axes[0].figure)
    bar = None if there is None else there.bars.get(axes[0])
    if bar is None:
        bar = _new_bar(axes, width, length)
        bar.set_label(words, fontsize=SMALL, labelpad=1)
        if there is not None:
            there.bars[axes[0]] = bar
    _show(bar.ax, np.clip(pixels, 0, 1), [number(value) for value in ends], bar)
    return bar.ax


def _new_bar(axes: Sequence[Axes], width: float, length: float) -> Colorbar:
    """An empty bar from 0 to 1, whatever its values are: some are too small for an axis."""
    bar = axes[0].figure.colorbar(
        ScalarMappable(Normalize(0, 1)),
        ax=list(axes),
        location="bottom",
        shrink=length / width,
        aspect=length / _BAR,
        pad=0.03,
        fraction=0.1,  # of the panels' height, which holds the bar
    )
    bar.ax.tick_params(length=0, pad=2)
    bar.outline.set(linewidth=0.6, edgecolor=FAINT)
    return bar


@inner  # Words of a scale are equally high, and end where it ends.
def _show(axes: Axes, colours: Float[np.ndarray, "n 3"], words: Sequence[str], bar: Colorbar):
    """Gives a bar its colours, and the words at its ends and in its middle."""
    assert bar.solids is not None
    bar.solids.set_cmap(ListedColormap(colours))
    bar.set_ticks([0, 0.5, 1], labels=words)
    for word, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        word.set(ha=side)


@dataclasses.dataclass(frozen=True, eq=False)
class Noted:
    """A map with a few words.

    Attributes:
        values: finite numbers at image resolution; signed or not.
        note: in the map's corner; in the middle of one that is zero.
    """

    values: Float[AnyArray, "h w"]
    note: str = ""


AnyMap = Float[AnyArray, "h w"] | Noted


def noted(given: AnyMap, name: str, shape: tuple[int, ...]) -> Noted:
    """A map as numpy has it, of the image's shape, with what is said of it."""
    given = given if isinstance(given, Noted) else Noted(given)
    return Noted(as_map(given.values, name, shape=shape), given.note)


def overlaid(
    axes: Axes,
    image: Float[AnyArray, "h w 3"],
    heatmap: Noted,
    scale: Scale,
    region: Bool[AnyArray, "h w"] | None,
    width: float,
) -> None:
    """Draws a checked map over its image in grey, in a panel of `width` inches."""
    picture(axes, scale.blend(grey(image), heatmap.values))
    outline(axes, region, scale.outline or OUTLINE)
    if heatmap.values.any():
        tag(axes, heatmap.note, width)
    else:
        note(axes, heatmap.note or ZERO, width, boxed=True)


def importance(scale: Scale) -> str:
    """What the values of a map over an image are."""
    return "importance; negative: against it" if scale.signed else "importance"


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the numbers of class maps mean.

    Attributes:
        names: by class index; a sequence or a mapping.
        explained: the explained class, which the legend says.
        background: the class drawn in neutral grey; None if there is none.
        ignored: the label of pixels that do not count, drawn white, as are negative ones.

    Raises:
        InputError: if the explained class has no name among those given.
    """

    names: ClassNames | None = None
    explained: int | None = None
    background: int | None = 0
    ignored: int | None = 255

    def __post_init__(self):
        check_class(self.explained, self.names)

    def colours(self, labels: Int[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
        """A map of classes as a picture."""
        return label_colours(labels, background=self.background, ignored=self.ignored)

    def legend(
        self, prediction: Int[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"] | None = None
    ) -> list[Patch]:
        """An entry for every class present or explained, in order of index.

        Args:
            prediction: -1 is not predicted.
            truth: -1 is unknown; None: there is no truth.
        """
        missing = {"not predicted": prediction, "unknown": truth}
        maps = {words: values for words, values in missing.items() if values is not None}
        none = ", ".join(words for words, values in maps.items() if (values < 0).any())
        present = {int(index) for values in maps.values() for index in np.unique(values)}
        if self.explained is not None:
            present.add(self.explained)
        entries: dict[str, Patch] = {}
        for index in sorted(present, key=lambda k: (self._hidden(k), k == self.background, k)):
            words = none if self._hidden(index) else self._name(index)
            words = "ignored" if index == self.ignored else words
            colour = class_colour(index, background=self.background, ignored=self.ignored)
            words = words if len(words) <= LONGEST_NAME else f"{words[: LONGEST_NAME - 1]}…"
            words = f"{words} (explained)" if index == self.explained else words
            entry = Patch(facecolor=colour, edgecolor=FAINT, linewidth=0.6, label=words)
            # All negative numbers are one entry.
            entries.setdefault(words if self._hidden(index) else f"{index}", entry)
        return list(entries.values())

    def _hidden(self, index: int) -> bool:
        return index < 0 or index == self.ignored

    def _name(self, index: int) -> str:
        named = self.names is not None and class_name(index, self.names) != f"class {index}"
        return class_name(index, self.names) if named or index != self.background else "background"
