"""What kind of operation a primitive is; the rewrites read these tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from segcam_jax._jaxpr.graph import Equation, bodies, called_jaxpr, is_variable

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
        if function is not None and _body_is(body, expected):
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


def _body_is(jaxpr: Any, expected: tuple[tuple[str, float], ...]) -> bool:
    """Whether a body is this chain of primitives, each with one literal operand."""
    found = []
    pending = list(getattr(jaxpr, "jaxpr", jaxpr).eqns)
    while pending:
        equation = pending.pop(0)
        inner = called_jaxpr(equation)
        if inner is not None:
            pending = list(getattr(inner, "jaxpr", inner).eqns) + pending
            continue
        literals = [float(atom.val) for atom in equation.invars if not is_variable(atom)]
        found.append((equation.primitive.name, *literals))
    return tuple(found) == expected


def summed_with(equation: Equation, operand: int, axis: int) -> int | None:
    """The axis of the other operand that an axis of this one is summed with, or None.

    Args:
        equation: a convolution, of which operand 0 is meant, or a product.
    """
    if equation.primitive.name == "dot_general":
        contracting, _ = equation.params["dimension_numbers"]
        ours, theirs = contracting[operand], contracting[1 - operand]
        return theirs[list(ours).index(axis)] if axis in ours else None
    numbers = equation.params["dimension_numbers"]
    single = equation.params["feature_group_count"] == equation.params["batch_group_count"] == 1
    channels = operand == 0 and axis == numbers.lhs_spec[1]
    return numbers.rhs_spec[1] if single and channels else None


def convolved_axes(jaxpr: Any) -> set[int]:
    """Along how many axes each convolution of a jaxpr goes, those in its calls and loops too."""
    found = {axes for eqn in jaxpr.eqns for body in bodies(eqn) for axes in convolved_axes(body)}
    numbers = [
        equation.params["dimension_numbers"]
        for equation in jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
    ]
    return found | {len(each.lhs_spec) - 2 for each in numbers}


def moved_axis(
    equation: Equation, axis: int, shape: Sequence[int]
) -> tuple[int, Callable[[int], dict]] | None:
    """Where an axis goes that an operation leaves whole, element by element.

    Args:
        equation: of one operand, or of one and of scalars that say where or with what.

    Returns:
        The axis of the output, and the parameters for an operand of another size along it; None
        where the operation mixes what lies along the axis.
    """
    name, params = equation.primitive.name, equation.params

    def sized(key: str, at: int) -> Callable[[int], dict]:
        def resized(size):
            sizes = list(params[key])
            sizes[at] = size
            return {**params, key: tuple(sizes)}

        return resized

    if name == "reshape" and params.get("dimensions") is None:
        before = math.prod(shape[:axis])
        new = params["new_sizes"]
        for at, size in enumerate(new):
            if math.prod(new[:at]) == before and size == shape[axis]:
                return at, sized("new_sizes", at)
    if name == "broadcast_in_dim":
        at = params["broadcast_dimensions"][axis]
        return at, sized("shape", at)
    if name == "transpose":
        return params["permutation"].index(axis), lambda size: params
    if name == "pad" and params["padding_config"][axis] == (0, 0, 0):
        return axis, lambda size: params
    if name == "slice" and (params["strides"] or (1,) * len(shape))[axis] == 1:
        full = (params["start_indices"][axis], params["limit_indices"][axis]) == (0, shape[axis])
        return (axis, sized("limit_indices", axis)) if full else None
    if name == "dynamic_slice" and params["slice_sizes"][axis] == shape[axis]:
        return axis, sized("slice_sizes", axis)
    if name == "squeeze":
        gone = [d % len(shape) for d in params["dimensions"]]
        return axis - sum(d < axis for d in gone), lambda size: params
    if name in ("reduce_sum", "reduce_max", "reduce_min") and axis not in params["axes"]:
        return axis - sum(d < axis for d in params["axes"]), lambda size: params
    if name.startswith("reduce_window_") and params["window_dimensions"][axis] == 1:
        keeps = params["window_strides"][axis] == 1 and params["padding"][axis] == (0, 0)
        return (axis, lambda size: params) if keeps else None
    return None
