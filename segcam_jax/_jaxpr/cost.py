"""What an evaluation needs, read off its equations."""

import math
from typing import Any

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import is_variable


def _bytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def live_bytes(jaxpr: Any) -> int:
    """The most bytes that are live at once in a forward evaluation, inputs but the first left out.

    The first input is the activation, which every ablation has of its own; the others are the
    carry, which ablations share.
    """
    last_use = {}
    for position, equation in enumerate(jaxpr.eqns):
        for atom in equation.invars:
            if is_variable(atom):
                last_use[atom] = position
    for atom in jaxpr.outvars:
        if is_variable(atom):
            last_use[atom] = len(jaxpr.eqns)
    live = {variable: _bytes(variable.aval) for variable in jaxpr.invars[:1]}
    peak = sum(live.values())
    for position, equation in enumerate(jaxpr.eqns):
        live.update((variable, _bytes(variable.aval)) for variable in equation.outvars)
        within = max((live_bytes(body) for body in graph.bodies(equation)), default=0)
        peak = max(peak, sum(live.values()) + within)
        live = {
            variable: size
            for variable, size in live.items()
            if last_use.get(variable, -1) > position
        }
    return peak


def total_bytes(jaxpr: Any) -> int:
    """Bytes of all values of an evaluation: a bound on what a gradient keeps for its way back."""
    total = sum(_bytes(variable.aval) for variable in jaxpr.invars[:1])
    for equation in jaxpr.eqns:
        total += sum(_bytes(variable.aval) for variable in equation.outvars)
        rounds = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += rounds * sum(total_bytes(body) for body in graph.bodies(equation))
    return total


# What a gradient flows through without the values: moves, and sums.
_FREE = frozenset(
    """
    add add_any sub neg reduce_sum cumsum name copy convert_element_type stop_gradient
    transpose reshape squeeze expand_dims broadcast_in_dim concatenate pad rev split
    slice dynamic_slice dynamic_update_slice gather
    """.split()
)


def kept_by(equation: Any) -> int:
    """Bytes of an equation's results, if a gradient keeps any of its values for its way back."""
    if equation.primitive.name in _FREE:
        return 0
    rounds = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    within = rounds * sum(map(kept_bytes, graph.bodies(equation)))
    return within or sum(_bytes(variable.aval) for variable in equation.outvars)


def kept_bytes(jaxpr: Any) -> int:
    """About the bytes that a gradient keeps for its way back."""
    return sum(map(kept_by, jaxpr.eqns))


def flops(jaxpr: Any) -> int:
    """Floating point operations of the convolutions and products of a jaxpr.

    Calls are included, those with a derivative rule of their own too; of a condition, the costliest
    branch.
    """
    total = 0
    for equation in jaxpr.eqns:
        if graph.call_body(equation) is not None or equation.primitive.name == "cond":
            total += max(flops(body) for body in graph.bodies(equation))
        elif equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[axis] for axis in contracting)
            total += 2 * equation.outvars[0].aval.size * summed
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            numbers = equation.params["dimension_numbers"]
            per_output = kernel.size // kernel.shape[numbers.rhs_spec[0]]
            dilation = math.prod(equation.params["lhs_dilation"])
            total += 2 * equation.outvars[0].aval.size * per_output // dilation
    return total
