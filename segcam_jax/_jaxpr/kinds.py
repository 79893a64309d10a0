"""What kind of operation a primitive is; the rewrites read these tables."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from segcam_jax._jaxpr.graph import Equation, bodies, call_body, is_variable

# One output element from the elements at the same place of each operand.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy
    copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow
    is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not or pow real
    reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh
    xor
    """.split()
)

# f(x + y) = f(x) + f(y), up to rounding.
LINEAR = frozenset(
    """
    broadcast_in_dim copy copy_p name neg reduce_sum reduce_window_sum reshape rev slice squeeze
    transpose
    """.split()
)

# Activations of `jax.nn` with a derivative rule of their own, and the body each must have.
_POLYMORPHIC: dict[str, tuple[Callable, tuple[tuple[str, float], ...]]] = {
    "relu": (jax.nn.relu, (("max", 0.0),)),
    "relu6": (jax.nn.relu6, (("max", 0.0), ("min", 6.0))),
}


def elementwise(equation: Equation) -> Callable[..., Any] | None:
    """The function of an elementwise equation, for operands of any shape; else None.

    A call with a derivative rule of its own is traced for one shape. The activations of `jax.nn`
    that are such calls are known by name and body, and run as what they are.
    """
    if equation.primitive.name in ELEMENTWISE:
        return lambda *operands: equation.primitive.bind(*operands, **equation.params)
    if equation.primitive.name == "custom_jvp_call":
        body = equation.params["call_jaxpr"]
        function, expected = _POLYMORPHIC.get(jax_nn_name(body), (None, ()))
        if function is not None and body_is(body, expected):
            return function
    return None


def is_linear_cast(equation: Equation) -> bool:
    """Whether a conversion keeps a sum: from floating point to one at least as wide."""
    if equation.primitive.name != "convert_element_type":
        return False
    old, new = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    both = jax.numpy.issubdtype(old, jax.numpy.floating) and jax.numpy.issubdtype(
        new, jax.numpy.floating
    )
    return both and new.itemsize >= old.itemsize


def known_number(value: Any) -> float | None:
    """The number that a literal or a concrete scalar is; None for anything else."""
    if isinstance(value, Tracer) or np.ndim(value):
        return None
    try:
        return float(np.asarray(value))
    except (TypeError, ValueError):
        return None


def jax_nn_name(jaxpr: Any) -> str:
    """The name of the `jax.nn` function that a jaxpr was traced from, or ""."""
    info = getattr(getattr(jaxpr, "jaxpr", jaxpr), "debug_info", None)
    name, _, file = getattr(info, "func_src_info", "").partition(" at ")
    return name if "nn/functions.py" in file else ""


def body_is(jaxpr: Any, expected: tuple[tuple[str, float], ...]) -> bool:
    """Whether a body, calls opened, is this chain of primitives with one literal operand each."""
    found = []
    pending = list(getattr(jaxpr, "jaxpr", jaxpr).eqns)
    while pending:
        equation = pending.pop(0)
        inner = call_body(equation)
        if inner is not None:
            pending = [*getattr(inner, "jaxpr", inner).eqns, *pending]
            continue
        literals = [known_number(atom.val) for atom in equation.invars if not is_variable(atom)]
        found.append((equation.primitive.name, *literals))
    return tuple(found) == expected


def convolved_axes(jaxpr: Any) -> set[int]:
    """Along how many axes each convolution of a jaxpr goes, those in its calls and loops too."""
    found = {axes for eqn in jaxpr.eqns for body in bodies(eqn) for axes in convolved_axes(body)}
    numbers = [
        equation.params["dimension_numbers"]
        for equation in jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
    ]
    return found | {len(each.lhs_spec) - 2 for each in numbers}


def scan_counts(scan: Equation) -> tuple[int, int]:
    """How many operands a scan holds for all steps, and how many it carries, before its rows."""
    if "num_consts" in scan.params:
        return scan.params["num_consts"], scan.params["num_carry"]
    held, carried, _ = scan.params["ft_in"].unpack()  # Since JAX 0.12.
    return len(held), len(carried)
