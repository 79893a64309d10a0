"""What is removed of an image or of an activation, in which order, and what takes its place.

A_i = empty + mask_i (A - empty)
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.heatmap import smooth
from segcam_jax.taps import Carry, Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError, TargetError, wide

At = Literal["input", "tap"]
Where = Literal["all", "inside", "outside"]
Order = Literal["signed", "positive", "absolute"]
By = Literal["positions", "channels"]
_BASELINES = ("zeros", "mean", "blur")
# Petsiuk et al.: a kernel of 11 pixels.
_BLUR, _BLUR_REACH = 5.0, 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where a metric removes something: a model cut there, what is there, and the map of it.

    Attributes:
        split: the model, cut at the input or at the tap.
        map: `*space` at the positions there, `1 c` (`1 1 c`, ...) of the channels, or `*space c`.
    """

    split: Split
    activation: Float[Array, "*space c"]
    carry: Carry
    map: Float[Array, "..."]

    @property
    def positions(self) -> tuple[int, ...]:
        """Extents."""
        return self.activation.shape[:-1]

    @property
    def of_channels(self) -> bool:
        """Whether the map has one value for each channel."""
        return self.map.shape not in (self.positions, self.activation.shape)

    def empty(self, baseline: Any) -> Float[Array, "*space c"] | None:
        """What takes the place of what is removed; None: 0.

        Args:
            baseline: `"zeros"`, `"mean"` of each channel, `"blur"` (a Gaussian of 5 positions, cut
                off at 5), a number, or an array that broadcasts against the activation.
        """
        values, space = self.activation, tuple(range(self.activation.ndim - 1))
        if isinstance(baseline, str):
            check_baseline(baseline)
            if baseline == "zeros":
                return None
            if baseline == "mean":
                mean = values.mean(space, keepdims=True)
                return jnp.broadcast_to(mean, values.shape)
            blurred = functools.partial(smooth, sigma=_BLUR, truncate=_BLUR_REACH)
            return jax.vmap(blurred, -1, -1)(values)
        return jnp.broadcast_to(jnp.asarray(baseline, values.dtype), values.shape)

    def base(self, baseline: Any) -> Float[Array, "*space c"]:
        """What everything removed leaves: `empty`, zeros too."""
        empty = self.empty(baseline)
        return jnp.zeros_like(self.activation) if empty is None else empty

    def region(self, target: Any, where: Where) -> Bool[Array, "*space"]:
        """Which positions may be removed.

        Args:
            target: whose region is meant.
            where: all positions, those that the region touches, or the others.
        """
        if where == "all":
            return jnp.ones(self.positions, bool)
        if where not in ("inside", "outside"):
            raise InputError(f"where={where!r}; choose all, inside or outside")
        inside = region_of(target, self.positions)
        return inside if where == "inside" else ~inside


def scene(
    split: Split,
    params: Any,
    x: Any,
    map: Any,
    at: At,
    execution: Execution,
    by: By | None = "positions",
) -> Scene:
    """Runs the network up to where something is removed, and brings the map there."""
    if at not in ("input", "tap"):
        raise InputError(f"at={at!r}; choose input or tap")
    there = split.at_input if at == "input" else split
    activation, carry = engine.encode(there, params, x, execution)
    if activation.ndim < 2:
        raise InputError(f"tap {there.tap!r} has no positions to remove; remove at the input")
    return Scene(there, activation, carry, brought(map, activation.shape, by))


