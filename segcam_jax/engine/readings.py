"""What is read of the output for each of many activations, as many at once as fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import devices, memory
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.scoring import fast, scoring
from segcam_jax.taps import Carry, Split


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
        count: of activations.
        execution: how to run; with a mesh, its devices share the activations.
    """

    def one(index):
        return value(activation_of(index))

    _, jaxpr = graph.closed(one, jax.ShapeDtypeStruct((), jnp.int32))
    dealt = devices.share(count, execution.mesh)
    rows, _ = dealt.rows(memory.chunk(execution, len(dealt), cost.live_bytes(jaxpr)))
    found = jax.lax.map(jax.vmap(one), rows)
    return jax.tree.map(lambda leaf: dealt.gathered(leaf.reshape(-1, *leaf.shape[2:])), found)
