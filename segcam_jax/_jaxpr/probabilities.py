"""Whether a traced function ends in probabilities: a softmax over its classes, or a sigmoid.

Read backwards from the output. What only moves, cuts, joins, casts or bounds probabilities is
looked through, and so is `1 - p`. The classes are the output's last axis; where that axis was
before is followed, so that a softmax over space, of attention for example, is none over classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np

from segcam_jax._jaxpr import graph, naming

Ending = Literal["softmax", "sigmoid"]

_CASTS = ("convert_element_type", "reduce_precision", "copy", "copy_p", "name")
_STAYING = (*_CASTS, "optimization_barrier", "sharding_constraint", "slice", "dynamic_slice", "rev")
_BOUNDING = ("clamp", "min", "max")
_REPEATING = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", *_CASTS)


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """A value, by the equation that makes it; `number` is that of a literal."""

    shape: tuple[int, ...]
    equation: Any = None
    operands: tuple["_Value", ...] = ()
    number: Any = None

    @property
    def primitive(self) -> str:
        return "" if self.equation is None else self.equation.primitive.name


def ending(traced: graph.Graph) -> Ending | None:
    """What makes probabilities of a function's one output, classes last; None: nothing is seen."""
    if len(traced.outvars) != 1:
        return None
    value = _read(_values(traced.equations, {}), traced.outvars[0])
    return _ending(value, len(value.shape) - 1) if value.shape else None


def ending_of(fn: Callable, *structs: Any) -> Ending | None:
    """As `ending`, of a function of arrays or `ShapeDtypeStruct`s."""
    return ending(graph.trace(fn, naming.PREFIX, *structs)[0])


def _values(equations: Sequence[graph.Equation], known: dict[Any, _Value]) -> dict[Any, _Value]:
    """The values of all variables, calls opened, those with a derivative rule of their own too."""
    for equation in equations:
        operands = tuple(_read(known, atom) for atom in equation.invars)
        body = graph.opened(equation)
        if body is None:
            made = [_Value(v.aval.shape, equation, operands) for v in equation.outvars]
        else:
            inside = _values(body.eqns, dict(zip(body.invars, operands, strict=True)))
            made = [_read(inside, atom) for atom in body.outvars]
        known.update(zip(equation.outvars, made, strict=True))
    return known


def _read(known: dict[Any, _Value], atom: Any) -> _Value:
    if not graph.is_variable(atom):
        return _Value(np.shape(atom.val), number=atom.val)
    return known.setdefault(atom, _Value(getattr(atom.aval, "shape", ())))


def _ending(value: _Value, axis: int | None) -> Ending | None:
    """What makes probabilities of a value, whose classes lie along `axis`; None: it has no such."""
    if value.primitive == "logistic" or _is_written_sigmoid(value):
        return "sigmoid"
    if _is_softmax(value, axis) or _is_exp_of_log_softmax(value, axis):
        return "softmax"
    if value.primitive == "concatenate":
        if _is_both_sides(value):
            return "softmax"
        found: list[Ending | None] = [_ending(part, axis) for part in value.operands]
        return found[0] if len(set(found)) == 1 else None
    if value.primitive == "sub" and _is_number(value.operands[0], 1):
        return _ending(value.operands[1], axis)
    if value.primitive in _BOUNDING:  # As `clip(p, 1e-7, 1 - 1e-7)`.
        inside = [each for each in value.operands if _number(each) is None]
        return _ending(inside[0], axis) if len(inside) == 1 else None
    before = _before(value, axis)
    return None if before is None else _ending(value.operands[0], before[0])


def _is_both_sides(value: _Value) -> bool:
    """1 - p beside p: what a sigmoid says of two classes, as their softmax would."""
    if len(value.operands) != 2:
        return False
    for first, second in (value.operands, value.operands[::-1]):
        less = first.primitive == "sub" and _is_number(first.operands[0], 1)
        if less and first.operands[1] is second:
            return _ending(second, None) is not None
    return False


