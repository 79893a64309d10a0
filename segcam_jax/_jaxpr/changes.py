"""Running a function again when only a window of its first input has changed.

Forwards over the equations, the window that changes says what of every value can change, down to
the output. Only that is computed; what lies around it is read from a record of the unchanged run.
From where the window covers a value, the value is computed whole.

A convolution or product that sums over the axis of a window, as over the one ablated channel,
gets what the window contributes by itself:

    conv(A + D, W) = conv(A, W) + conv(D, W)        D is zero outside of the window
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import bands, change_rules, contributions, graph, spans, window_rules
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
        known: matrices of products that depend on no input, where they are not zero.
    """

    jaxpr: Any
    changed: dict[Any, Window]
    known: bands.Matrices

    def record(
        self, consts: Sequence[Array], inputs: Sequence[Array], rule: Rewrite | None = None
    ) -> Record:
        """The unchanged run: the value of every variable."""
        return graph.evaluate(self.jaxpr, consts, inputs, rule)

    def run(
        self, record: Record, patch: Array, places: Places, rule: Rewrite | None = None
    ) -> list[Array]:
        """The outputs after the window of the first input is overwritten by `patch`.

        Args:
            record: as `record` returned it.
            patch: of the extents of the window.
            places: axis of the family of windows -> which of its starts.
            rule: how an equation runs that is computed whole, as in `graph.evaluate`.
        """
        values = _Values(self.changed, record, {self.jaxpr.invars[0]: patch}, places)
        for equation in self.jaxpr.eqns:
            if not any(variable in self.changed for variable in equation.outvars):
                continue
            out = equation.outvars[0]
            at = contributions.place(equation, self.windows(equation))
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
    result = ChangePlan(jaxpr, {jaxpr.invars[0]: window}, known)
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
        return self.part(atom, spans.whole(np.shape(graph.read(self.record, atom)))).array


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
    """The recorded output and what the change of operand `at` adds to it."""
    atom = equation.invars[at]
    window = values.changed[atom]
    before = spans.narrow(values.before(atom), window, values.places)
    other = values.before(equation.invars[1 - at])
    delta = values.patches[atom] - before
    added = contributions.contribution(equation, at, delta, window, other, values.places)
    return values.record[equation.outvars[0]] + added


def _same(one: Window, other: Window) -> bool:
    pairs = zip(one, other, strict=True)
    return all(b is None if a is None else a.same(b) for a, b in pairs)


def _offset(changed: Span | None, window: Span | None, places: Places) -> Array:
    if changed is None:
        return jnp.zeros((), jnp.int32)
    start = spans.start(changed, places)
    return start if window is None else start - spans.start(window, places)
