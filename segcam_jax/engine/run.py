"""Evaluating a split: once, differentiated, ablated, sampled. Traced by `compiled` kernels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax.engine import devices, memory, record
from segcam_jax.engine.ablating import Ablating, change_ablating, whole_ablating
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.scoring import Scoring, encode, scoring
from segcam_jax.masks import LocalMasks, Masks
from segcam_jax.taps import Carry, Split
from segcam_jax.types import TargetError, wide

# Dead rows are skipped by whole chunks: enough of these that most dead rows are, none too small.
_CHUNKS = 8
_LEAST_ROWS = 8


def baseline(
    split: Split, params: Any, x: Any, target: Any, execution: Execution
) -> tuple[Array, Carry, Array]:
    """Returns `(activation, carry, score)` of the unchanged input."""
    activation, carry = encode(split, params, x, execution)
    score = scoring(split, carry, target, execution).score(activation)
    return activation, carry, score


def value_and_gradient(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score and its gradient with respect to the activation."""
    how = _smooth(split, scoring(split, carry, target, execution))
    _record_gradients(split, how, 1, 1)
    return how.value_and_gradient(activation)


def ablation_scores(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    masks: Masks,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """The score of the unchanged activation, and under each mask.

    Where the score is linear in the activation, from one gradient:

        S - S_m = sum (1 - mask_m) A dS/dA

    Else by m + 1 evaluations, as many at once as fit. The unchanged activation is one more row of
    the same computation: run apart, its score would be rounded in another way, and a channel
    without any effect would get a weight. Masks that change nothing the target sees are not run;
    the others are dealt evenly over the devices.
    """
    how = scoring(split, carry, target, execution)
    if execution.closed_form and how.is_affine:
        record.study(
            lambda: record.Study(
                "ablations",
                1,
                record.gradient_flops(how, split.activation),
                how,
                masks=masks,
                closed_form=True,
            )
        )
        score, gradient = how.value_and_gradient(activation)
        dtype = score.dtype
        drops = masks.removed(activation.astype(dtype) * gradient.astype(dtype))
        return score, score - drops

    there = activation != 0 if how.seen is None else (activation != 0) & how.seen
    removed = masks.removed(there.astype(jnp.float32)) != 0
    live = removed if execution.skip_dead else jnp.ones_like(removed)
    order = jnp.concatenate([jnp.zeros(1, jnp.int32), 1 + jnp.argsort(~live).astype(jnp.int32)])

    ablated = _ablating(split, carry, target, how, activation, masks, execution)

    def score_of(row):
        return ablated.score(jnp.maximum(row - 1, 0), row == 0)

    dealt = devices.share(len(masks) + 1, execution.mesh)
    most = max(_LEAST_ROWS, -(-len(dealt) // _CHUNKS)) if execution.skip_dead else None
    chunk = memory.chunk(execution, len(dealt), ablated.live_bytes, most)
    record.study(
        lambda: record.Study("ablations", dealt.count, ablated.flops, how, chunk, masks, live)
    )
    rows, own = dealt.rows(chunk)
    if chunk == len(dealt):
        scores = dealt.gathered(jax.vmap(score_of)(rows[0]))
        return scores[0], scores[1:]
    needed = own[:, 0] & (rows[:, 0] <= live.sum(dtype=jnp.int32))
    scores = _chunk_by_chunk(jax.vmap(score_of), order[rows], needed).reshape(-1)
    scores = dealt.gathered(scores)
    scores = jnp.zeros_like(scores).at[order].set(scores)
    return scores[0], jnp.where(live, scores[1:], scores[0])


def _ablating(split, carry, target, how, activation, masks, execution) -> Ablating:
    """The cheapest way: whole, around the ablation, or around it without the target's window."""
    ways: list[Ablating | None] = [whole_ablating(how, activation, masks)]
    if execution.changes and isinstance(masks, LocalMasks):
        ways.append(change_ablating(how, activation, masks))
        if how.window is not None:
            unwindowed = dataclasses.replace(execution, windows=False)
            other = scoring(split, carry, target, unwindowed)
            ways.append(change_ablating(other, activation, masks))
    return min((way for way in ways if way is not None), key=lambda way: way.flops)


def _smooth(split: Split, how: Scoring) -> Scoring:
    """Raises `TargetError` if no gradient can flow from a score back to the tap."""
    if not how.has_slope:
        raise TargetError(
            f"the score does not depend smoothly on tap {split.tap!r}: a threshold, argmax, "
            "one-hot, rounding or stop_gradient lies between, and the map would be zero. Score "
            "logits or probabilities, or use a method that ablates (ablation_cam)"
        )
    return how


def _record_gradients(split: Split, how: Scoring, count: int, chunk: int) -> None:
    record.study(
        lambda: record.Study(
            "gradients", count, record.gradient_flops(how, split.activation), how, chunk
        )
    )


def _chunk_by_chunk(evaluate: Callable[[Array], Array], rows: Array, needed: Array) -> Array:
    """Evaluates rows of indices one after the other, those that are needed."""
    like = jax.eval_shape(evaluate, rows[0])

    def step(_, chunk):
        row, wanted = chunk
        return None, jax.lax.cond(
            wanted, evaluate, lambda _: jnp.zeros(like.shape, like.dtype), row
        )

    return jax.lax.scan(step, None, (rows, needed))[1]


def sampled_moments(
    split: Split,
    carry: Carry,
    target: Any,
    activation_of: Callable[[Array], Array],
    weights: Float[Array, "n"],
    execution: Execution,
) -> tuple[Array, Array]:
    """Weighted mean and variance of the score's gradient over activations, none of them kept.

    Chunks are merged by the rule of Chan et al. (1979), so that neither result depends on the size
    of chunks but for rounding.

    Args:
        split: the model.
        carry: of the unchanged input.
        target: the score.
        activation_of: index -> activation at which the gradient is taken.
        weights: non-negative, not all zero.
        execution: how to run.
    """
    how = _smooth(split, scoring(split, carry, target, execution))
    dealt = devices.share(weights.shape[0], execution.mesh)
    chunk = memory.chunk(execution, len(dealt), how.total_bytes)
    _record_gradients(split, how, dealt.count, chunk)
    rows, own = dealt.rows(chunk)

    def sample(index):
        return wide(how.value_and_gradient(activation_of(index))[1])

    def merge(state, chunk):
        total, mean, spread = state
        index, keep = chunk
        values = jax.vmap(sample)(index)
        weight = jnp.where(keep, weights[index], 0)
        mass = weight.sum()
        column = weight.reshape(-1, *[1] * (values.ndim - 1)) / jnp.where(mass > 0, mass, 1)
        chunk_mean = (column * values).sum(0)
        chunk_spread = mass * (column * (values - chunk_mean[None]) ** 2).sum(0)
        new_total = total + mass
        share = jnp.where(new_total > 0, mass / jnp.where(new_total > 0, new_total, 1), 0)
        delta = chunk_mean - mean
        moved = spread + chunk_spread + delta**2 * total * share
        return (new_total, mean + delta * share, moved), None

    zeros = wide(jnp.zeros(split.activation.shape, split.activation.dtype))
    start = (jnp.zeros((), weights.dtype), zeros, zeros)
    (total, mean, spread), _ = jax.lax.scan(merge, start, (rows, own))
    if dealt.devices > 1:
        own_total, own_mean = total, mean
        total = dealt.summed(own_total)
        mean = dealt.summed(own_total * own_mean) / total
        spread = dealt.summed(spread + own_total * (own_mean - mean) ** 2)
    return mean, spread / total
