"""Grey textures: 25 procedural ones, three photographs of scikit-image, or a folder of images.

Every texture is a float32 array `h w` in [0, 1]. The procedural ones are pure functions of their
name and size, have a mean near one half and a contrast below the full range, so that neither
brightness nor contrast alone tells a texture.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from segcam_jax.extras import require
from segcam_jax.types import InputError

Texture = Float[np.ndarray, "h w"]

PHOTOGRAPHS = ("brick", "grass", "gravel")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_TURN = 2 * np.pi


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    return y, x


def _smooth_noise(size: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Periodic Gaussian noise with features of about `scale` pixels, about -1 to 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    noise = np.fft.irfft2(spectrum * np.exp(-((frequency * scale) ** 2) * 2), s=(size, size))
    return np.clip(noise / (2 * noise.std()), -1, 1)


def _stripes(size: int, period: float, angle: float, *, sharp: float = 1.0) -> np.ndarray:
    """Waves with fronts at `angle` degrees from the horizontal; `sharp` squares them off."""
    y, x = _grid(size)
    radians = math.radians(angle)
    wave = np.sin(_TURN * (x * math.sin(radians) + y * math.cos(radians)) / period)
    return np.clip(sharp * wave, -1, 1)


def _checks(size: int, period: int) -> np.ndarray:
    y, x = _grid(size)
    return 1 - 2 * ((y // period + x // period) % 2)


def _dots(size: int, period: int, radius: float, *, shifted: bool) -> np.ndarray:
    y, x = _grid(size)
    x = x + shifted * (period / 2) * (y // period % 2)
    distance = np.hypot(y % period - period / 2, x % period - period / 2)
    return np.clip(2 * (radius - distance), -1, 1)


def _bricks(size: int, height: int, width: int) -> np.ndarray:
    y, x = _grid(size)
    row = y // height
    column = (x + (row % 2) * width / 2) // width
    mortar = (y % height < 2) | ((x + (row % 2) * width / 2) % width < 2)
    shade = 0.3 * np.sin(row * 12.9898 + column * 78.233)
    return np.where(mortar, -1.0, 0.5 + shade)


def _waves(size: int, period: float, swing: float, length: float) -> np.ndarray:
    y, x = _grid(size)
    return np.sin(_TURN * (y + swing * np.sin(_TURN * x / length)) / period)


def _weave(size: int, period: int) -> np.ndarray:
    y, x = _grid(size)
    over = (y // period + x // period) % 2 == 0
    along_y = np.sin(np.pi * (y % period + 0.5) / period)
    along_x = np.sin(np.pi * (x % period + 0.5) / period)
    return np.where(over, 2 * along_y - 1, 0.6 - 1.4 * along_x)


def _rings(size: int, period: float, cell: int) -> np.ndarray:
    y, x = _grid(size)
    return np.sin(_TURN * np.hypot(y % cell - cell / 2, x % cell - cell / 2) / period)


def _zigzag(size: int, period: float, length: float) -> np.ndarray:
    y, x = _grid(size)
    fold = np.abs(x % length - length / 2)
    return np.clip(2 * np.sin(_TURN * (y + fold) / period), -1, 1)


def _scales(size: int, period: int) -> np.ndarray:
    y, x = _grid(size)
    x = x + (period / 2) * (y // (period / 2) % 2)
    distance = np.hypot(y % (period / 2), x % period - period / 2)
    return np.clip(1 - 4 * distance / period, -1, 1)


def _hexagons(size: int, period: float) -> np.ndarray:
    y, x = _grid(size)
    turns = (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    waves = [np.cos(_TURN * (x * math.cos(t) + y * math.sin(t)) / period) for t in turns]
    return np.clip(np.sum(waves, axis=0) / 1.5, -1, 1)


def _cells(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Distance to the nearest of random points, on a torus."""
    y, x = _grid(size)
    nearest = np.full((size, size), np.inf)
    for centre_y, centre_x in rng.random((count, 2)) * size:
        apart_y = np.abs(y - centre_y)
        apart_x = np.abs(x - centre_x)
        apart_y, apart_x = np.minimum(apart_y, size - apart_y), np.minimum(apart_x, size - apart_x)
        nearest = np.minimum(nearest, np.hypot(apart_y, apart_x))
    return np.clip(2 * nearest / np.quantile(nearest, 0.98) - 1, -1, 1)


def _streaks(size: int, scale_y: float, scale_x: float, rng: np.random.Generator) -> np.ndarray:
    frequency_y, frequency_x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    spectrum *= np.exp(-2 * ((frequency_y * scale_y) ** 2 + (frequency_x * scale_x) ** 2))
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return np.clip(noise / (2 * noise.std()), -1, 1)


def _wood(size: int, rng: np.random.Generator) -> np.ndarray:
    y, _ = _grid(size)
    return np.sin(_TURN * (y / 14 + 1.5 * _streaks(size, 60, 160, rng)))


