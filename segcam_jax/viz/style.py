"""How figures look: letters, sizes, and from values to colours (`Style`, and the `Scale` it makes).

Unsigned maps take a sequential colour table over [0, max], signed ones a diverging table over
[-max |v|, max |v|]. Over an image, the opacity follows the importance: what does not matter shows
the image, and no colour is painted where the map says nothing.
"""

import colorsys
import contextlib
import dataclasses
import functools
import math
import textwrap
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like, to_rgb
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextToPath

from segcam_jax.types import InputError, nearest_first
from segcam_jax.viz.checks import AnyArray, as_image, as_map, check_share

DPI = 150
SMALL, NORMAL, LARGE = 7.0, 8.5, 10.5  # points
INK, SOFT, FAINT = "#222222", "#555555", "#8a8a8a"
# The first has all letters of most names; which of the others are installed draw what it lacks.
_FONTS = (
    "DejaVu Sans,Noto Sans CJK JP,Noto Sans CJK SC,Source Han Sans,Hiragino Sans,PingFang SC,"
    "Yu Gothic,Microsoft YaHei,Malgun Gothic,WenQuanYi Micro Hei,Arial Unicode MS"
).split(",")
_OURS: dict[str, Any] = {
    "font.size": NORMAL,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), NORMAL),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), SMALL),
    "legend.fontsize": SMALL + 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    "axes.titlepad": 3.0,
    "grid.color": "#e4e4e4",
    # Words are words: neither formulas nor TeX.
    **dict.fromkeys(("text.parse_math", "text.usetex"), False),
    **dict.fromkeys(("figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad"), 0.04),
    **dict.fromkeys(("figure.constrained_layout.wspace", "figure.constrained_layout.hspace"), 0.0),
}

SEQUENTIAL = matplotlib.colormaps["inferno"]
# Without its ends: near black, they would make the most important places the least striking.
DIVERGING = LinearSegmentedColormap.from_list(
    "segcam_diverging", matplotlib.colormaps["RdBu_r"](np.linspace(0.1, 0.9, 65))
)
# Rec. 601 luma.
LUMA = np.array([0.299, 0.587, 0.114])
# The greys behind an overlay stay clear of black and white, where colours cannot be told apart.
GREY_RANGE = (0.12, 0.88)
BACKGROUND_COLOUR = (0.88, 0.88, 0.88)
IGNORED_COLOUR = (1.0, 1.0, 1.0)
# The first seven are told apart with every common kind of colour vision (Okabe and Ito, 2008); each
# of the others is the colour farthest from all before it (CIEDE2000) and from the greys.
CLASS_COLOURS = (
    "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #F0E442 #8A0D3C #0D4B0D #3C2C8A "
    "#5B3C0D #7A7A0D #1CF7D8 #F7A99A #0D6B6B #9A8AF7 #A9B98A #7A5B7A #F7C8F7 #C84B4B"
).split()
# Negative values this small beside the largest are rounding, not evidence against the target.
ROUNDING = 1e-6
ALPHA = 0.85
# The opacity grows as importance^FADE: below 1, so that the middle of the scale is seen well.
FADE = 0.7

