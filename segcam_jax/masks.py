"""Ablation masks: what is multiplied with an activation, 1 to keep and 0 to ablate.

A family of masks is made by index, one at a time inside the engine's loop: m masks of a whole
activation are never in memory together.
"""

import dataclasses
import functools
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from segcam_jax.types import InputError


class Masks(Protocol):
    """A family of `len` masks; `masks(index)` broadcasts against the activation `*space c`."""

    def __len__(self) -> int: ...

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "..."]:
        """The mask of an index."""
        ...

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        ...


def ablate(activation: Float[Array, "*space c"], mask: Float[Array, "..."]) -> Array:
    """The activation times a mask that broadcasts against it, in the activation's dtype."""
    mask = jnp.asarray(mask, activation.dtype)
    return activation * mask.reshape((1,) * (activation.ndim - mask.ndim) + mask.shape)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["channels"]
)
@dataclasses.dataclass(frozen=True)
class ChannelMasks:
    """Mask k multiplies channel k by `value` and keeps all others.

    Attributes:
        channels: number of channels, and of masks.
        value: 0 ablates; negative and above 1 are counterfactuals.
    """

    channels: int
    value: float = 0.0

    def __len__(self) -> int:
        return self.channels

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "c"]:
        """The mask of channel `index`."""
        return jnp.where(jnp.arange(self.channels, dtype=index.dtype) == index, self.value, 1.0)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        return (1 - self.value) * values.sum(tuple(range(values.ndim - 1)))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["shape", "window", "stride"],
)
@dataclasses.dataclass(frozen=True)
class WindowMasks:
    """Each mask multiplies all channels in one window of positions by `value`.

    Windows start every `stride` positions; the last one along an axis is moved back inside, so
    that every position is covered.

    Attributes:
        shape: positions of the activation, `(h, w)` or `(d, h, w)`.
        window: extent of a window along each axis.
        stride: distance of windows along each axis, at most `window`.
        value: 0 ablates; negative and above 1 are counterfactuals.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    value: float = 0.0

    def check(self) -> None:
        """Raises `InputError` if windows do not fit the map or would leave positions out."""
        rank = len(self.shape)
        if len(self.window) != rank or len(self.stride) != rank:
            raise InputError(
                f"window {self.window} and stride {self.stride} are for another number of "
                f"dimensions; the map has extents {self.shape}"
            )
        if any(not 1 <= size <= n for size, n in zip(self.window, self.shape, strict=True)):
            raise InputError(f"window {self.window} does not fit the map's extents {self.shape}")
        if any(not 1 <= step <= size for step, size in zip(self.stride, self.window, strict=True)):
            raise InputError(
                f"stride {self.stride} must be from 1 to the window {self.window}, or positions "
                "are left out"
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of windows along each axis."""
        axes = zip(self.shape, self.window, self.stride, strict=True)
        return tuple(math.ceil((n - size) / step) + 1 for n, size, step in axes)

    def __len__(self) -> int:
        return math.prod(self.grid)

    def covers(self, index: Int[Array, ""]) -> Array:
        """Whether each position lies in window `index`, bool, `*space`."""
        inside = jnp.ones(self.shape, bool)
        cells = jnp.unravel_index(index, self.grid)
        for axis, (cell, n, size, step) in enumerate(
            zip(cells, self.shape, self.window, self.stride, strict=True)
        ):
            start = jnp.minimum(cell * step, n - size)
            position = jnp.arange(n, dtype=start.dtype)
            along = (position >= start) & (position < start + size)
            inside &= along.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])
        return inside

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*space 1"]:
        """The mask of window `index`, row-major over the grid."""
        return jnp.where(self.covers(index), self.value, 1.0)[..., None]

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        total = values.sum(-1)
        for axis, places in enumerate(self._places()):
            total = jnp.take(total, places, axis=axis).sum(axis + 1)
        return (1 - self.value) * total.reshape(-1)

    def spread(self, scores: Float[Array, "m"]) -> Float[Array, "*space"]:
        """Gives each position the mean score of the windows that cover it."""
        total, count = scores.reshape(self.grid), np.ones(())
        for axis, (places, extent) in enumerate(zip(self._places(), self.shape, strict=True)):
            rows = jnp.moveaxis(total, axis, 0)
            repeated = jnp.broadcast_to(rows[:, None], (*places.shape, *rows.shape[1:]))
            summed = jnp.zeros((extent, *rows.shape[1:]), scores.dtype).at[places].add(repeated)
            total = jnp.moveaxis(summed, 0, axis)
            count = count[..., None] * np.bincount(places.ravel(), minlength=extent)
        return total / jnp.asarray(count, scores.dtype)

    def _places(self) -> list[np.ndarray]:
        """Per axis, the positions of each window along it, `grid window`."""
        return [
            np.minimum(np.arange(g) * step, n - size)[:, None] + np.arange(size)
            for g, n, size, step in zip(
                self.grid, self.shape, self.window, self.stride, strict=True
            )
        ]
