"""The score of one ablation by its index, computed whole or only where the ablation changes it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax._jaxpr import changes, cost, graph
from segcam_jax._jaxpr.spans import Span, Windowed, narrow, whole
from segcam_jax.engine.scoring import Scoring
from segcam_jax.masks import LocalMasks, Masks, ablate


@dataclasses.dataclass(frozen=True)
class Ablating:
    """The score of an ablation, and what one costs.

    Attributes:
        score: `(index, kept)` -> scalar; with `kept` the activation stays as it is.
        live_bytes: bytes that one evaluation holds at its peak.
        flops: operations of its convolutions and products.
        by_change: whether only what the ablation changes is computed.
    """

    score: Callable[[Array, Array], Array]
    live_bytes: int
    flops: int
    by_change: bool


def whole_ablating(how: Scoring, activation: Float[Array, "*space c"], masks: Masks) -> Ablating:
    """Evaluates the score of the whole ablated activation."""

    def score(index, kept):
        mask = masks(index)
        return how.score(ablate(activation, jnp.where(kept, jnp.ones_like(mask), mask)))

    return Ablating(score, how.live_bytes, how.flops, by_change=False)


def change_ablating(
    how: Scoring, activation: Float[Array, "*space c"], masks: LocalMasks
) -> Ablating | None:
    """Evaluates what the ablation changes, around a record of the unchanged run.

    None for a score with side effects, such as `jax.debug.callback`: the unchanged run would add
    to them.
    """
    struct = jax.ShapeDtypeStruct(activation.shape, activation.dtype)
    closed, jaxpr = graph.flattened(how.plain, struct)
    if jaxpr.effects:
        return None
    windows = masks.windows(activation.ndim)
    window = tuple(
        Span(axis, *windows[axis]) if axis in windows and windows[axis][1] < extent else None
        for axis, extent in enumerate(activation.shape)
    )
    plan = changes.plan(jaxpr, window)
    record = plan.record(graph.constants_of(closed), [activation], how.rule)

    def unlowered(index, kept, rule=None):
        places = masks.places(index, activation.ndim)
        before = narrow(
            Windowed(activation, whole(activation.shape), activation.shape), window, places
        )
        value = jnp.asarray(masks.value, activation.dtype)
        patch = before * jnp.where(kept, jnp.ones_like(value), value)
        return plan.run(record, patch, places, rule)[0]

    def score(index, kept):
        return unlowered(index, kept, how.rule)

    index, kept = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
    _, traced = graph.closed(unlowered, index, kept)
    return Ablating(score, cost.live_bytes(traced), cost.flops(traced), by_change=True)
