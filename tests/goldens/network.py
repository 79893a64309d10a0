"""The network of the golden files as a plain JAX function, in 2D and 3D."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segcam_jax.taps import tap

Params = Mapping[str, Array]


def network(params: Params, x: Float[Array, "*space c"]) -> Float[Array, "*space k"]:
    """Logits of one image; taps `bottleneck` (a quarter of the extent) and `decoder` (a half).

    Args:
        params: the arrays under `params/` of a golden file.
        x: one image, extents multiples of 4.
    """
    skip1 = _block(params, 1, x)
    skip2 = _block(params, 2, _pooled(skip1))
    deep = tap(_block(params, 3, skip2, stride=2), "bottleneck")
    joined = jnp.concatenate([_upsampled(params, deep), skip2], axis=-1)
    shallow = tap(_block(params, 4, joined), "decoder")
    wide = jax.image.resize(shallow, (*x.shape[:-1], shallow.shape[-1]), "linear")
    joined = jnp.concatenate([wide, skip1], axis=-1)
    logits = _convolved(joined, params["head/kernel"])
    return logits + _channels(params["head/bias"], logits)


def _block(params: Params, index: int, x: Array, stride: int = 1) -> Array:
    """Convolution, BatchNorm on stored statistics, ReLU."""
    x = _convolved(x, params[f"conv{index}/kernel"], stride)
    x = x + _channels(params[f"conv{index}/bias"], x)
    mean, var, scale, bias = (
        _channels(params[f"norm{index}/{name}"], x) for name in ("mean", "var", "scale", "bias")
    )
    return jax.nn.relu((x - mean) * lax.rsqrt(var + 1e-5) * scale + bias)


def _channels(values: Array, x: Array) -> Array:
    """One value per channel, of the rank of `x`."""
    return jnp.reshape(values, (1,) * (x.ndim - 1) + (-1,))


def _convolved(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Padded by half the kernel on every side, as torch does also where the stride is 2."""
    ndim = x.ndim - 1
    space = "DHW"[-ndim:]
    batched = lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(stride,) * ndim,
        padding=[(size // 2, size // 2) for size in kernel.shape[:-2]],
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )
    return batched[0]


def _pooled(x: Array) -> Array:
    window = (*(2,) * (x.ndim - 1), 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _upsampled(params: Params, x: Array) -> Array:
    """Transposed convolution, window and stride 2."""
    ndim = x.ndim - 1
    space = "DHW"[-ndim:]
    batched = lax.conv_transpose(
        x[None],
        params["up/kernel"],
        strides=(2,) * ndim,
        padding="VALID",
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )
    return batched[0] + _channels(params["up/bias"], batched[0])
