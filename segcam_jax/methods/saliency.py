"""Gradients at the tap itself; at the tap `"input"` these are the usual input-space methods.

Each explains the tapped activation a: `split(fn, "input", params, x)` for the image, any hidden tap
for a layer. Results keep their sign, and `attribution` keeps the channels apart (the modalities of
a volume); `map` is its sum over channels.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.registry import method
from segcam_jax.taps import INPUT, Split
from segcam_jax.types import Explanation, InputError, wide


def attributed(attribution: Float[Array, "*space c"], score: Array) -> Explanation:
    """An explanation by the importance of every element."""
    attribution = wide(attribution)
    return Explanation(map=attribution.sum(-1), score=score, attribution=attribution)


@method(
    "input",
    title="Gradient",
    cost="1 forward, 1 backward",
    paper="Simonyan et al., ICLR workshop 2014",
    aliases=("saliency", "vanilla gradient"),
    slope=True,
)
def gradient(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """The gradient of the score, signed.

        attribution = dS/da

    Returns:
        `attribution` `*space c`, `map` its sum over channels, `score`.

    References:
        Simonyan et al., Deep Inside Convolutional Networks, 2014. Deviation: signed and summed,
        not the largest magnitude over channels.
    """
    activation, carry = engine.encode(split, params, x, execution)
    score, slope = engine.value_and_gradient(split, activation, carry, target, execution)
    return attributed(slope, score)


@method(
    "input",
    title="Input x gradient",
    cost="1 forward, 1 backward",
    paper="Shrikumar et al., 2016",
    aliases=("gradient x input", "input times gradient"),
)
def input_x_gradient(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """The activation times the gradient of the score.

        attribution = a dS/da

    Returns:
        `attribution` `*space c`, `map` its sum over channels, `score`.
    """
    activation, carry = engine.encode(split, params, x, execution)
    score, slope = engine.value_and_gradient(split, activation, carry, target, execution)
    return attributed(wide(activation) * wide(slope), score)


@method(
    "input",
    title="Integrated gradients",
    cost="steps forwards and backwards",
    paper="Sundararajan et al., ICML 2017",
    aliases=("IG",),
)
def integrated_gradients(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    baseline: float | Float[Array, "*space c"] | None = None,
    steps: int = 50,
    rule: Literal["gauss_legendre", "midpoint", "left"] = "gauss_legendre",
    execution: Execution = Execution(),
) -> Explanation:
    """Integrated gradients along the straight path from a baseline b.

        attribution = (a - b) integral_0^1 dS/da(b + t (a - b)) dt

    The attributions add up to S(a) - S(b), the closer the more steps.

    Args:
        baseline: b, an array that broadcasts against the activation; at the input a number, too.
            None: 0. At a hidden tap b is an activation, that of another image for example,
            `split.encode(params, other)[0]`; what reaches the output around the tap stays that of
            `x`, so the attributions add up to the score less that of b in place of a.
        steps: points of the quadrature.
        rule: Gauss-Legendre (captum's default), midpoints, or the left Riemann sum of the
            Seg-Grad-CAM code (there with b = 0.5 and 200 steps).

    Returns:
        `attribution` `*space c`, `map` its sum over channels, `score`.

    Raises:
        InputError: if the baseline is a number at a hidden tap, or has another shape.

    References:
        Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1.
    """
    activation, carry, score = engine.baseline(split, params, x, target, execution)
    points, weights = _quadrature(rule, steps)
    start = _baseline(split, baseline, activation)
    points = jnp.asarray(points, activation.dtype)

    def between(index):
        return start + points[index] * (activation - start)

    weights = jnp.asarray(weights, wide(points).dtype)
    mean, _ = engine.sampled_moments(split, carry, target, between, weights, execution)
    return attributed(wide(activation - start) * mean, score)


def _baseline(
    split: Split, baseline: float | Float[Array, "*space c"] | None, activation: Array
) -> Array:
    """The activation that a path starts from."""
    given = jnp.zeros((), activation.dtype) if baseline is None else jnp.asarray(baseline)
    another = "split.encode(params, other)[0] is the activation of another image"
    if baseline is not None and not given.ndim and split.tap != INPUT:
        raise InputError(
            f"the baseline is a number, but tap {split.tap!r} needs an activation of shape "
            f"{activation.shape}; give such an array ({another}), or None for zeros"
        )
    try:
        return jnp.broadcast_to(given.astype(activation.dtype), activation.shape)
    except ValueError:
        raise InputError(
            f"the baseline has shape {given.shape}, the activation at tap {split.tap!r} "
            f"{activation.shape}; give an array of that shape ({another})"
        ) from None


def _quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1], and weights that sum to 1."""
    if steps < 1:
        raise InputError(f"steps={steps}; at least 1 is needed")
    if rule == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    offset = {"left": 0.0, "midpoint": 0.5}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


@method(
    "input",
    title="SmoothGrad",
    cost="samples forwards and backwards",
    paper="Smilkov et al., 2017",
    slope=True,
)
def smooth_grad(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    key: PRNGKeyArray,
    samples: int = 50,
    sigma: float = 0.15,
    sigma_unit: Literal["range", "absolute"] = "range",
    statistic: Literal["mean", "squared", "variance"] = "mean",
    execution: Execution = Execution(),
) -> Explanation:
    """SmoothGrad: a statistic of the gradient over noisy copies of the activation.

        g_i = dS/da(a + n_i),    n_i ~ Normal(0, s^2)
        attribution = mean_i g_i,   mean_i g_i^2 (squared),   var_i g_i (variance)

    Sample i draws its noise from `fold_in(key, i)`: the result depends on the key, not on chunks.

    Args:
        key: a key of `jax.random`.
        samples: noisy copies.
        sigma: s, as a share of max(a) - min(a) or absolute.
        sigma_unit: `"range"` or `"absolute"`.
        statistic: `"mean"` keeps the sign; `"squared"` and `"variance"` are not negative.

    Returns:
        `attribution` `*space c`, `map` its sum over channels, `score` (of the noise-free input).

    References:
        Smilkov et al., SmoothGrad, 2017 (mean); Hooker et al., NeurIPS 2019 (squared); Adebayo et
        al., 2018 (variance).
    """
    check_samples(key, samples)
    activation, carry, score = engine.baseline(split, params, x, target, execution)
    scale = jnp.asarray(sigma, activation.dtype)
    if sigma_unit == "range":
        scale = scale * (activation.max() - activation.min())

    def noisy(index):
        noise = jax.random.normal(jax.random.fold_in(key, index), activation.shape)
        return activation + scale * noise.astype(activation.dtype)

    weights = jnp.ones(samples, wide(scale).dtype)
    mean, variance = engine.sampled_moments(split, carry, target, noisy, weights, execution)
    chosen = {"mean": mean, "squared": mean**2 + variance, "variance": variance}
    return attributed(chosen[statistic], score)


def check_samples(key: Any, samples: int) -> None:
    """Raises `InputError` unless there is a key to draw samples from, and at least one of them."""
    if isinstance(key, int) or not hasattr(key, "dtype"):
        raise InputError(f"key={key!r}; give a key of jax.random, for example jax.random.key(0)")
    if samples < 1:
        raise InputError(f"samples={samples}; at least 1 is needed")
