"""The slope of a function: its gradient, without what its first input does not change.

The derivative of `difference.py`: every value is known, and has a tangent where it depends on the
first input. Every primitive takes the derivative that it has, a model's own rules included, so that
ties are the model's; `jax.linear_transpose` turns the map of tangents around. The tangent of a
concatenation is that of its parts: going back, a convolution of `concat(changed, skip)` is not
taken for the channels of the skip.

Where a function is large it is differentiated block by block. Forwards, the equations run in
blocks, and what a block reads of those before is kept; backwards, each block runs once more, and is
differentiated. So what is held at once is that and the values of one block, for the operations of
one more forward pass.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segcam_jax._jaxpr import cost, difference_rules, graph, kinds
from segcam_jax._jaxpr.graph import Equation, Var
from segcam_jax._jaxpr.parts import Value, interpret

Array = Any
# Floating results that are flat wherever they are smooth.
_FLAT = frozenset(("stop_gradient", "floor", "ceil", "round", "sign", "nextafter"))


def slope(closed: Any, first: Array, count: int = 1) -> tuple[list[Array], Callable[..., Array]]:
    """The outputs of a function, and `(*cotangents of the outputs) -> gradient`.

    Args:
        count: blocks of about as many bytes each.
    """
    if count > 1:
        return _in_blocks(closed, first, count)
    outputs, pull = pulled(closed, graph.constants_of(closed), [first])
    return outputs, lambda *cotangents: pull(cotangents)[0]


def pulled(
    jaxpr: Any, known: Sequence[Array], inputs: Sequence[Array]
) -> tuple[list[Array], Callable[[Sequence[Array]], list[Array]]]:
    """The outputs of a jaxpr, and `cotangents of the outputs -> gradients` at several inputs.

    Args:
        known: what it closes over, or of its inputs those before the others.
        inputs: its last inputs.
    """
    opened = getattr(jaxpr, "jaxpr", jaxpr)
    outputs: list[Array] = []

    def tangents(*moving):
        starts = [Value(x, change=tangent) for x, tangent in zip(inputs, moving, strict=True)]
        before = [Value(x) for x in known[len(opened.constvars) :]]
        found = interpret(opened, known[: len(opened.constvars)], [*before, *starts], _Tangents())
        outputs[:] = [value.known for value in found]
        return [difference_rules.filled(v.known, v.whole_change()) for v in found]

    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]
    pull = jax.linear_transpose(tangents, *structs)
    return outputs, lambda cotangents: list(pull(list(cotangents)))


class _Tangents:
    """Infinitesimal changes, by the derivative of every primitive."""

    def holds(self, dtype: Any) -> bool:
        return jnp.issubdtype(dtype, jnp.inexact)

    def body(self, equation: Equation) -> Any | None:
        return graph.called_jaxpr(equation)

    def changed(
        self,
        equation: Equation,
        params: dict,
        operands: Sequence[Value],
        known: Sequence[Array] | None = None,
    ) -> list[Value]:
        apply = functools.partial(graph.bind, equation)
        if params is not equation.params:
            one = kinds.elementwise(equation)
            one = one or functools.partial(equation.primitive.bind, **params)
            apply = lambda *arrays: [one(*arrays)]  # noqa: E731
        arrays = [value.known for value in operands]
        moving = [at for at, value in enumerate(operands) if value.change is not None]
        smooth = [self.holds(variable.aval.dtype) for variable in equation.outvars]
        if not any(smooth) or equation.primitive.name in _FLAT:
            return [Value(x) for x in (known or apply(*arrays))]

        def moved(*values):
            given = dict(zip(moving, values, strict=True))
            return apply(*(given.get(at, array) for at, array in enumerate(arrays)))

        at = [arrays[index] for index in moving]
        found, tangents = jax.jvp(moved, at, [operands[i].whole_change() for i in moving])
        return [
            Value(x, change=tangent) if is_smooth else Value(x)
            for x, tangent, is_smooth in zip(known or found, tangents, smooth, strict=True)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """Some equations.

    Attributes:
        known: what they read that does not depend on the input.
        inputs: what they read that does, in floating point.
        outputs: what those behind read, or the function returns.
    """

    equations: Sequence[Equation]
    known: Sequence[Var]
    inputs: Sequence[Var]
    outputs: Sequence[Var]

    def making(self, outputs: Sequence[Var]) -> tuple[Any, Callable[..., list[Array]]]:
        """The jaxpr `(*known, *inputs) -> outputs`, and its function."""
        return graph.subgraph_function([*self.known, *self.inputs], self.equations, outputs)


def _in_blocks(closed: Any, first: Array, count: int) -> tuple[list[Array], Callable[..., Array]]:
    constants = graph.constants_of(closed)
    whole, flat = graph.closed(lambda x: graph.evaluate(closed, constants, [x]), first)
    environment = dict(zip(flat.constvars, graph.constants_of(whole), strict=True))
    environment[flat.invars[0]] = first
    blocks, always = _cut(flat, count), _always([*environment.values()])
    for block in blocks:
        given = (environment[variable] for variable in (*block.known, *block.inputs))
        environment.update(zip(block.outputs, block.making(block.outputs)[1](*given), strict=True))

    def pull(*cotangents: Array) -> Array:
        back: dict[Var, Array] = {}
        _add(back, flat.outvars, cotangents)
        for block in reversed(blocks):
            asked = [variable for variable in block.outputs if variable in back]
            if not asked:
                continue
            known, moving = (
                [environment[variable] for variable in variables]
                for variables in (block.known, block.inputs)
            )
            jaxpr = block.making(asked)[0]

            def again(moving, wanted, jaxpr=jaxpr, known=known):
                return pulled(jaxpr, known, moving)[1](wanted)

            # In a branch, else XLA would merge the second time with the first, and keep all values:
            # for CPUs it takes barriers away before it does that.
            found = jax.lax.cond(
                always,
                again,
                lambda moving, _: jax.tree.map(jnp.zeros_like, moving),
                moving,
                [back.pop(variable) for variable in asked],
            )
            _add(back, block.inputs, found)
        return back.get(flat.invars[0], jnp.zeros_like(first))

    return [graph.read(environment, atom) for atom in flat.outvars], pull


def _always(arrays: Sequence[Array]) -> Array:
    """True, which the compiler does not find out; of an array that is not mapped over, if any."""
    smooth = (each for each in arrays if each.size and jnp.issubdtype(each.dtype, jnp.floating))
    one = next(smooth).ravel()[0].astype(jnp.float32)
    return (jax.lax.bitcast_convert_type(one, jnp.int32) & 1) < 2


def _add(back: dict[Var, Array], atoms: Sequence[Any], cotangents: Sequence[Array]) -> None:
    for atom, cotangent in zip(atoms, cotangents, strict=True):
        if graph.is_variable(atom) and _is_smooth(atom):
            back[atom] = back[atom] + cotangent if atom in back else cotangent


def _is_smooth(variable: Var) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _cut(flat: Any, count: int) -> list[_Block]:
    """The equations in blocks that keep about as many bytes each."""
    share, kept = cost.kept_bytes(flat) / count, 0
    depends, groups = {flat.invars[0]}, [[]]
    for equation in flat.eqns:
        if kept > share * len(groups):
            groups.append([])
        groups[-1].append(equation)
        kept += cost.kept_by(equation)
        if any(graph.is_variable(atom) and atom in depends for atom in equation.invars):
            depends.update(equation.outvars)
    needed = {atom for atom in flat.outvars if graph.is_variable(atom)}
    blocks = []
    for group in reversed(groups):
        own = {variable: None for equation in group for variable in equation.outvars}
        read = {a: None for e in group for a in e.invars if graph.is_variable(a) and a not in own}
        inputs = [atom for atom in read if atom in depends and _is_smooth(atom)]
        known = [atom for atom in read if atom not in inputs]
        blocks.append(_Block(group, known, inputs, [v for v in own if v in needed]))
        needed.update(read)
    return blocks[::-1]


def has_slope(jaxpr: Any) -> bool:
    """Whether a gradient can flow from the outputs of a jaxpr back to its inputs.

    Loops and functions with a derivative rule of their own are taken to let it through.
    """
    return _is_reached(jaxpr, smoothly=True)


def depends(jaxpr: Any) -> bool:
    """Whether the outputs of a jaxpr are computed of its inputs at all."""
    return _is_reached(jaxpr, smoothly=False)


def _is_reached(jaxpr: Any, *, smoothly: bool) -> bool:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return any(_reached(jaxpr, [True] * len(jaxpr.invars), smoothly))


def _reached(jaxpr: Any, inputs: list[bool], smoothly: bool) -> list[bool]:
    """Which outputs depend, smoothly or in any way, on the inputs that are marked."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    marked = {atom for atom, known in zip(jaxpr.invars, inputs, strict=True) if known}
    for equation in jaxpr.eqns:
        operands = [_is_marked(atom, marked, smoothly) for atom in equation.invars]
        if not any(operands) or (smoothly and equation.primitive.name in _FLAT):
            continue
        body = graph.called_jaxpr(equation)
        results = [True] * len(equation.outvars)
        if body is not None:
            results = _reached(body, operands, smoothly)
        marked |= {v for v, known in zip(equation.outvars, results, strict=True) if known}
    return [_is_marked(atom, marked, smoothly) for atom in jaxpr.outvars]


def _is_marked(atom: Any, marked: set[Any], smoothly: bool) -> bool:
    if not graph.is_variable(atom) or atom not in marked:
        return False
    return not smoothly or jnp.issubdtype(atom.aval.dtype, jnp.inexact)
