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
    """The outputs of a function, and `(*cotangents of the outputs) -> gradient`.

    Args:
        closed: a jaxpr of one input, as `jax.make_jaxpr` returns it.
        first: the input.
    """
    outputs: list[Array] = []

    def tangents(tangent):
        found = _values(closed, Value(first, change=tangent))
        outputs[:] = [value.known for value in found]
        return [difference_linear.filled(v.known, v.whole_change()) for v in found]

    pull = jax.linear_transpose(tangents, jax.ShapeDtypeStruct(first.shape, first.dtype))
    return outputs, lambda *cotangents: pull(list(cotangents))[0]


def facts(closed: Any, struct: jax.ShapeDtypeStruct) -> tuple[bool, bool]:
    """Whether a function's outputs depend on its input at all, and whether a gradient flows back.

    None does through thresholds, argmax and rounding. Loops and functions with a derivative rule of
    their own are taken to let it through.
    """
    found: list[Value] = []

    def run(first):
        smooth = jnp.issubdtype(first.dtype, jnp.inexact)
        start = Value(first, change=first) if smooth else Value(first, now=first)
        found[:] = _values(closed, start)

    jax.eval_shape(run, struct)
    return any(v.changed for v in found), any(v.change is not None for v in found)


def _values(closed: Any, first: Value) -> list[Value]:
    return interpret(closed, graph.constants_of(closed), [first], _Tangents())


class _Tangents:
    """Infinitesimal changes, by the derivative of every primitive.

    What depends on the input and has no tangent is changed `now`, and the same as before.
    """

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
        if not moving or not any(smooth) or equation.primitive.name in _FLAT:
            return [Value(x, now=x) for x in (known or apply(*arrays))]

        def moved(*values):
            given = dict(zip(moving, values, strict=True))
            return apply(*(given.get(at, array) for at, array in enumerate(arrays)))

        at = [arrays[index] for index in moving]
        found, tangents = jax.jvp(moved, at, [operands[i].whole_change() for i in moving])
        return [
            Value(x, change=tangent) if is_smooth else Value(x, now=x)
            for x, tangent, is_smooth in zip(known or found, tangents, smooth, strict=True)
        ]
