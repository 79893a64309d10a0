"""Evaluating a split: once, differentiated, ablated, sampled. Traced by `compiled` kernels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax.engine.chunks import chunk_for
from segcam_jax.masks import Masks, ablate
from segcam_jax.taps import Carry, Split


def baseline(split: Split, params: Any, x: Any, target: Any) -> tuple[Array, Carry, Array]:
    """Returns `(activation, carry, score)` of the unchanged input."""
    activation, carry = split.encode(params, x)
    return activation, carry, target(split.decode(activation, carry))


def value_and_gradient(
    split: Split, activation: Float[Array, "*space c"], carry: Carry, target: Any
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score and its gradient with respect to the activation."""
    return jax.value_and_grad(lambda a: target(split.decode(a, carry)))(activation)


def ablation_scores(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    masks: Masks,
    *,
    chunk_size: int | None,
    memory_limit: int | None,
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """The score of the unchanged activation, and under each mask: m + 1 runs of decode.

    The unchanged activation is one more row of the same computation. Run apart, its score would be
    rounded in another way, and a channel without any effect would get a weight.
    """

    def score(row):
        mask = masks(jnp.maximum(row - 1, 0))
        mask = jnp.where(row == 0, jnp.ones_like(mask), mask)
        return target(split.decode(ablate(activation, mask), carry))

    count = len(masks) + 1
    chunk = chunk_for(
        count, split.decode_live_bytes, chunk_size=chunk_size, memory_limit=memory_limit
    )
    if chunk == count:
        scores = jax.vmap(score)(jnp.arange(count))
    else:
        scores = jax.lax.map(jax.vmap(score), _padded(count, chunk)).reshape(-1)
    return scores[0], scores[1:count]


def sampled_moments(
    sample: Callable[[Array], Array],
    weights: Float[Array, "n"],
    *,
    bytes_each: int,
    chunk_size: int | None,
    memory_limit: int | None,
) -> tuple[Array, Array]:
    """Weighted mean and variance of `sample(i)` over i, without keeping the samples.

    Chunks are merged by the rule of Chan et al. (1979), so that neither result depends on the size
    of chunks but for rounding.

    Args:
        sample: index -> array.
        weights: non-negative, not all zero.
        bytes_each: bytes that one sample holds at its peak.
        chunk_size: samples at once; None to plan.
        memory_limit: bytes that a chunk may hold.
    """
    count = weights.shape[0]
    chunk = chunk_for(count, bytes_each, chunk_size=chunk_size, memory_limit=memory_limit)
    indices = _padded(count, chunk)
    valid = jnp.arange(indices.size).reshape(indices.shape) < count

    def merge(state, chunk_of):
        total, mean, spread = state
        index, keep = chunk_of
        values = jax.vmap(sample)(index)
        weight = jnp.where(keep, weights[index], 0)
        mass = weight.sum()
        column = weight.reshape(-1, *[1] * (values.ndim - 1)) / jnp.where(mass > 0, mass, 1)
        chunk_mean = (column * values).sum(0)
        chunk_spread = mass * (column * (values - chunk_mean[None]) ** 2).sum(0)
        new_total = total + mass
        share = jnp.where(new_total > 0, mass / jnp.where(new_total > 0, new_total, 1), 0)
        delta = chunk_mean - mean
        state = (
            new_total,
            mean + delta * share,
            spread + chunk_spread + delta**2 * total * share,
        )
        return state, None

    shape = jax.eval_shape(sample, jax.ShapeDtypeStruct((), indices.dtype))
    start = (
        jnp.zeros((), weights.dtype),
        jnp.zeros(shape.shape, shape.dtype),
        jnp.zeros(shape.shape, shape.dtype),
    )
    (total, mean, spread), _ = jax.lax.scan(merge, start, (indices, valid))
    return mean, spread / total


def _padded(count: int, chunk: int) -> Array:
    """Indices in rows of `chunk`; the last row repeats the last index to be full."""
    rows = -(-count // chunk)
    return jnp.minimum(jnp.arange(rows * chunk), count - 1).reshape(rows, chunk)
