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

from segcam_jax._jaxpr import difference_rules, graph, kinds, slicing, windows
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.parts import Value, interpret, is_fresh

Array = Any
# What is 0 where nothing changes bears this name.
MARK = "segcam-change"
# What is as cheap to compute again of changed values as its change is, elements and sums of them.
_CHEAP = frozenset("concatenate dynamic_slice gather pad reduce_max reduce_min".split())
_CHEAP |= kinds.ELEMENTWISE | kinds.LINEAR - {"reduce_window_sum"}
# Subtracting their results is exact.
_STEPS = frozenset(("floor", "ceil", "round", "sign", "convert_element_type"))


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """The difference form of a function.

    Attributes:
        known: `(input, *others) -> [*outputs, *prepared]` of the unchanged run.
        count: of the outputs.
        structs: of the inputs of `known`.
        jaxpr: `(change, *prepared) -> [*changes of the outputs]`, flat.
        change: evaluates it.
        subtracted: names of primitives without a rule.
        is_linear: whether the outputs are linear in the input, but for a constant.
    """

    known: Callable[..., list]
    count: int
    structs: Sequence[jax.ShapeDtypeStruct]
    jaxpr: Any
    change: Callable[..., list]
    subtracted: tuple[str, ...]
    is_linear: bool

    def plan(self, extents: tuple[int, ...]) -> windows.WindowPlan:
        """How the change of the one output is computed in a window; cached per extents."""
        if extents not in self._plans:
            self._plans[extents] = windows.plan(self.jaxpr, extents)
        return self._plans[extents]

    def known_on(self, extents: tuple[int, ...]) -> tuple[windows.WindowPlan, tuple[Array, ...]]:
        """How as much of the unchanged run is computed as `plan` reads; cached per extents.

        Returns:
            The plan, and what it takes after the inputs of `known`.
        """
        jaxpr, consts = self._known
        if extents not in self._known_plans:
            change = self.plan(extents)
            wanted = [*change.wanted, *change.needed[1:]]
            self._known_plans[extents] = windows.plan_of(jaxpr, wanted, change.extents)
        return self._known_plans[extents], consts

    @functools.cached_property
    def _known(self) -> tuple[Any, tuple[Array, ...]]:
        closed, jaxpr = graph.closed(self.known, *self.structs)
        return slicing.opened(jaxpr, graph.constants_of(closed))

    @functools.cached_property
    def _plans(self) -> dict[tuple[int, ...], windows.WindowPlan]:
        return {}

    @functools.cached_property
    def _known_plans(self) -> dict[tuple[int, ...], windows.WindowPlan]:
        return {}


def difference(jaxpr: Any) -> Difference:
    """The difference form of the function of a jaxpr, whose first input is what changes."""
    form = _Finite()

    def run(change, first, *others):
        values = interpret(jaxpr, (), [_moved(first, change), *map(Value, others)], form)
        changes = [difference_rules.filled(v.known, _as_change(v)) for v in values]
        return [*changes, *(value.known for value in values)]

    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    change = jax.ShapeDtypeStruct(structs[0].shape, change_dtype(structs[0].dtype))
    traced, _ = graph.trace(run, "", change, *structs)
    count = len(traced.outvars) // 2
    changes, outputs = traced.outvars[:count], traced.outvars[count:]
    cut = slicing.cut(dataclasses.replace(traced, outvars=changes), traced.invars[0], also=outputs)

    flat, consts = slicing.opened(cut.decode_jaxpr)

    def known(first, *others):
        nothing = jnp.zeros(change.shape, change.dtype)
        found = cut.encode(nothing, first, *others)[1:]
        at = len(found) - count
        return [*found[at:], *found[:at], *consts]

    evaluated = graph.function_of(flat)
    return Difference(
        known,
        count,
        structs,
        flat,
        lambda *inputs: evaluated((), *inputs),
        tuple(form.subtracted),
        form.is_linear,
    )


def change_of(
    fn: Callable, known: Sequence[Array], changes: Sequence[Array]
) -> tuple[Array, tuple[str, ...]]:
    """The change of a function's one output, and what was subtracted for it."""
    form = _Finite()
    return _change_of(form, fn, known, changes), tuple(form.subtracted)


def is_linear(fn: Callable, *structs: Any) -> bool:
    """Whether a function's one output is linear in its arguments together, but for a constant.

    Detected, never assumed: what is not known to be linear is not.
    """
    form = _Finite()
    changes = [jax.ShapeDtypeStruct(s.shape, change_dtype(s.dtype)) for s in structs]
    jax.eval_shape(functools.partial(_change_of, form, fn), structs, changes)
    return form.is_linear


def _change_of(
    form: "_Finite", fn: Callable, known: Sequence[Array], changes: Sequence[Array]
) -> Array:
    closed, jaxpr = graph.closed(fn, *known)
    values = [_moved(k, c) for k, c in zip(known, changes, strict=True)]
    (found,) = interpret(jaxpr, graph.constants_of(closed), values, form)
    return difference_rules.filled(found.known, _as_change(found))


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
        return Value(known, change=change, fresh=known + change)
    now = (known.astype(change.dtype) + change).astype(dtype)
    return Value(known, now=now, fresh=now)


