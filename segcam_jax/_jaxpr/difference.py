"""The difference form: how far a function's outputs move when its first input is changed.

    D f(x, d) = f(x + d) - f(x)        by a rule per primitive, never by subtraction

Every value is known, from one run on the unchanged input, and has a change: None where nothing
changes, an array, or `Parts` where something changes in some places along one axis only. A rule
makes the change of an output from what is known and the changes of the operands, accurate relative
to the change: however large the outputs are, a small change keeps all its digits.

What has no rule is computed on the changed operands and subtracted; `subtracted` names it. So is
everything that a change passes through as a step: integers, booleans, and numbers narrower than
float32, which a model rounds on purpose.

The function of the changes is traced and cut at the change: what is known is computed once, by
`known`, and what is left, `jaxpr`, is flat. Derivatives of the rules are not meant to be taken.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from segcam_jax._jaxpr import (
    difference_linear,
    difference_nonlinear,
    graph,
    kinds,
    slicing,
    windows,
)
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.parts import Parts, Value

Array = Any
# What is 0 where nothing changes bears this name.
MARK = "segcam-change"
# Subtracting their results is exact.
_STEPS = frozenset(("floor", "ceil", "round", "sign", "convert_element_type"))


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """The difference form of a function.

    Attributes:
        known: `(input, *others) -> [*outputs, *prepared]` of the unchanged run.
        count: of the outputs.
        jaxpr: `(change, *prepared) -> [*changes of the outputs]`, flat.
        change: evaluates it.
        subtracted: names of primitives without a rule.
    """

    known: Callable[..., list]
    count: int
    jaxpr: Any
    change: Callable[..., list]
    subtracted: tuple[str, ...]

    def plan(self, extents: tuple[int, ...]) -> windows.WindowPlan:
        """How the change of the one output is computed in a window; cached per extents."""
        if extents not in self._plans:
            self._plans[extents] = windows.plan(self.jaxpr, extents)
        return self._plans[extents]

    @functools.cached_property
    def _plans(self) -> dict[tuple[int, ...], windows.WindowPlan]:
        return {}


def difference(jaxpr: Any) -> Difference:
    """The difference form of the function of a jaxpr, whose first input is what changes."""
    subtracted: dict[str, None] = {}

    def run(change, first, *others):
        moved = _moved(first, change)
        values = interpret(jaxpr, (), [moved, *map(Value, others)], subtracted)
        changes = [difference_linear.filled(v.known, _as_change(v)) for v in values]
        return [*changes, *(value.known for value in values)]

    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    change = jax.ShapeDtypeStruct(structs[0].shape, change_dtype(structs[0].dtype))
    traced, _ = graph.trace(run, "", change, *structs)
    count = len(traced.outvars) // 2
    changes, outputs = traced.outvars[:count], traced.outvars[count:]
    cut = slicing.cut(dataclasses.replace(traced, outvars=changes), traced.invars[0], also=outputs)

    def known(first, *others):
        nothing = jnp.zeros(change.shape, change.dtype)
        found = cut.encode(nothing, first, *others)[1:]
        at = len(found) - count
        return [*found[at:], *found[:at]]

    return Difference(known, count, cut.decode_jaxpr, cut.decode, tuple(subtracted))


def change_of(
    fn: Callable, known: Sequence[Array], changes: Sequence[Array]
) -> tuple[Array, tuple[str, ...]]:
    """The change of a function's one output, and what was subtracted for it.

    Args:
        fn: `(*arrays) -> array`.
        known: its arguments.
        changes: of each.
    """
    subtracted: dict[str, None] = {}
    closed, jaxpr = graph.closed(fn, *known)
    values = [_moved(k, c) for k, c in zip(known, changes, strict=True)]
    (found,) = interpret(jaxpr, graph.constants_of(closed), values, subtracted)
    return difference_linear.filled(found.known, _as_change(found)), tuple(subtracted)


def change_dtype(dtype: Any) -> Any:
    """What the change of a value is kept in."""
    return dtype if is_wide(dtype) else jnp.dtype("float32")


def is_wide(dtype: Any) -> bool:
    """Whether changes of such values are propagated: floating point from float32 on."""
    return jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32


def _moved(known: Array, change: Array) -> Value:
    """A value and its change, as a step where the value is narrow."""
    dtype = jnp.result_type(known)
    if is_wide(dtype):
        return Value(known, change=change)
    return Value(known, now=(known.astype(change.dtype) + change).astype(dtype))


def _as_change(value: Value) -> Array | None:
    if value.now is None:
        return value.whole_change()
    wide = change_dtype(jnp.result_type(value.known))
    return _apart(value.after().astype(wide), value.known.astype(wide))


def _apart(after: Array, before: Array) -> Array:
    """The difference, 0 where they are the same infinity."""
    return checkpoint_name(difference_nonlinear.gap(after, before), MARK)


def interpret(
    jaxpr: Any, consts: Sequence[Array], values: Sequence[Value], subtracted: dict[str, None]
) -> list[Value]:
    """Evaluates a jaxpr on values and their changes.

    Args:
        jaxpr: closed or not.
        consts: what it closes over.
        values: its inputs.
        subtracted: gathers the names of primitives without a rule.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    environment = dict(zip(jaxpr.invars, values, strict=True))
    environment.update(zip(jaxpr.constvars, map(Value, consts), strict=True))

    def read(atom):
        return environment[atom] if graph.is_variable(atom) else Value(atom.val)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        body = graph.call_body(equation)
        if not any(value.changed for value in operands):
            results = [Value(x) for x in graph.bind(equation, *(v.known for v in operands))]
        elif body is not None:
            results = interpret(body, graph.constants_of(body), operands, subtracted)
        else:
            results = _results(equation, operands, subtracted)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(equation: Equation, operands: list[Value], subtracted: dict[str, None]) -> list[Value]:
    known = graph.bind(equation, *(value.known for value in operands))
    if len(known) == 1:
        by_parts = _in_parts(equation, operands, known[0], subtracted)
        if by_parts is not None:
            return [by_parts]
    return _changed(equation, equation.params, operands, known, subtracted)


