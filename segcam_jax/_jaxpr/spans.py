"""Windows of values: for each axis, which part is needed for each place of the output window.

The output window of a target starts anywhere; its start along each axis is a dynamic index t. What
a value needs along an axis is a `Span`: a start for every t, worked out ahead in numpy, and one
size for all t. So sizes are static, starts are a table look-up, and one program serves every place.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """A window along one axis of a value.

    Attributes:
        axis: the axis of the output whose start t it follows.
        starts: the start for every t, within the value.
        size: its extent, the same for every t.
    """

    axis: int
    starts: np.ndarray
    size: int

    @property
    def ends(self) -> np.ndarray:
        """One past the last position, for every t."""
        return self.starts + self.size

    def same(self, other: "Span | None") -> bool:
        """Whether two windows are one."""
        return (
            other is not None
            and self.axis == other.axis
            and self.size == other.size
            and np.array_equal(self.starts, other.starts)
        )


# One entry an axis; None is the whole axis.
Window = tuple[Span | None, ...]


def span(axis: int, low: np.ndarray, high: np.ndarray, extent: int) -> Span | None:
    """The window of one size that covers [low, high) inside [0, extent), or None for the whole."""
    low, high = np.maximum(low, 0), np.minimum(high, extent)
    size = max(1, int((high - low).max()))
    if size >= extent:
        return None
    return Span(axis, np.clip(low, 0, extent - size), size)


def union(one: Window, other: Window, shape: Sequence[int]) -> Window:
    """The smallest window that covers two."""
    joined = []
    for a, b, extent in zip(one, other, shape, strict=True):
        if a is None or b is None or a.axis != b.axis:
            joined.append(None)
        else:
            low, high = np.minimum(a.starts, b.starts), np.maximum(a.ends, b.ends)
            joined.append(span(a.axis, low, high, extent))
    return tuple(joined)


def joined(windows: Sequence[Window], shape: Sequence[int]) -> Window:
    """The smallest window that covers all."""
    return functools.reduce(lambda one, other: union(one, other, shape), windows)


def same(one: Window, other: Window) -> bool:
    """Whether two windows of a value are one."""
    pairs = zip(one, other, strict=True)
    return all(b is None if a is None else a.same(b) for a, b in pairs)


def whole(shape: Sequence[Any]) -> Window:
    """The window of everything."""
    return (None,) * len(shape)


def sizes(window: Window, shape: Sequence[int]) -> tuple[int, ...]:
    """Extents of a window of a value of this shape."""
    return tuple(n if s is None else s.size for s, n in zip(window, shape, strict=True))


@dataclasses.dataclass(frozen=True)
class Windowed:
    """An array that holds one window of a value.

    Attributes:
        around: all of the value as it is outside of the window; None where that is 0.
    """

    array: Array
    window: Window
    shape: tuple[int, ...]
    around: Array | None = None


def all_of(array: Array) -> Windowed:
    """A whole value."""
    return Windowed(array, whole(np.shape(array)), np.shape(array))


Places = Mapping[int, Array]


def start(of: Span, places: Places) -> Array:
    """The dynamic start of a window."""
    return jnp.asarray(of.starts, jnp.int32)[places[of.axis]]


def narrow(value: Windowed, window: Window, places: Places) -> Array:
    """The part of a windowed value that a smaller window wants."""
    starts, extents, changed = [], [], False
    for want, have, extent, size in zip(
        window, value.window, value.shape, np.shape(value.array), strict=True
    ):
        if want is None or want.same(have):
            assert want is not None or have is None or size == extent
            starts.append(jnp.zeros((), jnp.int32))
            extents.append(size)
            continue
        changed = True
        origin = 0 if have is None else start(have, places)
        starts.append(start(want, places) - origin)
        extents.append(want.size)
    return jax.lax.dynamic_slice(value.array, starts, extents) if changed else value.array


def widened(value: Windowed, window: Window, places: Places) -> Windowed:
    """A windowed value with what lies around it, as far as a window wants."""
    outer = union(value.window, window, value.shape)
    if same(outer, value.window):
        return value
    if value.around is None:
        around = jnp.zeros(sizes(outer, value.shape), value.array.dtype)
    else:
        around = narrow(all_of(value.around), outer, places)
    starts = []
    for inner, wide in zip(value.window, outer, strict=True):
        origin = 0 if wide is None else start(wide, places)
        starts.append(jnp.zeros((), jnp.int32) if inner is None else start(inner, places) - origin)
    array = jax.lax.dynamic_update_slice(around, value.array, starts)
    return Windowed(array, outer, value.shape, value.around)


def take(
    value: Windowed,
    axis: int,
    follows: int,
    low: np.ndarray,
    size: int,
    fill: Array,
    places: Places,
) -> Array:
    """Positions [low, low + size) of one axis, `fill` outside of the value.

    Args:
        value: its window holds all of these positions that lie inside the value.
        follows: the axis of the output whose start `low` follows.
        low: for every t; may lie outside of the value.
        fill: what lies outside: 0 for a convolution, the initial value for a pooling.
    """
    have = value.window[axis]
    origin = np.zeros_like(low) if have is None else have.starts
    extent = value.shape[axis] if have is None else have.size
    before = max(0, int((origin - low).max()))
    after = max(0, int((low + size - origin - extent).max()))
    array = value.array
    if before or after:
        config = [(before, after, 0) if a == axis else (0, 0, 0) for a in range(array.ndim)]
        array = jax.lax.pad(array, jnp.asarray(fill, array.dtype), config)
    offset = jnp.asarray(low - origin + before, jnp.int32)[places[follows]]
    return jax.lax.dynamic_slice_in_dim(array, offset, size, axis)


def taken(value: Windowed, axis: int, array: Array) -> Windowed:
    """A value of which one axis has been taken, and is not sliced again."""
    window = tuple(None if a == axis else s for a, s in enumerate(value.window))
    shape = tuple(array.shape[axis] if a == axis else n for a, n in enumerate(value.shape))
    return Windowed(array, window, shape)
