"""DenseNet-121, 169 and 201, with a tap at every convolution and every concatenation."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
_SMALLEST = 32
_NARROW = 4  # the 1x1 convolution of a layer has this many times the growth


@dataclasses.dataclass(frozen=True)
class DenseNetConfig:
    """The shape of a DenseNet.

    Attributes:
        depth: 121, 169 or 201.
        growth: channels that a layer adds; the stem has twice as many.
        hidden: units of a linear layer before the classifier, as FastAblationCAM's head has it;
            0 for none.
        epsilon: of every BatchNorm; 1.001e-5 in Keras.
        normalisation: what the network does to an image first: `"none"`, `"imagenet"` or
            `"symmetric"`.
    """

    depth: int = 121
    in_channels: int = 3
    classes: int = 1000
    growth: int = 32
    hidden: int = 0
    epsilon: float = 1e-5
    normalisation: str = "none"

    def __post_init__(self):
        layers.check_choice("depth", self.depth, BLOCKS)
        layers.check_config(self, growth=1, hidden=0)

    ndim = 2
    multiple = 1


class DenseLayer(nnx.Module):
    """A 1x1 and a 3x3 convolution whose output is appended to what the layer read."""

    def __init__(self, name: str, inputs: int, config: DenseNetConfig, rngs: nnx.Rngs):
        self.name = name
        narrow = _NARROW * config.growth
        self.norm1 = layers.norm(inputs, epsilon=config.epsilon, rngs=rngs)
        self.conv1 = layers.conv(inputs, narrow, 1, rngs=rngs)
        self.norm2 = layers.norm(narrow, epsilon=config.epsilon, rngs=rngs)
        self.conv2 = layers.conv(narrow, config.growth, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns the concatenation of `x` and the new channels."""
        y = tap(self.conv1(nnx.relu(self.norm1(x))), f"{self.name}/conv1")
        y = tap(self.conv2(nnx.relu(self.norm2(y))), f"{self.name}/conv2")
        return tap(jnp.concatenate([x, y], axis=-1), self.name)


class Transition(nnx.Module):
    """BatchNorm, ReLU, a 1x1 convolution to half the channels, a mean over 2x2."""

    def __init__(self, name: str, inputs: int, config: DenseNetConfig, rngs: nnx.Rngs):
        self.name = name
        self.norm = layers.norm(inputs, epsilon=config.epsilon, rngs=rngs)
        self.conv = layers.conv(inputs, inputs // 2, 1, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the activation before the convolution, and the output."""
        x = tap(nnx.relu(self.norm(x)), f"{self.name}/relu")
        y = tap(self.conv(x), f"{self.name}/conv")
        return x, tap(layers.avg_pool(y, 2, 2), self.name)


class DenseNet(layers.Classifier):
    """Densely connected network (Huang et al., 2017), laid out as torchvision's and Keras's.

    Taps, from input to output; B is 1 to 4 and layers count from 1, as torchvision's do:

        stem/conv            the first convolution, before its BatchNorm
        stem/relu            after BatchNorm and ReLU
        stem                 after the pooling
        blockB/layerL/conv1  the 1x1 convolution, before its BatchNorm
        blockB/layerL/conv2  the 3x3 convolution: the channels that the layer adds
        blockB/layerL        the concatenation; all later layers of the block read it
        blockB               the block's output, the concatenation after its last layer
        transitionB/relu     after BatchNorm and ReLU; B is 1 to 3
        transitionB/conv     the 1x1 convolution
        transitionB          after the mean over 2x2
        features             the last concatenation, before the last BatchNorm; 7x7x1664 in
                             DenseNet-169 at 224x224, Keras's `conv5_block32_concat`
        features/norm        after the last BatchNorm
        features/relu        after the last ReLU, which is pooled
        pooled               one value per channel
        logits
    """

    def __init__(self, config: DenseNetConfig = DenseNetConfig(), *, rngs: nnx.Rngs):
        self.config = config
        channels = 2 * config.growth
        self.conv = layers.conv(config.in_channels, channels, 7, stride=2, rngs=rngs)
        self.norm = layers.norm(channels, epsilon=config.epsilon, rngs=rngs)
        blocks, transitions = [], []
        for block, count in enumerate(BLOCKS[config.depth], 1):
            dense = []
            for index in range(1, count + 1):
                dense.append(DenseLayer(f"block{block}/layer{index}", channels, config, rngs))
                channels += config.growth
            blocks.append(nnx.List(dense))
            if block < 4:
                transitions.append(Transition(f"transition{block}", channels, config, rngs))
                channels //= 2
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.last_norm = layers.norm(channels, epsilon=config.epsilon, rngs=rngs)
        self.hidden = nnx.Linear(channels, config.hidden, rngs=rngs) if config.hidden else None
        self.head = nnx.Linear(config.hidden or channels, config.classes, rngs=rngs)

    def logits(self, features: Float[Array, "... h w c"]) -> Float[Array, "... k"]:
        """Returns the logits of the last features."""
        if self.hidden is None:
            return super().logits(features)
        return tap(self.head(self.hidden(tap(layers.pooled(features), "pooled"))), "logits")

    def pyramid(self, x: Float[Array, "... h w c"]) -> list[Float[Array, "... h w c"]]:
        """Returns the features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's extents.

        They are the taps `stem/relu`, `transition1/relu` to `transition3/relu`, `features/relu`.
        """
        layers.check_image(x.shape, self.config, "DenseNet", _SMALLEST)
        x = layers.normalise(x, self.config.normalisation)
        x = tap(self.conv(x), "stem/conv")
        x = tap(nnx.relu(self.norm(x)), "stem/relu")
        features = [x]
        x = tap(layers.max_pool(x, 3, 2, 1), "stem")
        for number, block in enumerate(self.blocks, 1):
            for layer in block:
                x = layer(x)
            x = tap(x, f"block{number}")
            if number <= len(self.transitions):
                activation, x = self.transitions[number - 1](x)
                features.append(activation)
        x = tap(self.last_norm(tap(x, "features")), "features/norm")
        return [*features, tap(nnx.relu(x), "features/relu")]

    def convolutions(self) -> list[str]:
        """The taps of all convolutions in torchvision's order."""
        names = ["stem/conv"]
        for number, block in enumerate(self.blocks, 1):
            names += [f"{layer.name}/conv{n}" for layer in block for n in (1, 2)]
            names += [f"transition{number}/conv"] if number <= len(self.transitions) else []
        return names


def densenet(depth: int = 121, *, rngs: nnx.Rngs | None = None, **options) -> DenseNet:
    """The DenseNet of `DenseNetConfig(depth, **options)`; without `rngs` of seed zero."""
    return DenseNet(DenseNetConfig(depth=depth, **options), rngs=layers.keys(rngs))
