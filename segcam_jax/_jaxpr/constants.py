"""Operands that are known while tracing, because they depend on no input.

Two kinds say which positions a product or an indexing reads, and are looked for:

    matrices    y[.., o, ..] = sum over i  M[i, o] x[.., i, ..]      `jax.image.resize`, linear
    indices     y[.., o, ..] = x[.., index[o], ..]                   nearest, `jnp.take`, `x[index]`
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import Equation

# No interpolation matrix of a real image is larger.
_MOST_ELEMENTS = 2**24
Known = Mapping[Any, np.ndarray]


def known(jaxpr: Any) -> dict[Any, np.ndarray]:
    """The matrices of products and the indices of gathers that depend on no input."""
    values: dict[Any, Any] = {}
    for equation in defining(jaxpr.eqns, jaxpr.eqns):
        with jax.ensure_compile_time_eval():
            results = graph.bind(equation, *(graph.read(values, a) for a in equation.invars))
        values.update(zip(equation.outvars, results, strict=True))
    operands = {atom for equation in jaxpr.eqns for atom in _telling(equation)}
    return {atom: np.asarray(values[atom]) for atom in operands if atom in values}


def as_literals(
    equations: Iterable[Equation], constvars: Sequence[Any], consts: Sequence[Any]
) -> list[Equation]:
    """Equations with constants that are whole numbers, as indices are, for literals.

    A program that is traced again keeps them: they stay known.
    """
    found = {
        variable: core.Literal(np.asarray(const), variable.aval)
        for variable, const in zip(constvars, consts, strict=True)
        if not isinstance(const, Tracer)
        and getattr(const, "is_fully_addressable", True)
        and variable.aval.size <= _MOST_ELEMENTS
        and (variable.aval.dtype == bool or jnp.issubdtype(variable.aval.dtype, jnp.integer))
    }

    def replaced(atom: Any) -> Any:
        return found.get(atom, atom) if graph.is_variable(atom) else atom

    return [
        equation.replace(invars=[replaced(atom) for atom in equation.invars])
        for equation in equations
    ]


def value(atom: Any, known: Known) -> np.ndarray | None:
    """The array that an atom is, or None where that is not known."""
    if graph.is_variable(atom):
        return known.get(atom)
    return np.asarray(atom.val)


def defining(equations: Sequence[Equation], readers: Sequence[Equation]) -> list[Equation]:
    """The equations that make the readers' matrices and indices, from nothing but literals."""
    constant: set[Any] = set()
    for equation in equations:
        if _is_constant(equation, constant):
            constant.update(equation.outvars)
    wanted = {atom for equation in readers for atom in _telling(equation)} & constant
    found = []
    for equation in reversed(equations):
        if any(variable in wanted for variable in equation.outvars):
            found.append(equation)
            wanted.update(atom for atom in equation.invars if graph.is_variable(atom))
    return found[::-1]


def _telling(equation: Equation) -> list[Any]:
    """The variables among an equation's operands that say what it reads."""
    if equation.primitive.name == "dot_general":
        told = [atom for atom in equation.invars if graph.is_variable(atom) and atom.aval.ndim == 2]
    else:
        told = equation.invars[1:] if equation.primitive.name == "gather" else []
    return [atom for atom in told if graph.is_variable(atom)]


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
