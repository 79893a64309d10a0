"""A function of a change, run where only a window of its first input is not zero.

Forwards over the equations, the window of the input says what of every value can differ from what
it is where nothing changes, down to the output. Only that is computed. What lies around it is 0, or
known: most values of a difference form are changes, and 0 where nothing changes; the few that are
values after a change, as where numbers are narrow, are computed once without it. From where the
window covers a value, the value is computed whole.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from segcam_jax._jaxpr import (
    access,
    access_table,
    constants,
    difference,
    difference_rules,
    graph,
    kinds,
    spans,
    windowed,
)
from segcam_jax._jaxpr.graph import Equation, Rewrite
from segcam_jax._jaxpr.spans import Places, Window, Windowed
from segcam_jax._jaxpr.windowed import Step

Array = Any
Record = Mapping[Any, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class ChangePlan:
    """What of every value can change with a window of the first input.

    Attributes:
        jaxpr: flat, as `graph.flattened` makes it.
        changed: variable -> what can change of it; what is missing cannot.
        zeros: variables that are 0 where the first input is.
        around: variables that are not, and are read around what can change of them.
        steps: what is computed for every change, in order of evaluation.
    """

    jaxpr: Any
    changed: Mapping[Any, Window]
    zeros: frozenset[Any]
    around: frozenset[Any]
    steps: tuple[Step, ...]

    def record(
        self, consts: Sequence[Array], inputs: Sequence[Array], rule: Rewrite | None = None
    ) -> Record:
        """What no change reaches, and what lies around what it does.

        Args:
            inputs: all but the first.
            rule: as in `graph.evaluate`.
        """
        others = self.jaxpr.invars[1:]
        found = dict(zip((*self.jaxpr.constvars, *others), (*consts, *inputs), strict=True))
        changed = [v for v in self.changed if v in self.zeros]
        zeros = {v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in changed}
        for equation in self._known():
            operands = [graph.read(zeros | found, atom) for atom in equation.invars]
            results = None if rule is None else rule(equation, operands)
            results = graph.bind(equation, *operands) if results is None else results
            found.update(zip(equation.outvars, results, strict=True))
        return found

    def _known(self) -> list[Equation]:
        """The equations of what is recorded."""
        wanted, found = set(self.around), []
        for equation in reversed(self.jaxpr.eqns):
            unchanged = any(variable not in self.changed for variable in equation.outvars)
            if unchanged or any(variable in wanted for variable in equation.outvars):
                found.append(equation)
                wanted.update(a for a in equation.invars if graph.is_variable(a))
                wanted -= self.zeros
        return found[::-1]

    def run(
        self, record: Record, patch: Array, places: Places, rule: Rewrite | None = None
    ) -> list[Array]:
        """The outputs where the first input is `patch` in its window, and 0 around it.

        Args:
            patch: of the extents of the window.
            places: axis of the family of windows -> which of its starts.
            rule: how an equation runs that is computed whole, as in `graph.evaluate`.
        """
        first = self.jaxpr.invars[0]
        environment = {
            variable: spans.all_of(array)
            for variable, array in record.items()
            if variable not in self.changed
        }
        environment[first] = Windowed(patch, self.changed[first], first.aval.shape)
        windowed.run(self.steps, environment, places, record, rule)
        return [self._whole(environment, atom, places) for atom in self.jaxpr.outvars]

    def _whole(self, environment: Mapping[Any, Windowed], atom: Any, places: Places) -> Array:
        value = windowed.read(environment, atom)
        return spans.widened(value, spans.whole(value.shape), places).array


def plan(jaxpr: Any, window: Window) -> ChangePlan:
    """Works out what can change."""
    known, zeros = constants.known(jaxpr), _zeros(jaxpr)
    changed: dict[Any, Window] = {jaxpr.invars[0]: window}
    around: set[Any] = set()
    steps = []
    for equation in jaxpr.eqns:
        windows = [changed.get(a) if graph.is_variable(a) else None for a in equation.invars]
        if all(each is None for each in windows):
            continue
        step = _step(equation, access_table.find(equation, known), windows, zeros)
        changed.update(
            (v, spans.whole(v.aval.shape) if step.access is None else step.window)
            for v in equation.outvars
        )
        steps.append(step)
        for atom, have, need in zip(equation.invars, windows, step.needs, strict=True):
            if have is not None and not spans.same(spans.union(have, need, atom.aval.shape), have):
                around.add(atom)
    outputs = [a for a in jaxpr.outvars if graph.is_variable(a) and a in changed]
    around.update(v for v in outputs if any(s is not None for s in changed[v]))
    return ChangePlan(jaxpr, changed, zeros, frozenset(around - zeros), tuple(steps))


def _step(
    equation: Equation,
    reads: access.Access | None,
    windows: Sequence[Window | None],
    zeros: frozenset[Any],
) -> Step:
    """What is computed of an equation, some of whose operands change."""
    if reads is None:
        window = spans.whole(equation.outvars[0].aval.shape) if equation.outvars else ()
    else:
        window = access.reached(equation, reads, windows)
    needs = access.needed(equation, reads, window)
    summed = None
    for along in () if reads is None else reads.summed:
        for operand, axis in along:
            have = windows[operand]
            if have is not None and have[axis] is not None and equation.invars[operand] in zeros:
                summed = (operand, axis)
                for other, at in along:
                    needs[other] = tuple(
                        have[axis] if a == at else s for a, s in enumerate(needs[other])
                    )
                break
    return Step(equation, reads, window, needs, summed)


def _zeros(jaxpr: Any) -> frozenset[Any]:
    """The variables that are 0 where the first input is: those that are changes."""
    zeros = {jaxpr.invars[0]}

    def is_zero(atom):
        if graph.is_variable(atom):
            return atom in zeros
        return kinds.known_number(atom.val) == 0.0

    for equation in jaxpr.eqns:
        name, flags = equation.primitive.name, [is_zero(atom) for atom in equation.invars]
        is_marked = name == "name" and equation.params["name"] == difference.MARK
        if is_marked or difference_rules.keeps_zero(name, flags):
            zeros.update(equation.outvars)
    return frozenset(zeros)