def _before(value: _Value, axis: int | None) -> tuple[int | None] | None:
    """The classes' axis in the first operand of what only moves values; None: it does more."""
    name, parameters = value.primitive, value.equation.params if value.equation else {}
    if name in _STAYING:
        return (axis,)
    if name == "transpose":
        return (None if axis is None else int(parameters["permutation"][axis]),)
    if name == "squeeze":
        gone = sorted(int(each) % len(value.operands[0].shape) for each in parameters["dimensions"])
        if axis is None:
            return (gone[0] if len(gone) == 1 else None,)
        left = [each for each in range(len(value.operands[0].shape)) if each not in gone]
        return (left[axis],)
    if name == "broadcast_in_dim":
        if math.prod(value.operands[0].shape) != math.prod(value.shape):
            return None
        places = list(parameters["broadcast_dimensions"])
        return (places.index(axis) if axis in places else None,)
    if name == "reshape":
        return (_before_reshape(value.operands[0].shape, value.shape, axis),)
    return None


def _before_reshape(old: tuple[int, ...], new: tuple[int, ...], axis: int | None) -> int | None:
    """The axis of the same size with as many positions before it."""
    if axis is None:
        return None
    before = math.prod(new[:axis])
    same = [
        at for at, size in enumerate(old) if size == new[axis] and math.prod(old[:at]) == before
    ]
    return same[-1] if same else None


def _is_softmax(value: _Value, axis: int | None) -> bool:
    """exp(x) / sum(exp(x)), summed over the classes."""
    if value.primitive != "div":
        return False
    power = _through(value.operands[0], _CASTS)
    return power.primitive == "exp" and _is_sum_of(value.operands[1], power, axis)


def _is_exp_of_log_softmax(value: _Value, axis: int | None) -> bool:
    """exp(x - log(sum(exp(x))))."""
    if value.primitive != "exp":
        return False
    less = _through(value.operands[0], _CASTS)
    if less.primitive != "sub":
        return False
    logarithm = _through(less.operands[1], _REPEATING)
    if logarithm.primitive != "log":
        return False
    total = _through(logarithm.operands[0], _REPEATING)
    if total.primitive != "reduce_sum":
        return False
    power = _through(total.operands[0], _CASTS)
    of_same = power.primitive == "exp" and _through(power.operands[0], _CASTS) is _through(
        less.operands[0], _CASTS
    )
    return of_same and _is_sum_of(total, power, axis)


def _is_sum_of(value: _Value, power: _Value, axis: int | None) -> bool:
    total = _through(value, _REPEATING)
    if total.primitive != "reduce_sum" or tuple(total.equation.params["axes"]) != (axis,):
        return False
    summed = _through(total.operands[0], _CASTS)
    return summed is power or (
        summed.primitive == "exp" and summed.operands[0] is power.operands[0]
    )


def _is_written_sigmoid(value: _Value) -> bool:
    """1 / (1 + exp(-x))."""
    if value.primitive != "div" or not _is_number(value.operands[0], 1):
        return False
    below = _through(value.operands[1], _CASTS)
    if below.primitive != "add":
        return False
    one, power = below.operands if _is_number(below.operands[0], 1) else below.operands[::-1]
    return _is_number(one, 1) and _through(power, _CASTS).primitive == "exp"


def _through(value: _Value, primitives: Sequence[str]) -> _Value:
    """The value that those primitives were applied to."""
    while value.primitive in primitives:
        value = value.operands[0]
    return value


def _is_number(value: _Value, number: float) -> bool:
    return _number(value) == number


def _number(value: _Value) -> float | None:
    """The number that a value holds everywhere, where it was written in the program."""
    value = _through(value, _REPEATING)
    known = value.number is not None and np.size(value.number) == 1
    return float(cast(Any, np.asarray(value.number).item())) if known else None
