"""Grad-CAM carried on: to second order (ShapleyCAM), and against similar classes (Finer-CAM)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.methods.registry import method
from segcam_jax.outputs import Meaning
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import Explanation, InputError, wide


@method(
    "activation",
    title="ShapleyCAM",
    cost="1 forward, 2 backwards, one of them twice as long",
    paper="Cai, 2025",
)
def shapley_cam(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """ShapleyCAM: Grad-CAM with a second-order term.

        w_k = mean_p (g - H A / 2)[p, k],    map[p] = sum_k w_k A[p, k]

    H A is the product of the Hessian of S and the activation. Where the network after the tap is
    piecewise linear and S a logit, it is zero and the map is Grad-CAM's; explain probabilities.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    References:
        Cai, CAMs as Shapley Value-based Explainers, 2025 (arXiv 2501.06261).
    """
    # The rewrites for CPUs have a derivative rule of their own, for the first derivative.
    execution = dataclasses.replace(execution, lowering=False)
    activation, carry = engine.encode(split, params, x, execution)

    def slopes(a):
        score, gradient = engine.value_and_gradient(split, a, carry, target, execution)
        return wide(gradient), score

    # Along the activation: a gradient of the gradient would underflow in float16 once more.
    gradient, curved, score = jax.jvp(slopes, (activation,), (activation,), has_aux=True)
    weights = (gradient - curved / 2).mean(tuple(range(activation.ndim - 1)))
    return weighted(wide(activation), weights, score)


@method(
    "activation",
    title="Finer-CAM",
    cost="2 forwards, 1 backward",
    paper="Zhang et al., CVPR 2025",
    contrasts=True,
)
def finer_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Target,
    *,
    comparisons: int = 3,
    alpha: float = 1.0,
    execution: Execution = Execution(),
) -> Explanation:
    """Finer-CAM: Grad-CAM of what sets a class apart from the classes most like it.

        y'[p] = sum_i q_i[p] (y_c[p] - alpha y_i[p]) / sum_i q_i[p],    S' = y' over the region
        w_k = mean_p dS'/dA[p, k],    map[p] = sum_k w_k A[p, k]

    y holds the logits, or the probabilities where the target reads these; q the probabilities. i
    runs over the `comparisons` classes whose score over the region is nearest to that of the
    explained class c.

    Args:
        split: the model, cut at the tap to explain; it has two classes or more.
        target: a `Target`: its class, region and reduction.
        comparisons: how many similar classes, at most all others.
        alpha: strength of the comparison; with 0 it is Grad-CAM.

    Returns:
        `map` `*space`, `weights` `c`, `score` (the target's own, S, not S').

    Raises:
        InputError: if the target is not a `Target`, there is one class only, or `comparisons` is
            less than 1.

    References:
        Zhang et al., Finer-CAM, CVPR 2025 (arXiv 2501.11309), with the softmax weights of
        pytorch-grad-cam's `FinerWeightedTarget`, which are differentiated too; here per position.
        Deviation: it adds 1e-9 to the sum of q, with which the contrast vanishes, or its gradient
        turns around, where the network is nearly certain of the class.
    """
    if not isinstance(target, Target):
        raise InputError("finer_cam compares a class with others; give a Target")
    if comparisons < 1:
        raise InputError(f"comparisons={comparisons}; at least 1 is needed")
    if split.output.shape[-1] < 2:
        raise InputError("finer_cam compares classes, but the model has only one")
    activation, carry = engine.encode(split, params, x, execution)
    output = wide(split.decode(activation, carry))
    similar = _most_similar(target, output, min(comparisons, output.shape[-1] - 1))
    contrasted = jax.tree_util.Partial(_contrast, target, similar, jnp.asarray(alpha, output.dtype))
    _, gradient = engine.value_and_gradient(split, activation, carry, contrasted, execution)
    weights = wide(gradient).mean(tuple(range(activation.ndim - 1)))
    return weighted(wide(activation), weights, target(output))


def _most_similar(target: Target, output: Float[Array, "*space k"], count: int) -> Int[Array, "m"]:
    """The classes whose score over the region is nearest to the target's, without itself."""
    classes = jnp.arange(output.shape[-1], dtype=jnp.int32)
    scores = jax.vmap(lambda k: dataclasses.replace(target, class_index=k)(output))(classes)
    own = jnp.asarray(target.class_index, jnp.int32)
    distance = jnp.where(classes == own, jnp.inf, jnp.abs(scores - scores[own]))
    return jax.lax.top_k(-distance, count)[1]


def _contrast(target: Target, similar: Int[Array, "m"], alpha: Array, output: Array) -> Array:
    """S': the target of an output whose one channel is the contrast."""
    output = wide(output)
    values = target.probabilities(output) if target.of == "probabilities" else output
    own = target.values(output)[..., None]
    share = _shares(target, output, similar)
    contrast = (share * (own - alpha * values[..., similar])).sum(-1, keepdims=True)
    return Target(0, target.mask, "logits", target.reduce)(contrast)


def _shares(target: Target, output: Array, similar: Int[Array, "m"]) -> Array:
    """q_i / sum_i q_i of similar classes; beside a class that is certain, each q_i rounds to 0."""
    chosen = output[..., similar]
    if target.outputs != "probabilities":
        exclusive = Meaning(exclusive=target.exclusive).excludes(output.shape[-1])
        return jax.nn.softmax(chosen if exclusive else jax.nn.log_sigmoid(chosen), -1)
    # The largest becomes 1, so that no square of a small probability is divided by.
    largest = jax.lax.stop_gradient(chosen.max(-1, keepdims=True))
    chosen = jnp.where(largest > 0, chosen / jnp.where(largest > 0, largest, 1), 1)
    return chosen / chosen.sum(-1, keepdims=True)
