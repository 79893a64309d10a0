"""How alike two maps are: Pearson's and Spearman's correlation, SSIM."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from segcam_jax.heatmap import smooth
from segcam_jax.metrics.rank import rank_correlation as rank_correlation
from segcam_jax.types import InputError, wide

_SIGMA, _REACH = 1.5, 3.5  # A window of 11.


def correlation(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """Pearson's correlation of all values.

        r = sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 sum (b - mean b)^2)

    Returns:
        In [-1, 1]; NaN where all values of one side are equal.

    Raises:
        InputError: if the shapes differ.
    """
    if a.shape != b.shape:
        raise InputError(f"the values have shapes {a.shape} and {b.shape}; they must be the same")
    first, second = (_unit(_floats(each).ravel()) for each in (a, b))
    return jnp.clip((first * second).sum(), -1, 1)


def ssim(a: Float[Array, "*space"], b: Float[Array, "*space"]) -> Float[Array, ""]:
    """Structural similarity: means, variances and covariance in Gaussian windows, averaged.

        (2 m_a m_b + c_1)(2 s_ab + c_2) / ((m_a^2 + m_b^2 + c_1)(s_a^2 + s_b^2 + c_2))

    with `c_i = (k_i L)^2`, k = 0.01 and 0.03, L the range of both maps together; windows of a
    standard deviation of 1.5, cut off at 5 positions, borders reflected. 2D and 3D.

    References:
        Wang et al., Image quality assessment, IEEE TIP 2004.
    """
    a, b = _floats(a), _floats(b)
    blurred = functools.partial(smooth, sigma=_SIGMA, truncate=_REACH)
    reach = jnp.maximum(a.max(), b.max()) - jnp.minimum(a.min(), b.min())
    # In units of the range: squares of small maps are 0 in float32.
    a, b = (each / jnp.where(reach > 0, reach, 1) for each in (a, b))
    first, second = 0.01**2, 0.03**2
    # Around a common value: beside squares of large ones, spreads round away.
    middle = jnp.minimum(a.min(), b.min())
    a, b = a - middle, b - middle
    mean_a, mean_b = blurred(a), blurred(b)
    spread_a, spread_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + middle, mean_b + middle
    up = (2 * mean_a * mean_b + first) * (2 * both + second)
    down = (mean_a**2 + mean_b**2 + first) * (spread_a + spread_b + second)
    return jnp.where(reach > 0, (up / jnp.where(down > 0, down, 1)).mean(), jnp.nan)


def _floats(values: ArrayLike) -> Array:
    values = jnp.asarray(values)
    return wide(values) if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)


def _unit(values: Float[Array, "n"]) -> Float[Array, "n"]:
    """Centred, and of length 1; NaN where all are equal."""
    centred = values - values.mean()
    # Divided first: squares of small falls are 0 in float32.
    largest = jnp.abs(centred).max()
    told = largest > 8 * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
    centred = centred / jnp.where(told, largest, 1)
    return jnp.where(told, centred / jnp.sqrt((centred**2).sum()), jnp.nan)
