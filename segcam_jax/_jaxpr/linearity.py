"""Whether a function is affine in its first input, read off its equations."""

from typing import Any

from segcam_jax._jaxpr import graph, kinds
from segcam_jax._jaxpr.graph import Equation

# Linear in the first operand, the others known.
_LINEAR_IN_FIRST = kinds.LINEAR | {"div", "dynamic_slice", "gather", "cumsum"}


def is_affine(jaxpr: Any) -> bool:
    """Whether every output is f(x) + constant with f linear in the first input x.

    Detected, never assumed: an equation that is not known to keep linearity ends it.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return _affine(jaxpr, [True] + [False] * (len(jaxpr.invars) - 1)) is not None


def _affine(jaxpr: Any, changed: list[bool]) -> list[bool] | None:
    """Which outputs change, given which inputs do; None where something is not affine."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    varying = {v for v, changes in zip(jaxpr.invars, changed, strict=True) if changes}
    for equation in jaxpr.eqns:
        operands = [graph.is_variable(atom) and atom in varying for atom in equation.invars]
        if not any(operands):
            continue
        body = graph.called_jaxpr(equation)
        if body is not None:
            outputs = _affine(body, operands)
            if outputs is None:
                return None
            varying |= {v for v, c in zip(equation.outvars, outputs, strict=True) if c}
        elif _keeps_linearity(equation, operands):
            varying |= set(equation.outvars)
        else:
            return None
    return [graph.is_variable(atom) and atom in varying for atom in jaxpr.outvars]


def _keeps_linearity(equation: Equation, changed: list[bool]) -> bool:
    name = equation.primitive.name
    if name in ("add", "sub", "concatenate", "add_any"):
        return True
    if name in ("mul", "dot_general", "conv_general_dilated"):
        return sum(changed) == 1
    if name in ("select_n", "pad"):
        return not changed[0] if name == "select_n" else True
    if kinds.is_linear_cast(equation):
        return True
    return name in _LINEAR_IN_FIRST and not any(changed[1:])
