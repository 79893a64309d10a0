"""EfficientNet-Lite0, with a tap at every convolution and every block."""

import dataclasses
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap

_SMALLEST = 32


class Stage(NamedTuple):
    """Blocks in a row; the first one has the stride."""

    count: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig:
    """The shape of an EfficientNet-Lite0.

    Attributes:
        padding: `"same"` pads as TensorFlow does, more at the end than at the start where the
            stride is two; `"even"` as PyTorch does.
        epsilon: of every BatchNorm.
        normalisation: what the network does to an image first: `"none"`, `"imagenet"`,
            `"symmetric"` or `"efficientnet_lite"`.
    """

    in_channels: int = 3
    classes: int = 1000
    padding: str = "same"
    epsilon: float = 1e-3
    normalisation: str = "none"

    def __post_init__(self):
        layers.check_choice("padding", self.padding, ("same", "even"))
        layers.check_config(self)

    ndim = 2
    multiple = 1


class Convolution(nnx.Module):
    """A convolution, tapped, and BatchNorm."""

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        kernel: int,
        config: EfficientNetLiteConfig,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        groups: int = 1,
    ):
        self.name = name
        self.conv = layers.conv(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding="SAME" if config.padding == "same" else None,
            groups=groups,
            rngs=rngs,
        )
        self.norm = layers.norm(outputs, epsilon=config.epsilon, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns `norm(conv(x))`."""
        return self.norm(tap(self.conv(x), self.name))


class Block(nnx.Module):
    """Expansion, depthwise convolution, projection; a shortcut where the shape stays."""

    def __init__(
        self,
        name: str,
        inputs: int,
        stage: Stage,
        stride: int,
        config: EfficientNetLiteConfig,
        rngs: nnx.Rngs,
    ):
        self.name = name
        hidden = inputs * stage.expansion
        self.expand = (
            Convolution(f"{name}/expand", inputs, hidden, 1, config, rngs)
            if stage.expansion > 1
            else None
        )
        self.depthwise = Convolution(
            *(f"{name}/depthwise", hidden, hidden, stage.kernel, config, rngs),
            stride=stride,
            groups=hidden,
        )
        self.project = Convolution(f"{name}/project", hidden, stage.outputs, 1, config, rngs)
        self.stride = stride
        self.residual = stride == 1 and inputs == stage.outputs

    def __call__(self, x: Array) -> Array:
        """Returns the projection, plus `x` where the shape stays; no ReLU follows."""
        y = x if self.expand is None else nnx.relu6(self.expand(x))
        y = self.project(nnx.relu6(self.depthwise(y)))
        return tap(y + x if self.residual else y, self.name)


class EfficientNetLite(layers.Classifier):
    """EfficientNet-Lite0: no squeeze-and-excitation, ReLU6 for swish (Tan and Le, 2019; 2020).

    Taps, from input to output; blocks count from 1 to 16:

        stem/conv          the first convolution, before its BatchNorm
        stem               after BatchNorm and ReLU6
        blockB/expand      the 1x1 convolution to six times the channels; not in block 1
        blockB/depthwise   the depthwise convolution; each convolution before its BatchNorm
        blockB/project     the 1x1 convolution to the block's channels
        blockB             the block's output, which both paths of the next block read; may be < 0
        features           the last 1x1 convolution, before the last BatchNorm
        features/norm      after the last BatchNorm
        features/relu      after the last ReLU6, which is pooled
        pooled             one value per channel
        logits
    """

    def __init__(
        self, config: EfficientNetLiteConfig = EfficientNetLiteConfig(), *, rngs: nnx.Rngs
    ):
        self.config = config
        self.stem = Convolution("stem/conv", config.in_channels, _STEM, 3, config, rngs, stride=2)
        channels, blocks = _STEM, []
        for stage in STAGES:
            for index in range(stage.count):
                name, stride = f"block{len(blocks) + 1}", 1 if index else stage.stride
                blocks.append(Block(name, channels, stage, stride, config, rngs))
                channels = stage.outputs
        self.blocks = nnx.List(blocks)
        self.last = Convolution("features", channels, _HEAD, 1, config, rngs)
        self.head = nnx.Linear(_HEAD, config.classes, rngs=rngs)

    def pyramid(self, x: Float[Array, "... h w c"]) -> list[Float[Array, "... h w c"]]:
        """Returns the features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's extents.

        They are the taps `block1`, `block3`, `block5`, `block11` and `features/relu`.
        """
        layers.check_image(x.shape, self.config, "EfficientNet-Lite", _SMALLEST)
        x = layers.normalise(x, self.config.normalisation)
        x = tap(nnx.relu6(self.stem(x)), "stem")
        features = []
        for block in self.blocks:
            if block.stride == 2:
                features.append(x)
            x = block(x)
        x = tap(self.last(x), "features/norm")
        return [*features, tap(nnx.relu6(x), "features/relu")]

    def convolutions(self) -> list[str]:
        """The taps of all convolutions in the order of the modules."""
        names = ["stem/conv"]
        for block in self.blocks:
            parts = ("expand", "depthwise", "project")[block.expand is None :]
            names += [f"{block.name}/{part}" for part in parts]
        return [*names, "features"]


def efficientnet_lite0(*, rngs: nnx.Rngs | None = None, **options) -> EfficientNetLite:
    """The network of `EfficientNetLiteConfig(**options)`; without `rngs` of seed zero."""
    return EfficientNetLite(EfficientNetLiteConfig(**options), rngs=layers.keys(rngs))
