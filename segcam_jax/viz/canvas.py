"""A figure laid out in inches from its top left corner, with the typography of all our figures.

Panels of one figure must be equally large and line up whatever hangs below them (colour bars,
legends), and must look the same whatever the user's matplotlib settings are. Hence fixed places and
explicit fonts, and neither pyplot nor rcParams.
"""

import contextlib
import functools
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextToPath

DPI = 150
PANEL = 2.4  # inches: the side of a square panel; others have the same area
MARGIN = 0.14
GAP = 0.16
FONT = "DejaVu Sans"
# Which of these are installed draws the letters that it lacks.
_OTHER_LETTERS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
)
SMALL, NORMAL, LARGE = 7.0, 8.5, 10.5  # points
INK = "#222222"
FAINT = "#8a8a8a"
# Words are words: neither formulas nor TeX.
PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
POINTS = 72.0
LINE, BASELINE = 1.3, 1.0  # in font sizes: the height of a line, its baseline from its top


class Canvas:
    """A figure of a given size in inches; x runs right and y runs down from its top left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Adds empty axes with a thin frame and no ticks, top left corner at (x, y)."""
        bottom = (self.height - y - height) / self.height
        rectangle = (x / self.width, bottom, width / self.width, height / self.height)
        axes = self.figure.add_axes(rectangle)
        axes.set(facecolor="white", xticks=[], yticks=[])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.6, edgecolor=FAINT)
        return axes

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = NORMAL,
        bold: bool = False,
        colour: str = INK,
        across: str = "left",
        along: str = "top",
    ) -> None:
        """Writes lines with their anchor (`across`; `along`: top, center, bottom) at (x, y).

        Lines are placed by their baselines, so that words beside each other line up whichever
        letters they hold. `$` is just a character.
        """
        lines = words.split("\n") if words else []
        start = {"top": 0.0, "center": 0.5, "bottom": 1.0}[along] * text_height(words, size)
        for number, line in enumerate(lines):
            baseline = y - start + (number * LINE + BASELINE) * size / POINTS
            self.figure.text(
                x / self.width,
                1 - baseline / self.height,
                line,
                fontproperties=font(size, bold=bold),
                color=colour,
                ha=across,
                va="baseline",
                **PLAIN,
            )


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Text in letters that no font at hand has is drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The one font of all figures."""
    return FontProperties(family=_families(), size=size, weight="bold" if bold else "normal")


@functools.cache
def _families() -> list[str]:
    installed = {each.name for each in fontManager.ttflist}
    return [FONT, *(name for name in _OTHER_LETTERS if name in installed)]


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """The width of one line of text in inches."""
    with any_letters():
        width, _, _ = TextToPath().get_text_width_height_descent(
            words, font(size, bold=bold), False
        )
    return width / POINTS


def text_height(words: str, size: float) -> float:
    """The height of wrapped text in inches; 0 if there is none."""
    return LINE * size / POINTS * (words.count("\n") + 1) if words else 0.0


def wrap(words: str | None, width: float, size: float, *, lines: int = 2) -> str:
    """Breaks words into lines of at most `width` inches; what does not fit ends in an ellipsis."""
    words = " ".join((words or "").split())
    if not words:
        return ""
    natural = text_width(words, size)
    if natural <= width:
        return words
    # 5 % of reserve, as a line may hold letters that are wider than the average.
    characters = max(4, math.floor(0.95 * len(words) * width / natural))
    return "\n".join(
        textwrap.wrap(words, characters, max_lines=lines, placeholder="…", break_long_words=True)
    )


def wrap_caption(caption: str | None, width: float) -> str:
    """Breaks the words below a figure into small lines of at most `width` inches."""
    # A tenth of reserve: of many lines, some hold wider letters than the average.
    return wrap(caption, 0.9 * width, SMALL, lines=12)


def panel_size(shape: tuple[int, ...], *, side: float = PANEL) -> tuple[float, float]:
    """Width and height in inches of a panel for an image (h, w): its aspect, the area side^2."""
    height, width = shape
    stretch = math.sqrt(width / height)
    shrink = min(1.0, 1.6 / stretch, 1.6 * stretch)  # no panel is longer than 1.6 sides
    return side * stretch * shrink, side / stretch * shrink


def heading(title: str | None, width: float, *, lines: int = 2) -> tuple[str, float]:
    """A figure's title, wrapped, and the height that it takes with the space below it."""
    words = wrap(title, width, LARGE, lines=lines)
    return words, text_height(words, LARGE) + (0.06 if words else 0.0)


def flow(lengths: Sequence[float], width: float, *, gap: float) -> list[tuple[float, int]]:
    """Sets pieces of the given lengths in lines of the given width: (x, line) of each."""
    places, x, line = [], 0.0, 0
    for length in lengths:
        if x > 0 and x + length > width:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += length + gap
    return places