def _changed(
    equation: Equation,
    params: dict,
    operands: Sequence[Value],
    known: Sequence[Array],
    subtracted: dict[str, None],
) -> list[Value]:
    """By the rule of a primitive; without one, by computing it again."""
    name = equation.primitive.name
    wide = [is_wide(jnp.result_type(value)) for value in known]
    if all(wide):
        changes = _by_rule(equation, params, operands)
        if changes is not None:
            pairs = zip(known, changes, strict=True)
            return [Value(k, change=_like(k, change)) for k, change in pairs]
    if params is equation.params:
        now = graph.bind(equation, *(value.after() for value in operands))
    else:
        now = [equation.primitive.bind(*(value.after() for value in operands), **params)]
    if any(wide) and name not in _STEPS:
        subtracted[name] = None
    return [
        Value(k, change=_apart(n, k)) if is_float else Value(k, now=n)
        for k, n, is_float in zip(known, now, wide, strict=True)
    ]


def _by_rule(equation: Equation, params: dict, operands: Sequence[Value]) -> list[Array] | None:
    name = equation.primitive.name
    apply = functools.partial(equation.primitive.bind, **params)
    known = [value.known for value in operands]
    changes = [value.whole_change() for value in operands]
    if any(value.now is not None for value in operands):
        return _by_choice(operands, known, changes) if name == "select_n" else None
    result = None
    if name in difference_linear.RULES:
        result = difference_linear.RULES[name](apply, params, known, changes)
    elif name in difference_nonlinear.RULES and not _complex(known):
        result = difference_nonlinear.RULES[name](apply, params, known, changes)
        result = None if result is None else checkpoint_name(result, MARK)
    if result is None:
        return None
    return list(result) if equation.primitive.multiple_results else [result]


