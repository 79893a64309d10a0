"""From values to colours: one `Scale` per map, shared by its panels and its colour bar.

Unsigned maps take a sequential colour table over [0, max], signed ones a diverging table over
[-max |v|, max |v|]. Over an image, the opacity follows the importance: what does not matter shows
the image, and no colour is painted where the map says nothing.
"""

import colorsys
import dataclasses
from collections.abc import Iterable

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb

from segcam_jax.types import InputError, nearest_first
from segcam_jax.viz.checks import AnyArray, as_image, as_map, check_share

SEQUENTIAL = matplotlib.colormaps["inferno"]
# Without its ends: near black, they would make the most important places the least striking.
DIVERGING = LinearSegmentedColormap.from_list(
    "segcam_diverging", matplotlib.colormaps["RdBu_r"](np.linspace(0.1, 0.9, 65))
)

# Negative values this small beside the largest are rounding, not evidence against the target.
ROUNDING = 1e-6
ALPHA = 0.85
# The opacity grows as importance^FADE: below 1, so that the middle of the scale is seen well.
FADE = 0.7
# Rec. 601 luma.
LUMA = np.array([0.299, 0.587, 0.114])
# The greys behind an overlay stay clear of black and white, where colours cannot be told apart.
GREY_RANGE = (0.12, 0.88)

BACKGROUND_COLOUR = (0.88, 0.88, 0.88)
IGNORED_COLOUR = (1.0, 1.0, 1.0)
# The first seven are told apart with every common kind of colour vision (Okabe and Ito, 2008); each
# of the others is the colour farthest from all before it (CIEDE2000) and from the greys.
CLASS_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#8A0D3C",
    "#0D4B0D",
    "#3C2C8A",
    "#5B3C0D",
    "#7A7A0D",
    "#1CF7D8",
    "#F7A99A",
    "#0D6B6B",
    "#9A8AF7",
    "#A9B98A",
    "#7A5B7A",
    "#F7C8F7",
    "#C84B4B",
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the values of one or several maps become colours.

    Attributes:
        colormap: the colour table.
        low: the value at its lower end.
        high: the value at its upper end.
        signed: whether the table is centred on zero.
        alpha: opacity over an image of what is most important.
        fade: whether the opacity follows the importance, or is `alpha` everywhere.
    """

    colormap: Colormap
    low: float
    high: float
    signed: bool
    alpha: float
    fade: bool

    def position(self, values: Float[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
        """The place of each value on the colour table, in [0, 1]."""
        if self.signed:
            return 0.5 + 0.5 * np.clip(values / self.high, -1, 1)
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    def colours(self, values: Float[np.ndarray, "*space"]) -> Float[np.ndarray, "*space 3"]:
        """The opaque colour of each value."""
        return np.asarray(self.colormap(self.position(values)))[..., :3]

    def importance(self, values: Float[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
        """The distance of each value from "says nothing", in [0, 1]."""
        position = self.position(values)
        return np.abs(2 * position - 1) if self.signed else position

    def blend(
        self, base: Float[np.ndarray, "*space 3"], values: Float[np.ndarray, "*space"]
    ) -> Float[np.ndarray, "*space 3"]:
        """Paints the values over `base`; see the function `blend`."""
        strength = self.importance(values) ** FADE if self.fade else np.ones(values.shape)
        opacity = self.alpha * strength
        return base + opacity[..., None] * (self.colours(values) - base)


def _table(colormap: str | Colormap) -> Colormap:
    if isinstance(colormap, Colormap):
        return colormap
    if colormap not in matplotlib.colormaps:
        near = ", ".join(nearest_first(colormap, matplotlib.colormaps)[:3])
        raise InputError(f"colormap {colormap!r} is unknown; matplotlib has {near}, ...")
    return matplotlib.colormaps[colormap]


def scale_of(
    maps: Iterable[Float[np.ndarray, "*space"]],
    *,
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    value_range: tuple[float, float] | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
) -> Scale:
    """Makes the scale that several maps share.

    Args:
        maps: one or more checked maps, of any shapes.
        colormap: a matplotlib colour table; None takes the default of the kind.
        signed: whether to centre on zero; None decides by the values.
        value_range: (low, high) at the ends of the table; None takes (0, max), or symmetric limits
            if signed.
        alpha: opacity over an image of what is most important, in [0, 1].
        fade: whether the opacity follows the importance.

    Raises:
        InputError: if the range is not increasing, or not symmetric about 0 though signed, or the
            colour table is unknown.
    """
    maps = list(maps)
    low = min(float(values.min()) for values in maps)
    high = max(float(values.max()) for values in maps)
    largest = max(abs(low), abs(high))
    if value_range is not None:
        limits = np.asarray(value_range, dtype=float)
        if limits.shape != (2,) or not (np.isfinite(limits).all() and limits[0] < limits[1]):
            raise InputError(f"value_range is {value_range!r}, expected (low, high), low < high")
        start, end = limits.tolist()
        signed = start < 0 if signed is None else signed
        if signed and not np.isclose(start, -end):
            raise InputError(f"value_range is {value_range!r}; a signed map needs (-limit, limit)")
    else:
        signed = low < -ROUNDING * largest if signed is None else signed
        end = (largest if signed else high) if largest > 0 else 1.0
        # A map without positive values that is drawn unsigned has nothing to show.
        end = end if end > 0 else 1.0
        start = -end if signed else 0.0
    table = _table(colormap or (DIVERGING if signed else SEQUENTIAL))
    return Scale(table, start, end, bool(signed), alpha=check_share(alpha, "alpha"), fade=fade)


def grey(rgb: Float[np.ndarray, "*space 3"]) -> Float[np.ndarray, "*space 3"]:
    """The luma of an RGB image, three times, with a little less contrast."""
    low, high = GREY_RANGE
    luma = low + (high - low) * (np.asarray(rgb) @ LUMA)
    return np.repeat(luma[..., None], 3, axis=-1)


def blend(
    image: Float[AnyArray, "h w *c"],
    heatmap: Float[AnyArray, "h w"],
    *,
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    value_range: tuple[float, float] | None = None,
) -> Float[np.ndarray, "h w 3"]:
    """Paints a heatmap over the grey image: the pixels of `overlay`, as an array.

    `out = grey + a * (colour(v) - grey)` with `a = alpha * importance(v)^0.7`, where the importance
    is the value's distance from zero as a share of the scale.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        heatmap: finite numbers at image resolution; signed or not.
        colormap: a matplotlib colour table; None takes "inferno", or the middle of "RdBu_r" if
            signed.
        signed: whether to centre the colours on zero; None: if there are negative values.
        alpha: opacity of the most important places, in [0, 1].
        fade: whether the opacity follows the importance; False paints all of the image with
            `alpha`, as many published figures do.
        value_range: (low, high) at the ends of the colour table; None takes (0, max), or
            (-max |v|, max |v|) if signed.

    Returns:
        RGB in [0, 1].

    Raises:
        InputError: if an input does not have the form above.

    >>> import numpy as np
    >>> blend(np.array([[0.0, 1.0, 0.5]]), np.array([[0.0, 0.0, 1.0]])).round(2).tolist()
    [[[0.12, 0.12, 0.12], [0.88, 0.88, 0.88], [0.92, 0.92, 0.62]]]
    """
    picture = as_image(image)
    values = as_map(heatmap, shape=picture.shape[:2])
    scale = scale_of(
        [values],
        colormap=colormap,
        signed=signed,
        value_range=value_range,
        alpha=alpha,
        fade=fade,
    )
    return scale.blend(grey(picture), values)


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
