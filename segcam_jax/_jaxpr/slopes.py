"""Whether a function has a slope at all: gradients end at thresholds, argmax and stop_gradient."""

from typing import Any

import jax.numpy as jnp

from segcam_jax._jaxpr import graph

# Floating results that are flat wherever they are smooth.
_FLAT = frozenset(("stop_gradient", "floor", "ceil", "round", "sign", "nextafter"))


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
