"""The levels of a MONAI U-Net, down and up, and the layers that they are made of."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from segcam_jax.models import layers
from segcam_jax.models.monai_unet.config import Extents, MonaiUNetConfig, each
from segcam_jax.taps import tap

_EPSILON = 1e-5
_SLOPE = 0.25


class PReLU(nnx.Module):
    """`x` where it is positive, else `slope x`, with one slope for all channels."""

    def __init__(self):
        self.slope = nnx.Param(jnp.asarray(_SLOPE, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Returns the activation; its gradient at 0 is the slope, as PyTorch's."""
        return jnp.where(x > 0, x, jnp.asarray(self.slope[...], x.dtype) * x)


class InstanceNorm(nnx.Module):
    """Every channel of an image at zero mean and unit variance; then maybe a scale and a bias."""

    def __init__(self, channels: int, ndim: int, *, affine: bool):
        self.ndim = ndim
        self.scale = nnx.Param(jnp.ones(channels)) if affine else None
        self.bias = nnx.Param(jnp.zeros(channels)) if affine else None

    def __call__(self, x: Array) -> Array:
        """Returns `scale (x - mean) / sqrt(var + 1e-5) + bias`."""
        axes = tuple(range(-1 - self.ndim, -1))
        x = x - x.mean(axes, keepdims=True)
        x = x / jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + _EPSILON)
        if self.scale is None or self.bias is None:
            return x
        shape = (1,) * (x.ndim - 1) + (-1,)
        return x * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)


class Convolution(nnx.Module):
    """Convolution, normalisation, dropout, PReLU; the tap `name` is the convolution's output.

    Args:
        name: of the tap.
        stride: a number, or one per axis.
        transposed: whether it enlarges by the stride; else it shrinks.
        plain: whether nothing follows the convolution.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        stride: Extents,
        config: MonaiUNetConfig,
        *,
        rngs: nnx.Rngs,
        transposed: bool = False,
        plain: bool = False,
    ):
        self.name = name
        make = _transposed if transposed else _convolution
        self.conv = make(inputs, outputs, stride, config, rngs)
        self.norm = None if plain else _norm(outputs, config, rngs)
        self.dropout = layers.dropout(0 if plain else config.dropout, rngs)
        self.activation = None if plain else PReLU()

    def __call__(self, x: Array) -> Array:
        """Returns `activation(dropout(norm(conv(x))))`."""
        x = tap(self.conv(x), self.name)
        if self.norm is not None:
            x = self.norm(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return x if self.activation is None else self.activation(x)


class Level(nnx.Module):
    """One convolution, or a residual unit: some convolutions, plus a shortcut beside them.

    Taps: `{name}/conv1`, `{name}/conv2`, ... and `{name}/shortcut`, each before what follows it.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        stride: Extents,
        config: MonaiUNetConfig,
        *,
        rngs: nnx.Rngs,
        units: int,
        plain: bool = False,
    ):
        self.name = name
        self.residual = config.num_res_units > 0
        self.units = nnx.List(
            Convolution(
                f"{name}/conv{n + 1}",
                outputs if n else inputs,
                outputs,
                1 if n else stride,
                config,
                plain=plain and n == units - 1,
                rngs=rngs,
            )
            for n in range(units)
        )
        strided = math.prod(each("strides", stride, config.ndim)) != 1
        reshapes = self.residual and (strided or inputs != outputs)
        self.shortcut = (
            _convolution(inputs, outputs, stride, config, rngs, pointwise=not strided)
            if reshapes
            else None
        )

    def __call__(self, x: Array) -> Array:
        """Returns the level's output; its caller names it."""
        y = x
        for unit in self.units:
            y = unit(y)
        if not self.residual:
            return y
        if self.shortcut is not None:
            x = tap(self.shortcut(x), f"{self.name}/shortcut")
        return y + x

    def convolutions(self) -> list[str]:
        """The taps of its convolutions."""
        shortcut = [] if self.shortcut is None else [f"{self.name}/shortcut"]
        return [unit.name for unit in self.units] + shortcut


class Up(nnx.Module):
    """A transposed convolution and, with residual units, a unit of one convolution behind it.

    Taps: `{name}/up`, the transposed convolution's output; then as `Level`.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        stride: Extents,
        config: MonaiUNetConfig,
        *,
        rngs: nnx.Rngs,
        top: bool,
    ):
        self.name = name
        residual = config.num_res_units > 0
        self.up = Convolution(
            f"{name}/up",
            inputs,
            outputs,
            stride,
            config,
            transposed=True,
            plain=top and not residual,
            rngs=rngs,
        )
        self.unit = (
            Level(name, outputs, outputs, 1, config, units=1, plain=top, rngs=rngs)
            if residual
            else None
        )

    def __call__(self, x: Array) -> Array:
        """Returns the level's output; its caller names it."""
        x = self.up(x)
        return x if self.unit is None else self.unit(x)

    def convolutions(self) -> list[str]:
        """The taps of its convolutions."""
        return [self.up.name] + ([] if self.unit is None else self.unit.convolutions())


def _norm(channels: int, config: MonaiUNetConfig, rngs: nnx.Rngs) -> nnx.Module:
    if config.norm == "batch":
        return layers.norm(channels, epsilon=_EPSILON, rngs=rngs)
    return InstanceNorm(channels, config.ndim, affine=config.norm == "instance_affine")


def _convolution(
    inputs: int,
    outputs: int,
    stride: Extents,
    config: MonaiUNetConfig,
    rngs: nnx.Rngs,
    *,
    pointwise: bool = False,
) -> nnx.Conv:
    """A convolution whose output has the extents of its input, divided by the stride."""
    size = each("kernel_size", 1 if pointwise else config.kernel_size, config.ndim)
    return nnx.Conv(
        inputs,
        outputs,
        size,
        strides=each("strides", stride, config.ndim),
        padding=tuple((n // 2, n // 2) for n in size),
        use_bias=config.bias,
        kernel_init=layers.drawn(nnx.initializers.glorot_uniform(), rngs),
        rngs=rngs,
    )


def _transposed(
    inputs: int, outputs: int, stride: Extents, config: MonaiUNetConfig, rngs: nnx.Rngs
) -> nnx.ConvTranspose:
    """A transposed convolution whose output has the extents of its input times the stride.

    PyTorch pads its input by `(k - 1) / 2` at both ends and its output by `s - 1` at the end; here
    that is the padding of the dilated input, and the kernel is PyTorch's from back to front.
    """
    size = each("up_kernel_size", config.up_kernel_size, config.ndim)
    strides = each("strides", stride, config.ndim)
    return nnx.ConvTranspose(
        inputs,
        outputs,
        size,
        strides=strides,
        padding=tuple((n // 2, n // 2 + s - 1) for n, s in zip(size, strides, strict=True)),
        use_bias=config.bias,
        kernel_init=layers.drawn(nnx.initializers.glorot_uniform(), rngs),
        rngs=rngs,
    )
