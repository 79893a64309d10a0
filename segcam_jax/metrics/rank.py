"""Whether two results order channels, positions or images alike."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from segcam_jax.types import InputError


def average_ranks(values: Float[ArrayLike, "n"]) -> Float[Array, "n"]:
    """Ranks from 1; equal values share the mean of the ranks that they take up.

    >>> average_ranks(jnp.array([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    values = jnp.asarray(values)
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values, side="left")
    up_to = jnp.searchsorted(ordered, values, side="right")
    return (below + up_to + 1).astype(jnp.float32) / 2


def rank_correlation(a: Float[ArrayLike, "..."], b: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    """Spearman's rank correlation: Pearson's of the ranks, ties with their mean rank.

        rho = sum (r_i - mean r)(q_i - mean q) / sqrt(sum (r_i - mean r)^2 sum (q_i - mean q)^2)

    Args:
        a: values, any shape.
        b: values of the same shape.

    Returns:
        In [-1, 1]; NaN where a value is NaN, or all values of one side are equal: no order.

    Raises:
        InputError: if the shapes differ.

    References:
        Spearman, 1904; ties as in `scipy.stats.spearmanr`.

    >>> round(float(rank_correlation(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 4.0, 9.0]))), 3)
    1.0
    """
    if jnp.shape(a) != jnp.shape(b):
        raise InputError(
            f"the values have shapes {jnp.shape(a)} and {jnp.shape(b)}; they must be the same"
        )
    # Mean ranks are known beforehand, (n + 1) / 2; multiples of 1/2, so ties stay exact.
    first, second = (average_ranks(jnp.ravel(jnp.asarray(each))) for each in (a, b))
    middle = (first.size + 1) / 2
    first, second = first - middle, second - middle
    size = jnp.sqrt((first**2).sum()) * jnp.sqrt((second**2).sum())
    told = (size > 0) & ~(jnp.isnan(jnp.asarray(a)).any() | jnp.isnan(jnp.asarray(b)).any())
    return jnp.where(told, (first * second).sum() / jnp.where(size > 0, size, 1), jnp.nan)
