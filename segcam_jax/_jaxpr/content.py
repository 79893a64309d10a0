"""What a traced function computes, as a key: functions that compute the same have equal keys."""

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from segcam_jax._jaxpr import graph


def key(jaxpr: Any) -> Hashable:
    """A key of a jaxpr; that of another trace is equal where all equations are.

    Its own constants are inputs; those of jaxprs inside of it count by value. A derivative rule of
    a user's own is a function, new in each trace: it counts by what it computes.
    """
    return _jaxpr(jaxpr, (), derivatives=True)


def holds_tracers(key: Hashable) -> bool:
    """Whether a key is of one trace alone: a derivative rule closes over values of it."""
    if isinstance(key, tuple):
        return any(map(holds_tracers, key))
    return isinstance(key, _Itself) and key.is_tracer


def _jaxpr(jaxpr: Any, constants: Sequence[Any], *, derivatives: bool) -> Hashable:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    numbers: dict[Any, int] = {}
    for variable in (*jaxpr.constvars, *jaxpr.invars):
        numbers[variable] = len(numbers)

    def atom(value: Any) -> Hashable:
        if graph.is_variable(value):
            return numbers.setdefault(value, len(numbers))
        return _value(value.val, derivatives), str(value.aval)

    return (
        tuple(_value(const, derivatives) for const in constants),
        tuple(str(variable.aval) for variable in (*jaxpr.constvars, *jaxpr.invars)),
        tuple(
            (
                equation.primitive,
                tuple(map(atom, equation.invars)),
                tuple((atom(variable), str(variable.aval)) for variable in equation.outvars),
                _parameters(equation, derivatives),
            )
            for equation in jaxpr.eqns
        ),
        tuple(map(atom, jaxpr.outvars)),
    )


def _parameters(equation: Any, derivatives: bool) -> Hashable:
    if "custom" not in equation.primitive.name:
        return _value(equation.params, derivatives)
    bodies = tuple(_value(body, False) for body in graph.bodies(equation))
    return (bodies, _value(_derivative(equation), False)) if derivatives else bodies


def _derivative(equation: Any) -> Any:
    """The jaxpr of an equation's derivative, by the rule that its author gave."""

    # A rule is of what the function is given, not of what it closes over.
    held = equation.params.get("num_consts", 0)

    def forwards(consts, operands, tangents):
        run = functools.partial(graph.bind, equation, *consts)
        return jax.jvp(run, operands, tangents)

    def backwards(consts, operands, cotangents):
        results, pull = jax.vjp(functools.partial(graph.bind, equation, *consts), *operands)
        return results, pull(cotangents)

    structs = tuple(graph.struct(atom.aval) for atom in equation.invars)
    consts, operands = structs[:held], structs[held:]
    if "jvp" in equation.primitive.name:
        return jax.make_jaxpr(forwards)(consts, operands, tuple(map(_tangent, operands)))
    results = [_tangent(graph.struct(variable.aval)) for variable in equation.outvars]
    return jax.make_jaxpr(backwards)(consts, operands, results)


def _tangent(struct: jax.ShapeDtypeStruct) -> Any:
    if jax.numpy.issubdtype(struct.dtype, jax.numpy.inexact):
        return struct
    return np.zeros(struct.shape, jax.dtypes.float0)


def _value(value: Any, derivatives: bool) -> Hashable:
    """A parameter, literal or constant by value; what has none by identity."""
    if hasattr(getattr(value, "jaxpr", value), "eqns"):
        return _jaxpr(value, graph.constants_of(value), derivatives=derivatives)
    if isinstance(value, Mapping):
        return tuple((name, _value(each, derivatives)) for name, each in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_value(each, derivatives) for each in value)
    if isinstance(value, Tracer):
        return _Itself(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        known = np.asarray(value)
        return known.dtype, known.shape, known.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return type(value), repr(value) if isinstance(value, float) else value


class _Itself:
    """Equal to nothing but a wrapper of the same object, which it keeps alive."""

    def __init__(self, value: Any):
        self._value = value

    @property
    def is_tracer(self) -> bool:
        return isinstance(self._value, Tracer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
