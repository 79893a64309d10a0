"""ResNet-18, 34, 50, 101 and 152, with a tap at every convolution and every block."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_SMALLEST = 32


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        width: channels of the first stage; each later stage has twice as many.
        normalisation: what the network does to an image first: `"none"`, `"imagenet"` or
            `"symmetric"`.
    """

    depth: int = 50
    in_channels: int = 3
    classes: int = 1000
    width: int = 64
    normalisation: str = "none"

    def __post_init__(self):
        layers.check_choice("depth", self.depth, BLOCKS)
        layers.check_config(self, width=1)

    ndim = 2
    multiple = 1

    @property
    def bottleneck(self) -> bool:
        """Whether blocks have three convolutions, the middle one narrow; else two."""
        return self.depth >= 50


class Block(nnx.Module):
    """Two or three convolutions and a shortcut; see `ResNet` for the taps."""

    def __init__(
        self, name: str, inputs: int, width: int, stride: int, config: ResNetConfig, rngs: nnx.Rngs
    ):
        self.name = name
        outputs = width * (4 if config.bottleneck else 1)
        # The stride sits on the 3x3 convolution, as torchvision has it ("ResNet v1.5").
        if config.bottleneck:
            self.conv1 = layers.conv(inputs, width, 1, rngs=rngs)
            self.conv2 = layers.conv(width, width, 3, stride=stride, rngs=rngs)
            self.conv3 = layers.conv(width, outputs, 1, rngs=rngs)
            self.norm2 = layers.norm(width, rngs=rngs)
        else:
            self.conv1 = layers.conv(inputs, width, 3, stride=stride, rngs=rngs)
            self.conv2 = layers.conv(width, outputs, 3, rngs=rngs)
            self.conv3 = None
            self.norm2 = None
        self.norm1 = layers.norm(width, rngs=rngs)
        self.residual_norm = layers.norm(outputs, rngs=rngs)
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = (
            layers.conv(inputs, outputs, 1, stride=stride, rngs=rngs) if reshapes else None
        )
        self.shortcut_norm = layers.norm(outputs, rngs=rngs) if reshapes else None

    def __call__(self, x: Array) -> Array:
        """Returns `relu(branch(x) + shortcut(x))`."""
        return self.activated(self.summed(x))

    def summed(self, x: Array) -> Array:
        """Returns `branch(x) + shortcut(x)`."""
        y = nnx.relu(self.norm1(tap(self.conv1(x), f"{self.name}/conv1")))
        y = tap(self.conv2(y), f"{self.name}/conv2")
        if self.conv3 is not None and self.norm2 is not None:
            y = tap(self.conv3(nnx.relu(self.norm2(y))), f"{self.name}/conv3")
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(tap(self.shortcut(x), f"{self.name}/shortcut"))
        return tap(self.residual_norm(y) + x, f"{self.name}/sum")

    def activated(self, x: Array) -> Array:
        """Returns `relu(x)`, the block's output."""
        return tap(nnx.relu(x), self.name)


class ResNet(layers.Classifier):
    """Residual network (He et al., 2016), laid out as torchvision's.

    Taps, from input to output; S is 1 to 4 and blocks count from 1, so that torchvision's
    `layer4.2` is `layer4/block3`:

        stem/conv               the first convolution, before its BatchNorm
        stem/relu               after BatchNorm and ReLU
        stem                    after the pooling
        layerS/blockB/conv1     the convolutions, each before its BatchNorm; `conv3` from depth 50
        layerS/blockB/shortcut  the 1x1 convolution beside the first block of a stage
        layerS/blockB/sum       branch plus shortcut, before the ReLU
        layerS/blockB           the block's output, which both paths of the next block read
        features                the last sum, before the last ReLU
        features/relu           the last block's output, which is pooled
        pooled                  one value per channel
        logits
    """

    def __init__(self, config: ResNetConfig = ResNetConfig(), *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.conv = layers.conv(config.in_channels, width, 7, stride=2, rngs=rngs)
        self.norm = layers.norm(width, rngs=rngs)
        expansion = 4 if config.bottleneck else 1
        inputs, stages = width, []
        for stage, count in enumerate(BLOCKS[config.depth]):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                name = f"layer{stage + 1}/block{index + 1}"
                blocks.append(Block(name, inputs, width * 2**stage, stride, config, rngs))
                inputs = width * 2**stage * expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(inputs, config.classes, rngs=rngs)

    def pyramid(self, x: Float[Array, "... h w c"]) -> list[Float[Array, "... h w c"]]:
        """Returns the features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's extents.

        They are the taps `stem/relu`, the last blocks of `layer1` to `layer3`, `features/relu`.
        """
        layers.check_image(x.shape, self.config, "ResNet", _SMALLEST)
        x = layers.normalise(x, self.config.normalisation)
        x = tap(self.conv(x), "stem/conv")
        x = tap(nnx.relu(self.norm(x)), "stem/relu")
        features = [x]
        x = tap(layers.max_pool(x, 3, 2, 1), "stem")
        blocks = [block for stage in self.stages for block in stage]
        ends = [stage[-1].name for stage in self.stages]
        for block in blocks[:-1]:
            x = block(x)
            if block.name in ends:
                features.append(x)
        x = tap(blocks[-1].summed(x), "features")
        return [*features, tap(blocks[-1].activated(x), "features/relu")]

    def convolutions(self) -> list[str]:
        """The taps of all convolutions in torchvision's order."""
        names = ["stem/conv"]
        for stage in self.stages:
            for block in stage:
                names += [f"{block.name}/conv{n}" for n in range(1, 3 + self.config.bottleneck)]
                names += [f"{block.name}/shortcut"] if block.shortcut is not None else []
        return names


def resnet(depth: int = 50, *, rngs: nnx.Rngs | None = None, **options) -> ResNet:
    """The ResNet of `ResNetConfig(depth, **options)`; without `rngs` of seed zero."""
    return ResNet(ResNetConfig(depth=depth, **options), rngs=layers.keys(rngs))
