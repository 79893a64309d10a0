"""Gradients of large functions, block by block: values inside of a block are computed again.

Forwards, the equations run in blocks, and what a block reads of those before is kept; backwards,
each block runs once more, and is differentiated. So what is held at once is that and the values of
one block, for the operations of one more forward pass.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segcam_jax._jaxpr import cost, graph, slopes
from segcam_jax._jaxpr.graph import Equation, Var

Array = Any


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


def slope(closed: Any, first: Array, count: int) -> tuple[list[Array], Callable[..., Array]]:
    """As `slopes.slope`, in so many blocks of about as many bytes each."""
    constants = graph.constants_of(closed)
    whole, flat = graph.flattened(lambda x: graph.evaluate(closed, constants, [x]), first)
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

            def pulled(moving, wanted, jaxpr=jaxpr, known=known):
                return slopes.pulled(jaxpr, known, moving)[1](wanted)

            # In a branch, else XLA would merge the second time with the first, and keep all values:
            # for CPUs it takes barriers away before it does that.
            found = jax.lax.cond(
                always,
                pulled,
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
