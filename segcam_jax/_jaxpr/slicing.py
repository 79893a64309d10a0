"""Cutting a graph in two at one of its variables.

Equations that depend on the variable are `decode`; what they read besides it is the carry; the
equations that make the variable and the carry are `encode`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.core import Tracer

from segcam_jax._jaxpr import constants, graph, moves
from segcam_jax._jaxpr.graph import Equation, Graph, Var, is_variable, subgraph_function


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """A graph cut at a variable.

    Attributes:
        encode: `(*inputs) -> [activation, *carry]`.
        decode: `(activation, *carry) -> [*outputs]`.
        encode_jaxpr, decode_jaxpr: their equations.
        reaches_output: whether any output depends on the activation.
        holds_tracers: whether it closes over tracers.
    """

    encode: Callable[..., list]
    decode: Callable[..., list]
    encode_jaxpr: Any
    decode_jaxpr: Any
    reaches_output: bool
    holds_tracers: bool


def same_dtypes(one: Slice, other: Slice) -> bool:
    """Whether two slices of one function, traced for other arguments, compute alike in dtypes."""
    pairs = ((one.encode_jaxpr, other.encode_jaxpr), (one.decode_jaxpr, other.decode_jaxpr))
    return all(_dtypes(mine) == _dtypes(theirs) for mine, theirs in pairs)


def _dtypes(jaxpr: Any) -> list[Any]:
    """The dtypes of all results, without conversions of weak types to strong ones."""
    return [
        getattr(variable.aval, "dtype", None)
        for equation in jaxpr.eqns
        for variable in equation.outvars
        if equation.primitive.name != "convert_element_type"
        or equation.invars[0].aval.dtype != variable.aval.dtype
    ]


def opened(jaxpr: Any, consts: Sequence[Any] = ()) -> tuple[Any, tuple[Any, ...]]:
    """A jaxpr without calls that mean no more than their body, and its further inputs' values.

    What is joined of parts of one value is gathered from it.
    """
    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]

    def run(*inputs):
        return graph.evaluate(jaxpr, consts, inputs, moves.Gathering())

    flat, _ = graph.trace(run, "", *structs)
    equations = constants.as_literals(flat.equations, flat.constvars, flat.consts)
    inputs = [*flat.invars, *flat.constvars]
    return subgraph_function(inputs, equations, flat.outvars)[0], flat.consts


def cut(whole: Graph, activation: Var, also: Sequence[Any] = ()) -> Slice:
    """Cuts a graph at a variable.

    Args:
        activation: the variable to cut at, an input or the output of an equation.
        also: atoms that do not depend on it; `encode` returns them too, after the carry.
    """
    equations = constants.as_literals(whole.equations, whole.constvars, whole.consts)
    dependent = _dependents(equations, [activation])
    after = [equation for equation in equations if _reads(equation, dependent)]
    before = [equation for equation in equations if not _reads(equation, dependent)]
    decode_equations = _needed(after, whole.outvars)
    decode_equations = _with_expansions(before, decode_equations, whole.outvars)
    carry = _free_variables(decode_equations, whole.outvars, bound={activation})
    encode_outputs = [activation, *carry, *also]
    encode_equations = _needed(before, encode_outputs)
    inputs = [*whole.constvars, *whole.invars]
    encode_jaxpr, encode = subgraph_function(inputs, encode_equations, encode_outputs)
    decode_jaxpr, decode = subgraph_function([activation, *carry], decode_equations, whole.outvars)
    consts = whole.consts
    return Slice(
        encode=lambda *flat: encode(*consts, *flat),
        decode=decode,
        encode_jaxpr=encode_jaxpr,
        decode_jaxpr=decode_jaxpr,
        reaches_output=any(is_variable(atom) and atom in dependent for atom in whole.outvars),
        holds_tracers=any(isinstance(const, Tracer) for const in consts),
    )


def order_of_use(made: Slice, count: int) -> list[int]:
    """For each of the last `count` inputs of `encode`, the step in which it is used first.

    There a value that is made of it meets one that depends on the activation. What never does comes
    last.
    """
    encode, decode = made.encode_jaxpr, made.decode_jaxpr
    first: dict[Var, int] = {}
    steps = itertools.count()
    own = set(encode.invars[-count:] if count else ())
    sources = [frozenset({variable} & own) for variable in encode.invars]
    carry = _sources(encode, sources, first, steps)[1:]
    _sources(decode, [None, *carry], first, steps)
    last = next(steps)
    return [first.get(variable, last) for variable in encode.invars[-count:]] if count else []


def _sources(
    jaxpr: Any, inputs: Sequence[frozenset[Var] | None], first: dict[Var, int], steps: Iterator[int]
) -> list[frozenset[Var] | None]:
    """What each output of a jaxpr is made of: inputs of the whole, or None: the activation.

    Calls are opened. `first` takes down in which step an input meets the activation.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> frozenset[Var] | None:
        return known.get(atom, frozenset()) if is_variable(atom) else frozenset()

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        body = graph.call_body(equation)
        if body is not None:
            known |= zip(equation.outvars, _sources(body, operands, first, steps), strict=True)
            continue
        place, sources = next(steps), frozenset().union(*(each or () for each in operands))
        if None in operands:
            first |= dict.fromkeys(sources - first.keys(), place)
        known |= dict.fromkeys(equation.outvars, None if None in operands else sources)
    return [read(atom) for atom in jaxpr.outvars]


