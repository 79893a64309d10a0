"""What an evaluation needs, read off its equations."""

from typing import Any

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
    live = {jaxpr.invars[0]: _bytes(jaxpr.invars[0].aval)}
    peak = sum(live.values())
    for position, equation in enumerate(jaxpr.eqns):
        live.update((variable, _bytes(variable.aval)) for variable in equation.outvars)
        peak = max(peak, sum(live.values()))
        live = {
            variable: size
            for variable, size in live.items()
            if last_use.get(variable, -1) > position
        }
    return peak


def total_bytes(jaxpr: Any) -> int:
    """Bytes of all values of an evaluation: a bound on what a gradient keeps for its way back."""
    return sum(
        _bytes(variable.aval) for equation in jaxpr.eqns for variable in equation.outvars
    ) + _bytes(jaxpr.invars[0].aval)
