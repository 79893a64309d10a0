"""Colours: the tables of maps, the greys behind them, and the colours of classes."""

import colorsys

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from segcam_jax.viz.checks import AnyArray

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