def apart(whole: Graph) -> tuple[Callable[[], list], Callable[[Sequence[Any], list], list]]:
    """What a traced function computes of its constants alone, and the rest.

    Returns:
        `once() -> known` and `each(inputs, known) -> outputs`.
    """
    dependent = _dependents(whole.equations, whole.invars)
    before = [equation for equation in whole.equations if not _reads(equation, dependent)]
    after = [equation for equation in whole.equations if _reads(equation, dependent)]
    after = _with_expansions(before, _needed(after, whole.outvars), whole.outvars)
    read = _free_variables(after, whole.outvars, bound=set(whole.invars))
    _, once = subgraph_function([*whole.constvars], _needed(before, read), read)
    _, each = subgraph_function([*whole.invars, *read], after, whole.outvars)
    return lambda: once(*whole.consts), lambda inputs, known: each(*inputs, *known)


def _reads(equation: Equation, variables: set[Var]) -> bool:
    return any(is_variable(atom) and atom in variables for atom in equation.invars)


def _dependents(equations: Iterable[Equation], variables: Iterable[Var]) -> set[Var]:
    dependent = set(variables)
    for equation in equations:
        if _reads(equation, dependent):
            dependent.update(equation.outvars)
    return dependent


def _needed(equations: Sequence[Equation], outputs: Iterable[Any]) -> list[Equation]:
    """The equations that the outputs depend on, in order; those with effects stay."""
    wanted = {atom for atom in outputs if is_variable(atom)}
    kept = []
    for equation in reversed(equations):
        if equation.effects or any(variable in wanted for variable in equation.outvars):
            kept.append(equation)
            wanted.update(atom for atom in equation.invars if is_variable(atom))
    return kept[::-1]


def _with_expansions(
    before: Sequence[Equation], decode: list[Equation], outputs: Iterable[Any]
) -> list[Equation]:
    """Moves into decode what only repeats a small array, such as a bias over all positions.

    The carry then holds the bias, not a copy of it for every position. What makes the matrix of an
    interpolation moves too: decode then shows what it is.
    """
    matrices = {id(equation) for equation in constants.defining(before, decode)}
    wanted = set(_free_variables(decode, outputs, bound=set()))
    moved = []
    for equation in reversed(before):
        single = len(equation.outvars) == 1 and equation.outvars[0] in wanted
        if id(equation) in matrices or (single and _expands(equation)):
            moved.append(equation)
            wanted.update(atom for atom in equation.invars if is_variable(atom))
    return moved[::-1] + decode


def _expands(equation: Equation) -> bool:
    if equation.primitive.name == "iota":
        return True
    if equation.primitive.name != "broadcast_in_dim":
        return False
    return all(atom.aval.size < equation.outvars[0].aval.size for atom in equation.invars)


def _free_variables(
    equations: Iterable[Equation], outputs: Iterable[Any], bound: set[Var]
) -> list[Var]:
    """Variables read and not defined, in order of first use."""
    bound = set(bound)
    free: dict[Var, None] = {}
    for equation in equations:
        for atom in equation.invars:
            if is_variable(atom) and atom not in bound:
                free[atom] = None
        bound.update(equation.outvars)
    for atom in outputs:
        if is_variable(atom) and atom not in bound:
            free[atom] = None
    return list(free)
