"""Deletion and insertion: how the score moves while positions are removed in the map's order.

Removed at a tap (`at="tap"`), a curve is a row of masked decodes: the part before the tap runs
once, and only what the target sees is computed.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.metrics.registry import differ, metric
from segcam_jax.metrics.removal import (
    At,
    By,
    Order,
    RankMasks,
    Scene,
    Where,
    check_steps,
    counts,
    importance,
    ranks,
    scene,
)
from segcam_jax.types import InputError

_ANY = (-math.inf, math.inf)
_of_curve = functools.partial(
    metric,
    "network",
    range=_ANY,
    cost="steps + 1 evaluations",
    paper="Petsiuk et al., RISE, BMVC 2018",
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curve:
    """A score while more and more is removed, or shown.

    Attributes:
        area: under the curve over fractions, by trapezoids: a mean score.
        normalised: `(area - S_empty) / (S - S_empty)`, in which curves of other images and regions
            compare; NaN unless the whole scores more than nothing.
        fractions: of the positions, from 0 to 1.
        scores: at each.
    """

    area: Float[Array, ""]
    normalised: Float[Array, ""]
    fractions: Float[Array, "s"]
    scores: Float[Array, "s"]


def curve_of(
    fractions: Float[Array, "s"],
    scores: Float[Array, "s"],
    whole: Float[Array, ""],
    empty: Float[Array, ""],
) -> Curve:
    """The curve of scores, with its areas; NaN where the fractions do not move.

    Args:
        fractions: ascending.
        whole: the score of all that there is.
        empty: that of nothing.
    """
    area = jnp.trapezoid(scores, fractions)
    span = whole - empty
    defined = span > 0
    share = (area - empty) / jnp.where(defined, span, 1)
    found = Curve(area, jnp.where(defined, share, jnp.nan), fractions, scores)
    moves = fractions[-1] > fractions[0]
    return jax.tree.map(lambda leaf: jnp.where(moves, leaf, jnp.nan), found)


@_of_curve(title="Deletion", higher_is_better=False)
def deletion(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "..."],
    *,
    steps: int = 20,
    baseline: Any = "zeros",
    order: Order = "signed",
    at: At = "input",
    where: Where = "all",
    channel: int | None = None,
    by: By | None = None,
    execution: Execution = Execution(),
) -> Curve:
    """Deletion: the area under the score while the most important positions go first.

        S_k = S(A without the k n / steps positions of the largest map),
        area = trapezoid of S_k over k / steps

    Positions go with all their channels (modalities); a map `c` orders channels in place of
    positions, one `*space c` both at once. Equal values go as they lie.

    Args:
        split, params, x, target, map: see `metrics.registry`.
        steps: equal parts of what is removed; the last one is shorter where they do not divide.
        baseline: what removed values become: 0, the mean of each channel, a blur, or a number. See
            `Scene.empty`.
        order: by the map as it is signed, by its positive part, or by its magnitude.
        at: remove from the input, or from the activation at the tap.
        where: remove all positions, those in the target's region, or those outside (what is left is
            never removed).
        channel: remove from this channel of the input or activation alone: one modality. Of a map
            `*space c`, its values order the positions.
        by: whether a map of one axis is of `"positions"` or of `"channels"`, where its shape does
            not say it.

    Returns:
        The curve; lower areas are better. NaN where nothing may be removed, or the map orders
        nothing of what may.

    Raises:
        InputError: if there are fewer positions than steps, or no positions at all.
        TargetError: if `where` asks for a region and the target has none.

    References:
        Petsiuk et al., RISE, BMVC 2018. Steps and areas as torch-cam's, over true fractions.
    """
    there = scene(split, params, x, map, at, execution, by)
    masks, count = steps_of(there, target, steps, order, where, channel, around=1.0)
    return removal_curve(there, target, masks, count, baseline, execution)


@_of_curve(title="Insertion", higher_is_better=True)
def insertion(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "..."],
    *,
    steps: int = 20,
    baseline: Any = "zeros",
    order: Order = "signed",
    at: At = "input",
    where: Where = "all",
    channel: int | None = None,
    by: By | None = None,
    execution: Execution = Execution(),
) -> Curve:
    """Insertion: the area under the score while the most important positions come back first.

    As `deletion`, from the baseline on; higher areas are better. What `where` and `channel` leave
    out is there from the start.

    References:
        Petsiuk et al., RISE, BMVC 2018, whose baseline is `"blur"` here.
    """
    there = scene(split, params, x, map, at, execution, by)
    masks, count = steps_of(there, target, steps, order, where, channel, around=0.0)
    return removal_curve(there, target, masks, count, baseline, execution)


def ordered(
    there: Scene, target: Any, order: Order, where: Where, channel: int | None
) -> tuple[Int[Array, "..."], Int[Array, ""], int]:
    """The rank of each position (channel, element), how many may be removed, and of how many.

    None of them may where the map orders nothing: all that may be removed has one value.
    """
    values = importance(there.map, order)
    positions, channels = there.positions, there.activation.shape[-1]
    if there.of_channels:
        if where != "all" or channel is not None:
            raise InputError("a map of channels orders whole channels; leave `where` and `channel`")
        return ranks(values), jnp.where(differ(values), channels, 0), channels
    allowed = there.region(target, where)
    if channel is not None and not 0 <= channel < channels:
        raise InputError(f"channel={channel}; there are {channels}, 0 to {channels - 1}")
    if values.ndim == len(positions):
        values = values[..., None]
    elif channel is not None:
        values = values[..., channel : channel + 1]
    free = jnp.broadcast_to(allowed[..., None], values.shape)
    places = ranks(values, free)
    count = jnp.where(differ(values, free), free.sum(dtype=jnp.int32), 0)
    if channel is not None:
        alone = jnp.arange(channels, dtype=jnp.int32) == channel
        alone = alone.reshape((1,) * len(positions) + (-1,))
        places = jnp.where(alone, places, there.activation.size)
    return places, count, free.size


def steps_of(
    there: Scene,
    target: Any,
    steps: int,
    order: Order,
    where: Where,
    channel: int | None = None,
    *,
    around: float,
) -> tuple[RankMasks, Int[Array, ""]]:
    """The masks of a deletion (`around=1`) or an insertion (`around=0`), and how much may go."""
    places, count, size = ordered(there, target, order, where, channel)
    check_steps(steps, size, "channels" if there.of_channels else "positions")
    if around == 0:
        # What may not be removed is kept by masks that keep, too: it comes before all.
        places = jnp.where(places < count, places, -1)
    return RankMasks(places, counts(steps, count), around), count


def drops_of(
    there: Scene, target: Any, masks: RankMasks, baseline: Any, execution: Execution
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """The untouched (or empty) score, and how far it falls under each mask."""
    return engine.ablation_drops(
        there.split, there.activation, there.carry, target, masks, execution, there.empty(baseline)
    )


def removal_curve(
    there: Scene,
    target: Any,
    masks: RankMasks,
    count: Int[Array, ""],
    baseline: Any,
    execution: Execution,
) -> Curve:
    """The curve of the score under masks of ranks, of `count` of them in all."""
    score, drops = drops_of(there, target, masks, baseline, execution)
    scores = score - drops
    fractions = masks.ends / jnp.maximum(count, 1)
    whole, empty = (scores[0], scores[-1]) if masks.around else (scores[-1], scores[0])
    return curve_of(fractions, scores, whole, empty)