_drawing = threading.RLock()
_inside: list[bool] = []  # Whether a thread draws; it holds the lock.


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Figures made inside look the same whatever matplotlib's settings are, which stay as they are.

    As a decorator it does so for a function. Letters that no font at hand has are drawn as boxes,
    without a warning for each.
    """
    with _drawing:
        if _inside:  # The lock is this thread's: the settings are those already.
            yield
            return
        with matplotlib.rc_context(_settings()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            _inside.append(True)
            try:
                yield
            finally:
                _inside.pop()


@functools.cache
def _settings() -> dict[Any, Any]:
    usual = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
    return {**usual, **_OURS, "font.family": _families()}


@functools.cache
def _families() -> list[str]:
    installed = {each.name for each in fontManager.ttflist}
    return [_FONTS[0], *(name for name in _FONTS[1:] if name in installed)]


@functools.lru_cache(1024)
def wrap(words: str | None, width: float, size: float = NORMAL, *, lines: int = 2) -> str:
    """Breaks words into lines of at most `width` inches; what does not fit ends in an ellipsis."""
    words = " ".join((words or "").split())
    if not words:
        return ""
    letters = FontProperties(family=_families(), size=size)
    natural = TextToPath().get_text_width_height_descent(words, letters, False)[0] / 72
    if natural <= width:
        return words
    # A tenth of reserve, as a line may hold letters that are wider than the average.
    characters = max(4, math.floor(0.9 * len(words) * width / natural))
    return "\n".join(
        textwrap.wrap(words, characters, max_lines=lines, placeholder="…", break_on_hyphens=False)
    )


def grey(rgb: Float[AnyArray, "*space 3"]) -> Float[np.ndarray, "*space 3"]:
    """The luma of an RGB image, three times, with a little less contrast."""
    low, high = GREY_RANGE
    luma = low + (high - low) * (np.asarray(rgb) @ LUMA)
    return np.repeat(luma[..., None], 3, axis=-1)


def class_colour(
    index: int, *, background: int | None = 0, ignored: int | None = 255
) -> tuple[float, float, float]:
    """The colour of a class: the same in every figure, neutral for background, white if ignored."""
    if index < 0 or index == ignored:
        return IGNORED_COLOUR
    if index == background:
        return BACKGROUND_COLOUR
    if index < len(CLASS_COLOURS):
        return to_rgb(CLASS_COLOURS[index])
    # Beyond the table: hues a golden ratio apart never repeat, the value alternates.
    hue = (index * 0.618034) % 1.0
    return colorsys.hsv_to_rgb(hue, 0.55 + 0.3 * (index % 2), 0.95 - 0.2 * (index % 3))


def label_colours(
    labels: Int[np.ndarray, "h w"], *, background: int | None = 0, ignored: int | None = 255
) -> Float[np.ndarray, "h w 3"]:
    """A label map as RGB."""
    present, inverse = np.unique(labels, return_inverse=True)
    table = [class_colour(int(k), background=background, ignored=ignored) for k in present]
    return np.asarray(table)[inverse.reshape(labels.shape)]


def number(value: float, digits: int = 2) -> str:
    """A number on a scale, of so many significant digits, without exponent for everyday sizes."""
    text = f"{float(f'{value:.{digits}g}'):g}" if value else "0"
    return text.replace("-", "\N{MINUS SIGN}")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the values of one or several maps become colours.

    Attributes:
        signed: whether the table is centred on zero.
        alpha: opacity over an image of what is most important.
        fade: whether the opacity follows the importance, or is `alpha` everywhere.
        outline: colour of the region's outline over an image; None: the usual.
    """

    colormap: Colormap
    low: float
    high: float
    signed: bool
    alpha: float
    fade: bool
    outline: str | None = None

    def position(self, values: Float[AnyArray, "*space"]) -> Float[np.ndarray, "*space"]:
        """The place of each value on the colour table, in [0, 1]."""
        if self.signed:
            return 0.5 + 0.5 * np.clip(values / self.high, -1, 1)
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    def colours(self, values: Float[AnyArray, "*space"]) -> Float[np.ndarray, "*space 3"]:
        """The opaque colour of each value."""
        return np.asarray(self.colormap(self.position(values)))[..., :3]

    def importance(self, values: Float[AnyArray, "*space"]) -> Float[np.ndarray, "*space"]:
        """The distance of each value from "says nothing", in [0, 1]."""
        position = self.position(values)
        return np.abs(2 * position - 1) if self.signed else position

    def blend(
        self, base: Float[np.ndarray, "*space 3"], values: Float[AnyArray, "*space"]
    ) -> Float[np.ndarray, "*space 3"]:
        """Paints the values over `base`; see the function `blend`."""
        strength = self.importance(values) ** FADE if self.fade else np.ones(values.shape)
        opacity = self.alpha * strength
        return base + opacity[..., None] * (self.colours(values) - base)


