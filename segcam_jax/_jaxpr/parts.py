"""A value and how it changes: not at all, everywhere, or in some parts along one axis."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

Array = Any


@dataclasses.dataclass(frozen=True)
class Parts:
    """What changes lies in some ranges along an axis; the rest of the value does not change."""

    axis: int
    bounds: tuple[tuple[int, int], ...]
    arrays: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """A value, and how it changes.

    Attributes:
        known: on the unchanged input.
        change: what is added to it, of an array at least as wide as float32.
        now: the changed value itself, of any other.
    """

    known: Array
    change: Array | Parts | None = None
    now: Array | Parts | None = None

    @property
    def changed(self) -> bool:
        """Whether it changes at all."""
        return self.change is not None or self.now is not None

    @property
    def parts(self) -> Parts | None:
        """Where it changes, if that is not everywhere."""
        held = self.change if self.now is None else self.now
        return held if isinstance(held, Parts) else None

    def whole_change(self) -> Array | None:
        """The change as one array."""
        if not isinstance(self.change, Parts):
            return self.change
        return _assembled(self.change, lambda low, high: self._zeros(low, high), self.known)

    def after(self) -> Array:
        """The changed value."""
        if isinstance(self.now, Parts):
            return _assembled(self.now, functools.partial(self._slice, self.now.axis), self.known)
        if self.now is not None:
            return self.now
        return self.known if self.change is None else self.known + self.whole_change()

    def part(self, axis: int, low: int, high: int, index: int) -> "Value":
        """The value in one of the ranges that its parts lie in."""
        if not np.ndim(self.known) or np.shape(self.known)[axis] == 1 < high:
            return self
        known = self._slice(axis, low, high)
        held = [None if x is None else x.arrays[index] for x in (self.change, self.now)]
        return Value(known, *held)

    def _slice(self, axis: int, low: int, high: int) -> Array:
        return lax.slice_in_dim(self.known, low, high, axis=axis)

    def _zeros(self, low: int, high: int) -> Array:
        assert isinstance(self.change, Parts)
        shape = list(self.known.shape)
        shape[self.change.axis] = high - low
        return lax.full(shape, 0, self.known.dtype)


def _assembled(parts: Parts, between: Callable[[int, int], Array], whole: Array) -> Array:
    """Parts with what lies between them."""
    pieces, end = [], 0
    for (low, high), array in zip(parts.bounds, parts.arrays, strict=True):
        pieces += [between(end, low)] if low > end else []
        pieces.append(array)
        end = high
    size = np.shape(whole)[parts.axis]
    pieces += [between(end, size)] if size > end else []
    return lax.concatenate(pieces, parts.axis) if len(pieces) > 1 else pieces[0]
