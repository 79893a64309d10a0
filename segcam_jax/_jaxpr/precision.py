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

from segcam_jax._jaxpr import difference_linear, graph
from segcam_jax._jaxpr.graph import Equation, is_variable

Array = Any

_PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))


def with_precision(closed: Any, precision: str, *, everywhere: bool = False) -> Callable[..., list]:
    """The function of a jaxpr with its products in a precision.

    Args:
        closed: as `jax.make_jaxpr` returns it; computes in float32 or float64.
        precision: `"float32"`: all bits of the operands, also where a device would round them by
            default; a precision that the model itself chose stays. `"tf32"`: operands rounded to
            tensorfloat32 where the device has it. `"bfloat16"`: operands rounded to bfloat16.
        everywhere: in bfloat16, round the last linear piece too: for functions of changes.
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    consts = graph.constants_of(closed)
    if precision != "bfloat16":
        level = lax.Precision.HIGHEST if precision == "float32" else lax.Precision.HIGH
        product = functools.partial(_float32, level, precision == "tf32")
        return functools.partial(_run, jaxpr, consts, lambda _: product, None)
    varies = [True] * len(jaxpr.invars)
    late = frozenset() if everywhere else _last_piece(jaxpr, varies)
    consts = [
        _narrow(value) if _narrows(variable, jaxpr, late) else value
        for variable, value in zip(jaxpr.constvars, consts, strict=True)
    ]
    return functools.partial(
        _run, jaxpr, consts, _bfloat16_but_last, None if everywhere else varies
    )


def holds_products(jaxpr: Any) -> bool:
    """Whether there is a product in a jaxpr, calls included."""
    return any(
        equation.primitive.name in _PRODUCTS or any(map(holds_products, graph.bodies(equation)))
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _run(
    jaxpr: Any,
    consts: Sequence[Array],
    product_of: Callable[[bool], Callable],
    ends: Sequence[bool] | None,
    *inputs: Array,
) -> list[Array]:
    """Evaluates a jaxpr; `product_of(late)` evaluates its products.

    Args:
        jaxpr: opened.
        consts: its constants, some perhaps narrower than the jaxpr has them.
        product_of: whether a product belongs to the last linear piece -> how to evaluate it.
        ends: where the jaxpr's outputs are the function's, so that it holds that piece: which of
            its inputs vary.
    """
    late = frozenset() if ends is None else _last_piece(jaxpr, ends)
    varying = _varying(jaxpr, ends or ())
    environment = dict(zip(jaxpr.invars, inputs, strict=True))
    environment.update(zip(jaxpr.constvars, consts, strict=True))

    def read(atom):
        return environment[atom] if is_variable(atom) else atom.val

    for index, equation in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in equation.invars]
        body = graph.called_jaxpr(equation)
        floats = all(map(_is_float, (*equation.invars, *equation.outvars)))
        if equation.primitive.name in _PRODUCTS and floats:
            results = [product_of(index in late)(equation, *operands)]
        elif body is not None and holds_products(body):
            opened, inner = getattr(body, "jaxpr", body), graph.constants_of(body)
            operands = _as_traced(equation, operands)
            inside = [is_variable(atom) and atom in varying for atom in equation.invars]
            last = inside if index in late else None
            results = _run(opened, inner, product_of, last, *operands)
        else:
            results = graph.bind(equation, *_as_traced(equation, operands))
        environment.update(zip(equation.outvars, results, strict=True))
    return [_as(atom, read(atom)) for atom in jaxpr.outvars]


def _float32(level: lax.Precision, override: bool, equation: Equation, *operands: Array) -> Array:
    """A product at a level of precision; one that the model chose stays, unless overridden."""
    params = dict(equation.params)
    if params["precision"] is None or override:
        params["precision"] = (level, level)
    return equation.primitive.bind(*_as_traced(equation, operands), **params)


def _bfloat16(equation: Equation, *operands: Array) -> Array:
    # The result is bfloat16 as well: mixed types keep cuDNN from its fast kernels. It accumulates
    # in float32 all the same.
    params = {**equation.params, "precision": None, "preferred_element_type": jnp.bfloat16}
    product = equation.primitive.bind(*map(_narrow, operands), **params)
    return product.astype(equation.outvars[0].aval.dtype)


def _bfloat16_but_last(late: bool) -> Callable:
    return functools.partial(_float32, lax.Precision.HIGHEST, False) if late else _bfloat16


def _varying(jaxpr: Any, inputs: Sequence[bool]) -> set[Any]:
    """The variables that depend on those inputs that vary."""
    varying = {v for v, varies in zip(jaxpr.invars, inputs, strict=False) if varies}
    for equation in jaxpr.eqns:
        if any(is_variable(atom) and atom in varying for atom in equation.invars):
            varying.update(equation.outvars)
    return varying


def _last_piece(jaxpr: Any, inputs: Sequence[bool]) -> frozenset[int]:
    """Positions of the equations of the last linear piece, and of what follows it.

    Backwards from the outputs: everything up to the first product, then on through what is linear
    in the inputs that vary. A product of two such values, as silu is x sigmoid(x), is not.
    """
    varying = _varying(jaxpr, inputs)
    crossed = {atom: False for atom in jaxpr.outvars if is_variable(atom)}
    piece = set()
    for index in reversed(range(len(jaxpr.eqns))):
        equation = jaxpr.eqns[index]
        states = [crossed[variable] for variable in equation.outvars if variable in crossed]
        if not states:
            continue
        name, behind = equation.primitive.name, any(states)
        is_product = name in _PRODUCTS or any(map(holds_products, graph.bodies(equation)))
        changed = [is_variable(atom) and atom in varying for atom in equation.invars]
        if behind and not difference_linear.is_linear(equation, changed):
            continue
        piece.add(index)
        for atom in equation.invars:
            if is_variable(atom):
                crossed[atom] = crossed.get(atom, False) or behind or is_product
    return frozenset(piece)


def _narrows(constant: Any, jaxpr: Any, late: frozenset[int]) -> bool:
    """Whether a constant is kept in bfloat16: what products read, none of them at the end."""
    aval = constant.aval
    if not _is_float(constant) or aval.size <= max((1, *aval.shape)):
        return False
    readers = [
        index
        for index, equation in enumerate(jaxpr.eqns)
        if any(constant is atom for atom in equation.invars)
    ]
    products = all(jaxpr.eqns[index].primitive.name in _PRODUCTS for index in readers)
    late_or_out = any(index in late for index in readers) or any(
        constant is atom for atom in jaxpr.outvars
    )
    return products and not late_or_out


def _is_float(variable: Any) -> bool:
    return variable.aval.dtype in (jnp.float32, jnp.float64)


def _narrow(value: Array) -> Array:
    """Rounded to bfloat16, by an operation that XLA keeps even where it computes in float32."""
    value = jnp.asarray(value)
    if value.dtype == jnp.bfloat16:
        return value
    return lax.reduce_precision(value, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)


def _as(atom: Any, value: Array) -> Array:
    """A value in the dtype that its variable was traced with."""
    dtype = atom.aval.dtype
    same = jnp.issubdtype(dtype, jax.dtypes.extended) or jnp.result_type(value) == dtype
    return value if same else jnp.asarray(value).astype(dtype)


def _as_traced(equation: Equation, operands: Sequence[Array]) -> list[Array]:
    return [_as(atom, value) for atom, value in zip(equation.invars, operands, strict=True)]
