"""Ablation masks: what is multiplied with an activation, 1 to keep and 0 to ablate.

A family of masks is made by index, one at a time inside the engine's loop: m masks of a whole
activation are never in memory together. `value` is what is ablated multiplied by: 0 ablates,
negative and above 1 are counterfactuals; `shape` is that of the activation's positions.
"""

import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable

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
        """For each mask, the sum of (around - mask) values: see `around`."""
        ...


@runtime_checkable
class LocalMasks(Masks, Protocol):
    """Masks that differ from `around` in one window of the activation each."""

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """Axis of the activation -> all starts of windows along it, and their extent.

        Along axes that are missing a window has everything.
        """
        ...

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """For the same axes, which of the starts window `index` has."""
        ...


def around(masks: Masks) -> float:
    """What scores under these masks are compared with: the activation (1), or an empty one (0)."""
    return getattr(masks, "around", 1.0)


def ablate(activation: Float[Array, "*space c"], mask: Float[Array, "..."]) -> Array:
    """The activation times a mask that broadcasts against it, in the activation's dtype.

    Args:
        mask: as many axes, each of the same extent or 1; or `c`; or a scalar.
    """
    mask = jnp.asarray(mask, activation.dtype)
    ndim = activation.ndim
    whole = (1,) * (ndim - mask.ndim) + mask.shape
    if mask.ndim not in (0, 1, ndim) or any(
        have not in (1, want) for have, want in zip(whole, activation.shape, strict=True)
    ):
        raise InputError(
            f"the mask has shape {mask.shape} and the activation {activation.shape}; expected as "
            "many axes, each of the same extent or 1, or the axis of channels alone (for many "
            "masks use `jax.vmap`)"
        )
    return activation * mask.reshape(whole)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["channels"]
)
@dataclasses.dataclass(frozen=True)
class ChannelMasks:
    """Mask k multiplies channel k by `value` and keeps all others."""

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

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """One channel, the last axis."""
        return {ndim - 1: (np.arange(self.channels), 1)}

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """Window k starts at channel k."""
        return {ndim - 1: index}


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

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """Along each axis but the channels."""
        places = zip(self._places(), self.window, strict=True)
        return {axis: (along[:, 0], size) for axis, (along, size) in enumerate(places)}

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """The cell of the grid that window `index` is, row-major."""
        return dict(enumerate(jnp.unravel_index(index, self.grid)))

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


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["indices", "value"], meta_fields=["channels"]
)
@dataclasses.dataclass(frozen=True)
class ChosenChannels:
    """Mask i multiplies channel `indices[i]` by `value` and keeps all others.

    Attributes:
        indices: the chosen channels, data: which ones may depend on the image.
    """

    indices: Int[Array, "m"]
    channels: int
    value: float = 0.0

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "c"]:
        """The mask of the chosen channel `index`."""
        chosen = self.indices[index]
        return jnp.where(jnp.arange(self.channels, dtype=chosen.dtype) == chosen, self.value, 1.0)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        return (1 - self.value) * values.sum(tuple(range(values.ndim - 1)))[self.indices]

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """One channel, the last axis."""
        return {ndim - 1: (np.arange(self.channels), 1)}

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """The window of index i starts at channel `indices[i]`."""
        return {ndim - 1: self.indices[index]}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["groups", "value"], meta_fields=["count"]
)
@dataclasses.dataclass(frozen=True)
class GroupMasks:
    """Mask g multiplies all channels of group g by `value` and keeps all others.

    Attributes:
        groups: the group of each channel, from 0 to `count - 1`.
    """

    groups: Int[Array, "c"]
    count: int
    value: float = 0.0

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "c"]:
        """The mask of group `index`."""
        return jnp.where(self.groups == index.astype(self.groups.dtype), self.value, 1.0)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        return (1 - self.value) * self.sums(values.sum(tuple(range(values.ndim - 1))))

    def sums(self, values: Float[Array, "c"]) -> Float[Array, "m"]:
        """The sum of one value per channel over each group."""
        return jnp.zeros(self.count, values.dtype).at[self.groups].add(values)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["activation"],
    meta_fields=["size", "corners", "resize_first", "epsilon"],
)
@dataclasses.dataclass(frozen=True)
class ActivationMasks:
    """Mask k is channel k of an activation, brought to [0, 1] and to the extents of an input.

        (A_k - min A_k) / (max A_k - min A_k + epsilon),    resized linearly

    Attributes:
        size: extents of the input.
        corners: resize on the grid through the centres of the corners; else half-pixel centres.
        resize_first: take the minimum and the maximum after the resize.
        epsilon: keeps a constant channel's mask finite: it is 0.
    """

    activation: Float[Array, "*space c"]
    size: tuple[int, ...]
    corners: bool = False
    resize_first: bool = False
    epsilon: float = 1e-8

    def __len__(self) -> int:
        return self.activation.shape[-1]

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*size 1"]:
        """The mask of channel `index`."""
        mask = jax.lax.dynamic_index_in_dim(self.activation, index, -1, keepdims=False)
        if self.resize_first:
            mask = self._normalised(self._resized(mask))
        else:
            mask = self._resized(self._normalised(mask))
        return mask[..., None]

    def removed(self, values: Float[Array, "*size c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        return _removed_in_turn(self, values)

    def _normalised(self, mask: Array) -> Array:
        low = mask.min()
        return (mask - low) / (mask.max() - low + self.epsilon)

    def _resized(self, mask: Array) -> Array:
        for axis, (old, new) in enumerate(zip(mask.shape, self.size, strict=True)):
            if self.corners:
                at = np.arange(new) * ((old - 1) / max(new - 1, 1))
            else:
                at = (np.arange(new) + 0.5) * (old / new) - 0.5
            rows = [np.interp(at, np.arange(old), unit) for unit in np.eye(old)]
            along = jnp.tensordot(jnp.asarray(np.stack(rows, 1), mask.dtype), mask, (1, axis))
            mask = jnp.moveaxis(along, 0, axis)
        return mask


@dataclasses.dataclass(frozen=True)
class KeepMasks:
    """Mask n keeps what lies around position n and takes away the rest.

    Attributes:
        soft: keep 1/4, 1/2, 1/4 along each axis, a small Gaussian; else the position alone.
        around: compare with the empty activation.
    """

    shape: tuple[int, ...]
    soft: bool = True
    around: float = 0.0

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*space 1"]:
        """The mask of position `index`, row-major."""
        mask = jnp.ones((1,) * len(self.shape))
        cells = jnp.unravel_index(index, self.shape)
        for axis, (cell, extent) in enumerate(zip(cells, self.shape, strict=True)):
            distance = jnp.abs(jnp.arange(extent, dtype=cell.dtype) - cell)
            kept = jnp.where(distance == 0, 1.0, 0.0)
            if self.soft:
                kept = jnp.where(distance == 0, 0.5, jnp.where(distance == 1, 0.25, 0.0))
            mask = mask * kept.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])
        return mask[..., None]

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of - mask values."""
        return _removed_in_turn(self, values)

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """Along each axis but the channels, inside."""
        reach = 1 if self.soft else 0
        sizes = [min(2 * reach + 1, n) for n in self.shape]
        return {
            axis: (np.clip(np.arange(n) - reach, 0, n - size), size)
            for axis, (n, size) in enumerate(zip(self.shape, sizes, strict=True))
        }

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """The position `index`, row-major."""
        return dict(enumerate(jnp.unravel_index(index, self.shape)))


def _removed_in_turn(masks: Masks, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
    """One mask after the other; the total less what is kept would round small remainders away."""
    total = values.sum(-1, keepdims=True)

    def removed(index):
        return ((around(masks) - masks(index).astype(total.dtype)) * total).sum()

    return jax.lax.map(removed, jnp.arange(len(masks), dtype=jnp.int32))
