"""Walks equations, and keeps which of the input's axes an axis runs along. See `axes.py`."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import Equation, Var

# The input's axes that one axis is made of, outermost first: (axis, extent).
Factors = tuple[tuple[int, int], ...]
# One entry an axis.
Axes = tuple[Factors, ...]
# The input's axes that are kept apart, and those along which all positions read each other.
Met = tuple[frozenset[int], frozenset[int]]
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


def resized(factors: Factors, extent: int) -> Factors:
    """The same axis with another extent, where it is made of one axis."""
    return ((factors[0][0], extent),) if len(factors) == 1 else factors


def filled(factors: Factors, extent: int) -> Factors:
    """Factors whose product is the extent; an axis of no input is one of its own, -1."""
    if extent == 1:
        return ()
    if math.prod(each for _, each in factors) == extent and factors:
        return factors
    return ((-1, extent),) if len({a for a, _ in factors}) != 1 else ((factors[0][0], extent),)


def divided(factors: Sequence[tuple[int, int]], extents: Sequence[int]) -> list[Factors]:
    """Factors dealt to axes of these extents, outermost first; cut where an extent ends in one."""
    left, found = list(factors), []
    for extent in extents:
        own: list[tuple[int, int]] = []
        have = 1
        while have < extent and left:
            axis, size = left.pop(0)
            want = extent // have
            if extent % have == 0 and size > want and size % want == 0:
                left.insert(0, (axis, size // want))
                size = want
            own.append((axis, size))
            have *= size
        if have != extent:  # It ends inside of an axis: what follows is made of it, too.
            left = [*own[-1:], *left]
        found.append(tuple(each for each in own if each[0] >= 0))
    return found


def met(equation: Any, operands: Sequence[Axes]) -> Met:
    """Of a product of two values that both depend on the input, as queries and keys do.

    Positions meet that are summed over in both (values times weights), or left free in both
    (queries times keys); those of a batch that both share are kept apart.
    """
    contracted, batched = equation.params["dimension_numbers"]
    gone = [(*contracted[side], *batched[side]) for side in (0, 1)]
    free = [
        [axis for axis in range(len(axes)) if axis not in gone[side]]
        for side, axes in enumerate(operands)
    ]

    def made_of(side: int, places: Iterable[int]) -> frozenset[int]:
        return _of(operands[side][axis] for axis in places)

    along = [made_of(0, one) & made_of(1, other) for one, other in (contracted, free)]
    apart = made_of(0, batched[0]) | made_of(1, batched[1])
    return apart, along[0] | along[1]


def recurrent(over: Iterable[Factors], inside: Iterable[Axes], mixed: set[int]) -> Met:
    """Of a loop that carries something from one position to the next.

    Args:
        over: the axis along which it runs.
        inside: the axes of what each step is given.
        mixed: those along which positions read each other in a step.
    """
    return _of(each for axes in inside for each in axes) - mixed, _of(over)


def keeps_rows(attended: Iterable[Met], positions: set[int]) -> bool:
    """Whether rows are kept apart where other positions meet, and meet nowhere.

    Rows are what lies along the first axis, as examples of a batch would.
    """
    rows = [along for apart, along in attended if 0 in apart]
    return any(along & positions for along in rows) and not any(0 in a for _, a in attended)


def _of(made_of: Iterable[Factors]) -> frozenset[int]:
    return frozenset(axis for factors in made_of for axis, _ in factors)