def _as_change(value: Value) -> Array | None:
    if value.now is None:
        return value.whole_change()
    wide = change_dtype(jnp.result_type(value.known))
    return _apart(value.after().astype(wide), value.known.astype(wide))


def _apart(after: Array, before: Array) -> Array:
    """The difference, 0 where they are the same infinity."""
    return checkpoint_name(difference_rules.gap(after, before), MARK)


class _Finite:
    """Finite changes, by the rule of a primitive; without one, by computing it again."""

    def __init__(self):
        self.subtracted: dict[str, None] = {}
        self.is_linear = True

    def holds(self, dtype: Any) -> bool:
        return is_wide(dtype)

    def body(self, equation: Equation) -> Any | None:
        if graph.called_jaxpr(equation) is None and graph.call_body(equation) is not None:
            self.is_linear = False  # Its derivative may be another than its body's.
        return graph.call_body(equation)

    def changed(
        self,
        equation: Equation,
        params: dict,
        operands: Sequence[Value],
        known: Sequence[Array] | None = None,
    ) -> list[Value]:
        self.is_linear &= difference_rules.is_linear(equation, [v.changed for v in operands])
        if known is None:
            known = graph.bind(equation, *(value.known for value in operands))
        wide = [is_wide(jnp.result_type(value)) for value in known]
        if all(wide):
            changes = _by_rule(equation, params, operands)
            if changes is not None:
                fresh = [None] * len(known)
                if is_fresh(operands) and _is_cheap(equation, operands):
                    fresh = [equation.primitive.bind(*(v.after() for v in operands), **params)]
                found = zip(known, changes, fresh, strict=True)
                return [Value(k, change=_like(k, change), fresh=f) for k, change, f in found]
        if params is equation.params:
            now = graph.bind(equation, *(value.after() for value in operands))
        else:
            now = [equation.primitive.bind(*(value.after() for value in operands), **params)]
        if any(wide) and equation.primitive.name not in _STEPS:
            self.subtracted[equation.primitive.name] = None
        fresh = now if is_fresh(operands) else [None] * len(now)
        return [
            Value(k, change=_apart(n, k), fresh=f) if is_float else Value(k, now=n, fresh=f)
            for k, n, f, is_float in zip(known, now, fresh, wide, strict=True)
        ]


def _is_cheap(equation: Equation, operands: Sequence[Value]) -> bool:
    """Also a product of two changed values, as of features with themselves."""
    name = equation.primitive.name
    return name in _CHEAP or (name == "dot_general" and all(v.changed for v in operands))


def _by_rule(equation: Equation, params: dict, operands: Sequence[Value]) -> list[Array] | None:
    name = equation.primitive.name
    if "fill_value" in params:  # Nothing changes outside of what is gathered from.
        params = {**params, "fill_value": 0}
    apply = functools.partial(equation.primitive.bind, **params)
    known = [value.known for value in operands]
    changes = [value.whole_change() for value in operands]
    if any(value.now is not None for value in operands):
        return _by_choice(operands, known, changes) if name == "select_n" else None
    result = None
    if name in difference_rules.LINEAR:
        result = difference_rules.LINEAR[name](apply, params, known, changes)
    elif name in difference_rules.NONLINEAR and not _complex(known):
        result = difference_rules.NONLINEAR[name](apply, params, known, changes)
    elif name in difference_rules.SINGULAR and not _complex(known):
        fresh = [value.fresh for value in operands]
        result = difference_rules.SINGULAR[name](apply, params, known, changes, fresh)
    if result is not None and name not in difference_rules.LINEAR:
        result = checkpoint_name(result, MARK)
    if result is None:
        return None
    return list(result) if equation.primitive.multiple_results else [result]


def _by_choice(operands: Sequence[Value], known: list, changes: list) -> list[Array] | None:
    """Of two values that a changed condition chooses from."""
    if len(operands) != 3 or any(value.now is not None for value in operands[1:]):
        return None
    if known[0].dtype != jnp.bool_ or np.shape(known[0]) != np.shape(known[1]):
        return None
    no, yes = (difference_rules.filled(k, c) for k, c in zip(known[1:], changes[1:], strict=True))
    choice = (known[0], operands[0].after(), (yes, no), (known[2], known[1]))
    return [checkpoint_name(difference_rules.picked(*choice), MARK)]


def _complex(known: Sequence[Array]) -> bool:
    return any(jnp.issubdtype(jnp.result_type(k), jnp.complexfloating) for k in known)


def _like(known: Array, change: Array) -> Array:
    """A change in the shape and dtype of what it changes."""
    if np.shape(change) != np.shape(known):
        change = lax.broadcast_in_dim(change, np.shape(known), ())
    dtype = jnp.result_type(known)
    return change if change.dtype == dtype else change.astype(dtype)
