"""The slope of a function: its gradient, without what its first input does not change.

The derivative of `difference.py`: every value is known, and has a tangent where it depends on the
first input. Every primitive takes the derivative that it has, a model's own rules included, so that
ties are the model's; `jax.linear_transpose` turns the map of tangents around. The tangent of a
concatenation is that of its parts: going back, a convolution of `concat(changed, skip)` is not
taken for the channels of the skip.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segcam_jax._jaxpr import difference_linear, graph, kinds
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.parts import Value, interpret

Array = Any
# Floating results that are flat wherever they are smooth.
_FLAT = frozenset(("stop_gradient", "floor", "ceil", "round", "sign", "nextafter"))


def slope(closed: Any, first: Array) -> tuple[list[Array], Callable[..., Array]]:
    """The outputs of a function, and `(*cotangents of the outputs) -> gradient`."""
    outputs, pull = pulled(closed, graph.constants_of(closed), [first])
    return outputs, lambda *cotangents: pull(cotangents)[0]


def pulled(
    jaxpr: Any, known: Sequence[Array], inputs: Sequence[Array]
) -> tuple[list[Array], Callable[[Sequence[Array]], list[Array]]]:
    """The outputs of a jaxpr, and `cotangents of the outputs -> gradients` at several inputs.

    Args:
        known: what it closes over, or of its inputs those before the others.
        inputs: its last inputs.
    """
    opened = getattr(jaxpr, "jaxpr", jaxpr)
    outputs: list[Array] = []

    def tangents(*moving):
        starts = [Value(x, change=tangent) for x, tangent in zip(inputs, moving, strict=True)]
        before = [Value(x) for x in known[len(opened.constvars) :]]
        found = interpret(opened, known[: len(opened.constvars)], [*before, *starts], _Tangents())
        outputs[:] = [value.known for value in found]
        return [difference_linear.filled(v.known, v.whole_change()) for v in found]

    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]
    pull = jax.linear_transpose(tangents, *structs)
    return outputs, lambda cotangents: list(pull(list(cotangents)))


def has_slope(jaxpr: Any) -> bool:
    """Whether a gradient can flow from the outputs of a jaxpr back to its inputs.

    Loops and functions with a derivative rule of their own are taken to let it through.
    """
    return _is_reached(jaxpr, smoothly=True)


def depends(jaxpr: Any) -> bool:
    """Whether the outputs of a jaxpr are computed of its inputs at all."""
    return _is_reached(jaxpr, smoothly=False)


def _is_reached(jaxpr: Any, *, smoothly: bool) -> bool:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return any(_reached(jaxpr, [True] * len(jaxpr.invars), smoothly))


def _reached(jaxpr: Any, inputs: list[bool], smoothly: bool) -> list[bool]:
    """Which outputs depend, smoothly or in any way, on the inputs that are marked."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    marked = {atom for atom, known in zip(jaxpr.invars, inputs, strict=True) if known}
    for equation in jaxpr.eqns:
        operands = [_is_marked(atom, marked, smoothly) for atom in equation.invars]
        if not any(operands) or (smoothly and equation.primitive.name in _FLAT):
            continue
        body = graph.called_jaxpr(equation)
        results = [True] * len(equation.outvars)
        if body is not None:
            results = _reached(body, operands, smoothly)
        marked |= {v for v, known in zip(equation.outvars, results, strict=True) if known}
    return [_is_marked(atom, marked, smoothly) for atom in jaxpr.outvars]


def _is_marked(atom: Any, marked: set[Any], smoothly: bool) -> bool:
    if not graph.is_variable(atom) or atom not in marked:
        return False
    return not smoothly or jnp.issubdtype(atom.aval.dtype, jnp.inexact)


class _Tangents:
    """Infinitesimal changes, by the derivative of every primitive."""

    def holds(self, dtype: Any) -> bool:
        return jnp.issubdtype(dtype, jnp.inexact)

    def body(self, equation: Equation) -> Any | None:
        return graph.called_jaxpr(equation)

    def changed(
        self,
        equation: Equation,
        params: dict,
        operands: Sequence[Value],
        known: Sequence[Array] | None = None,
    ) -> list[Value]:
        apply = functools.partial(graph.bind, equation)
        if params is not equation.params:
            one = kinds.elementwise(equation)
            one = one or functools.partial(equation.primitive.bind, **params)
            apply = lambda *arrays: [one(*arrays)]  # noqa: E731
        arrays = [value.known for value in operands]
        moving = [at for at, value in enumerate(operands) if value.change is not None]
        smooth = [self.holds(variable.aval.dtype) for variable in equation.outvars]
        if not any(smooth) or equation.primitive.name in _FLAT:
            return [Value(x) for x in (known or apply(*arrays))]

        def moved(*values):
            given = dict(zip(moving, values, strict=True))
            return apply(*(given.get(at, array) for at, array in enumerate(arrays)))

        at = [arrays[index] for index in moving]
        found, tangents = jax.jvp(moved, at, [operands[i].whole_change() for i in moving])
        return [
            Value(x, change=tangent) if is_smooth else Value(x)
            for x, tangent, is_smooth in zip(known or found, tangents, smooth, strict=True)
        ]
