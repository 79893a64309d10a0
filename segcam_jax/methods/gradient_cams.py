"""CAMs from one gradient: A the activation `*space c`, g = dS/dA, S the target's score.

For a segmentation target S is the class over a region, and `grad_cam` is Seg-Grad-CAM. Maps are raw
and signed: the papers' final ReLU is a step of the heatmap.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.principal_component import first_component
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, wide

_of_gradient = functools.partial(method, "activation", cost="1 forward, 1 backward")


def _activation_and_gradient(split, params, x, target, execution):
    activation, carry = engine.encode(split, params, x, execution)
    score, gradient = engine.value_and_gradient(split, activation, carry, target, execution)
    return wide(activation), wide(gradient), score


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def weighted(
    activation: Float[Array, "*space c"],
    weights: Float[Array, "c"],
    score: Any,
    *,
    eigen_smooth: bool = False,
) -> Explanation:
    """The map sum_k w_k A_k; or the first principal component of w_k A_k, see `first_component`."""
    if not eigen_smooth:
        return Explanation(map=activation @ weights, score=score, weights=weights)
    each = activation * weights.reshape((1,) * (activation.ndim - 1) + (-1,))
    return Explanation(map=first_component(each)[0], score=score, weights=weights)


@_of_gradient(
    title="Grad-CAM",
    paper="Selvaraju et al., ICCV 2017; for segmentation Vinogradova et al., AAAI 2020",
    aliases=("Seg-Grad-CAM",),
)
def grad_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    absolute_weights: bool = False,
    positive_weights: bool = False,
    eigen_smooth: bool = False,
    execution: Execution = Execution(),
) -> Explanation:
    """Grad-CAM; with a segmentation target, Seg-Grad-CAM.

        w_k = mean_p g[p, k],    map[p] = sum_k w_k A[p, k]

    Args:
        absolute_weights: take |w_k| (`abs_w` of the Seg-Grad-CAM code).
        positive_weights: take max(w_k, 0) (`posit_w`), after the absolute value.
        eigen_smooth: in place of the sum over channels, the first principal component of w_k A_k,
            as pytorch-grad-cam's option of that name, its sign that of the sum.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    References:
        Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2. Vinogradova et al., Seg-Grad-CAM, AAAI
        2020, eq. 1. Deviation: the ReLU is left to the heatmap.
    """
    activation, gradient, score = _activation_and_gradient(split, params, x, target, execution)
    weights = gradient.mean(_space(gradient))
    if absolute_weights:
        weights = jnp.abs(weights)
    if positive_weights:
        weights = jnp.maximum(weights, 0)
    return weighted(activation, weights, score, eigen_smooth=eigen_smooth)


@_of_gradient(
    title="HiResCAM",
    paper="Draelos and Carin, 2020",
    aliases=("Seg-HiResCAM", "Seg-HiRes-Grad-CAM"),
)
def hires_cam(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """HiResCAM: gradients are not averaged over positions (Seg-HiRes-Grad-CAM for segmentation).

        map[p] = sum_k g[p, k] A[p, k]

    Returns:
        `map` `*space`, `attribution` `*space c` (g A), `score`.

    References:
        Draelos and Carin, HiResCAM, 2020; Rheude et al., Seg-HiRes-Grad-CAM, 2024.
    """
    activation, gradient, score = _activation_and_gradient(split, params, x, target, execution)
    product = gradient * activation
    return Explanation(map=product.sum(-1), score=score, attribution=product)


@_of_gradient(
    title="Grad-CAM++",
    paper="Chattopadhyay et al., WACV 2018",
    aliases=("GradCAMPlusPlus",),
    signed=False,
)
def grad_cam_pp(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    epsilon: float = 0.0,
    eigen_smooth: bool = False,
    execution: Execution = Execution(),
) -> Explanation:
    """Grad-CAM++.

        alpha[p, k] = g^2 / (2 g^2 + g^3 sum_q A[q, k])
        w_k = sum_p alpha[p, k] max(g[p, k], 0),    map[p] = sum_k w_k A[p, k]

    Args:
        epsilon: added to the denominator. pytorch-grad-cam adds 1e-6, with which the weights
            depend on the scale of the score: a mean over a large region has gradients so small
            that epsilon takes over. The default 0 divides g^2 out and needs none.
        eigen_smooth: as in `grad_cam`.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    References:
        Chattopadhyay et al., Grad-CAM++, WACV 2018, eq. 10 and 19, for Y = exp(S), whose positive
        factor exp(S) is dropped: it cancels in the normalised map and overflows for summed logits.
    """
    activation, gradient, score = _activation_and_gradient(split, params, x, target, execution)
    total = activation.sum(_space(activation), keepdims=True)
    positive = gradient > 0
    g = jnp.where(positive, gradient, 1)
    # g^2 of a small gradient underflows; without epsilon there is nothing to divide.
    smallest = jnp.finfo(g.dtype).tiny
    extra = jnp.where(epsilon == 0, 0, epsilon / jnp.maximum(g**2, smallest))
    denominator = 2 + g * total + extra
    usable = positive & (denominator != 0)
    alpha = jnp.where(usable, 1 / jnp.where(usable, denominator, 1), 0)
    weights = (alpha * jnp.maximum(gradient, 0)).sum(_space(gradient))
    return weighted(activation, weights, score, eigen_smooth=eigen_smooth)


@_of_gradient(title="XGrad-CAM", paper="Fu et al., BMVC 2020")
def xgrad_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    epsilon: float = 1e-7,
    eigen_smooth: bool = False,
    execution: Execution = Execution(),
) -> Explanation:
    """XGrad-CAM.

        w_k = sum_p A[p, k] g[p, k] / (sum_q A[q, k] + epsilon),    map[p] = sum_k w_k A[p, k]

    A channel whose activations cancel to a sum of exactly -epsilon gets weight 0.

    Args:
        epsilon: added to the denominator.
        eigen_smooth: as in `grad_cam`.

    Returns:
        `map` `*space`, `weights` `c`, `score`.

    References:
        Fu et al., Axiom-based Grad-CAM, BMVC 2020, eq. 8; epsilon as in pytorch-grad-cam.
    """
    activation, gradient, score = _activation_and_gradient(split, params, x, target, execution)
    total = activation.sum(_space(activation)) + epsilon
    products = (activation * gradient).sum(_space(activation))
    weights = jnp.where(total != 0, products / jnp.where(total != 0, total, 1), 0)
    return weighted(activation, weights, score, eigen_smooth=eigen_smooth)


@_of_gradient(title="LayerCAM", paper="Jiang et al., TIP 2021", signed=False)
def layer_cam(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> Explanation:
    """LayerCAM: each activation is weighted by its own positive gradient.

        map[p] = sum_k max(g[p, k], 0) A[p, k]

    Returns:
        `map` `*space`, `attribution` `*space c`, `score`.

    References:
        Jiang et al., LayerCAM, IEEE TIP 2021, eq. 6 and 7.
    """
    activation, gradient, score = _activation_and_gradient(split, params, x, target, execution)
    product = jnp.maximum(gradient, 0) * activation
    return Explanation(map=product.sum(-1), score=score, attribution=product)
