"""What is read of the output for each of many activations, as many at once as fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import devices, fall, memory
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.run import Rows, in_chunks, live_masks, undrowned
from segcam_jax.engine.scoring import fast, itself, scoring
from segcam_jax.masks import Masks, ablate
from segcam_jax.taps import Carry, Split
from segcam_jax.types import wide


def score_of(
    split: Split, carry: Carry, target: Any, execution: Execution
) -> Callable[[Array], Array]:
    """The score as a function of the activation, on the window that the target sees."""
    return scoring(split, carry, target, execution).score


def read_of(
    split: Split, carry: Carry, read: Callable[[Any], Any], execution: Execution
) -> Callable[[Array], Any]:
    """What is read of the whole output, a pytree, as a function of the activation."""
    return fast(lambda a: read(split.decode(a, carry)), execution, split.activation)


def readings(
    value: Callable[[Array], Any],
    activation_of: Callable[[Int[Array, ""]], Array],
    count: int,
    execution: Execution,
) -> Any:
    """`value(activation_of(index))` for every index below `count`, along a new leading axis.

    Each is a whole evaluation: for what no mask makes (`ablation_scores` is for masks), or where
    several things are read of one output.

    Args:
        value: as `score_of` or `read_of` made it.
        activation_of: makes one activation at a time; not all are in memory together.
        execution: how to run; with a mesh, its devices share the activations.
    """

    def one(index):
        return value(activation_of(index))

    _, jaxpr = graph.closed(one, jax.ShapeDtypeStruct((), jnp.int32))
    dealt = devices.share(count, execution.mesh)
    rows, _ = dealt.rows(memory.chunk(execution, len(dealt), cost.live_bytes(jaxpr)))
    found = jax.lax.map(jax.vmap(one), rows)
    return jax.tree.map(lambda leaf: dealt.gathered(leaf.reshape(-1, *leaf.shape[2:])), found)


def change_readings(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    masks: Masks,
    read: Callable[[Array, Array], Any],
    execution: Execution,
    empty: Float[Array, "*space c"],
) -> Any:
    """`read(y_m, y - y_m)` for every mask, along a new leading axis: for what no scalar says.

    The change goes through the network by itself, as in `ablation_drops`; masks that change nothing
    are not run, and their change is exactly 0. Not to be differentiated.

    Args:
        split: the model; its output is one array.
        masks: the ablations, around 1.
        read: of the output under a mask, and of how far it falls; a pytree.
        execution: how to run; with a mesh, its devices share the masks.
        empty: what is ablated becomes this.
    """
    there = activation - empty
    by_change = fall.falls(split, activation, there, carry, itself, masks, execution)
    output = wide(by_change.score())

    def subtracted(index):
        after = wide(split.decode(empty + ablate(there, masks(index)), carry))
        return read(after, output - after)

    def moved(index):
        change = by_change.fall(index)
        return read(output - change, change)

    one = moved if execution.difference else subtracted
    live = live_masks(there, masks, by_change.seen, execution)
    order = jnp.argsort(~live).astype(jnp.int32)
    rows = Rows(order, live.sum(dtype=jnp.int32), by_change.live_bytes)
    unchanged = read(output, jnp.zeros_like(output))
    found = in_chunks(rows, jax.vmap(one), execution, unneeded=unchanged)
    return undrowned(found, there, masks, subtracted) if execution.difference else found
