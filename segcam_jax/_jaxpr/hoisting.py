"""Partial evaluation modulo linearity: what an ablation cannot change leaves the loop.

A value that depends on the activation is kept as a sum `changed + known`, or as pieces along one
axis, some known. Linear operations act on both parts of a sum; elementwise ones on every piece; a
convolution over pieces is the sum of convolutions over each piece. What is known ends up outside:

    conv(concat(changed, skip), W) = conv(changed, W_1) + conv(skip, W_2)
                                                          `--- once per image

The rewritten function is traced again and cut at the activation, so that every known part is
computed by `prepare`, once. Results agree with the original up to rounding.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import graph, kinds, slicing
from segcam_jax._jaxpr.graph import Equation

Array = Any


@dataclasses.dataclass(frozen=True)
class Known:
    """A value that no ablation changes."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return np.shape(self.array)


@dataclasses.dataclass(frozen=True)
class Sum:
    """changed + known; known may be None for zero."""

    changed: Array
    known: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of either part."""
        return self.changed.shape


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Values side by side along an axis; at least one is known and at least one a sum."""

    axis: int
    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        shape = list(self.parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(shape)

    def bounds(self) -> list[tuple[int, int]]:
        """Where each part begins and ends."""
        ends = np.cumsum([part.shape[self.axis] for part in self.parts]).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


Value = Known | Sum | Pieces


def hoist(jaxpr: Any) -> slicing.Slice:
    """Rewrites the function of a jaxpr, whose first input is the activation.

    Returns:
        A slice: `encode(activation, *carry)` gives the activation and a new carry, `decode` takes
        them. Its equations are flat: jit and remat are inlined.
    """

    def rewritten(activation, *carry):
        values = [Sum(activation), *map(Known, carry)]
        return [materialised(value) for value in _run(jaxpr, (), values)]

    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    traced, _ = graph.trace(rewritten, "", *structs)
    return slicing.cut(traced, traced.invars[0])


def materialised(value: Value) -> Array:
    """The value as one array."""
    if isinstance(value, Known):
        return value.array
    if isinstance(value, Sum):
        return value.changed if value.known is None else value.changed + value.known
    return jnp.concatenate([materialised(part) for part in value.parts], value.axis)


def _run(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    environment = dict(zip(jaxpr.invars, inputs, strict=True))
    environment.update(zip(jaxpr.constvars, map(Known, consts), strict=True))

    def read(atom):
        return environment[atom] if graph.is_variable(atom) else Known(atom.val)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        body = graph.called_jaxpr(equation)
        if body is not None and not all(isinstance(v, Known) for v in operands):
            results = _run(body, graph.constants_of(body), operands)
        else:
            results = _rewrite(equation, operands)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _rewrite(equation: Equation, operands: list[Value]) -> list[Value]:
    if all(isinstance(value, Known) for value in operands):
        return [Known(x) for x in graph.bind(equation, *map(materialised, operands))]
    for rule in (_concatenated, _contracted, _by_piece, _linear):
        result = rule(equation, operands)
        if result is not None:
            return [result]
    return [Sum(x) for x in graph.bind(equation, *map(materialised, operands))]


def _concatenated(equation: Equation, operands: list[Value]) -> Value | None:
    """Concatenating known and changed values makes pieces."""
    if equation.primitive.name != "concatenate":
        return None
    axis = equation.params["dimension"]
    parts: list[Any] = []
    for value in operands:
        if isinstance(value, Pieces):
            parts += value.parts if value.axis == axis else [Sum(materialised(value))]
        else:
            parts.append(value)
    return _pieces(axis, parts)


def _pieces(axis: int, parts: Sequence[Any]) -> Value:
    """Neighbours of one kind are joined; pieces only where there is something known."""
    joined: list[Any] = []
    for part in parts:
        if joined and type(part) is type(joined[-1]):
            previous = joined.pop()
            if isinstance(part, Known):
                part = Known(jnp.concatenate([previous.array, part.array], axis))
            else:
                part = _join_sums(previous, part, axis)
        joined.append(part)
    return joined[0] if len(joined) == 1 else Pieces(axis, tuple(joined))


def _join_sums(left: Sum, right: Sum, axis: int) -> Sum:
    changed = jnp.concatenate([left.changed, right.changed], axis)
    if left.known is None and right.known is None:
        return Sum(changed)
    known = [
        jnp.zeros_like(part.changed) if part.known is None else part.known for part in (left, right)
    ]
    return Sum(changed, jnp.concatenate(known, axis))


def _contracted(equation: Equation, operands: list[Value]) -> Value | None:
    """A convolution or product that sums over the axis of pieces is a sum over the pieces."""
    name = equation.primitive.name
    if name not in ("conv_general_dilated", "dot_general"):
        return None
    left, right = operands
    if isinstance(right, Known) and not isinstance(left, Known):
        place, value, weight = 0, left, right
    elif isinstance(left, Known) and not isinstance(right, Known):
        place, value, weight = 1, right, left
    else:
        return None
    if name == "conv_general_dilated" and place == 1:
        return None

    def product(array, weights):
        pair = (array, weights) if place == 0 else (weights, array)
        return equation.primitive.bind(*pair, **equation.params)

    if isinstance(value, Pieces):
        axis = kinds.summed_with(equation, place, value.axis)
        if axis is None:
            value = Sum(materialised(value))
        else:
            return _sum_of_products(value, weight.array, axis, product)
    known = None if value.known is None else product(value.known, weight.array)
    return Sum(product(value.changed, weight.array), known)


def _sum_of_products(value: Pieces, weight: Array, axis: int, product: Callable) -> Sum:
    slices = [jax.lax.slice_in_dim(weight, low, high, axis=axis) for low, high in value.bounds()]
    known, changed = [], []
    for part, weights in zip(value.parts, slices, strict=True):
        if isinstance(part, Known):
            known.append((part.array, weights))
        else:
            changed.append((part.changed, weights))
            if part.known is not None:
                known.append((part.known, weights))

    def total(pairs):
        arrays, weights = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        joined = jnp.concatenate(arrays, value.axis) if len(arrays) > 1 else arrays[0]
        return product(joined, jnp.concatenate(weights, axis) if len(arrays) > 1 else weights[0])

    return Sum(total(changed), total(known))


def _by_piece(equation: Equation, operands: list[Value]) -> Value | None:
    """What acts on every element, or every channel, by itself acts on every piece."""
    pieces = [value for value in operands if isinstance(value, Pieces)]
    if not pieces:
        return None
    axis, bounds = pieces[0].axis, pieces[0].bounds()
    if any(value.axis != axis or value.bounds() != bounds for value in pieces):
        return None
    function = kinds.elementwise(equation)
    if function is None:
        return _reshaped_pieces(equation, pieces[0]) if len(operands) == 1 else None

    def part_of(value, index):
        if isinstance(value, Pieces):
            return materialised(value.parts[index])
        array = materialised(value)
        if np.ndim(array) == 0 or np.shape(array)[axis] == 1:
            return array
        return jax.lax.slice_in_dim(array, *bounds[index], axis=axis)

    parts = []
    for index in range(len(bounds)):
        result = function(*(part_of(value, index) for value in operands))
        fixed = all(
            isinstance(value, Known)
            or (isinstance(value, Pieces) and isinstance(value.parts[index], Known))
            for value in operands
        )
        parts.append(Known(result) if fixed else Sum(result))
    return _pieces(axis, parts)


def _reshaped_pieces(equation: Equation, value: Pieces) -> Value | None:
    """Operations on one operand that leave the axis of the pieces whole."""
    placed = kinds.moved_axis(equation, value.axis, value.shape)
    if placed is None:
        return None
    axis, params_for = placed
    parts = []
    for part in value.parts:
        params = params_for(part.shape[value.axis])
        result = equation.primitive.bind(materialised(part), **params)
        parts.append(Known(result) if isinstance(part, Known) else Sum(result))
    return Pieces(axis, tuple(parts))


def _linear(equation: Equation, operands: list[Value]) -> Value | None:
    """Linear operations act on both parts of a sum; without a known part there is nothing to do."""
    sums = [value for value in operands if isinstance(value, Sum)]
    if len(sums) != sum(not isinstance(value, Known) for value in operands):
        return None
    if all(value.known is None for value in sums):
        return None
    name = equation.primitive.name

    def apply(*arrays):
        return equation.primitive.bind(*arrays, **equation.params)

    if len(operands) == 1 and (name in kinds.LINEAR or kinds.is_linear_cast(equation)):
        return Sum(apply(sums[0].changed), apply(sums[0].known))
    if name in ("mul", "div") and len(sums) == 1 and isinstance(operands[0], Sum):
        scale = materialised(operands[1])
        return Sum(apply(sums[0].changed, scale), apply(sums[0].known, scale))
    if name == "mul" and len(sums) == 1:
        scale = materialised(operands[0])
        return Sum(apply(scale, sums[0].changed), apply(scale, sums[0].known))
    if name in ("add", "sub"):
        return _added(apply, name, *operands)
    return None


def _added(apply: Callable, name: str, left: Value, right: Value) -> Sum:
    def parts(value):
        if isinstance(value, Known):
            return None, value.array
        return value.changed, value.known

    (a, known_a), (b, known_b) = parts(left), parts(right)

    def combined(x, y):
        if x is None and y is None:
            return None
        if y is None:
            return x
        if x is None:
            return y if name == "add" else -y
        return apply(x, y)

    return Sum(combined(a, b), combined(known_a, known_b))
