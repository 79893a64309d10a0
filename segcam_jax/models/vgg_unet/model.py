"""The U-Net with a VGG-16 backbone of segmentation_models, which Seg-Grad-CAM explains too.

Layers and taps have the names that they have in Keras, but for the logits.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap
from segcam_jax.types import InputError

COUNTS = (2, 2, 3, 3, 3)  # convolutions of each block of VGG-16
# Channels, as multiples of the first block's.
_ENCODER = (1, 2, 4, 8, 8)
_CENTRE = 8
_DECODER = (4.0, 2.0, 1.0, 0.5, 0.25)
_EPSILON = 1e-3
_BATCH_MOMENTUM = 0.99
_HE = nnx.initializers.he_uniform()


@dataclasses.dataclass(frozen=True)
class VggUNetConfig:
    """The shape of a U-Net with a VGG-16.

    The defaults are Seg-Grad-CAM's network for the eight categories of Cityscapes: 23,753,288
    parameters, of which 4,032 are statistics.

    Attributes:
        width: channels of the first block of the encoder, a multiple of 4; VGG-16 has 64.
        normalisation: what is done to an image in [0, 1] first, as in `layers.NORMALISATIONS`.
    """

    classes: int = 8
    in_channels: int = 3
    width: int = 64
    normalisation: str = "none"

    def __post_init__(self):
        layers.check_config(self, width=4)
        if self.width % 4:
            raise InputError(f"`width` is {self.width}; it must be a multiple of 4")

    ndim = 2
    multiple = 2 ** len(COUNTS)


class ConvNormRelu(nnx.Module):
    """Convolution 3 x 3 without bias, BatchNorm, ReLU: taps `{name}_conv`, `_bn` and `_relu`."""

    def __init__(self, name: str, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.name = name
        init = layers.drawn(_HE, rngs)
        self.conv = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, kernel_init=init, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, momentum=_BATCH_MOMENTUM, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns `relu(norm(conv(x)))`."""
        x = tap(self.conv(x), f"{self.name}_conv")
        x = tap(self.norm(x), f"{self.name}_bn")
        return tap(nnx.relu(x), f"{self.name}_relu")


class VggUNet(nnx.Module):
    """VGG-16, two blocks at its end, and five stages that double extents (Yakubovskiy, 2019).

    A stage repeats each pixel twice along both axes, concatenates the last activation of the
    encoder of that extent (the last stage has none), and convolves twice.

    Taps, from input to output: `block{n}_conv{m}` and `block{n}_pool`; `center_block1_relu` and
    `center_block2_relu`, the bottleneck at a 32nd of the extents; `decoder_stage{n}a_relu` and
    `decoder_stage{n}b_relu` from stage 0 to 4; `logits` (`final_conv` in Keras, whose softmax
    is not part of the network). Before each ReLU but the encoder's there are `..._conv` and
    `..._bn`.

    References:
        Simonyan and Zisserman, ICLR 2015; Yakubovskiy, segmentation_models, 2019: `Unet("vgg16")`.
        Differs from the training of Seg-Grad-CAM, whose images are divided by 255 twice: images
        are in [0, 1] here.
    """

    def __init__(self, config: VggUNetConfig = VggUNetConfig(), *, rngs: nnx.Rngs):
        self.config = config
        inputs, encoder = config.in_channels, []
        for multiple, count in zip(_ENCODER, COUNTS, strict=True):
            width = multiple * config.width
            channels = [inputs, *[width] * (count - 1)]
            encoder.append(nnx.List(nnx.Conv(c, width, (3, 3), rngs=rngs) for c in channels))
            inputs = width
        self.encoder = nnx.List(encoder)
        centre = _CENTRE * config.width
        self.center = nnx.List(
            ConvNormRelu(f"center_block{n}", centre, centre, rngs=rngs) for n in (1, 2)
        )
        self.decoder, inputs = nnx.List([]), centre
        skips = [*(multiple * config.width for multiple in _ENCODER[:0:-1]), 0]
        for stage, (multiple, skip) in enumerate(zip(_DECODER, skips, strict=True)):
            width, name = int(multiple * config.width), f"decoder_stage{stage}"
            first = ConvNormRelu(f"{name}a", inputs + skip, width, rngs=rngs)
            second = ConvNormRelu(f"{name}b", width, width, rngs=rngs)
            self.decoder.append(nnx.List([first, second]))
            inputs = width
        self.head = nnx.Conv(inputs, config.classes, (3, 3), rngs=rngs)

    def convolutions(self) -> list[str]:
        """The taps of all convolutions, in order of evaluation."""
        blocks = [
            f"block{n}_conv{m}" for n, count in enumerate(COUNTS, 1) for m in range(1, count + 1)
        ]
        pairs = [*self.center, *(block for stage in self.decoder for block in stage)]
        return [*blocks, *(f"{block.name}_conv" for block in pairs), "logits"]

    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w k"]:
        """Returns logits at the extent of the image.

        Args:
            x: one image or a batch of them, in [0, 1], channels last; extents are multiples of 32.
        """
        layers.check_space(x.shape, self.config, "the U-Net", (self.config.multiple,) * 2)
        x = layers.normalise(x, self.config.normalisation)
        skips = []
        for block, convolutions in enumerate(self.encoder, 1):
            for number, convolution in enumerate(convolutions, 1):
                x = tap(nnx.relu(convolution(x)), f"block{block}_conv{number}")
            skips.append(x)
            x = tap(layers.max_pool(x, 2, 2), f"block{block}_pool")
        for block in self.center:
            x = block(x)
        for stage, skip in zip(self.decoder, [*skips[:0:-1], None], strict=True):
            for axis in (-3, -2):
                x = jnp.repeat(x, 2, axis=axis)
            x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
            for block in stage:
                x = block(x)
        return tap(self.head(x), "logits")