def brought(
    map: Float[ArrayLike, "..."], shape: tuple[int, ...], by: By | None = None
) -> Float[Array, "..."]:
    """A map `*space`, `*space c` or `c`, its positions resized linearly to an activation's.

    Args:
        shape: of the activation, `*space c`.
        by: what the values are of. None: as the shape says; in 1D as many as channels are of those.

    Returns:
        `*space`, `*space c`, or of channels `c` with an axis of 1 for each axis of positions.

    Raises:
        InputError: if it is of another number of dimensions or of other channels, or if there are
            as many positions as channels and nothing says which the map is of.
    """
    if by not in (None, "positions", "channels"):
        raise InputError(f"by={by!r}; choose positions or channels")
    values, positions = jnp.asarray(map), shape[:-1]
    values = wide(values) if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)
    of_channels = values.shape == shape[-1:] and by != "positions"
    if of_channels and values.shape == positions and by is None:
        raise InputError(
            f"the map has shape {values.shape}, and there are {shape[-1]} positions and as many "
            "channels; give by='positions' or by='channels'"
        )
    if of_channels:
        return values.reshape((1,) * len(positions) + shape[-1:])
    if values.ndim == len(positions) and by != "channels":
        return _resized(values, positions)
    if values.ndim == len(shape) and values.shape[-1] == shape[-1] and by != "channels":
        return _resized(values, shape)
    choices = {
        "positions": f"{len(positions)} axes of positions, as {positions}",
        "channels": f"a weight for each of {shape[-1]} channels",
    }
    wanted = choices.get(str(by)) or (
        f"{choices['positions']}, alone or with {shape[-1]} channels, or {choices['channels']}"
    )
    raise InputError(f"the map has shape {values.shape}; expected {wanted}")


def _resized(values: Array, shape: tuple[int, ...]) -> Array:
    return values if values.shape == shape else jax.image.resize(values, shape, "linear")


def region_of(target: Any, positions: tuple[int, ...]) -> Bool[Array, "*space"]:
    """The positions that a target's region touches: those with a pixel of it."""
    if not isinstance(target, Target) or target.mask is None:
        raise TargetError(
            "the target has no region; give a target of a segmentation network, such as "
            "segcam.targets.predicted makes"
        )
    return touched(jnp.asarray(target.mask).astype(bool), positions)


