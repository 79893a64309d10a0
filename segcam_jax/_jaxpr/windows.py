"""Running a function for one window of its output: bounds inference, then evaluation on windows.

Backwards over the equations, as Halide does for loops: the window of an output says which windows
of the operands it needs, those say it of theirs, down to the inputs. Forwards, every equation is
then computed on its window only. Exact, at the borders too. An equation without a rule is computed
whole, and so is what leads to it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import bands, cost, graph, spans, window_rules
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Places, Window, Windowed

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPlan:
    """What of every value is needed for a window of the first output.

    Attributes:
        jaxpr: flat, as `hoisting.hoist` makes it; one output.
        extents: of the output window, one per output axis; None for a whole axis.
        windows: variable -> what is needed of it.
        fallbacks: names of primitives that are computed whole for want of a rule.
        known: matrices of products that depend on no input, where they are not zero.
    """

    jaxpr: Any
    extents: tuple[int | None, ...]
    windows: dict[Any, Window]
    fallbacks: tuple[str, ...]
    known: bands.Matrices

    def run(self, inputs: Sequence[Array], corner: Sequence[Array]) -> Array:
        """The output window that starts at `corner`, from whole inputs.

        Args:
            inputs: one per input of the jaxpr; the first may be what `narrowed` leaves of it.
            corner: start along each output axis; the window must lie inside.
        """
        places = self._places(corner)
        environment = {
            variable: Windowed(array, spans.whole(np.shape(array)), np.shape(array))
            for variable, array in zip(self.jaxpr.invars, inputs, strict=True)
        }
        first, shape = self.jaxpr.invars[0], self.jaxpr.invars[0].aval.shape
        if np.shape(inputs[0]) != shape:
            environment[first] = Windowed(inputs[0], self.windows[first], shape)

        def read(atom):
            if graph.is_variable(atom):
                return environment[atom]
            return Windowed(atom.val, (), ())

        for equation in self.jaxpr.eqns:
            if any(variable in self.windows for variable in equation.outvars):
                operands = [read(atom) for atom in equation.invars]
                environment.update(self._evaluate(equation, operands, places))
        (out,) = self.jaxpr.outvars
        return spans.narrow(read(out), self.windows[out], places)

    def narrowed(self, first: Array, corner: Sequence[Array]) -> Array:
        """The part of the first input that the output window at `corner` depends on."""
        value = Windowed(first, spans.whole(np.shape(first)), np.shape(first))
        return spans.narrow(value, self._seen_window(), self._places(corner))

    def widened(self, part: Array, corner: Sequence[Array]) -> Array:
        """A part as `narrowed` cuts it, in its place, and 0 around it."""
        places = self._places(corner)
        starts = [
            jnp.zeros((), jnp.int32) if needed is None else spans.start(needed, places)
            for needed in self._seen_window()
        ]
        around = jnp.zeros(self.jaxpr.invars[0].aval.shape, part.dtype)
        return jax.lax.dynamic_update_slice(around, part, starts)

    def _seen_window(self) -> Window:
        first = self.jaxpr.invars[0]
        return self.windows.get(first, spans.whole(first.aval.shape))

    def seen(self, corner: Sequence[Array]) -> Array:
        """Which elements of the first input the output window depends on, bool."""
        first = self.jaxpr.invars[0]
        inside = jnp.ones(first.aval.shape, bool)
        for axis, needed in enumerate(self.windows.get(first, ())):
            if needed is not None:
                start = spans.start(needed, self._places(corner))
                position = jnp.arange(first.aval.shape[axis], dtype=jnp.int32)
                along = (position >= start) & (position < start + needed.size)
                inside &= along.reshape([-1 if a == axis else 1 for a in range(inside.ndim)])
        return inside

    def _places(self, corner: Sequence[Array]) -> Places:
        return {
            axis: jnp.asarray(corner[axis], jnp.int32)
            for axis, extent in enumerate(self.extents)
            if extent is not None
        }

    def _evaluate(self, equation: Equation, operands: list[Windowed], places: Places) -> dict:
        out = equation.outvars[0]
        window = self.windows.get(out, ())
        if any(s is not None for s in window) and _needs(equation, window, self.known) is not None:
            rule = window_rules.find(equation, self.known)
            assert rule is not None
            array = rule.apply(equation, operands, window, places)
            return {out: Windowed(array, window, out.aval.shape)}
        arrays = graph.bind(equation, *(operand.array for operand in operands))
        return {
            variable: Windowed(array, spans.whole(array.shape), array.shape)
            for variable, array in zip(equation.outvars, arrays, strict=True)
        }

    def flops(self) -> int:
        """Operations of convolutions and products on their windows, dynamic slices left out."""
        structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.jaxpr.invars]
        corner = [jax.ShapeDtypeStruct((), np.int32)] * len(self.extents)
        return cost.flops(graph.closed(self.run, structs, corner)[1])


def plan(jaxpr: Any, extents: Sequence[int]) -> WindowPlan:
    """Works out the windows for an output window of the given extents.

    Args:
        jaxpr: flat, one output.
        extents: of the window, one per axis of the output; a full extent is the whole axis.
    """
    (out,) = jaxpr.outvars
    shape = out.aval.shape
    wanted = tuple(
        None if size >= n else spans.Span(axis, np.arange(n - size + 1), size)
        for axis, (size, n) in enumerate(zip(extents, shape, strict=True))
    )
    known = bands.matrices(jaxpr)
    windows: dict[Any, Window] = {out: wanted}
    fallbacks: dict[str, None] = {}
    for equation in reversed(jaxpr.eqns):
        asked = [variable for variable in equation.outvars if variable in windows]
        if not asked:
            continue
        windows.update((v, spans.whole(v.aval.shape)) for v in asked if v in known)
        window = windows[asked[0]]
        needs = None
        if any(s is not None for v in asked for s in windows[v]):
            needs = _needs(equation, window, known) if len(equation.outvars) == 1 else None
            if needs is None:
                fallbacks[equation.primitive.name] = None
        for index, atom in enumerate(equation.invars):
            if graph.is_variable(atom):
                of = spans.whole(atom.aval.shape) if needs is None else needs[index]
                had = windows.get(atom)
                windows[atom] = of if had is None else spans.union(had, of, atom.aval.shape)
    kept = tuple(None if s is None else s.size for s in wanted)
    return WindowPlan(jaxpr, kept, windows, tuple(fallbacks), known)


def _needs(equation: Equation, window: Window, known: bands.Matrices) -> list[Window] | None:
    rule = window_rules.find(equation, known)
    return None if rule is None else rule.needs(equation, window)
