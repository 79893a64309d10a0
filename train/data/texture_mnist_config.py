"""What determines a TextureMNIST: plain values, checked when they are made."""

import dataclasses
import math
from typing import Literal

from segcam_jax.types import InputError

# Samples of a split, if the configuration names no number.
SAMPLES = {"train": 50_000, "test": 1_000}


@dataclasses.dataclass(frozen=True)
class Bias:
    """A digit tied to textures.

    Attributes:
        digit: the biased digit, 0..9.
        foreground_texture: the texture that fills it, if a draw succeeds.
        foreground_probability: how often, in [0, 1].
        background_texture: the texture of one background tile, chosen at random.
        background_probability: how often, in [0, 1]; a success overrides the foreground's.
    """

    digit: int
    foreground_texture: str | None = None
    foreground_probability: float = 0.0
    background_texture: str | None = None
    background_probability: float = 1.0

    def __post_init__(self):
        if self.digit not in range(10):
            raise InputError(f"`Bias.digit` is {self.digit}; expected 0 to 9")
        for part in ("foreground", "background"):
            probability = getattr(self, f"{part}_probability")
            if not 0 <= probability <= 1:
                raise InputError(f"`Bias.{part}_probability` is {probability}; expected 0 to 1")

    def textures(self) -> list[str]:
        """The textures that it uses with a probability above zero."""
        pairs = (
            (self.foreground_texture, self.foreground_probability),
            (self.background_texture, self.background_probability),
        )
        return [name for name, probability in pairs if name is not None and probability > 0]


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Random affine changes of the digits, each uniform between minus and plus its bound.

    Attributes:
        rotation: degrees.
        scale: share of the size; height and width are drawn apart.
        shear: columns moved per row.
        shift: share of the tile.
    """

    rotation: float = 10.0
    scale: float = 0.1
    shear: float = 0.15
    shift: float = 0.06

    def __post_init__(self):
        for name, bound in dataclasses.asdict(self).items():
            if not 0 <= bound < math.inf:
                raise InputError(f"`Jitter.{name}` is {bound}; give a number of at least 0")
        if self.scale >= 1:
            raise InputError(f"`Jitter.scale` is {self.scale}; give a share below 1")


@dataclasses.dataclass(frozen=True)
class TextureMnistConfig:
    """All that determines a TextureMNIST.

    Attributes:
        split: `"train"` or `"test"`: disjoint digits; in train the ten digits of a cycle share one
            draw of textures and crops, in test each sample has its own.
        seed: a number at least 0.
        samples: length; None for 50,000 (train) or 1,000 (test).
        tile_size: extent of the image.
        texture_resolution: smaller textures are repeated up to this size.
        background_split: number of background tiles: 1, 2 (top and bottom) or 4 (quadrants).
        bias: the planted biases, at most one a digit.
        exclude_bias_textures: keep the textures of biases out of all unbiased draws.
        distinct_textures: the digit's texture is never the one behind it.
        jitter: random affine changes of the digits, for training; None for none.
        digit_rounding: whether digits are made binary at the resolution of their source, then
            enlarged (`"before"`, as in the original data), or enlarged as greys, then made binary.
            At 8x8 pixels the first loses much of what tells digits apart.
        digits: source of digits, see `digits.read_digits`.
        textures: folder of textures; None for the built-in ones, see `textures.texture_set`.
    """

    split: Literal["train", "test"] = "train"
    seed: int = 0
    samples: int | None = None
    tile_size: int = 64
    texture_resolution: int = 400
    background_split: Literal[1, 2, 4] = 2
    bias: tuple[Bias, ...] = ()
    exclude_bias_textures: bool = False
    distinct_textures: bool = True
    jitter: Jitter | None = None
    digit_rounding: Literal["before", "after"] = "before"
    digits: str | None = None
    textures: str | None = None

    def __post_init__(self):
        if self.split not in SAMPLES:
            raise InputError(f"`split` is {self.split!r}; choose 'train' or 'test'")
        if self.seed < 0:
            raise InputError(f"`seed` is {self.seed}; give a number of at least 0")
        if self.samples is not None and self.samples < 1:
            raise InputError(f"`samples` is {self.samples}; give at least 1, or None")
        if self.background_split not in (1, 2, 4):
            raise InputError(f"`background_split` is {self.background_split}; choose 1, 2 or 4")
        if self.tile_size < 8 or self.tile_size % 2:
            raise InputError(f"`tile_size` is {self.tile_size}; give an even number from 8")
        if self.texture_resolution < self.tile_size:
            raise InputError(
                f"`texture_resolution` is {self.texture_resolution}; it must be at least "
                f"`tile_size`, {self.tile_size}"
            )
        if self.digit_rounding not in ("before", "after"):
            raise InputError(
                f"`digit_rounding` is {self.digit_rounding!r}; choose 'before' or 'after'"
            )
        biased = [bias.digit for bias in self.bias]
        if len(set(biased)) < len(biased):
            raise InputError(f"`bias` names the digits {biased}; give at most one bias a digit")