# name -> (size, random numbers) -> values in [-1, 1].
_PROCEDURAL: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = MappingProxyType(
    {
        "bricks": lambda size, rng: _bricks(size, 10, 24),
        "bumps_hexagonal": lambda size, rng: _hexagons(size, 9),
        "cells": lambda size, rng: _cells(size, 500, rng),
        "checks_large": lambda size, rng: _checks(size, 10),
        "checks_small": lambda size, rng: _checks(size, 4),
        "clouds": lambda size, rng: _smooth_noise(size, 14, rng),
        "cross_hatch": lambda size, rng: np.maximum(_stripes(size, 8, 30), _stripes(size, 8, -30)),
        "dots_shifted": lambda size, rng: _dots(size, 12, 3.5, shifted=True),
        "dots_small": lambda size, rng: _dots(size, 6, 1.8, shifted=False),
        "grain_coarse": lambda size, rng: _smooth_noise(size, 5, rng),
        "grain_fine": lambda size, rng: _smooth_noise(size, 0.5, rng),
        "grain_middle": lambda size, rng: _smooth_noise(size, 2, rng),
        "grid": lambda size, rng: np.maximum(
            np.maximum(_stripes(size, 16, 0, sharp=3), _stripes(size, 16, 90, sharp=3)) - 0.4, -1
        ),
        "marble": lambda size, rng: np.sin(8 * _smooth_noise(size, 22, rng)),
        "rain": lambda size, rng: _streaks(size, 14, 1, rng),
        "rings": lambda size, rng: _rings(size, 8, 40),
        "scales": lambda size, rng: _scales(size, 16),
        "stripes_diagonal": lambda size, rng: _stripes(size, 7, 45, sharp=2),
        "stripes_flat": lambda size, rng: _stripes(size, 9, 0),
        "stripes_steep": lambda size, rng: _stripes(size, 12, -65),
        "stripes_upright": lambda size, rng: _stripes(size, 5, 90, sharp=2),
        "waves": lambda size, rng: _waves(size, 12, 4, 40),
        "weave": lambda size, rng: _weave(size, 8),
        "wood": lambda size, rng: _wood(size, rng),
        "zigzag": lambda size, rng: _zigzag(size, 12, 24),
    }
)


@functools.lru_cache(maxsize=2)
def procedural_textures(size: int = 400) -> Mapping[str, Texture]:
    """The 25 procedural textures by name, each `size` by `size`, in [0.2, 0.8]."""
    if size < 16:
        raise InputError(f"`size` is {size}; a texture needs at least 16 pixels a side")
    textures = {}
    for name, values in _PROCEDURAL.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        textures[name] = (0.5 + 0.3 * values(size, rng)).astype(np.float32)
        textures[name].setflags(write=False)
    return MappingProxyType(textures)


def photographs() -> Mapping[str, Texture]:
    """scikit-image's `brick`, `grass` and `gravel`, 512x512."""
    data = require("skimage.data", extra="train")
    return {name: np.asarray(getattr(data, name)(), np.float32) / 255 for name in PHOTOGRAPHS}


def read_textures(folder: str | Path) -> Mapping[str, Texture]:
    """Reads a folder of images as grey textures, named by file stem in sorted order.

    Files that are no images by their suffix (a licence, say) are passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"texture folder {str(folder)!r} does not exist; give a folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise InputError(
            f"texture folder {str(folder)!r} holds no image; expected files ending in "
            + ", ".join(_IMAGE_SUFFIXES)
        )
    textures: dict[str, Texture] = {}
    for path in paths:
        if path.stem in textures:
            raise InputError(f"texture folder {str(folder)!r} has two images named {path.stem!r}")
        try:
            with Image.open(path) as image:
                textures[path.stem] = np.asarray(image.convert("L"), np.float32) / 255
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"texture {str(path)!r} cannot be read: {error}") from None
    return textures


def tiled(texture: Texture, resolution: int) -> Texture:
    """Repeats a texture whose shorter side is below `resolution`, the same number of times a side.

    The number is `ceil(resolution / shorter side)`; larger textures come back unchanged.
    """
    shorter = min(texture.shape)
    if shorter >= resolution:
        return texture
    return np.tile(texture, (-(-resolution // shorter),) * 2)


@functools.lru_cache(maxsize=4)
def texture_set(source: str | None = None, resolution: int = 400) -> Mapping[str, Texture]:
    """The textures of a dataset, sorted by name and tiled to at least `resolution` a side.

    Args:
        source: a folder of images, or None for the procedural textures and the photographs.
        resolution: shortest side wanted, in pixels.
    """
    if source is None:
        textures = {**procedural_textures(resolution), **photographs()}
    else:
        textures = dict(read_textures(source))
    # Sorted: the order of a folder listing differs between file systems.
    return MappingProxyType({name: tiled(textures[name], resolution) for name in sorted(textures)})
