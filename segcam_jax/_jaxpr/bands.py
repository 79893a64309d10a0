"""Products with a fixed banded matrix: how `jax.image.resize` interpolates along an axis.

    y[.., o, ..] = sum over i  M[i, o] x[.., i, ..]        M[i, o] = 0 but for i near o / scale

A window of y needs the rows of M that are not zero there, and nothing else of x.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import graph, spans
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Span

# No interpolation matrix of a real image is larger.
_MOST_ELEMENTS = 2**24
Matrices = Mapping[Any, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Band:
    """The matrix of a product, and where it is not zero.

    Attributes:
        operand: which operand the matrix is, 0 or 1.
        axis: the axis of the other operand that is summed.
        rows, columns: the matrix's axes that are summed and kept.
        out: the axis of the output that the columns become.
        matrix: rows first, as bool: not zero.
    """

    operand: int
    axis: int
    rows: int
    columns: int
    out: int
    matrix: np.ndarray

    def needed(self, have: Span) -> Span | None:
        """The rows that a window of columns reads."""
        return _touched(self.matrix.T, have)

    def reached(self, have: Span) -> Span | None:
        """The columns that a window of rows is read by."""
        return _touched(self.matrix, have)


def _touched(matrix: np.ndarray, have: Span) -> Span | None:
    """The window that covers, for every place, what the rows of a window of a matrix touch."""
    count, extent = matrix.shape
    touched = np.zeros((len(have.starts), extent), bool)
    for at, start in enumerate(have.starts):
        touched[at] = matrix[start : min(start + have.size, count)].any(0)
    low = np.where(touched.any(1), touched.argmax(1), 0)
    high = np.where(touched.any(1), extent - touched[:, ::-1].argmax(1), 0)
    return spans.span(have.axis, low, high, extent)


def matrices(jaxpr: Any) -> dict[Any, np.ndarray]:
    """Of the matrices of products that depend on no input, which elements are not zero."""
    known: dict[Any, Any] = {}
    for equation in defining(jaxpr.eqns, jaxpr.eqns):
        with jax.ensure_compile_time_eval():
            results = graph.bind(equation, *(graph.read(known, a) for a in equation.invars))
        known.update(zip(equation.outvars, results, strict=True))
    operands = {atom for equation in jaxpr.eqns for atom in _matrix_operands(equation)}
    return {atom: np.asarray(known[atom]) != 0 for atom in operands if atom in known}


def defining(equations: Sequence[Equation], readers: Sequence[Equation]) -> list[Equation]:
    """The equations that make the matrices of the readers' products, from nothing but literals."""
    constant: set[Any] = set()
    for equation in equations:
        if _is_constant(equation, constant):
            constant.update(equation.outvars)
    wanted = {atom for equation in readers for atom in _matrix_operands(equation)} & constant
    found = []
    for equation in reversed(equations):
        if any(variable in wanted for variable in equation.outvars):
            found.append(equation)
            wanted.update(atom for atom in equation.invars if graph.is_variable(atom))
    return found[::-1]


def _matrix_operands(equation: Equation) -> list[Any]:
    if equation.primitive.name != "dot_general":
        return []
    return [atom for atom in equation.invars if graph.is_variable(atom) and atom.aval.ndim == 2]


def _is_constant(equation: Equation, known: set[Any]) -> bool:
    """Whether an equation depends on nothing but literals and known variables, and is small."""
    depends = any(graph.is_variable(atom) and atom not in known for atom in equation.invars)
    return is_small(equation) and not depends


def is_small(equation: Equation) -> bool:
    """Whether an equation makes nothing but arrays that are small enough to evaluate."""
    small = all(
        hasattr(v.aval, "size")
        and v.aval.size <= _MOST_ELEMENTS
        and not jnp.issubdtype(v.aval.dtype, jax.dtypes.extended)
        for v in equation.outvars
    )
    return small and not equation.effects


def find(equation: Equation, known: Matrices) -> Band | None:
    """The band of a product with a fixed matrix, or None."""
    if equation.primitive.name != "dot_general":
        return None
    contracting, batch = equation.params["dimension_numbers"]
    for operand, atom in enumerate(equation.invars):
        if not graph.is_variable(atom) or atom not in known or atom.aval.ndim != 2 or batch[0]:
            continue
        if len(contracting[operand]) != 1:
            continue
        rows, axis = contracting[operand][0], contracting[1 - operand][0]
        out = 0 if operand == 0 else equation.outvars[0].aval.ndim - 1
        matrix = np.moveaxis(known[atom], rows, 0)
        return Band(operand, axis, rows, 1 - rows, out, matrix)
    return None