@dataclasses.dataclass(frozen=True)
class Style:
    """How maps are coloured.

    Attributes:
        colormap: a matplotlib colour table, for example "jet"; None takes "inferno", or the middle
            of "RdBu_r" (red supports the target, blue contradicts it) if signed.
        signed: whether to centre the colours on zero; None: if there are negative values (of more
            than a millionth of the largest).
        value_range: (low, high) at the ends of the colour table; None takes (0, max), or
            (-max |v|, max |v|) if signed. Give it to compare figures.
        alpha: opacity over an image of the most important places, in [0, 1].
        fade: whether the opacity follows the importance; False paints all with `alpha`, as many
            published figures do.
        outline: a matplotlib colour for the outline of the region in overlays; None: bright green.
    """

    colormap: str | Colormap | None = None
    signed: bool | None = None
    value_range: tuple[float, float] | None = None
    alpha: float = ALPHA
    fade: bool = True
    outline: str | None = None

    def scale(self, maps: Iterable[Float[AnyArray, "*space"]]) -> Scale:
        """The scale that several checked maps share, of any shapes.

        Raises:
            InputError: if the range is not increasing, or not symmetric about 0 though signed, the
                opacity is not a share, or the colour table or the colour of the outline is unknown.
        """
        if self.outline is not None and not is_color_like(self.outline):
            raise InputError(
                f"outline {self.outline!r} is not a colour of matplotlib, such as magenta"
            )
        maps = list(maps)
        low = min(float(values.min()) for values in maps)
        high = max(float(values.max()) for values in maps)
        if self.value_range is not None:
            start, end = self._limits(self.value_range)
            signed = start < 0 if self.signed is None else self.signed
            if signed and not np.isclose(start, -end):
                raise InputError(
                    f"value_range is {self.value_range!r}; a signed map needs (-limit, limit)"
                )
        else:
            largest = max(abs(low), abs(high))
            signed = low < -ROUNDING * largest if self.signed is None else self.signed
            end = largest if signed else high
            # A map without positive values that is drawn unsigned has nothing to show.
            end = end if end > 0 else 1.0
            start = -end if signed else 0.0
        usual = DIVERGING if signed else SEQUENTIAL
        table = _table(usual if self.colormap is None else self.colormap)
        alpha = check_share(self.alpha, "alpha")
        return Scale(table, start, end, bool(signed), alpha, self.fade, self.outline)

    @staticmethod
    def _limits(given: tuple[float, float]) -> tuple[float, float]:
        limits = np.asarray(given, dtype=float)
        if limits.shape != (2,) or not (np.isfinite(limits).all() and limits[0] < limits[1]):
            raise InputError(f"value_range is {given!r}, expected (low, high), low < high")
        return limits[0].item(), limits[1].item()


def _table(colormap: str | Colormap) -> Colormap:
    if isinstance(colormap, Colormap):
        return colormap
    if colormap not in matplotlib.colormaps:
        near = ", ".join(nearest_first(colormap, matplotlib.colormaps)[:3])
        raise InputError(f"colormap {colormap!r} is unknown; matplotlib has {near}, ...")
    return matplotlib.colormaps[colormap]


def blend(
    image: Float[AnyArray, "h w *c"], heatmap: Float[AnyArray, "h w"], style: Style = Style()
) -> Float[np.ndarray, "h w 3"]:
    """Paints a heatmap over the grey image: the pixels of `overlay`, as an array.

    `out = grey + a * (colour(v) - grey)` with `a = alpha * importance(v)^0.7`, where the importance
    is the value's distance from zero as a share of the scale.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        heatmap: finite numbers at image resolution; signed or not.

    Returns:
        RGB in [0, 1].

    >>> import numpy as np
    >>> blend(np.array([[0.0, 1.0, 0.5]]), np.array([[0.0, 0.0, 1.0]])).round(2).tolist()
    [[[0.12, 0.12, 0.12], [0.88, 0.88, 0.88], [0.92, 0.92, 0.62]]]
    """
    picture = as_image(image)
    values = as_map(heatmap, shape=picture.shape[:2])
    return style.scale([values]).blend(grey(picture), values)
