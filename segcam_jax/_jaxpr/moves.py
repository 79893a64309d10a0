"""Values that are parts of another one in another order, gathered from it in one step.

Padding that repeats an image (`jnp.pad` in the modes reflect, symmetric, edge and wrap) and rolls
trace to slices, reverses and concatenations. Each says little of what is read; together they are

    y[.., o, ..] = x[.., index[o], ..]        along every axis, the index known

a gather, of which windows and changes know what it reads (`access_table`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import Equation

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class _Moved:
    """Positions of a source.

    Attributes:
        source: an array.
        indices: for every axis of the source, which positions, in order.
        repeats: an axis of one position, and how often the next reshape repeats it.
    """

    source: Array
    indices: tuple[np.ndarray, ...]
    repeats: tuple[int, int] | None = None

    def along(self, axis: int, index: np.ndarray) -> "_Moved":
        """The same with other positions along an axis."""
        indices = (*self.indices[:axis], index, *self.indices[axis + 1 :])
        return _Moved(self.source, indices)

    def taken(self) -> Array:
        """The positions, gathered along one axis after the other."""
        array = self.source
        for axis, index in enumerate(self.indices):
            if not np.array_equal(index, np.arange(array.shape[axis])):
                array = _take(array, index, axis)
        return array


def _take(array: Array, index: np.ndarray, axis: int) -> Array:
    others = tuple(at for at in range(array.ndim) if at != axis)
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=others, collapsed_slice_dims=(axis,), start_index_map=(axis,)
    )
    sizes = tuple(1 if at == axis else n for at, n in enumerate(array.shape))
    places = index.astype(np.int32)[:, None]
    return jax.lax.gather(array, places, numbers, sizes, mode="clip")


class Gathering:
    """A rule of `graph.evaluate` that gathers what is joined of parts of one value."""

    def __init__(self):
        self._found: dict[int, tuple[Array, _Moved]] = {}

    def __call__(self, equation: Equation, operands: Sequence[Array]) -> list[Array] | None:
        """The result of an equation that moves parts of one value, or None."""
        move = _MOVES.get(equation.primitive.name)
        if move is None or len(equation.outvars) != 1:
            return None
        moved = move(equation.params, [self._origin(operand) for operand in operands])
        if moved is None:
            return None
        joined = equation.primitive.name == "concatenate"
        result = moved.taken() if joined else graph.bind(equation, *operands)[0]
        # The result is held, so that no other gets its id.
        self._found[id(result)] = (result, moved)
        return [result]

    def _origin(self, value: Array) -> _Moved:
        if id(value) in self._found:
            return self._found[id(value)][1]
        return _Moved(value, tuple(map(np.arange, np.shape(value))))


def _slice(params: dict, operands: Sequence[_Moved]) -> _Moved | None:
    (moved,), strides = operands, params["strides"] or (1,) * len(params["start_indices"])
    if moved.repeats is not None:
        return None
    for axis, (first, end, step) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        moved = moved.along(axis, moved.indices[axis][first:end:step])
    return moved


def _reverse(params: dict, operands: Sequence[_Moved]) -> _Moved | None:
    (moved,) = operands
    if moved.repeats is not None:
        return None
    for axis in params["dimensions"]:
        moved = moved.along(axis, moved.indices[axis][::-1])
    return moved


def _repeat(params: dict, operands: Sequence[_Moved]) -> _Moved | None:
    """One position, repeated along an axis of its own behind it."""
    moved, shape = operands[0], params["shape"]
    new = [axis for axis in range(len(shape)) if axis not in params["broadcast_dimensions"]]
    if moved.repeats is not None or len(operands) != 1 or len(new) != 1:
        return None
    axis, sizes = new[0] - 1, [*map(len, moved.indices)]
    if axis < 0 or shape[axis] != 1 or [*shape[: axis + 1], *shape[axis + 2 :]] != sizes:
        return None
    return dataclasses.replace(moved, repeats=(axis, shape[axis + 1]))


def _merge(params: dict, operands: Sequence[_Moved]) -> _Moved | None:
    """What was repeated, along the axis that it repeats."""
    moved = operands[0]
    if moved.repeats is None:
        return None
    axis, count = moved.repeats
    found = moved.along(axis, moved.indices[axis].repeat(count))
    fits = [*map(len, found.indices)] == list(params["new_sizes"])
    return found if fits and params.get("dimensions") is None else None


def _join(params: dict, operands: Sequence[_Moved]) -> _Moved | None:
    """Parts of one value side by side."""
    axis, first = params["dimension"], operands[0]
    for moved in operands:
        if moved.source is not first.source or moved.repeats is not None:
            return None
        pairs = enumerate(zip(moved.indices, first.indices, strict=True))
        if any(at != axis and not np.array_equal(*pair) for at, pair in pairs):
            return None
    return first.along(axis, np.concatenate([moved.indices[axis] for moved in operands]))


_MOVES: dict[str, Callable[[dict, Sequence[_Moved]], _Moved | None]] = {
    "slice": _slice,
    "rev": _reverse,
    "broadcast_in_dim": _repeat,
    "reshape": _merge,
    "concatenate": _join,
}
