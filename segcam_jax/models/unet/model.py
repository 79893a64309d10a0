"""A configurable U-Net in 2D and 3D, with a tap after every convolution and every block."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap
from segcam_jax.types import InputError

Upsample = Literal["nearest", "linear", "transposed"]
Halve = Literal["block", "upsample"]
# Extents must be multiples of two to the power of it.
_DEEPEST = 16


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net.

    The defaults are the CSBDeep U-Net that Seg-Grad-CAM explains: 5,505,707 parameters with one
    input channel and eleven classes, 5,500,779 of them trainable.

    Attributes:
        ndim: number of spatial dimensions, 2 or 3.
        depth: number of poolings; the image extents must be multiples of 2**depth.
        width: channels of the first level; each deeper level has twice as many.
        dropout: share of activations dropped in training after the first convolution of a block.
        upsample: `"nearest"` and `"linear"` resize, `"transposed"` learns a 2-strided convolution.
        skips: whether the encoder's activations are concatenated in the decoder.
        halve: what halves the channels from level to level of the decoder: the second convolution
            of the deeper `"block"`, as in CSBDeep; or the transposed convolution, `"upsample"`, as
            in Ronneberger et al. (2015), whose bottleneck keeps all its channels.
        bias: whether the convolutions before a BatchNorm have one.
        epsilon: of the BatchNorms.
    """

    in_channels: int = 1
    classes: int = 11
    ndim: int = 2
    depth: int = 4
    width: int = 32
    dropout: float = 0.0
    upsample: Upsample = "nearest"
    skips: bool = True
    halve: Halve = "block"
    bias: bool = True
    epsilon: float = 1e-3

    def __post_init__(self):
        layers.check_choice("ndim", self.ndim, (2, 3))
        layers.check_choice("upsample", self.upsample, get_args(Upsample))
        layers.check_choice("halve", self.halve, get_args(Halve))
        if self.halve == "upsample" and self.upsample != "transposed":
            raise InputError(
                f"`halve` is 'upsample' and `upsample` is {self.upsample!r}, which keeps all "
                "channels; choose upsample='transposed'"
            )
        layers.check_least(self, in_channels=1, classes=1, depth=1, width=1)
        if self.depth > _DEEPEST:
            raise InputError(f"`depth` is {self.depth}; it must be at most {_DEEPEST}")
        layers.check_dropout(self.dropout)

    @property
    def multiple(self) -> int:
        """What every extent of the image must be a multiple of."""
        return 2**self.depth


class ConvNormRelu(nnx.Module):
    """Convolution 3^ndim, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (3,) * config.ndim,
            use_bias=config.bias,
            kernel_init=layers.drawn(nnx.initializers.glorot_uniform(), rngs),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=config.epsilon, rngs=rngs)

    def __call__(self, x: Array, name: str) -> Array:
        """Returns `relu(norm(conv(x)))`; what the ReLU is given is the tap of that name."""
        return nnx.relu(tap(self.norm(self.conv(x)), name))


class Block(nnx.Module):
    """Two convolutions; taps `{name}/conv1` and `{name}`, before their ReLUs `{name}/norm1`, 2."""

    def __init__(
        self, name: str, inputs: int, hidden: int, outputs: int, config: UNetConfig, rngs: nnx.Rngs
    ):
        self.name = name
        self.conv1 = ConvNormRelu(inputs, hidden, config, rngs=rngs)
        self.dropout = layers.dropout(config.dropout, rngs)
        self.conv2 = ConvNormRelu(hidden, outputs, config, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns the second convolution's activation."""
        x = tap(self.conv1(x, f"{self.name}/norm1"), f"{self.name}/conv1")
        if self.dropout is not None:
            x = self.dropout(x)
        return tap(self.conv2(x, f"{self.name}/norm2"), self.name)


class UNet(nnx.Module):
    """Encoder, bottleneck and decoder with concatenated skips (Ronneberger et al., 2015).

    Taps, from input to output: `encoder1` ... `encoder{depth}`, `bottleneck`,
    `decoder{depth}` ... `decoder1`, `logits`; each block also has `{block}/conv1`, and before the
    ReLUs `{block}/norm1` and `{block}/norm2`.
    """

    def __init__(self, config: UNetConfig = UNetConfig(), *, rngs: nnx.Rngs):
        self.config = config
        widths = [config.width * 2**level for level in range(config.depth)]
        inputs = [config.in_channels, *widths[:-1]]
        self.encoder = nnx.List(
            Block(f"encoder{level + 1}", inputs[level], width, width, config, rngs)
            for level, width in enumerate(widths)
        )
        deepest = widths[-1]
        # How many channels of the level below reach the upsampling, per channel of a level.
        below = 2 if config.halve == "upsample" else 1
        self.bottleneck = Block("bottleneck", deepest, 2 * deepest, below * deepest, config, rngs)
        self.decoder = nnx.List(
            Block(
                f"decoder{level + 1}",
                widths[level] * (2 if config.skips else 1),
                widths[level],
                widths[level] if config.halve == "upsample" else widths[max(0, level - 1)],
                config,
                rngs,
            )
            for level in reversed(range(config.depth))
        )
        window = (2,) * config.ndim
        self.upsample = nnx.List(
            nnx.ConvTranspose(
                below * widths[level], widths[level], window, strides=window, rngs=rngs
            )
            for level in reversed(range(config.depth))
            if config.upsample == "transposed"
        )
        self.head = nnx.Conv(widths[0], config.classes, (1,) * config.ndim, rngs=rngs)

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Returns logits at the extent of the image."""
        ndim = self.config.ndim
        layers.check_space(x.shape, self.config, "the U-Net", (self.config.multiple,) * ndim)
        window = (2,) * ndim
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = nnx.max_pool(x, window, strides=window)
        x = self.bottleneck(x)
        for index, (block, skip) in enumerate(zip(self.decoder, reversed(skips), strict=True)):
            x = self._upsampled(x, index)
            if self.config.skips:
                x = jnp.concatenate([x, skip], axis=-1)
            x = block(x)
        return tap(self.head(x), "logits")

    def _upsampled(self, x: Array, index: int) -> Array:
        if self.config.upsample == "transposed":
            return self.upsample[index](x)
        ndim = self.config.ndim
        if self.config.upsample == "linear":
            lead = x.ndim - ndim - 1
            shape = (*x.shape[:lead], *(2 * n for n in x.shape[lead:-1]), x.shape[-1])
            return jax.image.resize(x, shape, "linear", antialias=False)
        for axis in range(x.ndim - 1 - ndim, x.ndim - 1):
            x = jnp.repeat(x, 2, axis=axis)
        return x
