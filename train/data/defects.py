"""Images of surfaces with scratches and inclusions, and binary masks of them: an industrial task.

    image, mask = defect(DefectConfig(), 7)    # uint8 h w, bool h w

Surfaces are squares of scikit-image's brick, gravel and grass; training images are cut from the
left of each texture and held-out ones from the right, so that they share no pixel. A third have
scratches, a third inclusions, a sixth both, and a sixth nothing. A scratch is a curve of 3 to 5
pixels, an inclusion an uneven ellipse; each is brighter than its surface where that is dark, else
darker, by 0.35 to 0.6 of all greys, and fades within a pixel. The mask is where at least half of
that change is seen. An image is a function of configuration and number.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segcam_jax.types import InputError
from train.data.textures import PHOTOGRAPHS, photographs

LARGEST = 144
_SPLIT_AT = 0.7  # how much of a texture's width is trained on
_POINTS = 96  # of a scratch
_KINDS = ("s", "i", "s", "i", "si", "")  # scratches and inclusions, by turns


@dataclasses.dataclass(frozen=True)
class DefectConfig:
    """Which images.

    Attributes:
        split: whether they are cut from what is trained on, or from what is held out.
        size: their height and width, 32 to 144.
    """

    split: Literal["train", "test"] = "train"
    size: int = 128
    seed: int = 0

    def __post_init__(self):
        if not 32 <= self.size <= LARGEST:
            raise InputError(f"`size` is {self.size}; images of defects are of 32 to {LARGEST}")


def defect(
    config: DefectConfig, number: int
) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """An image, and where it has a defect."""
    generator = np.random.default_rng((config.seed, config.split == "test", number))
    # Kinds change with every image, textures with every six.
    texture = PHOTOGRAPHS[number // len(_KINDS) % len(PHOTOGRAPHS)]
    image = _surface(_textures()[texture], config, generator)
    mask = np.zeros(image.shape, bool)
    for kind in _KINDS[number % len(_KINDS)]:
        for _ in range(generator.integers(1, 3)):
            seen = (_scratch if kind == "s" else _inclusion)(config.size, generator)
            sign = 1 if np.average(image, weights=seen) < 0.5 else -1
            image = np.clip(image + sign * generator.uniform(0.35, 0.6) * seen, 0, 1)
            mask |= seen >= 0.5
    return np.rint(255 * image).astype(np.uint8), mask


@functools.cache
def _textures() -> Mapping[str, Float[np.ndarray, "h w"]]:
    return photographs()


def _surface(
    texture: Float[np.ndarray, "h w"], config: DefectConfig, generator: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """A square of a texture's part, mirrored at random."""
    middle = int(_SPLIT_AT * texture.shape[1])
    part = texture[:, :middle] if config.split == "train" else texture[:, middle:]
    top, left = (generator.integers(0, extent - config.size + 1) for extent in part.shape)
    square = part[top : top + config.size, left : left + config.size]
    return square[:, ::-1] if generator.random() < 0.5 else square


def _scratch(size: int, generator: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """A curve through three random points, 1 on it and 0 beside it."""
    start, bend, end = generator.uniform(0.1, 0.9, (3, 2)) * size
    end = start + (end - start) * max(1.0, 0.35 * size / np.hypot(*(end - start)))
    t = np.linspace(0, 1, _POINTS)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    pixels = np.indices((size, size)).reshape(2, -1).T
    distance = np.full(len(pixels), np.inf)
    for point in points:
        distance = np.minimum(distance, np.hypot(*(pixels - point).T))
    width = generator.uniform(3, 5)
    return np.clip(width / 2 - distance + 0.5, 0, 1).reshape(size, size)


def _inclusion(size: int, generator: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """An ellipse with an uneven rim, 1 inside and 0 outside."""
    middle = generator.uniform(0.15, 0.85, 2) * size
    radii = generator.uniform(0.04, 0.1, 2) * size
    turn, phase = generator.uniform(0, np.pi, 2)
    rows, columns = np.indices((size, size)) - middle[:, None, None]
    along = rows * np.cos(turn) + columns * np.sin(turn)
    across = columns * np.cos(turn) - rows * np.sin(turn)
    rim = 1 + 0.15 * np.sin(3 * np.arctan2(across, along) + phase)
    inside = rim - np.hypot(along / radii[0], across / radii[1])
    return np.clip(inside * radii.mean() + 0.5, 0, 1)
