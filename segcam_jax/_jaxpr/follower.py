"""Walks equations, and keeps which of the input's axes an axis runs along. See `axes.py`."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.attention import Met
from segcam_jax._jaxpr.factors import Axes, Factors
from segcam_jax._jaxpr.graph import Equation, Var

Rule = Callable[["Follower", Equation, list[Axes]], list[Axes]]


class Follower:
    """Walks equations; collects what axes are made of, and which are mixed."""

    def __init__(self, rule_of: Callable[[Equation], Rule]):
        self._rule_of = rule_of
        self.axes: dict[Var, Axes] = {}
        self.mixed: set[int] = set()
        self.pooled: set[int] = set()
        self.batches: set[int] = set()
        self.channels: set[int] = set()
        self.promoted: set[frozenset[int]] = set()
        self.attended: set[Met] = set()
        # What depends on parameters or on arrays that the function closes over.
        self.learned: set[Var] = set()

    def run(self, equations: Iterable[Equation]) -> None:
        for equation in equations:
            # A body may be called more than once: what is known of its variables is of this call.
            for variable in equation.outvars:
                self.axes.pop(variable, None)
                self.learned.discard(variable)
            if self._is_learned(equation.invars):
                self.learned.update(equation.outvars)
            if not any(graph.is_variable(a) and a in self.axes for a in equation.invars):
                continue
            operands = [self.of(atom) for atom in equation.invars]
            found = self._rule_of(equation)(self, equation, operands)
            self.axes.update(zip(equation.outvars, found, strict=True))

    def of(self, atom: Any) -> Axes:
        """What the axes of a variable or literal are made of."""
        known = self.axes.get(atom) if graph.is_variable(atom) else None
        return ((),) * len(shape_of(atom)) if known is None else known

    def _is_learned(self, atoms: Iterable[Any]) -> bool:
        return any(graph.is_variable(atom) and atom in self.learned for atom in atoms)

    def is_fixed(self, atom: Any) -> bool:
        """Whether a value depends on no input and no parameter, as a matrix of interpolation."""
        return not (graph.is_variable(atom) and (atom in self.axes or atom in self.learned))

    def mix(self, *made_of: Factors) -> None:
        """Positions along these axes read each other."""
        self.mixed.update(axis for each in made_of for axis, _ in each)

    def join(self, *made_of: Factors) -> Factors:
        """One axis of several values that meet place by place, or end to end."""
        several = [each for each in made_of if each]
        if not several:
            return ()
        if len({frozenset(axis for axis, _ in each) for each in several}) > 1:
            self.mix(*several)
        return max(several, key=lambda each: math.prod(extent for _, extent in each))

    def inside(self, body: Any, operands: Sequence[Axes], inputs: Sequence[Any]) -> list[Axes]:
        """The axes of what a body returns."""
        body = getattr(body, "jaxpr", body)
        self.learned.update(body.constvars)
        for variable, axes, atom in zip(body.invars, operands, inputs, strict=True):
            depends = graph.is_variable(atom) and atom in self.axes
            self.axes.pop(variable, None)
            self.learned.discard(variable)
            if depends:
                self.axes[variable] = axes
            if self._is_learned([atom]):
                self.learned.add(variable)
        self.run(body.eqns)
        return [self.of(atom) for atom in body.outvars]


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal; none of a token."""
    return tuple(getattr(atom.aval, "shape", ()))
