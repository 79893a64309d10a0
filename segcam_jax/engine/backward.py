"""Gradients of a rewritten program: by other rules for rectifiers, and of every bias."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax._jaxpr import biases, graph, rectifiers
from segcam_jax.engine import record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.scoring import Scoring, fast, scoring
from segcam_jax.taps import Carry, Split
from segcam_jax.types import InputError, wide


def rectified_gradient(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    rule: rectifiers.Backward,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score, and what a rule for rectifiers sends back to the activation.

    Args:
        execution: how to run; the network is always run whole, as it is written.

    Raises:
        InputError: if there is no rectifier after the tap, or one that cannot be rewritten.
    """
    # Rectifiers are found in the equations as written, differentiated by their own rule.
    how = _whole(split, carry, target, execution)
    record.study(lambda: _study(split, how))
    run = rectifiers.rewritten(how.jaxpr, rule)

    def score(a):
        (value,), found = run(a)
        if not found:
            raise InputError(
                f"no ReLU of any kind follows tap {split.tap!r}; {rule} backpropagation would be "
                "the plain gradient: use the method gradient"
            )
        return value

    return dataclasses.replace(how, plain=score).value_and_gradient(activation)


def bias_gradients(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"], list[Array], Float[Array, ""]]:
    """The score, its gradient, each bias times its gradient, and what the target itself adds.

    Their sum is the score: see `_jaxpr/biases.py`.

    Args:
        execution: how to run; the network is always run whole.

    Returns:
        `(score, gradient, products, rest)`: a product has the shape and layout of the value in the
        model that its bias was added to; rest is S - <dS/dy, y> of the output y, 0 for logits.
    """
    how = _whole(split, carry, target, execution)
    record.study(lambda: _study(split, how))
    unit = 1.0 if how.unit is None else jax.lax.stop_gradient(how.unit(activation))
    tree = jax.tree.structure(split.output)
    closed, _ = graph.closed(lambda a: jax.tree.leaves(split.decode(a, carry)), split.activation)
    run = biases.with_biases(closed)
    shapes = jax.eval_shape(lambda a: run(a)[1], activation)
    nudges = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def score(a, nudges, outward):
        outputs, found = run(a, nudges)
        outputs = [y + nudge for y, nudge in zip(outputs, outward, strict=True)]
        value = target(jax.tree.unflatten(tree, outputs))
        return value * unit, (value, found, outputs)

    outward = [jnp.zeros(y.shape, y.dtype) for y in jax.tree.leaves(split.output)]
    given = (activation, nudges, outward)
    differentiated = fast(jax.value_and_grad(score, (0, 1, 2), has_aux=True), execution, *given)
    (_, (value, found, outputs)), slopes = differentiated(*given)
    gradient, inner, outer = jax.tree.map(lambda slope: wide(slope) / unit, slopes)
    products = [_product(bias, slope) for bias, slope in zip(found, inner, strict=True)]
    reached = [_product(y, slope).sum() for y, slope in zip(outputs, outer, strict=True)]
    return value, gradient, products, value - sum(reached)


def _whole(split: Split, carry: Carry, target: Any, execution: Execution) -> Scoring:
    """The score of the whole network in the order in which it is written."""
    execution = dataclasses.replace(execution, difference=False, windows=False)
    return scoring(split, carry, target, execution)


def _study(split: Split, how: Scoring) -> record.Study:
    return record.Study("gradients", 1, how.gradient_flops, how)


def _product(bias: Array, slope: Array) -> Array:
    """Their product; what nothing reaches counts nothing: the padding of a maximum is infinite."""
    return jnp.where(slope != 0, wide(bias) * slope, 0)
