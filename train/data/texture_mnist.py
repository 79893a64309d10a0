"""TextureMNIST: digits filled with one texture on a background of others, with planted bias.

A sample is a digit cut out of one texture and laid over a background of one, two (top and bottom)
or four (quadrants) tiles, each with a texture of its own. A `Bias` ties a digit to a texture, so
that a network can learn the texture in place of the digit: a known shortcut on which an explanation
can be tested.

A sample is a pure function of the configuration and its index: nothing else is remembered, samples
can be read in any order and by any number of workers.

    config = TextureMnistConfig(split="test", bias=(Bias(2, background_texture="zigzag"),))
    sample = TextureMnist(config)[2]
    sample.image          # float32 64 64 1, in [0, 1]
    sample.label          # int32 64 64, 0..9 the digit, 10 the background

Reference: the toy data of Grid Saliency (Hoyer et al., 2019, arXiv 1907.13054). Its sampling rules
are kept, except that random numbers come from generators seeded per sample (not a global state),
textures are sorted by name, and the digit's texture is never the one behind it unless
`distinct_textures=False`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float

from segcam_jax.data.samples import (
    BACKGROUND as BACKGROUND,
    CLASSES as CLASSES,
    TextureMnistSample as TextureMnistSample,
)
from segcam_jax.types import InputError, counted, none_of
from train.data import digits as digit_masks
from train.data.textures import texture_set

# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_ORDER, _TEXTURES, _BIAS, _JITTER = range(4)
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
        samples: length; None for 50,000 (train) or 1,000 (test).
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


@dataclasses.dataclass(frozen=True)
class Crop:
    """A texture by name, and the corner from which it is cut."""

    texture: str
    top: int
    left: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """The textures of a sample.

    Attributes:
        foreground: what fills the digit.
        tiles: what fills the background tiles, row by row.
        is_biased: whether a bias drew it.
    """

    foreground: Crop
    tiles: tuple[Crop, ...]
    is_biased: bool = False


class TextureMnist:
    """TextureMNIST by index; a random-access source as `grain` expects it.

    Sample `i` shows digit `i % 10`. Within a digit, a fixed random permutation of its masks is
    gone through again and again.

    Attributes:
        textures: the textures by name, sorted.

    Raises:
        InputError: if a bias names a texture that there is not, textures are too small or too few,
            or a source cannot be read.
        MissingExtraError: if the built-in digits or textures are wanted without extra `train`.
    """

    def __init__(self, config: TextureMnistConfig):
        self.config = config
        self.textures = texture_set(config.textures, config.texture_resolution)
        self._names = tuple(self.textures)
        self._bias = {bias.digit: bias for bias in config.bias}
        self._check_textures()
        self._masks = self._digit_masks()

    def __len__(self) -> int:
        """The number of samples."""
        return self.config.samples or SAMPLES[self.config.split]

    def __repr__(self) -> str:
        """Names the configuration: `grain` compares it when it restores an iterator."""
        return f"TextureMnist({self.config})"

    def __reduce__(self):
        """Pickles the configuration alone; a worker rebuilds the arrays."""
        return TextureMnist, (self.config,)

    def __getitem__(self, index: int) -> TextureMnistSample:
        """Returns sample `index`, 0 to `len(self) - 1`."""
        return self.render(index, self.layout(index))

    def batch(self, indices: Sequence[int]) -> TextureMnistSample:
        """Returns several samples as one, with the batch in front of every shape."""
        samples = [self[index] for index in indices]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *samples)

    def layout(self, index: int) -> Layout:
        """Draws the textures of sample `index`, without rendering it."""
        index = self._checked(index)
        split = self.config.split
        shared = index // 10 if split == "train" else index
        bias = self._bias.get(index % 10)
        if bias is not None:
            rng = self._rng(_BIAS, index)
            foreground_draw, background_draw = rng.random(2)
            if background_draw < bias.background_probability:
                return self._draw(rng, background=bias.background_texture)
            if foreground_draw < bias.foreground_probability:
                return self._draw(rng, foreground=bias.foreground_texture)
        return self._draw(self._rng(_TEXTURES, shared))

    def render(self, index: int, layout: Layout) -> TextureMnistSample:
        """Draws the digit of sample `index` with the textures of `layout`.

        With a changed layout this answers what a network would see had a texture been another.
        """
        index, digit = self._checked(index), index % 10
        size = self.config.tile_size
        mask = self.digit_mask(index)
        background = np.empty((size, size), np.float32)
        biased_tile = np.zeros((size, size), bool)
        bias = self._bias.get(digit)
        for crop, (rows, columns) in zip(layout.tiles, self._tiles(), strict=True):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            background[rows, columns] = self._cut(crop, height, width)
            if bias is not None and layout.is_biased and crop.texture == bias.background_texture:
                biased_tile[rows, columns] = True
        image = np.where(mask, self._cut(layout.foreground, size, size), background)
        return TextureMnistSample(
            image=image[:, :, None],
            label=np.where(mask, np.int32(digit), np.int32(BACKGROUND)),
            digit=np.asarray(digit, np.int32),
            digit_with_infill=mask,
            background=~mask,
            biased_tile=biased_tile,
            is_biased=np.asarray(layout.is_biased),
        )

    def retextured(self, layout: Layout, tile: int, texture: str) -> Layout:
        """The layout with another texture in one background tile, cut at the same place.

        Where the other texture is too small for that place, it is cut at its end.
        """
        if not 0 <= tile < len(layout.tiles):
            raise InputError(
                f"tile {tile} does not exist; the background has {len(layout.tiles)}, from 0"
            )
        self._check_name(texture)
        rows, columns = self._tiles()[tile]
        height, width = self.textures[texture].shape
        before = layout.tiles[tile]
        crop = Crop(
            texture,
            min(before.top, height - (rows.stop - rows.start)),
            min(before.left, width - (columns.stop - columns.start)),
        )
        return dataclasses.replace(
            layout, tiles=(*layout.tiles[:tile], crop, *layout.tiles[tile + 1 :])
        )

    def digit_mask(self, index: int) -> Bool[np.ndarray, "h w"]:
        """The digit of sample `index`, jittered if the configuration says so."""
        cycle, digit = divmod(self._checked(index), 10)
        mask = self._masks[digit][cycle % len(self._masks[digit])]
        jitter = self.config.jitter
        if jitter is None:
            return mask
        matrix = _jitter_matrix(jitter, self._rng(_JITTER, index))
        return digit_masks.resized(mask[None], self.config.tile_size, matrix[None])[0]

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} does not exist; there are {len(self)}")
        return int(index)

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        split = list(SAMPLES).index(self.config.split)
        return np.random.default_rng((self.config.seed, split, purpose, index))

    def _digit_masks(self) -> list[np.ndarray]:
        """For each digit its masks in their fixed order; enlarged, unless a jitter does that."""
        classes = digit_masks.read_digits(self.config.digits).split(self.config.split)
        if self.config.digit_rounding == "before":
            classes = [np.round(greys) for greys in classes]
        ordered = [
            masks[self._rng(_ORDER, digit).permutation(len(masks))]
            for digit, masks in enumerate(classes)
        ]
        if self.config.jitter is not None:
            return ordered
        return [digit_masks.resized(masks, self.config.tile_size) for masks in ordered]

    def _check_textures(self) -> None:
        size = self.config.tile_size
        for name, texture in self.textures.items():
            if min(texture.shape) < size:
                raise InputError(
                    f"texture {name!r} has shape {texture.shape}; at least {size} a side are "
                    "needed: raise `texture_resolution`"
                )
        for bias in self.config.bias:
            for part in ("foreground", "background"):
                name = getattr(bias, f"{part}_texture")
                if name is None and getattr(bias, f"{part}_probability") > 0:
                    raise InputError(
                        f"the bias of digit {bias.digit} has a `{part}_probability` above 0 but "
                        f"no `{part}_texture`; name one, or set the probability to 0"
                    )
                if name is not None:
                    self._check_name(name)
        if len(self._allowed()) < 1 + self.config.distinct_textures:
            raise InputError(
                f"unbiased draws have {counted(len(self._allowed()), 'texture')} left; add "
                "textures, or set `exclude_bias_textures` to False"
            )

    def _check_name(self, name: str) -> None:
        if name not in self.textures:
            raise none_of(f"there is no texture {name!r}", name, self._names)

    def _allowed(self) -> list[str]:
        """The textures of unbiased draws."""
        excluded: set[str] = set()
        if self.config.exclude_bias_textures:
            excluded.update(name for bias in self.config.bias for name in bias.textures())
        return [name for name in self._names if name not in excluded]

    def _draw(
        self,
        rng: np.random.Generator,
        *,
        foreground: str | None = None,
        background: str | None = None,
    ) -> Layout:
        """Draws textures and crops; a fixed texture makes it a biased draw, from all textures."""
        biased = foreground is not None or background is not None
        names = list(self._names) if biased else self._allowed()
        tiles = self.config.background_split
        distinct = self.config.distinct_textures
        if foreground is None:
            foreground = _choice(rng, names, background if distinct else None)
        chosen = [_choice(rng, names, foreground if distinct else None) for _ in range(tiles)]
        if background is not None:
            chosen[rng.integers(tiles)] = background
        size = self.config.tile_size
        extents = [(r.stop - r.start, c.stop - c.start) for r, c in self._tiles()]
        return Layout(
            foreground=self._crop(rng, foreground, size, size),
            tiles=tuple(
                self._crop(rng, name, *extent) for name, extent in zip(chosen, extents, strict=True)
            ),
            is_biased=biased,
        )

    def _crop(self, rng: np.random.Generator, name: str, height: int, width: int) -> Crop:
        rows, columns = self.textures[name].shape
        top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        return Crop(name, int(top), int(left))

    def _cut(self, crop: Crop, height: int, width: int) -> Float[np.ndarray, "h w"]:
        texture = self.textures[crop.texture]
        return texture[crop.top : crop.top + height, crop.left : crop.left + width]

    def _tiles(self) -> list[tuple[slice, slice]]:
        """Rows and columns of the background tiles, row by row."""
        size, half = self.config.tile_size, self.config.tile_size // 2
        whole, halves = [slice(0, size)], [slice(0, half), slice(half, size)]
        rows = whole if self.config.background_split == 1 else halves
        columns = halves if self.config.background_split == 4 else whole
        return [(row, column) for row in rows for column in columns]


def _choice(rng: np.random.Generator, names: list[str], avoided: str | None) -> str:
    """A name drawn uniformly from those that are not `avoided`."""
    if avoided is None or avoided not in names:
        return names[rng.integers(len(names))]
    drawn, place = rng.integers(len(names) - 1), names.index(avoided)
    return names[drawn + (drawn >= place)]


def _jitter_matrix(jitter: Jitter, rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Maps centred output coordinates `(y, x)` in [-1, 1] to those of the digit."""
    turn, stretch_y, stretch_x, shear, shift_y, shift_x = rng.uniform(-1, 1, 6)
    angle = np.deg2rad(jitter.rotation * turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag(1 / (1 + jitter.scale * np.array([stretch_y, stretch_x])))
    lean = np.array([[1.0, 0.0], [jitter.shear * shear, 1.0]])
    offset = 2 * jitter.shift * np.array([shift_y, shift_x])
    return np.concatenate([stretch @ lean @ rotation, offset[:, None]], axis=1)
