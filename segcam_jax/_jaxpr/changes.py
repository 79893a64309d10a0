"""A function of a change, run where only a window of its first input is not zero.

Forwards over the equations, the window of the input says what of every value can differ from what
it is where nothing changes, down to the output. Only that is computed. What lies around it is 0, or
known: most values of a difference form are changes, and 0 where nothing changes; a few are values
after the change, and are computed once without it. From where the window covers a value, the value
is computed whole.

A convolution or product that sums over the axis of a window, as over the one ablated channel,
reads the weights of the window only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import (
    bands,
    change_rules,
    contributions,
    difference,
    graph,
    kinds,
    spans,
    window_rules,
)
from segcam_jax._jaxpr.graph import Equation, Rewrite
from segcam_jax._jaxpr.spans import Places, Span, Window, Windowed

Array = Any
Record = Mapping[Any, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class ChangePlan:
    """What of every value can change with a window of the first input.

    Attributes:
        jaxpr: flat, as `graph.flattened` makes it.
        changed: variable -> what can change of it; what is missing cannot.
        zeros: variables that are 0 where the first input is.
        known: matrices of products that depend on no input, where they are not zero.
    """

    jaxpr: Any
    changed: dict[Any, Window]
    zeros: frozenset[Any]
    known: bands.Matrices

    def record(
        self, consts: Sequence[Array], inputs: Sequence[Array], rule: Rewrite | None = None
    ) -> Record:
        """What is read of the run in which nothing changes: all that is not a change itself.

        Args:
            consts: what the jaxpr closes over.
            inputs: all but the first.
            rule: as in `graph.evaluate`.
        """
        others = self.jaxpr.invars[1:]
        record = dict(zip((*self.jaxpr.constvars, *others), (*consts, *inputs), strict=True))
        zeros = {v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in self.zeros if v in self.changed}
        for equation in self.jaxpr.eqns:
            windows = [self.changed.get(variable, ()) for variable in equation.outvars]
            read = any(variable not in self.changed for variable in equation.outvars) or any(
                s is not None for window in windows for s in window
            )
            if read and not all(variable in zeros for variable in equation.outvars):
                operands = [graph.read({**zeros, **record}, atom) for atom in equation.invars]
                results = None if rule is None else rule(equation, operands)
                results = graph.bind(equation, *operands) if results is None else results
                record.update(zip(equation.outvars, results, strict=True))
        return {**zeros, **record}

    def run(
        self, record: Record, patch: Array, places: Places, rule: Rewrite | None = None
    ) -> list[Array]:
        """The outputs where the first input is `patch` in its window, and 0 around it.

        Args:
            record: as `record` returned it.
            patch: of the extents of the window.
            places: axis of the family of windows -> which of its starts.
            rule: how an equation runs that is computed whole, as in `graph.evaluate`.
        """
        values = _Values(self.changed, record, {self.jaxpr.invars[0]: patch}, places)
        for equation in self.jaxpr.eqns:
            if not any(variable in self.changed for variable in equation.outvars):
                if equation.effects and any(w is not None for w in self.windows(equation)):
                    graph.bind(equation, *(values.whole(atom) for atom in equation.invars))
                continue
            out = equation.outvars[0]
            at = contributions.place(equation, self.windows(equation), self.zeros)
            if any(s is not None for s in self.changed[out]):
                rule_of = window_rules.find(equation, self.known)
                results = [_on_window(equation, rule_of, values, self.changed[out])]
            elif at is not None:
                results = [_with_contribution(equation, values, at)]
            else:
                operands = [values.whole(atom) for atom in equation.invars]
                results = None if rule is None else rule(equation, operands)
                results = graph.bind(equation, *operands) if results is None else results
            values.patches.update(zip(equation.outvars, results, strict=True))
        return [values.whole(atom) for atom in self.jaxpr.outvars]

    def windows(self, equation: Equation) -> list[Window | None]:
        """What can change of each operand; None for one that cannot."""
        return [
            self.changed.get(atom) if graph.is_variable(atom) else None for atom in equation.invars
        ]


def plan(jaxpr: Any, window: Window) -> ChangePlan:
    """Works out what can change.

    Args:
        jaxpr: flat.
        window: of the first input.
    """
    known = bands.matrices(jaxpr)
    result = ChangePlan(jaxpr, {jaxpr.invars[0]: window}, _zeros(jaxpr), known)
    for equation in jaxpr.eqns:
        windows = result.windows(equation)
        if all(each is None for each in windows):
            continue
        reached = None
        if len(equation.outvars) == 1:
            reached = change_rules.reach(equation, windows, known)
            rule = window_rules.find(equation, known)
            if rule is None or rule.needs(equation, reached) is None:
                reached = None
        for variable in equation.outvars:
            shape = variable.aval.shape
            result.changed[variable] = spans.whole(shape) if reached is None else reached
    return result


@dataclasses.dataclass(frozen=True)
class _Values:
    """Values of a run: recorded ones, and what has changed of them."""

    changed: Mapping[Any, Window]
    record: Record
    patches: dict[Any, Array]
    places: Places

    def before(self, atom: Any) -> Windowed:
        """All of a value as it was recorded."""
        value = graph.read(self.record, atom)
        return Windowed(value, spans.whole(np.shape(value)), np.shape(value))

    def part(self, atom: Any, needed: Window) -> Windowed:
        """As much of a value as is needed, and of a changed one at least what has changed."""
        if not graph.is_variable(atom) or atom not in self.patches:
            return self.before(atom)
        changed = self.changed[atom]
        window = spans.union(needed, changed, atom.aval.shape)
        array = self.patches[atom]
        if not _same(changed, window):
            around = spans.narrow(self.before(atom), window, self.places)
            starts = [
                _offset(inner, outer, self.places)
                for inner, outer in zip(changed, window, strict=True)
            ]
            array = jax.lax.dynamic_update_slice(around, array, starts)
        return Windowed(array, window, atom.aval.shape)

    def whole(self, atom: Any) -> Array:
        """All of a value."""
        shape = atom.aval.shape if graph.is_variable(atom) else np.shape(atom.val)
        return self.part(atom, spans.whole(shape)).array


def _on_window(
    equation: Equation, rule: window_rules.Rule | None, values: _Values, window: Window
) -> Array:
    """The window of an equation's output."""
    needs = None if rule is None else rule.needs(equation, window)
    assert rule is not None
    assert needs is not None
    operands = [values.part(atom, n) for atom, n in zip(equation.invars, needs, strict=True)]
    return rule.apply(equation, operands, window, values.places)


