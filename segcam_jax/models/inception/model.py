"""Inception-v3, with a tap at every convolution and every block."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segcam_jax.models import layers
from segcam_jax.taps import tap
from segcam_jax.types import InputError

_SMALLEST = 75
_EPSILON = 1e-3


class Conv(NamedTuple):
    """A convolution; `even` pads so that stride one keeps the extents."""

    name: str
    outputs: int
    kernel: int | tuple[int, int]
    stride: int = 1
    even: bool = True


class Branch(NamedTuple):
    """A pooling or none, convolutions in a row, then convolutions side by side or none."""

    row: tuple[Conv, ...] = ()
    fork: tuple[Conv, ...] = ()
    pool: str = ""


def _row(name: str, *convs: tuple[int, int | tuple[int, int]]) -> tuple[Conv, ...]:
    """Convolutions in a row: outputs and kernel of each, numbered where they are several."""
    names = [name] if len(convs) == 1 else [f"{name}_{n}" for n in range(1, len(convs) + 1)]
    return tuple(Conv(each, *conv) for each, conv in zip(names, convs, strict=True))


def _halving(row: tuple[Conv, ...]) -> Branch:
    """A row whose last convolution halves the extents."""
    return Branch((*row[:-1], row[-1]._replace(stride=2, even=False)))


_WIDE, _TALL = (1, 7), (7, 1)


def _grid35(pool: int) -> tuple[Branch, ...]:
    return (
        Branch(_row("branch1x1", (64, 1))),
        Branch(_row("branch5x5", (48, 1), (64, 5))),
        Branch(_row("branch3x3dbl", (64, 1), (96, 3), (96, 3))),
        Branch(_row("branch_pool", (pool, 1)), pool="mean"),
    )


def _grid17(inner: int) -> tuple[Branch, ...]:
    tall, wide = (inner, _TALL), (inner, _WIDE)
    return (
        Branch(_row("branch1x1", (192, 1))),
        Branch(_row("branch7x7", (inner, 1), wide, (192, _TALL))),
        Branch(_row("branch7x7dbl", (inner, 1), tall, wide, tall, (192, _WIDE))),
        Branch(_row("branch_pool", (192, 1)), pool="mean"),
    )


_TO_17 = (
    _halving(_row("branch3x3", (384, 3))),
    _halving(_row("branch3x3dbl", (64, 1), (96, 3), (96, 3))),
    Branch(pool="max"),
)
_TO_8 = (
    _halving(_row("branch3x3", (192, 1), (320, 3))),
    _halving(_row("branch7x7x3", (192, 1), (192, _WIDE), (192, _TALL), (192, 3))),
    Branch(pool="max"),
)
_GRID_8 = (
    Branch(_row("branch1x1", (320, 1))),
    Branch(
        (Conv("branch3x3_1", 384, 1),),
        (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
    ),
    Branch(
        _row("branch3x3dbl", (448, 1), (384, 3)),
        (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
    ),
    Branch(_row("branch_pool", (192, 1)), pool="mean"),
)
STEM = (
    Conv("conv2d_1a_3x3", 32, 3, 2, even=False),
    Conv("conv2d_2a_3x3", 32, 3, even=False),
    Conv("conv2d_2b_3x3", 64, 3),
    Conv("conv2d_3b_1x1", 80, 1),
    Conv("conv2d_4a_3x3", 192, 3, even=False),
)
_POOLED_AFTER = ("conv2d_2b_3x3", "conv2d_4a_3x3")
BLOCKS = {
    "mixed_5b": _grid35(32),
    "mixed_5c": _grid35(64),
    "mixed_5d": _grid35(64),
    "mixed_6a": _TO_17,
    "mixed_6b": _grid17(128),
    "mixed_6c": _grid17(160),
    "mixed_6d": _grid17(160),
    "mixed_6e": _grid17(192),
    "mixed_7a": _TO_8,
    "mixed_7b": _GRID_8,
    "mixed_7c": _GRID_8,
}
AUXILIARY = (Conv("conv0", 128, 1), Conv("conv1", 768, 5, even=False))
_BEFORE_AUXILIARY = "mixed_6e"
_AUXILIARY_GRID = 17
_LEVELS = ("mixed_5d", "mixed_6e")


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """The shape of an Inception-v3.

    Attributes:
        auxiliary: whether the network has the second classifier, which only training reads.
        normalisation: what the network does to an image first: `"none"`, `"imagenet"` or
            `"symmetric"`.
    """

    in_channels: int = 3
    classes: int = 1000
    auxiliary: bool = True
    normalisation: str = "none"

    def __post_init__(self):
        layers.check_config(self)

    ndim = 2
    multiple = 1


class ConvNorm(nnx.Module):
    """A convolution, tapped, and BatchNorm; the ReLU is left to the caller."""

    def __init__(self, prefix: str, inputs: int, conv: Conv, rngs: nnx.Rngs):
        self.name = prefix + conv.name
        self.conv = layers.conv(
            inputs,
            conv.outputs,
            conv.kernel,
            stride=conv.stride,
            padding=None if conv.even else 0,
            rngs=rngs,
        )
        self.norm = layers.norm(conv.outputs, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns `norm(conv(x))`."""
        return self.norm(tap(self.conv(x), self.name))


