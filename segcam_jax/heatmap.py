"""From a raw map to a heatmap: what people look at.

A heatmap is made by a profile, a sequence of steps. The profiles carry the exact constants of the
libraries and papers that they are named after, so that figures can be compared:

    segcam_jax          ReLU, resize, smooth (off), / max                  in [0, 1]; the default
    signed              resize, / max |.|                                  in [-1, 1]
    raw                 resize                                             quantitative
    pytorch_grad_cam    ReLU, min-max (1e-7), resize, ReLU, min-max (1e-7) pytorch-grad-cam, 2D
    captum              nearest resize                                     captum's interpolate
    seg_grad_cam        resize, ReLU, / max                                Seg-Grad-CAM's code
    fast_ablation_cam   ReLU, / max, resize                                FastAblationCAM's formula
    fast_ablation_cam_legacy  one cell to the left, ReLU, / max, resize    FastAblationCAM's code
    ablation_eurocon    ReLU, resize                                       the Eurocon 2023 code
    monai               ReLU, resize, (max - v) / (max - min)              MONAI: 0 is most salient

pytorch-grad-cam resizes volumes by a cubic spline on another grid; here linear is trilinear.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from segcam_jax.types import Explanation, InputError, none_of, wide

Step = Callable[[Array, tuple[int, ...]], Array]


def relu(values: Float[Array, "*space"]) -> Float[Array, "*space"]:
    """max(v, 0)."""
    return jnp.maximum(values, 0)


def divide_by_max(values: Float[Array, "*space"], *, magnitude: bool = False) -> Array:
    """v / max(v), or v / max(|v|) with `magnitude`; a map without a positive maximum is kept."""
    largest = jnp.abs(values).max() if magnitude else values.max()
    return values / jnp.where(largest >= jnp.finfo(largest.dtype).tiny, largest, 1)


def min_max(values: Float[Array, "*space"], *, epsilon: float = 1e-7) -> Array:
    """(v - min v) / (epsilon + max(v - min v))."""
    shifted = values - values.min()
    return shifted / (epsilon + shifted.max())


def inverted_min_max(values: Float[Array, "*space"]) -> Array:
    """(max v - v) / (max v - min v): the largest becomes 0; a map of one value is kept."""
    spread = values.max() - values.min()
    inverted = (values.max() - values) / jnp.where(spread > 0, spread, 1)
    return jnp.where(spread > 0, inverted, values)


def resize(
    values: Float[Array, "*space"],
    size: Sequence[int],
    *,
    kind: Literal["linear", "nearest"] = "linear",
) -> Array:
    """Resizes a map in 2D or 3D.

    `linear` is bi- or trilinear with half-pixel centres and no antialiasing, as OpenCV's
    INTER_LINEAR and torch's `interpolate(align_corners=False)`; `nearest` is torch's nearest:
    output i reads floor(i n / m).
    """
    if len(size) != values.ndim:
        tokens = (
            "; if it has one value per token, leave out those that are no patches (a class token) "
            "and reshape it to rows and columns of patches, map[1:].reshape(rows, columns)"
        )
        raise InputError(
            f"size {tuple(size)} is not for a map of shape {values.shape}"
            f"{tokens if values.ndim == 1 else ''}"
        )
    if kind == "linear":
        return jax.image.resize(values, tuple(size), "linear", antialias=False)
    for axis, (old, new) in enumerate(zip(values.shape, size, strict=True)):
        values = jnp.take(values, (jnp.arange(new) * old) // new, axis=axis)
    return values


def smooth(values: Float[Array, "*space"], sigma: float, *, truncate: float = 4.0) -> Array:
    """Gaussian smoothing, borders reflected, as `scipy.ndimage.gaussian_filter`.

    Args:
        sigma: standard deviation in pixels; 0 leaves the map as it is. A static number.
        truncate: the filter ends at this many standard deviations.
    """
    if sigma < 0:
        raise InputError(f"sigma={sigma}; a standard deviation cannot be negative")
    if sigma == 0:
        return values
    for axis, extent in enumerate(values.shape):
        # The filter is linear: its response to each unit vector is a column of its matrix.
        matrix = scipy.ndimage.gaussian_filter1d(np.eye(extent), sigma, axis=0, truncate=truncate)
        along = jnp.tensordot(jnp.asarray(matrix, values.dtype), values, (1, axis))
        values = jnp.moveaxis(along, 0, axis)
    return values


def shift_one_cell(values: Float[Array, "*space"]) -> Float[Array, "*space"]:
    """Moves every cell one to the left, row by row: cell j gets what belongs to cell j + 1.

    FastAblationCAM's code counts positions with a counter that has advanced once before the first
    ablation: what it stores for cell j is the fall without cell j + 1, in row-major order. The
    first cell of a row ends up last in the row above, the very first as the very last.
    """
    return jnp.roll(values.ravel(), -1).reshape(values.shape)


@dataclasses.dataclass(frozen=True)
class Profile:
    """How a raw map becomes a heatmap.

    Attributes:
        name: the library, paper or purpose.
        steps: applied in order, each `(map, size) -> map`.
        signed: whether negative importance survives.
        about: where it comes from and what it does, in a line.
    """

    name: str
    steps: tuple[Step, ...]
    signed: bool
    about: str = ""


def _step(function: Callable[..., Array], **options) -> Step:
    return lambda values, size: function(values, **options)


def _resized(kind: Literal["linear", "nearest"]) -> Step:
    return functools.partial(resize, kind=kind)


_RELU, _MAX, _MIN_MAX = _step(relu), _step(divide_by_max), _step(min_max, epsilon=1e-7)
_INVERTED = _step(inverted_min_max)
_LINEAR, _NEAREST = _resized("linear"), _resized("nearest")
_SHIFT = _step(shift_one_cell)
_MAGNITUDE = _step(divide_by_max, magnitude=True)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "segcam_jax",
            (_RELU, _LINEAR, _MAX),
            False,
            "ReLU, resize, / max; in [0, 1]; the default",
        ),
        Profile("signed", (_LINEAR, _MAGNITUDE), True, "resize, / max |.|; in [-1, 1]"),
        Profile("raw", (_LINEAR,), True, "resize; quantitative"),
        Profile(
            "pytorch_grad_cam",
            (_RELU, _MIN_MAX, _LINEAR, _RELU, _MIN_MAX),
            False,
            "pytorch-grad-cam 1.5.7: ReLU, min-max, resize, ReLU, min-max",
        ),
        Profile("captum", (_NEAREST,), True, "captum: nearest resize"),
        Profile(
            "seg_grad_cam",
            (_LINEAR, _RELU, _MAX),
            False,
            "Seg-Grad-CAM's code: resize, ReLU, / max",
        ),
        Profile(
            "fast_ablation_cam",
            (_RELU, _MAX, _LINEAR),
            False,
            "FastAblationCAM's formula: ReLU, / max, resize",
        ),
        Profile(
            "fast_ablation_cam_legacy",
            (_SHIFT, _RELU, _MAX, _LINEAR),
            False,
            "FastAblationCAM's code: the same, one cell to the left",
        ),
        Profile("ablation_eurocon", (_RELU, _LINEAR), False, "the Eurocon 2023 code: ReLU, resize"),
        Profile(
            "monai",
            (_RELU, _LINEAR, _INVERTED),
            False,
            "MONAI: ReLU, resize, inverted min-max; 0 is most salient",
        ),
    )
}


def find_profile(profile: str | Profile) -> Profile:
    """The profile of a name; a `Profile` is returned as it is.

    Raises:
        InputError: if no profile has that name; the message lists all, the nearest first.
    """
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise none_of(f"unknown profile {profile!r}", profile, PROFILES)
    return PROFILES[profile]


def heatmap(
    raw: Float[ArrayLike, "*space"],
    size: Sequence[int],
    profile: str | Profile = "segcam_jax",
    *,
    smoothing: float = 0.0,
) -> Float[Array, "*size"]:
    """Makes a heatmap at the resolution of an image.

    Args:
        raw: a raw map, `h w` or `d h w`, as `Explanation.map`.
        size: extents of the image, without channels.
        profile: a name in `PROFILES`, or a profile of your own.
        smoothing: standard deviation of a Gaussian in pixels of `size`, applied to the map resized
            linearly, before the profile's own steps; 0 for none.

    Returns:
        The heatmap, at least float32, in the range that the profile gives. A map without any
        positive value is all zero after a ReLU, of which a `UserWarning` tells where values are
        known. Of a finite map it is never NaN; of traced values, or of an array that other
        processes hold a part of, nothing is checked.

    Raises:
        InputError: if the profile is unknown, `size` has another number of dimensions, or known
            values are NaN or infinite.
    """
    if isinstance(raw, Explanation):
        raise InputError("heatmap takes a map, not an Explanation; give explanation.map")
    chosen = find_profile(profile)
    values, size = _checked(raw, chosen), tuple(size)
    if smoothing:
        values = smooth(resize(values, size), smoothing)
    for step in chosen.steps:
        values = step(values, size)
    return values


def cropped_heatmap(
    raw: Float[Array | np.ndarray, "*space"],
    padded: tuple[int, ...],
    extent: tuple[int, ...],
    profile: str | Profile = "segcam_jax",
    *,
    smoothing: float = 0.0,
) -> Float[Array, "*extent"]:
    """A heatmap of the image alone, from a raw map that covers the padded image.

    The profile's steps run in their order; as soon as the map has the padded extent it is cropped,
    so that a maximum in the padding does not scale the image's. Without padding this is
    `segcam_jax.heatmap`.

    Args:
        raw: the raw map, at the resolution of the activation.
        padded: extents that the network was given.
        extent: extents of the image, at the start of the padded ones.
        profile: as in `segcam_jax.heatmap`.
        smoothing: likewise, in pixels.

    Raises:
        InputError: as `segcam_jax.heatmap`, or if the image is larger than what it is padded to.
    """
    if any(small > large for small, large in zip(extent, padded, strict=True)):
        raise InputError(f"extent {extent} exceeds the padded extent {padded}")
    if padded == extent:
        return heatmap(raw, extent, profile, smoothing=smoothing)
    chosen = find_profile(profile)
    values = _checked(raw, chosen)
    if smoothing:
        values = smooth(resize(values, padded), smoothing)
    size = padded
    for step in (lambda same, _: same, *chosen.steps):
        values = step(values, size)
        if size == padded and values.shape == padded:
            size = extent
            values = values[tuple(slice(0, n) for n in extent)]
    return values


def over_image(
    raw: Float[np.ndarray, "*cells"], extent: tuple[int, ...], padded: tuple[int, ...]
) -> Float[np.ndarray, "*shown"]:
    """The cells of a raw map that lie over the image, of those over the padded image."""
    sizes = zip(raw.shape, extent, padded, strict=True)
    return raw[tuple(slice(0, -(-cells * small // large)) for cells, small, large in sizes)]


def hidden_share(raw: Float[np.ndarray, "*cells"]) -> float:
    """The share of a map's magnitude that is negative, which ReLU hides; 0 of a zero map."""
    values = np.asarray(raw, np.float64)
    total = np.abs(values).sum()
    return float(np.abs(values[values < 0]).sum() / total) if total > 0 else 0.0


def _checked(raw: Float[ArrayLike, "*space"], profile: Profile) -> Float[Array, "*space"]:
    """A map at least float32, checked where its values are known."""
    values = jnp.asarray(raw)
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    values = wide(values) if floating else values.astype(jnp.float32)
    if not isinstance(values, Tracer) and values.is_fully_addressable:
        _check_values(np.asarray(values), profile)
    return values


def _check_values(values: np.ndarray, profile: Profile) -> None:
    """Raises `InputError` if a map is not finite; warns if a profile hides all of it."""
    if not np.isfinite(values).all():
        raise InputError(
            "the map holds NaN or infinite values: the score is not finite (explanation.score), or "
            "values on the way overflow; look for NaN and infinite values in the image and the "
            "parameters, and for a class that the model rules out"
        )
    if values.size and not profile.signed and values.max() <= 0 and values.min() < 0:
        warnings.warn(
            f"all evidence in this map is negative: the ReLU of profile {profile.name!r} leaves "
            "nothing; profile='signed' shows it",
            stacklevel=4,
        )
