"""The U-Net that MONAI calls `UNet`, in 2D and 3D, with a tap at every convolution and level."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.models.monai_unet.blocks import Level, Up
from segcam_jax.models.monai_unet.config import MonaiUNetConfig
from segcam_jax.taps import tap


class MonaiUNet(nnx.Module):
    """U-Net with strided and transposed convolutions (Kerfoot et al., 2018), as MONAI's `UNet`.

    Taps, from input to output; L is one less than the number of levels:

        encoderN/conv1, conv2, ...  the convolutions, each before normalisation and PReLU
        encoderN/shortcut           the convolution beside them, of a residual unit
        encoderN                    the level's output, at 1/2**N of the image with strides of 2;
                                    both the level below and the skip read it; N is 1 to L
        bottleneck/conv1, ...       likewise
        bottleneck
        decoderN/up                 the transposed convolution, before normalisation and PReLU
        decoderN/conv1              the convolution of its residual unit
        decoderN                    the level's output, which the level above reads; N is L to 2
        decoder1/up, conv1          likewise; the level's output is
        logits

    MONAI's `model.1.submodule.2.conv`, the layer that IES explains, is `decoder2/up`: 32 channels
    at half the image's extents. `weights.monai_taps` names all others.
    """

    def __init__(self, config: MonaiUNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths, units = config.channels, max(1, config.num_res_units)
        inputs = (config.in_channels, *widths)
        self.encoder = nnx.List(
            Level(f"encoder{n + 1}", inputs[n], widths[n], stride, config, units=units, rngs=rngs)
            for n, stride in enumerate(config.strides)
        )
        self.bottleneck = Level(
            "bottleneck", widths[-2], widths[-1], 1, config, units=units, rngs=rngs
        )
        deepest = len(config.strides) - 1
        self.decoder = nnx.List(
            Up(
                f"decoder{n + 1}",
                # The skip, and what comes from below: as wide as the skip, but from the bottleneck.
                widths[n] + (widths[-1] if n == deepest else widths[n]),
                widths[n - 1] if n else config.classes,
                config.strides[n],
                config,
                top=not n,
                rngs=rngs,
            )
            for n in reversed(range(len(config.strides)))
        )

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... k"]:
        """Returns logits at the extent of the image."""
        multiples = self.config.multiples
        why = ", the product of its strides"
        layers.check_space(x.shape, self.config, "MONAI's U-Net", multiples, why)
        skips = []
        for level in self.encoder:
            x = tap(level(x), level.name)
            skips.append(x)
        x = tap(self.bottleneck(x), "bottleneck")
        for level in self.decoder:
            x = level(jnp.concatenate([skips.pop(), x], axis=-1))
            x = tap(x, level.name if skips else "logits")
        return x

    def convolutions(self) -> list[str]:
        """The taps of all convolutions in the order of MONAI's modules."""
        parts = [*self.encoder, self.bottleneck, *self.decoder]
        return [name for part in parts for name in part.convolutions()]


def monai_unet(*, rngs: nnx.Rngs | None = None, **options) -> MonaiUNet:
    """The U-Net of `MonaiUNetConfig(**options)`; without `rngs` of seed zero."""
    return MonaiUNet(MonaiUNetConfig(**options), rngs=layers.keys(rngs))
