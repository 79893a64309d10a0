"""Gradients by other rules than the chain rule's, from rewrites of the traced score."""

import dataclasses

import jax
from jaxtyping import Array, Float

from segcam_jax._jaxpr import graph, rectifiers
from segcam_jax.engine import record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.scoring import scoring
from segcam_jax.taps import Carry, Split
from segcam_jax.types import InputError


def rectified_gradient(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target,
    rule: rectifiers.Backward,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score, and what a rule for rectifiers sends back to the activation.

    Args:
        split: the model, cut at the activation.
        activation, carry: of the input.
        target: the score.
        rule: of `_jaxpr/rectifiers.py`.
        execution: how to run; the network is always run whole, as it is written.

    Raises:
        InputError: if there is no rectifier after the tap, or one that cannot be rewritten.
    """
    # Hoisting and windows take sums apart; rectifiers are found in the equations as written.
    execution = dataclasses.replace(execution, hoist=False, windows=False)
    how = scoring(split, carry, target, execution)
    record.study(
        lambda: record.Study("gradients", 1, record.gradient_flops(how, split.activation), how)
    )
    closed, _ = graph.closed(how.plain, split.activation)
    run = rectifiers.rewritten(closed, rule, how.rule)

    def score(a):
        (value,), found = run(a)
        if not found:
            raise InputError(
                f"no ReLU of any kind follows tap {split.tap!r}; {rule} backpropagation would be "
                "the plain gradient: use the method gradient"
            )
        return value

    return jax.value_and_grad(score)(activation)
