"""Ablation-CAM at a lower price, by estimates: what each costs in accuracy is for the user to see.

    metrics.approximation_error(screened_ablation_cam, ablation_cam, split, params, x, target)

runs the exact study beside and reports the rank correlation. A is the activation `*space c`,
g = dS/dA, and the first-order value of channel k, exact where the score is linear, is

    t_k = (1 - ablation_value) sum_p g[p, k] A[p, k]
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.masks import ChosenChannels, GroupMasks
from segcam_jax.methods.ablation import scaled
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, InputError, wide


def _products(split, params, x, target, value, execution):
    """The activation, its carry, the score, and (1 - value) g A."""
    activation, carry = engine.encode(split, params, x, execution)
    score, gradient = engine.value_and_gradient(split, activation, carry, target, execution)
    return activation, carry, score, (1 - value) * wide(gradient) * wide(activation)


@method(
    "activation",
    title="Screened-Ablation-CAM",
    cost="1 encode, exact + 1 decodes, 1 backward",
    paper="Ablation-CAM with channels screened by gradient x activation (Molchanov et al., 2017)",
    ablates=True,
    approximates="ablation_cam",
)
def screened_ablation_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    screen: Literal["taylor", "magnitude"] = "taylor",
    exact: int = 32,
    ablation_value: float = 0.0,
    relative: bool = True,
    execution: Execution = Execution(),
) -> Explanation:
    """Approximate Ablation-CAM: the channels that seem to matter are ablated, the rest estimated.

        w_k = (S - S_k) / |S|    for the `exact` channels that the screen ranks first
        w_k = t_k / |S|          for all others
        map[p] = sum_k w_k A[p, k]

    Args:
        screen: rank channels by |sum_p g A| (`"taylor"`), or by sum_p |g A| (`"magnitude"`), which
            also ranks high a channel whose first-order effects cancel.
        exact: how many channels are ablated exactly; with all of them it is Ablation-CAM.
        ablation_value: what an ablated channel is multiplied by.
        relative: divide by |S|; a score of exactly 0 divides by 1.

    Returns:
        `map` `*space`, `weights` `c`, `scores` `c` (S_k, or S - t_k), `drops` `c`, `score`,
        `exact` `c`: which channels were ablated.

    Raises:
        InputError: if `exact` is negative or `screen` unknown.

    References:
        Desai and Ramaswamy, Ablation-CAM, WACV 2020; the first-order value of a channel as in
        Molchanov et al., Pruning Convolutional Neural Networks, ICLR 2017, eq. 7.
    """
    if exact < 0:
        raise InputError(f"exact={exact}; give the number of channels to ablate, 0 or more")
    activation, carry, score, products = _products(
        split, params, x, target, ablation_value, execution
    )
    space = tuple(range(products.ndim - 1))
    first_order = products.sum(space)
    channels = activation.shape[-1]
    known = jnp.zeros(channels, bool)
    falls = first_order
    if exact > 0:
        importance = first_order if screen == "taylor" else jnp.abs(products).sum(space)
        _, chosen = jax.lax.top_k(jnp.abs(importance), min(exact, channels))
        masks = ChosenChannels(chosen, channels, ablation_value)
        score, drops = engine.ablation_drops(split, activation, carry, target, masks, execution)
        falls = first_order.at[chosen].set(drops.astype(first_order.dtype))
        known = known.at[chosen].set(True)
    found = weighted(wide(activation), scaled(falls, score, relative=relative), score)
    return Explanation(found.map, score, found.weights, score - falls, falls, exact=known)


@method(
    "activation",
    title="Group-Ablation-CAM",
    cost="1 encode, groups + 1 decodes, 1 backward",
    paper="Ablation-CAM on groups of channels as in Group-CAM (Zhang et al., 2021)",
    ablates=True,
    approximates="ablation_cam",
)
def group_ablation_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    groups: int = 32,
    by: Literal["spread", "order"] = "spread",
    ablation_value: float = 0.0,
    relative: bool = True,
    execution: Execution = Execution(),
) -> Explanation:
    """Approximate Ablation-CAM: channels are ablated in groups.

        d_G = S - S_G,    t_G = sum_{k in G} t_k
        w_k = (t_k + (d_G - t_G) |t_k| / sum_{j in G} |t_j|) / |S|,    map[p] = sum_k w_k A[p, k]

    S_G is the score with all channels of group G multiplied by `ablation_value`. The weights of a
    group add up to its drop, and what its first-order values miss is shared in proportion to their
    magnitude: a dead channel gets nothing.

    Args:
        groups: how many; with one per channel it is Ablation-CAM.
        by: deal channels out by falling |t_k|, so that the strong ones are in different groups
            (`"spread"`), or put neighbours in the model's own order together (`"order"`), as
            Group-CAM does. Sizes of groups differ by at most one.
        ablation_value: what an ablated channel is multiplied by.
        relative: divide by |S|; a score of exactly 0 divides by 1.

    Returns:
        `map` `*space`, `weights` `c`, `scores` `m` (S_G), `drops` `m`, `score`,
        `exact` `c`: which channels were ablated alone.

    Raises:
        InputError: if `groups` is less than 1 or `by` unknown.

    References:
        Zhang, Rao and Yang, Group-CAM, 2021, which masks the input by groups; here the activation
        is ablated. How a group's drop is shared among its channels is of this library.
    """
    if groups < 1:
        raise InputError(f"groups={groups}; at least 1 is needed")
    activation, carry, _, products = _products(split, params, x, target, ablation_value, execution)
    first_order = products.sum(tuple(range(products.ndim - 1)))
    masks = _grouped(first_order, groups, by, ablation_value)
    score, drops = engine.ablation_drops(split, activation, carry, target, masks, execution)
    weights = scaled(_shared(first_order, drops, masks), score, relative=relative)
    found = weighted(wide(activation), weights, score)
    ones = jnp.ones_like(masks.groups)
    alone = masks.sums(ones)[masks.groups] == 1
    return Explanation(found.map, score, found.weights, score - drops, drops, exact=alone)


def _grouped(first_order: Float[Array, "c"], groups: int, by: str, value: float) -> GroupMasks:
    channels = first_order.shape[0]
    count = min(groups, channels)
    rank = jnp.arange(channels, dtype=jnp.int32)
    if by == "order":
        return GroupMasks(rank * count // channels, count, value)
    falling = jnp.argsort(-jnp.abs(first_order))
    return GroupMasks(jnp.zeros_like(rank).at[falling].set(rank % count), count, value)


def _shared(
    first_order: Float[Array, "c"], falls: Float[Array, "m"], masks: GroupMasks
) -> Float[Array, "c"]:
    """Gives each channel its part of its group's drop."""
    missed = falls.astype(first_order.dtype) - masks.sums(first_order)
    size = masks.sums(jnp.abs(first_order))
    equal = 1 / masks.sums(jnp.ones_like(first_order))
    scale = jnp.where(size > 0, size, 1)[masks.groups]
    part = jnp.where(size[masks.groups] > 0, jnp.abs(first_order) / scale, equal[masks.groups])
    return first_order + missed[masks.groups] * part
