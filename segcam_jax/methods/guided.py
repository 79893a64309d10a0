"""Guided backpropagation: gradients that a ReLU lets pass only where they are positive.

The ReLUs are rewritten in the traced program, so that any model works unchanged, with modules or
functions; `_jaxpr/rectifiers.py` says what counts as one. Sharper than gradients, and less
faithful: with random weights in the upper layers the maps hardly change (Adebayo et al., Sanity
Checks for Saliency Maps, 2018). To look at, not to measure.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.heatmap import resize
from segcam_jax.methods.gradient_cams import grad_cam
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, InputError, wide

Rule = Literal["guided", "deconvnet"]


@method(
    "input",
    title="Guided backprop",
    cost="1 forward, 1 backward",
    paper="Springenberg et al., ICLR workshop 2015",
    aliases=("guided backpropagation",),
    coloured=True,
)
def guided_backprop(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    rule: Rule = "guided",
    execution: Execution = Execution(),
) -> Explanation:
    """Guided backpropagation, or with `rule="deconvnet"` the rule of deconvolutional networks.

    The gradient of the score, but where it meets a ReLU y = max(x, 0) with R = dS/dy,

        dS/dx = 1[x > 0] max(R, 0)     (guided)
        dS/dx = max(R, 0)              (deconvnet)

    Kinds of ReLU: one with a cap, as ReLU6, is 1[0 < x < cap] max(R, 0); a leaky one of slope s is
    (1[x > 0] + s 1[x <= 0]) max(R, 0), which is ReLU's for s = 0. In deconvnet both are
    max(R, 0). Smooth activations (GELU, SiLU, ELU) keep their gradient.

    Args:
        split: the model, cut at the tap to explain; at least one ReLU follows.
        rule: `"guided"` or `"deconvnet"`.

    Returns:
        `attribution` `*space c`, `map` its sum over channels, `score`.

    Raises:
        InputError: if no ReLU follows the tap, or one lies where it cannot be rewritten.

    References:
        Springenberg et al., Striving for Simplicity, ICLR workshop 2015, fig. 1; Zeiler and Fergus,
        Visualizing and Understanding Convolutional Networks, ECCV 2014 (deconvnet; the switches
        of max pooling are those of the image). pytorch-grad-cam and captum rewrite modules of
        the class `ReLU` only; kinds with a cap or a slope are of this library.
    """
    activation, carry = engine.encode(split, params, x, execution)
    score, received = _guided(split, activation, carry, target, rule, execution)
    return Explanation(map=received.sum(-1), score=score, attribution=received)


def _guided(split, activation, carry, target, rule, execution):
    score, received = engine.rectified_gradient(split, activation, carry, target, rule, execution)
    return score, wide(received)


@method(
    "activation",
    title="Guided Grad-CAM",
    cost="2 forwards, 2 backwards",
    paper="Selvaraju et al., ICCV 2017",
    pixelwise=True,
    coloured=True,
)
def guided_grad_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    rule: Rule = "guided",
    kind: Literal["linear", "nearest"] = "linear",
    execution: Execution = Execution(),
) -> Explanation:
    """Guided Grad-CAM: guided backpropagation to the input, where Grad-CAM is positive.

        L = max(0, sum_k w_k A_k),    w_k = mean_p dS/dA[p, k]
        attribution[q, i] = guided[q, i] resize(L)[q]

    The map has the extents of the input, not of the activation.

    Args:
        split: the model, cut at the tap of Grad-CAM.
        x: one example, an image or a volume.
        rule: as in `guided_backprop`.
        kind: of the resize; `"nearest"` is captum's default.

    Returns:
        `attribution` of the input `*space i`, `map` its sum over channels, `weights` `c` of
        Grad-CAM, `score`.

    Raises:
        InputError: if the input is not one array of as many dimensions as the activation, or as
            `guided_backprop`.

    References:
        Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2. Not normalised: pytorch-grad-cam's
        script multiplies with the heatmap in [0, 1], a factor that is the same everywhere.
    """
    if len(jax.tree.leaves(split.input)) != 1:
        raise InputError("guided_grad_cam explains the input, which must be one array")
    cam = grad_cam(split, params, x, target, execution=execution)
    whole = split.at_input
    image, carry = whole.encode(params, x)
    if image.ndim != cam.map.ndim + 1 or image.ndim < 2:
        raise InputError(
            f"guided_grad_cam resizes a map {cam.map.shape} of tap {split.tap!r} to the input "
            f"{image.shape}; both need positions, and the same number of dimensions"
        )
    score, received = _guided(whole, image, carry, target, rule, execution)
    location = resize(jnp.maximum(cam.map, 0), image.shape[:-1], kind=kind)
    product = received * location[..., None]
    return Explanation(product.sum(-1), score, cam.weights, attribution=product)
