"""Running a function for one window of its output: bounds inference, then evaluation on windows.

Backwards over the equations, as Halide does for loops: the window of an output says which windows
of the operands it needs, those say it of theirs, down to the inputs. Forwards, every equation is
then computed on its window only. Exact, at the borders too. What `access` does not know is computed
whole, and so is what leads to it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import access, access_table, constants, cost, graph, spans, windowed
from segcam_jax._jaxpr.spans import Places, Window, Windowed
from segcam_jax._jaxpr.windowed import Step

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPlan:
    """What of every value is needed for windows of the outputs.

    Attributes:
        jaxpr: flat.
        extents: of the window that all follow, one per axis; None for a whole axis.
        windows: variable -> what is needed of it.
        fallbacks: primitives computed whole, or along one axis, for want of what they read.
        steps: what is computed, in order of evaluation.
        wanted: the window of each output, of which more may be computed; None: nothing of it.
    """

    jaxpr: Any
    extents: tuple[int | None, ...]
    windows: dict[Any, Window]
    fallbacks: tuple[str, ...]
    steps: tuple[Step, ...]
    wanted: tuple[Window | None, ...]

    def run(self, inputs: Sequence[Array | None], corner: Sequence[Array]) -> Array:
        """The window of the one output that starts at `corner`, as `outputs` does."""
        (found,) = self.outputs(inputs, corner)
        return found

    def outputs(
        self, inputs: Sequence[Array | None], corner: Sequence[Array]
    ) -> list[Array | None]:
        """The windows of the outputs where that which all follow starts at `corner`.

        Args:
            inputs: one per input of the jaxpr, whole or its window; None where nothing is needed.
            corner: start along each axis; the window must lie inside.

        Returns:
            None for an output of which nothing is wanted.
        """
        places = self._places(corner)
        environment = {}
        for variable, array in zip(self.jaxpr.invars, inputs, strict=True):
            if array is not None:
                shape = variable.aval.shape
                window = spans.whole(shape) if np.shape(array) == shape else self.windows[variable]
                environment[variable] = Windowed(array, window, shape)
        windowed.run(self.steps, environment, places)
        return [
            None
            if window is None
            else spans.narrow(windowed.read(environment, out), window, places)
            for out, window in zip(self.jaxpr.outvars, self.wanted, strict=True)
        ]

    @property
    def needed(self) -> list[Window | None]:
        """What of each input is needed; None: nothing."""
        return [self.windows.get(variable) for variable in self.jaxpr.invars]

    def narrowed(self, first: Array, corner: Sequence[Array]) -> Array:
        """The part of the first input that the output window at `corner` depends on."""
        return spans.narrow(spans.all_of(first), self._seen_window(), self._places(corner))

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
    shape = jaxpr.outvars[0].aval.shape
    wanted = tuple(
        None if size >= n else spans.Span(axis, np.arange(n - size + 1), size)
        for axis, (size, n) in enumerate(zip(extents, shape, strict=True))
    )
    return plan_of(jaxpr, (wanted,), tuple(None if s is None else s.size for s in wanted))


def plan_of(
    jaxpr: Any, wanted: Sequence[Window | None], extents: tuple[int | None, ...]
) -> WindowPlan:
    """Works out what windows of several outputs need, which follow one window.

    Args:
        wanted: the window of each output; None: nothing of it.
        extents: of the window that they follow, as `WindowPlan.extents`.
    """
    known = constants.known(jaxpr)
    windows: dict[Any, Window] = {}

    def ask(atom: Any, window: Window) -> None:
        if graph.is_variable(atom):
            had = windows.get(atom)
            windows[atom] = window if had is None else spans.union(had, window, atom.aval.shape)

    for out, window in zip(jaxpr.outvars, wanted, strict=True):
        if window is not None:
            ask(out, window)
    fallbacks: dict[str, None] = {}
    steps: list[Step] = []
    for equation in reversed(jaxpr.eqns):
        asked = [variable for variable in equation.outvars if variable in windows]
        if not asked:
            continue
        reads = None if any(v in known for v in asked) else access_table.find(equation, known)
        settled = {variable: access.settled(reads, windows[variable]) for variable in asked}
        if any(v not in known and not spans.same(w, windows[v]) for v, w in settled.items()):
            fallbacks[equation.primitive.name] = None
        window = settled[asked[0]]
        if reads is not None:
            window = spans.joined([*settled.values()], asked[0].aval.shape)
            settled = dict.fromkeys(asked, window)
        windows.update(settled)
        needs = access.needed(equation, reads, window)
        steps.append(Step(equation, reads, window, needs))
        for atom, need in zip(equation.invars, needs, strict=True):
            ask(atom, need)
    steps.reverse()
    return WindowPlan(jaxpr, extents, windows, tuple(fallbacks), tuple(steps), tuple(wanted))