def _with_contribution(equation: Equation, values: _Values, at: int) -> Array:
    """What the change of operand `at` comes to, which is 0 outside of its window."""
    atom = equation.invars[at]
    window, other = values.changed[atom], values.before(equation.invars[1 - at])
    patch = values.patches[atom]
    return contributions.contribution(equation, at, patch, window, other, values.places)


# 0 where the first operand is, whatever the others.
_KEEP_ZERO = kinds.LINEAR | frozenset(
    "convert_element_type reduce_precision div dynamic_slice gather cumsum".split()
)


def _zeros(jaxpr: Any) -> frozenset[Any]:
    """The variables that are 0 where the first input is: those that are changes."""
    zeros = {jaxpr.invars[0]}

    def is_zero(atom):
        if graph.is_variable(atom):
            return atom in zeros
        return kinds.known_number(atom.val) == 0.0

    for equation in jaxpr.eqns:
        name, flags = equation.primitive.name, [is_zero(atom) for atom in equation.invars]
        if name == "name":
            found = flags[0] or equation.params["name"] == difference.MARK
        elif name in ("mul", "dot_general", "conv_general_dilated"):
            found = any(flags)
        elif name in ("add", "sub", "add_any", "concatenate", "pad"):
            found = all(flags)
        elif name == "select_n":
            found = all(flags[1:])
        else:
            found = name in _KEEP_ZERO and flags[0]
        if found:
            zeros.update(equation.outvars)
    return frozenset(zeros)


def _same(one: Window, other: Window) -> bool:
    pairs = zip(one, other, strict=True)
    return all(b is None if a is None else a.same(b) for a, b in pairs)


def _offset(changed: Span | None, window: Span | None, places: Places) -> Array:
    if changed is None:
        return jnp.zeros((), jnp.int32)
    start = spans.start(changed, places)
    return start if window is None else start - spans.start(window, places)