def _by_choice(operands: Sequence[Value], known: list, changes: list) -> list[Array] | None:
    """Of two values that a changed condition chooses from."""
    if len(operands) != 3 or any(value.now is not None for value in operands[1:]):
        return None
    if known[0].dtype != jnp.bool_ or np.shape(known[0]) != np.shape(known[1]):
        return None
    no, yes = (difference_linear.filled(k, c) for k, c in zip(known[1:], changes[1:], strict=True))
    choice = (known[0], operands[0].after(), (yes, no), (known[2], known[1]))
    return [checkpoint_name(difference_nonlinear.picked(*choice), MARK)]


def _complex(known: Sequence[Array]) -> bool:
    return any(jnp.issubdtype(jnp.result_type(k), jnp.complexfloating) for k in known)


def _like(known: Array, change: Array) -> Array:
    """A change in the shape and dtype of what it changes."""
    if np.shape(change) != np.shape(known):
        change = lax.broadcast_in_dim(change, np.shape(known), ())
    dtype = jnp.result_type(known)
    return change if change.dtype == dtype else change.astype(dtype)


def _in_parts(
    equation: Equation, operands: list[Value], known: Array, subtracted: dict[str, None]
) -> Value | None:
    """What acts on every part by itself, or sums over the parts; None for all else."""
    if equation.primitive.name == "concatenate":
        return _concatenated(equation.params["dimension"], operands, known)
    held = [value.parts for value in operands if value.parts is not None]
    others = [v for v in operands if v.changed and v.parts is None]
    first = held[0] if held else None
    if first is None or others:
        return None
    if any((each.axis, each.bounds) != (first.axis, first.bounds) for each in held):
        return None
    if equation.primitive.name in ("conv_general_dilated", "dot_general"):
        return _contracted(equation, operands, known)
    if kinds.elementwise(equation) is not None:
        axis, params_of = first.axis, lambda size: dict(equation.params)
    elif len(operands) == 1:
        moved = kinds.moved_axis(equation, first.axis, np.shape(operands[0].known))
        if moved is None:
            return None
        axis, params_of = moved
    else:
        return None
    results = []
    for index, (low, high) in enumerate(first.bounds):
        part = [value.part(first.axis, low, high, index) for value in operands]
        there = lax.slice_in_dim(known, low, high, axis=axis)
        results += _changed(equation, params_of(high - low), part, [there], subtracted)
    if results[0].now is not None:
        return Value(known, now=Parts(axis, first.bounds, tuple(r.now for r in results)))
    return Value(known, change=Parts(axis, first.bounds, tuple(r.change for r in results)))


def _concatenated(axis: int, operands: list[Value], known: Array) -> Value | None:
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
        return Value(known, change=found[0][2])
    bounds = tuple((low, high) for low, high, _ in found)
    return Value(known, change=Parts(axis, bounds, tuple(array for *_, array in found)))


def _contracted(equation: Equation, operands: list[Value], known: Array) -> Value | None:
    """A convolution or product that sums over the axis of parts reads their weights only."""
    changed = [at for at, value in enumerate(operands) if value.changed]
    if len(changed) != 1 or not is_wide(jnp.result_type(known)):
        return None
    (at,) = changed
    parts, weight = operands[at].change, operands[1 - at]
    if not isinstance(parts, Parts):
        return None
    along = kinds.summed_with(equation, at, parts.axis)
    if along is None:
        return None
    weights = [lax.slice_in_dim(weight.known, *bound, axis=along) for bound in parts.bounds]
    arrays = list(parts.arrays)
    if len(arrays) > 1:
        arrays = [lax.concatenate(arrays, parts.axis)]
        weights = [lax.concatenate(weights, along)]
    pair = (arrays[0], weights[0]) if at == 0 else (weights[0], arrays[0])
    return Value(known, change=equation.primitive.bind(*pair, **equation.params))