def touched(region: Bool[Array, "*region"], positions: tuple[int, ...]) -> Bool[Array, "*space"]:
    """A region on another grid: a larger cell has any of its pixels, a smaller one the nearest.

    >>> touched(jnp.array([False, False, True, False]), (2,)).tolist()
    [False, True]
    """
    if region.ndim != len(positions):
        raise TargetError(
            f"the target's region has shape {region.shape}, and the positions to remove are "
            f"{positions}; give where='all'"
        )
    for axis, (many, few) in enumerate(zip(region.shape, positions, strict=True)):
        cell = np.arange(few)
        if few >= many:
            pixels = ((2 * cell + 1) * many // (2 * few))[:, None]
        else:
            first, last = cell * many // few, -(-(cell + 1) * many // few) - 1
            reach = np.arange((last - first).max() + 1)
            pixels = np.minimum(first[:, None] + reach, last[:, None])
        region = jnp.take(region, pixels, axis=axis).any(axis + 1)
    return region


def importance(map: Float[Array, "..."], order: Order) -> Float[Array, "..."]:
    """What positions are ordered by: the map, its positive part, or its magnitude."""
    if order == "signed":
        return map
    if order == "positive":
        return jnp.maximum(map, 0)
    if order == "absolute":
        return jnp.abs(map)
    raise InputError(f"order={order!r}; choose signed, positive or absolute")


def ranks(
    values: Float[Array, "..."], allowed: Bool[Array, "..."] | None = None
) -> Int[Array, "..."]:
    """The place of each value, the largest first; equal ones as they lie; those not allowed last.

    >>> ranks(jnp.array([0.5, 2.0, 0.5])).tolist()
    [1, 0, 2]
    """
    flat = -values.ravel()
    if allowed is not None:
        flat = jnp.where(allowed.ravel(), flat, jnp.inf)
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    places = jnp.arange(flat.size, dtype=jnp.int32)
    return jnp.zeros_like(places).at[order].set(places).reshape(values.shape)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["ranks", "ends"],
    meta_fields=["around", "cumulative"],
)
@dataclasses.dataclass(frozen=True)
class RankMasks:
    """Mask i removes (or keeps, around 0) what has a rank below `ends[i]`.

    Attributes:
        ranks: from 0, of positions `*space 1`, channels, or both; it broadcasts against an
            activation. Several may share a rank.
        ends: ascending.
        around: 1 for masks that remove, 0 for masks that keep.
        cumulative: remove all ranks below; False: those from `ends[i - 1]` alone.
    """

    ranks: Int[Array, "..."]
    ends: Int[Array, "m"]
    around: float = 1.0
    cumulative: bool = True

    def __len__(self) -> int:
        return self.ends.shape[0]

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "..."]:
        """The mask of an index."""
        inside = self.ranks < self.ends[index]
        if not self.cumulative:
            inside &= self.ranks >= jnp.where(index > 0, self.ends[index - 1], 0)
        return jnp.where(inside, 1 - self.around, self.around)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (around - mask) values."""
        group = jnp.searchsorted(self.ends, self.ranks.ravel(), side="right")
        groups = jnp.zeros(len(self) + 1, values.dtype).at[group].add(self.sums(values))[:-1]
        return (2 * self.around - 1) * (jnp.cumsum(groups) if self.cumulative else groups)

    def sums(self, values: Float[Array, "*space c"]) -> Float[Array, "r"]:
        """Values summed to one for each rank that is given."""
        shape = (1,) * (values.ndim - self.ranks.ndim) + self.ranks.shape
        axes = tuple(axis for axis, n in enumerate(shape) if n == 1)
        return values.sum(axes).ravel()


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["key", "sizes"],
    meta_fields=["shape", "grid", "rate"],
)
@dataclasses.dataclass(frozen=True)
class RandomMasks:
    """Mask i removes a random subset of cells, the same for the same key.

    Attributes:
        sizes: cells that each mask removes, exactly.
        grid: cells along each axis, spread over the positions by the nearest.
        rate: remove each cell with this probability, in place of so many.
    """

    key: Array
    sizes: Int[Array, "m"]
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    rate: float | None = None

    def __len__(self) -> int:
        return self.sizes.shape[0]

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*space 1"]:
        """The mask of an index."""
        drawn = jax.random.uniform(jax.random.fold_in(self.key, index), (math.prod(self.grid),))
        kept = ranks(drawn) >= self.sizes[index] if self.rate is None else drawn >= self.rate
        cells = kept.astype(jnp.float32).reshape(self.grid)
        for axis, (few, many) in enumerate(zip(self.grid, self.shape, strict=True)):
            if few != many:
                cells = jnp.take(cells, np.arange(many) * few // many, axis=axis)
        return cells[..., None]

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        total = values.sum(-1, keepdims=True)
        indices = jnp.arange(len(self), dtype=jnp.int32)
        return jax.lax.map(lambda index: ((1 - self(index)) * total).sum(), indices)


def counts(steps: int, count: Int[Array, ""] | int) -> Int[Array, "s"]:
    """How many are removed in each step: 0, equal steps, and all, the last step the shortest."""
    if steps < 1:
        raise InputError(f"steps={steps}; give at least 1")
    each = -(-jnp.asarray(count, jnp.int32) // steps)
    return jnp.minimum(jnp.arange(steps + 1, dtype=jnp.int32) * each, count)


def check_baseline(baseline: Any) -> None:
    """Raises `InputError` for a word that is not a baseline of `Scene.empty`."""
    if isinstance(baseline, str) and baseline not in _BASELINES:
        choices = ", ".join(_BASELINES)
        raise InputError(f"baseline={baseline!r}; choose {choices}, or give a number")


def check_steps(steps: int, count: int, what: str) -> None:
    """Raises `InputError` for more steps than there is to remove."""
    if steps > count:
        raise InputError(
            f"steps={steps}, but there are only {count} {what} to remove; give fewer steps"
        )
