"""Weights and images drawn from names and shapes alone, so that no golden needs to hold them."""

import zlib

import numpy as np

_VALUES = 16


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a network in PyTorch's or Keras's names: He's scale, odd BatchNorm statistics.

    Args:
        name: of the tensor; seeds the draw.
        shape: `out in [depth] height width` in PyTorch; in Keras the last axis is the outputs.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        inputs = shape[:-1] if name.endswith("kernel") else shape[1:]
        scale = np.float32((2 / np.prod(inputs)) ** 0.5)
        return scale * generator.standard_normal(shape, np.float32)
    if name.endswith(("running_var", "moving_variance")):
        return generator.uniform(0.5, 2.0, shape).astype(np.float32)
    if name.endswith(".A.weight"):
        return generator.uniform(0.05, 0.5, shape).astype(np.float32)
    if name.endswith(("weight", "gamma")):
        # The last BatchNorm of a residual branch is small, since branches add up.
        low, high = (0.1, 0.3) if ".bn3" in name else (0.5, 1.5)
        return generator.uniform(low, high, shape).astype(np.float32)
    return generator.normal(0.0, 0.2, shape).astype(np.float32)


def image(extent: int) -> np.ndarray:
    """One image, height x width x channel, of smooth and rough parts, wider than high."""
    rows = np.linspace(0, 3, extent, dtype=np.float32).reshape(-1, 1, 1)
    columns = np.linspace(0, 2, extent + 16, dtype=np.float32).reshape(1, -1, 1)
    waves = np.sin(rows * columns + np.arange(3, dtype=np.float32))
    noise = np.random.default_rng(0).standard_normal(waves.shape, np.float32)
    return waves + np.float32(0.3) * noise


def volume(extents: tuple[int, ...], channels: int) -> np.ndarray:
    """One image in 2D or 3D, channels last, of smooth and rough parts."""
    axes = [np.linspace(0, 3 - n, extent) for n, extent in enumerate(extents)]
    waves = np.sin(sum(np.meshgrid(*axes, indexing="ij")) ** 2)
    noise = np.random.default_rng(0).standard_normal((*extents, channels))
    return (waves[..., None] + 0.5 * noise).astype(np.float32)


def sampled(activation) -> np.ndarray:
    """Values of an activation at evenly spaced places."""
    flat = np.asarray(activation).ravel()
    return flat[np.linspace(0, flat.size - 1, _VALUES).astype(int)]
