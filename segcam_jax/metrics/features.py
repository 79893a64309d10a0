"""Features of an instance in an image or a map: first order and texture, as radiomics has them."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.extras import require
from segcam_jax.types import InputError

FIRST_ORDER = (
    *("mean", "standard_deviation", "minimum", "percentile_10", "median", "percentile_90"),
    *("maximum", "skewness", "kurtosis", "energy", "entropy"),
)
TEXTURE = ("contrast", "dissimilarity", "homogeneity", "uniformity", "correlation")
_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)


def instance_features(
    values: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"], *, levels: int = 16
) -> dict[str, float]:
    """First-order and texture features of the values inside of an instance.

    First order, of the n values v inside: mean m, standard deviation s, minimum, percentiles 10, 50
    and 90, maximum, and

        skewness = mean((v - m)^3) / s^3      kurtosis = mean((v - m)^4) / s^4
        energy   = sum(v^2)                   entropy  = -sum_i h_i log2 h_i

    with the shares h of `levels` bins of equal width from the minimum to the maximum. Texture is of
    the co-occurrence matrix P of these bins, i and j, at neighbouring positions inside: those that
    differ by one along an axis or a diagonal, in all slices along each axis, in both directions:

        contrast = sum P (i - j)^2      dissimilarity = sum P |i - j|     uniformity = sum P^2
        homogeneity = sum P / (1 + (i - j)^2)
        correlation = sum P (i - mean i) (j - mean j) / variance

    In 3D, neighbours along an axis lie in two slices, and count twice.

    Args:
        values: of an image or a map, 2D or 3D.
        mask: the instance, of the same extents.
        levels: bins, 2 to 255.

    Returns:
        By name, `FIRST_ORDER` and `TEXTURE`. Skewness and kurtosis of equal values, and texture
        without neighbours, are NaN; the correlation of equal values is 1.

    Raises:
        InputError: if the mask is empty, extents differ, or levels are out of range.

    References:
        Haralick et al., Textural features for image classification, 1973, by scikit-image.
    """
    values, mask = np.asarray(values, np.float64), np.asarray(mask, bool)
    if values.shape != mask.shape or mask.ndim not in (2, 3) or not mask.any():
        raise InputError(
            f"values have shape {values.shape}, the mask {mask.shape} with {mask.sum()} positions; "
            "give a mask of the values' 2D or 3D extents that is not empty"
        )
    if not 2 <= levels <= 255:
        raise InputError(f"levels={levels}; give 2 to 255")
    inside = values[mask]
    low, high = inside.min(), inside.max()
    width = (high - low) / levels or 1.0
    bins = np.where(mask, np.minimum((values - low) / width, levels - 1).clip(0).astype(int) + 1, 0)
    shares = np.bincount(bins[mask], minlength=levels + 1) / inside.size
    away, deviation = inside - inside.mean(), inside.std()
    scale = deviation if high > low else np.nan  # The mean of equal values may be rounded.
    there = shares[shares > 0]
    first = (
        *(inside.mean(), deviation, low, *np.percentile(inside, (10, 50, 90)), high),
        *((away**3).mean() / scale**3, (away**4).mean() / scale**4, (inside**2).sum()),
        -(there * np.log2(there)).sum() + 0.0,
    )
    found = zip((*FIRST_ORDER, *TEXTURE), (*first, *_texture(bins, levels)), strict=True)
    return {name: float(value) for name, value in found}


def _texture(bins: Int[np.ndarray, "*space"], levels: int) -> tuple[Any, ...]:
    """The features of `TEXTURE`, of bins from 1; 0 is outside."""
    feature = require("skimage.feature", extra="metrics")
    slices = [bins] if bins.ndim == 2 else [s for k in range(3) for s in np.moveaxis(bins, k, 0)]
    pairs = np.zeros((levels, levels))
    for each in slices:
        if each.any():
            found = feature.graycomatrix(
                each.astype(np.uint8), [1], _ANGLES, levels=levels + 1, symmetric=True
            )
            pairs += found[1:, 1:].sum((2, 3))
    if not pairs.any():
        return (np.nan,) * len(TEXTURE)
    matrix = (pairs / pairs.sum())[:, :, None, None]
    names = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation")
    return tuple(feature.graycoprops(matrix, name).item() for name in names)