class Mixed(nnx.Module):
    """Branches side by side, concatenated; see `Inception` for the taps."""

    def __init__(self, name: str, inputs: int, rngs: nnx.Rngs):
        self.name = name
        # Named as in torchvision, so that the table of weights is one rule.
        convs, self.outputs = {}, 0
        for branch in BLOCKS[name]:
            channels = inputs
            for conv in (*branch.row, *branch.fork):
                convs[conv.name] = ConvNorm(f"{name}/", channels, conv, rngs)
                channels = conv.outputs if conv in branch.row else channels
            self.outputs += sum(conv.outputs for conv in branch.fork) or channels
        self.convs = nnx.Dict(convs)

    def __call__(self, x: Array) -> Array:
        """Returns the concatenated branches."""
        return self.activated(self.concatenated(x))

    def concatenated(self, x: Array) -> Array:
        """The branches before their last ReLU, which commutes with the concatenation.

        A branch that only pools has no ReLU of its own; its values are not negative already.
        """
        pieces = []
        for branch in BLOCKS[self.name]:
            y, pending = x, False
            if branch.pool == "mean":
                y = layers.avg_pool(y, 3, 1, 1)
            elif branch.pool == "max":
                y = layers.max_pool(y, 3, 2)
            for conv in branch.row:
                y = self.convs[conv.name](nnx.relu(y) if pending else y)
                pending = True
            if branch.fork:
                y = nnx.relu(y)
            pieces += [self.convs[conv.name](y) for conv in branch.fork] or [y]
        return jnp.concatenate(pieces, axis=-1)

    def activated(self, x: Array) -> Array:
        """Returns `relu(x)`, the block's output."""
        return tap(nnx.relu(x), self.name)


class Auxiliary(nnx.Module):
    """The second classifier, on the last 17x17 grid."""

    def __init__(self, inputs: int, classes: int, rngs: nnx.Rngs):
        self.convs = nnx.List(
            ConvNorm("auxiliary/", before, conv, rngs)
            for before, conv in zip((inputs, AUXILIARY[0].outputs), AUXILIARY, strict=True)
        )
        self.head = nnx.Linear(AUXILIARY[-1].outputs, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Returns logits."""
        x = layers.avg_pool(x, 5, 3)
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(layers.pooled(x))


class Inception(layers.Classifier):
    """Inception-v3 (Szegedy et al., 2016), laid out as torchvision's.

    Taps bear torchvision's names in lower case, from input to output:

        conv2d_1a_3x3 ... conv2d_4a_3x3             the stem's convolutions, before BatchNorm
        conv2d_1a_3x3/relu ... conv2d_4a_3x3/relu   after BatchNorm and ReLU
        mixed_5b/branch1x1 ... mixed_7c/branch_pool the blocks' convolutions, before BatchNorm
        mixed_5b ... mixed_7c                       the blocks' outputs, concatenated
        features                                    mixed_7c before its ReLU
        features/relu                               mixed_7c, which is pooled
        pooled                                      one value per channel
        logits
    """

    def __init__(self, config: InceptionConfig = InceptionConfig(), *, rngs: nnx.Rngs):
        self.config = config
        channels, stem = config.in_channels, []
        for conv in STEM:
            stem.append(ConvNorm("", channels, conv, rngs))
            channels = conv.outputs
        self.stem = nnx.List(stem)
        blocks, auxiliary = [], None
        for name in BLOCKS:
            blocks.append(Mixed(name, channels, rngs))
            channels = blocks[-1].outputs
            if name == _BEFORE_AUXILIARY and config.auxiliary:
                auxiliary = Auxiliary(channels, config.classes, rngs)
        self.blocks = nnx.List(blocks)
        self.auxiliary = auxiliary
        self.head = nnx.Linear(channels, config.classes, rngs=rngs)

    def with_auxiliary(
        self, x: Float[Array, "... h w c"]
    ) -> tuple[Float[Array, "... k"], Float[Array, "... k"] | None]:
        """Returns the logits of both classifiers, for training; the second may be None."""
        *_, grid17, features = self.pyramid(x)
        if self.auxiliary is None:
            return self.logits(features), None
        if min(grid17.shape[-3:-1]) < _AUXILIARY_GRID:
            raise InputError(
                f"the auxiliary classifier was given an image of {x.shape[-3]} x {x.shape[-2]}; "
                "it needs at least 299 x 299, or a network with auxiliary=False"
            )
        return self.logits(features), self.auxiliary(grid17)

    def pyramid(self, x: Float[Array, "... h w c"]) -> list[Float[Array, "... h w c"]]:
        """Returns the features at about 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's extents.

        They are the taps `conv2d_2b_3x3/relu`, `conv2d_4a_3x3/relu`, `mixed_5d`, `mixed_6e` and
        `features/relu`; at 299x299 their grids are 147, 71, 35, 17 and 8 wide.
        """
        layers.check_image(x.shape, self.config, "Inception-v3", _SMALLEST)
        x = layers.normalise(x, self.config.normalisation)
        features = []
        for conv in self.stem:
            x = tap(nnx.relu(conv(x)), f"{conv.name}/relu")
            if conv.name in _POOLED_AFTER:
                features.append(x)
                x = layers.max_pool(x, 3, 2)
        for block in self.blocks[:-1]:
            x = block(x)
            if block.name in _LEVELS:
                features.append(x)
        last = self.blocks[-1]
        x = tap(last.concatenated(x), "features")
        return [*features, tap(last.activated(x), "features/relu")]

    def convolutions(self) -> list[str]:
        """The taps of all convolutions in torchvision's order."""
        names = [conv.name for conv in STEM]
        for name, branches in BLOCKS.items():
            names += [
                f"{name}/{conv.name}" for branch in branches for conv in branch.row + branch.fork
            ]
            if name == _BEFORE_AUXILIARY and self.config.auxiliary:
                names += [f"auxiliary/{conv.name}" for conv in AUXILIARY]
        return names


def inception_v3(*, rngs: nnx.Rngs | None = None, **options) -> Inception:
    """The Inception-v3 of `InceptionConfig(**options)`; without `rngs` of seed zero."""
    return Inception(InceptionConfig(**options), rngs=layers.keys(rngs))
