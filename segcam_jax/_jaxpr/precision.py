"""The products of a function (convolutions, dot products) in another precision.

Everything between products keeps its dtype: normalisations, sums and softmax see float32. In
bfloat16, the operands of products are rounded and XLA accumulates in float32; weights that the
function closes over, which evaluations share, are rounded once, outside of the loop.

The last linear piece stays float32: the products that no nonlinearity follows on the way to
another product, such as the head and the resize of its logits. They cost little, and rounding there
would round the score itself, whose small changes are what an ablation measures.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from segcam_jax._jaxpr import difference_rules, graph
from segcam_jax._jaxpr.graph import Equation, Var, is_variable

Array = Any

_PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))


def at_precision(fn: Callable, wanted: str, *structs: Any, everywhere: bool = False) -> Callable:
    """A function with its products in a precision, results in the dtypes that they had.

    Args:
        fn: of arrays of these shapes and dtypes; what it closes over is rounded once, here.
        wanted: `"float32"`: all bits of the operands, also where a device would round them by
            default; a precision that the model itself chose stays. `"tf32"`: operands rounded to
            tensorfloat32 where the device has it. `"bfloat16"`: operands rounded to bfloat16.
        everywhere: in bfloat16, round the last linear piece too: for functions of changes.
    """
    # There, float32 is what XLA computes in anyway.
    if wanted == "float32" and jax.default_backend() == "cpu":
        return fn
    rounded = functools.partial(with_precision, precision=wanted, everywhere=everywhere)
    return graph.rewritten(fn, rounded, *structs)


def with_precision(closed: Any, precision: str, *, everywhere: bool = False) -> Callable[..., list]:
    """The same of a jaxpr as `jax.make_jaxpr` returns it."""
    consts = graph.constants_of(closed)
    if precision != "bfloat16":
        level = lax.Precision.HIGHEST if precision == "float32" else lax.Precision.HIGH
        exact = functools.partial(_float32, level, override=precision == "tf32")
        return lambda *given: graph.evaluate(closed, consts, given, exact)
    structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    opened, jaxpr = graph.closed(lambda *given: graph.evaluate(closed, consts, given), *structs)
    late = frozenset() if everywhere else _last_piece(jaxpr)
    narrow = [
        _narrow(value) if _narrows(variable, jaxpr, late) else value
        for variable, value in zip(jaxpr.constvars, graph.constants_of(opened), strict=True)
    ]

    def product(equation: Equation, operands: Sequence[Array]) -> list[Array] | None:
        if equation.outvars and equation.outvars[0] in late:
            return _float32(lax.Precision.HIGHEST, equation, operands)
        return _bfloat16(equation, operands)

    return lambda *given: graph.evaluate(jaxpr, narrow, given, product)


def _is_product(equation: Equation) -> bool:
    """Whether an equation is a product of floating point numbers from float32 on."""
    numbers = (*equation.invars, *equation.outvars)
    return equation.primitive.name in _PRODUCTS and all(map(_is_float, numbers))


def _float32(
    level: lax.Precision, equation: Equation, operands: Sequence[Array], *, override: bool = False
) -> list[Array] | None:
    """A product at a level of precision; one that the model chose stays, unless overridden."""
    if not _is_product(equation) or (equation.params["precision"] is not None and not override):
        return None
    return [equation.primitive.bind(*operands, **{**equation.params, "precision": (level, level)})]


def _bfloat16(equation: Equation, operands: Sequence[Array]) -> list[Array] | None:
    # The result is bfloat16 as well: mixed types keep cuDNN from its fast kernels. It accumulates
    # in float32 all the same.
    if not _is_product(equation):
        return None
    params = {**equation.params, "precision": None, "preferred_element_type": jnp.bfloat16}
    product = equation.primitive.bind(*map(_narrow, operands), **params)
    return [product.astype(equation.outvars[0].aval.dtype)]


def _holds_products(equation: Equation) -> bool:
    bodies = graph.bodies(equation)
    return equation.primitive.name in _PRODUCTS or any(
        _holds_products(each) for body in bodies for each in body.eqns
    )


def _last_piece(jaxpr: Any) -> frozenset[Var]:
    """What is computed in the last linear piece, and after it; calls are opened.

    Backwards from the outputs: everything up to the first product, then on through what is linear
    in the inputs. A product of two values that depend on them, as silu is x sigmoid(x), is not.
    """
    varying = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(is_variable(atom) and atom in varying for atom in equation.invars):
            varying.update(equation.outvars)
    crossed = {atom: False for atom in jaxpr.outvars if is_variable(atom)}
    piece = set()
    for equation in reversed(jaxpr.eqns):
        states = [crossed[variable] for variable in equation.outvars if variable in crossed]
        behind = any(states)
        changed = [is_variable(atom) and atom in varying for atom in equation.invars]
        if not states or (behind and not difference_rules.is_linear(equation, changed)):
            continue
        piece.update(equation.outvars)
        for atom in equation.invars:
            if is_variable(atom):
                crossed[atom] = crossed.get(atom, False) or behind or _holds_products(equation)
    return frozenset(piece)


def _narrows(constant: Any, jaxpr: Any, late: frozenset[Var]) -> bool:
    """Whether a constant is kept in bfloat16: what products read, none of them at the end."""
    aval = constant.aval
    readers = [each for each in jaxpr.eqns if any(constant is atom for atom in each.invars)]
    return (
        _is_float(constant)
        and aval.size > max((1, *aval.shape))
        and not any(constant is atom for atom in jaxpr.outvars)
        and all(_is_product(each) and each.outvars[0] not in late for each in readers)
    )


def _is_float(variable: Any) -> bool:
    return variable.aval.dtype in (jnp.float32, jnp.float64)


def _narrow(value: Array) -> Array:
    """Rounded to bfloat16, by an operation that XLA keeps even where it computes in float32."""
    value = jnp.asarray(value)
    if value.dtype == jnp.bfloat16:
        return value
    return lax.reduce_precision(value, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)
