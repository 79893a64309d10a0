"""The values of a traced function, read backwards: each by the equation that makes it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from segcam_jax._jaxpr import constants, graph

CASTS = ("convert_element_type", "reduce_precision", "copy", "copy_p", "name")
REPEATING = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", *CASTS)


_SCALING = ("mul", "div")


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A value, by the equation that makes it.

    Attributes:
        equation: None for an input and a literal.
        place: which result of the equation it is.
        is_fixed: whether it depends on no input.
    """

    shape: tuple[int, ...]
    equation: Any = None
    operands: tuple["Value", ...] = ()
    number: Any = None
    place: int = 0
    is_fixed: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def primitive(self) -> str:
        return "" if self.equation is None else self.equation.primitive.name


def output(traced: graph.Graph) -> Value | None:
    """The function's output; None if it returns more than one array."""
    if len(traced.outvars) != 1:
        return None
    return _read(_values(traced.equations, {}), traced.outvars[0])


def _values(equations: Sequence[graph.Equation], known: dict[Any, Value]) -> dict[Any, Value]:
    """The values of all variables, calls opened, those with a derivative rule of their own too."""
    for equation in equations:
        operands = tuple(_read(known, atom) for atom in equation.invars)
        body = graph.call_body(equation)
        if body is None:
            fixed = all(each.is_fixed for each in operands) and constants.is_small(equation)
            made = [
                Value(getattr(v.aval, "shape", ()), equation, operands, None, place, fixed)
                for place, v in enumerate(equation.outvars)
            ]
        else:
            body = getattr(body, "jaxpr", body)
            inside = _values(body.eqns, dict(zip(body.invars, operands, strict=True)))
            made = [_read(inside, atom) for atom in body.outvars]
        known.update(zip(equation.outvars, made, strict=True))
    return known


def _read(known: dict[Any, Value], atom: Any) -> Value:
    if not graph.is_variable(atom):
        return Value(np.shape(atom.val), number=atom.val, is_fixed=True)
    return known.setdefault(atom, Value(getattr(atom.aval, "shape", ())))


def evaluated(value: Value) -> np.ndarray:
    """What a fixed value is."""
    found: dict[Value, Any] = {}

    def read(each: Value) -> Any:
        if each.equation is None:
            return each.number
        if each not in found:
            found[each] = graph.bind(each.equation, *map(read, each.operands))[each.place]
        return found[each]

    with jax.ensure_compile_time_eval():
        return np.asarray(read(value))


def scaled(value: Value) -> tuple[Value, float] | None:
    """The value that a number multiplies or divides, and the factor; None: there is none."""
    if value.primitive not in _SCALING:
        return None
    first, second = value.operands
    number = number_of(second)
    if number is not None and (number or value.primitive == "mul"):
        return first, number if value.primitive == "mul" else 1 / number
    number = number_of(first)
    return (second, number) if number is not None and value.primitive == "mul" else None


def through(value: Value, primitives: Sequence[str]) -> Value:
    """The value that those primitives were applied to."""
    while value.primitive in primitives:
        value = value.operands[0]
    return value


def is_number(value: Value, number: float) -> bool:
    return number_of(value) == number


def number_of(value: Value) -> float | None:
    """The number that a value holds everywhere, where it was written in the program."""
    value = through(value, REPEATING)
    known = value.number is not None and np.size(value.number) == 1
    return float(cast(Any, np.asarray(value.number).item())) if known else None
