"""Values and how they change: not at all, everywhere, or in some parts along one axis.

What is joined of a changed value and one that does not change keeps its parts apart, until a
convolution or product sums over them: that reads the weights of the changed parts only. A `Form`
says what a change is: finite (`difference.py`), or infinitesimal (`slopes.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jax import lax

from segcam_jax._jaxpr import access_table, graph, kinds
from segcam_jax._jaxpr.graph import Equation

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
        fresh: the changed value, where it is computed of changed values alone: `known + change` has
            no digits of what is much smaller than both.
    """

    known: Array
    change: Array | Parts | None = None
    now: Array | Parts | None = None
    fresh: Array | None = None

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
        if self.now is not None or self.fresh is not None:
            return self.fresh if self.now is None else self.now
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


def is_fresh(values: Sequence[Value]) -> bool:
    """Whether all that changes is known afresh."""
    return all(value.fresh is not None for value in values if value.changed)


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


class Form(Protocol):
    """What a change is, and how a primitive hands it on."""

    def body(self, equation: Equation) -> Any | None:
        """The jaxpr of a call that is opened for changes, or None."""
        ...

    def holds(self, dtype: Any) -> bool:
        """Whether values of a dtype have changes, rather than being computed again."""
        ...

    def changed(
        self,
        equation: Equation,
        params: dict,
        operands: Sequence[Value],
        known: Sequence[Array] | None = None,
    ) -> list[Value]:
        """The results of an equation of which some operands change.

        Args:
            equation: not a call that is opened.
            params: its own, or others for operands of other extents.
            operands: whole values.
            known: its results on the unchanged input, where they are at hand.
        """
        ...


def interpret(
    jaxpr: Any, consts: Sequence[Array], values: Sequence[Value], form: Form
) -> list[Value]:
    """Evaluates a jaxpr on values and their changes."""

    def step(equation, operands):
        if not any(value.changed for value in operands):
            return [Value(x) for x in graph.bind(equation, *(v.known for v in operands))]
        if (body := form.body(equation)) is not None:
            return interpret(body, graph.constants_of(body), operands, form)
        results = _in_parts(equation, operands, form)
        return form.changed(equation, equation.params, operands) if results is None else results

    return graph.interpret(jaxpr, consts, values, step, Value)


def _in_parts(equation: Equation, operands: list[Value], form: Form) -> list[Value] | None:
    """What acts on every part by itself, or sums over the parts; None for all else."""
    name = equation.primitive.name
    if name == "concatenate":
        change = _concatenated(equation.params["dimension"], operands)
    elif name in ("conv_general_dilated", "dot_general"):
        change = _contracted(equation, operands, form)
    else:
        return _each_part(equation, operands, form)
    if change is None:
        return None
    (known,) = graph.bind(equation, *(value.known for value in operands))
    fresh = None
    if name == "concatenate" and is_fresh(operands):
        (fresh,) = graph.bind(equation, *(value.after() for value in operands))
    return [Value(known, change=change, fresh=fresh)]


def _each_part(equation: Equation, operands: list[Value], form: Form) -> list[Value] | None:
    """What acts on every element, or on every place along the axis of the parts, by itself."""
    held = [value.parts for value in operands if value.parts is not None]
    changed = [value for value in operands if value.changed]
    first = held[0] if held else None
    if first is None or len(held) != len(changed):
        return None
    if any((each.axis, each.bounds) != (first.axis, first.bounds) for each in held):
        return None
    axis: int | None = first.axis
    if kinds.elementwise(equation) is None:
        axis = _kept_axis(equation, first.axis) if len(held) == 1 and operands[0].changed else None
    if axis is None:
        return None
    (known,) = graph.bind(equation, *(value.known for value in operands))
    results = []
    for index, (low, high) in enumerate(first.bounds):
        part = [value.part(first.axis, low, high, index) for value in operands]
        there = [lax.slice_in_dim(known, low, high, axis=axis)]
        params = _resized(equation, first.axis, axis, high - low)
        results += form.changed(equation, params, part, there)
    if not results[0].changed:
        return [Value(known)]
    if results[0].now is not None:
        return [Value(known, now=Parts(axis, first.bounds, tuple(r.now for r in results)))]
    return [Value(known, change=Parts(axis, first.bounds, tuple(r.change for r in results)))]


def _summed_with(equation: Equation, operand: int, axis: int) -> int | None:
    """The axis of the other operand that an axis of this one is summed with, or None."""
    found = access_table.find(equation, {})
    for pair in () if found is None else found.summed:
        if (operand, axis) in pair:
            return next(place for other, place in pair if other != operand)
    return None


def _kept_axis(equation: Equation, axis: int) -> int | None:
    """The axis of the output that an axis of the first operand becomes, whole and in order."""
    found = access_table.find(equation, {}) if len(equation.outvars) == 1 else None
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    for read in () if found is None else found.reads[0]:
        if read.axis == axis and read.is_plain and before[axis] == after[read.out]:
            return read.out
    return None


# Parameters that are extents: of the operand, or of the output.
_EXTENTS = {"limit_indices": 0, "slice_sizes": 0, "shape": 1, "new_sizes": 1}


def _resized(equation: Equation, axis: int, out: int, size: int) -> dict:
    """The parameters for another extent of an axis of the first operand, and of the output."""
    params = dict(equation.params)
    for name in _EXTENTS.keys() & params.keys():
        at = (axis, out)[_EXTENTS[name]]
        params[name] = (*params[name][:at], size, *params[name][at + 1 :])
    return params


def _concatenated(axis: int, operands: list[Value]) -> Array | Parts | None:
    """Changes side by side, neighbours joined; parts where something between does not change."""
    if any(value.now is not None for value in operands):
        return None
    found: list[tuple[int, int, Array]] = []
    offset = 0
    for value in operands:
        size = np.shape(value.known)[axis]
        parts = value.change
        if not isinstance(parts, Parts) or parts.axis != axis:
            change = value.whole_change()
            parts = Parts(axis, ((0, size),), (change,)) if change is not None else None
        pairs = () if parts is None else zip(parts.bounds, parts.arrays, strict=True)
        for (low, high), array in pairs:
            if found and found[-1][1] == offset + low:
                start, _, before = found.pop()
                array = lax.concatenate([before, array], axis)
                found.append((start, offset + high, array))
            else:
                found.append((offset + low, offset + high, array))
        offset += size
    if len(found) == 1 and found[0][:2] == (0, offset):
        return found[0][2]
    bounds = tuple((low, high) for low, high, _ in found)
    return Parts(axis, bounds, tuple(array for *_, array in found))


def _contracted(equation: Equation, operands: list[Value], form: Form) -> Array | None:
    """A convolution or product that sums over the axis of parts reads their weights only."""
    changed = [at for at, value in enumerate(operands) if value.changed]
    if len(changed) != 1 or not form.holds(equation.outvars[0].aval.dtype):
        return None
    (at,) = changed
    parts, weight = operands[at].change, operands[1 - at]
    if not isinstance(parts, Parts):
        return None
    along = _summed_with(equation, at, parts.axis)
    if along is None:
        return None
    weights = [lax.slice_in_dim(weight.known, *bound, axis=along) for bound in parts.bounds]
    arrays = list(parts.arrays)
    if len(arrays) > 1:
        arrays = [lax.concatenate(arrays, parts.axis)]
        weights = [lax.concatenate(weights, along)]
    pair = (arrays[0], weights[0]) if at == 0 else (weights[0], arrays[0])
    return equation.primitive.bind(*pair, **equation.params)
