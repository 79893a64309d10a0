"""FullGrad: the gradient of the input, and of every bias at every position.

A network with ReLUs is linear around an input, but for its biases; input and biases together
account for the whole score. Biases are read off the traced program (`_jaxpr/biases.py`): any model,
any way to write a bias or a normalisation.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, InputError, wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullGradient:
    """What a score is made of: `input.sum() + sum of each bias's sum + rest = score`.

    Attributes:
        input: activation times gradient.
        biases: for each bias, in order of evaluation, itself times its gradient, in the shape of
            the value in the model that it was added to.
        rest: what the target adds to a linear function of the output: 0 for logits.
        score: the target's value.
    """

    input: Float[Array, "*space c"]
    biases: tuple[Array, ...]
    rest: Float[Array, ""]
    score: Float[Array, ""]


@engine.compiled
def full_gradient(
    split: Split, params: Any, x: Array, target: Any, *, execution: Execution = Execution()
) -> FullGradient:
    """Takes a score apart into what the input and what each bias does for it.

        S = <dS/da, a> + sum_l <dS/db_l, b_l> + (S - <dS/dy, y>)

    a is the tapped activation, y the output, b_l what step l of the network adds to the linear map
    that it is around its input: the bias of a convolution, the shift of a normalisation, for a
    nonlinearity f(v) - f'(v) v, which is 0 for a ReLU. Exact for every network. Biases with
    nothing but scales between them are one: a convolution's goes into the BatchNorm that follows.

    Args:
        split: the model, cut at the tap to explain; at a hidden tap, skip connections that pass it
            by count as biases.

    References:
        Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS
        2019, proposition 1 and section 3.2 (the biases of normalisations and nonlinearities).
    """
    activation, carry = engine.encode(split, params, x, execution)
    score, gradient, products, rest = engine.bias_gradients(
        split, activation, carry, target, execution
    )
    return FullGradient(wide(activation) * wide(gradient), tuple(products), rest, score)


@method(
    "input",
    title="FullGrad",
    cost="2 forwards, 1 backward",
    paper="Srinivas and Fleuret, NeurIPS 2019",
    aliases=("full gradient",),
    per_channel=False,
)
def full_grad(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    rescale: Literal["channel", "layer", "none"] = "channel",
    execution: Execution = Execution(),
) -> Explanation:
    """FullGrad: input and biases times their gradients, brought together at the input's extents.

        map = sum over channels of psi(a dS/da) + sum_l sum over channels of psi(b_l dS/db_l)
        psi(m) = resize(rescale(|m|)),    rescale(m) = (m - min m) / (max m - min m)

    A channel of equal values is rescaled to 0, so that the map is of the same shape for a sum of
    scores and for their mean.

    Biases without positions, as those of a dense layer on a vector, are left out; `full_gradient`
    has them. The map is not negative: it says where, not whether for or against.

    Args:
        split: the model, cut at `"input"`, or at the tap to explain.
        x: one example, an image or a volume.
        rescale: each channel to [0, 1] (`"channel"`, the paper's formula), each layer by its least
            and largest value over all channels (`"layer"`, the authors' code), or not (`"none"`),
            so that a layer counts by what it does for the score.

    Returns:
        `map` `*space`, `score`.

    Raises:
        InputError: if the activation has no positions, or `rescale` is unknown.

    References:
        Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS
        2019, eq. 6. pytorch-grad-cam takes the biases of Conv2d and BatchNorm2d modules: the same
        where a convolution before a BatchNorm has none, and where only ReLUs are not linear. Here
        the two are one bias, and all other biases count (transposed convolutions, ReLU6, smooth
        activations). The authors' code resizes with aligned corners, here on half-pixel centres.
        Both add a constant (1e-7 and alike) to the range, with which biases of small gradients, as
        those of a mean over many positions, count less.
    """
    if len(split.activation.shape) < 2:
        raise InputError(f"full_grad needs positions, but tap {split.tap!r} has only channels")
    found = full_gradient(split, params, x, target, execution=execution)
    extents = split.activation.shape[:-1]
    total = _scaled(found.input, rescale).sum(-1)
    for bias in found.biases:
        placed = _placed(bias, split)
        if placed is not None:
            importance = _scaled(placed, rescale).sum(-1)
            total = total + jax.image.resize(importance, extents, "linear", antialias=False)
    return Explanation(map=total, score=found.score)


def _placed(values: Array, split: Split) -> Float[Array, "*space c"] | None:
    """A value of the model as a map of channels, or None if it has no positions."""
    rank = len(split.activation.shape)
    batched = len(jax.eval_shape(split.native, split.activation).shape) > rank
    if not batched and values.ndim == rank + 1 and values.shape[0] == 1:
        values = values[0]  # convolutions of Flax add a batch axis for themselves
    if values.ndim != rank + batched:
        return None
    return split.canonical(values)


def _scaled(values: Float[Array, "*space c"], rescale: str) -> Float[Array, "*space c"]:
    size = jnp.abs(values)
    if rescale == "none":
        return size
    axes = None if rescale == "layer" else tuple(range(size.ndim - 1))
    low, high = size.min(axes, keepdims=True), size.max(axes, keepdims=True)
    # Asked this way around, NaN and infinity are not taken for equal values, and stay visible.
    alike = jnp.isfinite(high) & (high - low <= 8 * jnp.finfo(size.dtype).eps * high)
    return jnp.where(alike, 0, (size - low) / jnp.where(alike, 1, high - low))
