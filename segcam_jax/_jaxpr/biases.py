"""Where a function stops being linear in its input: the biases that it adds on the way.

Every value v depends on the input through equations o = h(v). With Dh the derivative of h at v,

    o = Dh v + b,    b = h(v) - Dh v

so that b is what the equation adds to the linear map it is around v: the bias of a convolution, the
shift of a normalisation, 0 for a ReLU, a maximum or a mean, cap for a ReLU6 above its cap,
f(v) - f'(v) v for any other nonlinearity. For a score S of the output y this gives, exactly,

    <dS/dy, y> = <dS/dx, x> + sum over equations <dS/do, b>

A bias that meets nothing but scales and further biases is carried along (a convolution's bias
into the BatchNorm that follows it), as if the normalisation were folded into the convolution:
how an affine map is written does not matter. A pointwise call of one operand (`jax.nn.silu`) is one
equation.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segcam_jax._jaxpr import graph, kinds
from segcam_jax._jaxpr.graph import Equation

Array = Any

# Linear in its one operand, and no two of its elements meet in an element of the result.
_CARRIED = frozenset(
    "broadcast_in_dim copy copy_p name neg reshape rev slice squeeze transpose".split()
)
# f(a v) = a f(v) for a > 0, in all operands that depend on the input.
_HOMOGENEOUS = kinds.LINEAR | frozenset(
    """
    add add_any sub concatenate select_n cumsum dynamic_slice gather max min reduce_max reduce_min
    reduce_window_max reduce_window_min sort
    """.split()
)
_PRODUCTS = frozenset(("mul", "div", "dot_general", "conv_general_dilated"))


def with_biases(closed: Any) -> Callable[..., tuple[list, list]]:
    """The function of a jaxpr with its biases laid open.

    Returns:
        `(x, nudges) -> ([*outputs], [*biases])`. Each bias has the shape of the value that it was
        added to; `nudges`, zeros of these shapes, are added there too, so that the gradient with
        respect to a nudge is dS/do. None for no nudges.
    """
    jaxpr = getattr(closed, "jaxpr", closed)

    def run(x, nudges=None):
        walk = _Walk(nudges)
        outputs = walk.run(jaxpr, graph.constants_of(closed), [_Part(x, True)])
        values = [walk.settled(output).value for output in outputs]
        return values, walk.biases

    return run


@dataclasses.dataclass(frozen=True)
class _Part:
    """A value.

    Attributes:
        changes: whether it depends on the input.
        pending: the bias in it that is not accounted for yet.
    """

    value: Array
    changes: bool
    pending: Array | None = None


class _Walk:
    def __init__(self, nudges: Sequence[Array] | None):
        self.nudges = nudges
        self.biases: list[Array] = []

    def run(self, jaxpr: Any, consts: Sequence[Array], inputs: Sequence[_Part]) -> list[_Part]:
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        uses = collections.Counter(
            atom
            for atoms in (*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars)
            for atom in atoms
            if graph.is_variable(atom)
        )

        def kept(variables, parts):
            pairs = zip(variables, parts, strict=True)
            return [part if uses[v] == 1 else self.settled(part) for v, part in pairs]

        def step(equation, operands):
            return kept(equation.outvars, self.results(equation, operands))

        inputs = kept(jaxpr.invars, inputs)
        return graph.interpret(jaxpr, consts, inputs, step, lambda array: _Part(array, False))

    def settled(self, part: _Part) -> _Part:
        """The part with its bias put on record."""
        if part.pending is None:
            return part
        value = part.value
        if self.nudges is not None:
            value = value + self.nudges[len(self.biases)]
        self.biases.append(part.pending)
        return _Part(value, True)

    def results(self, equation: Equation, operands: Sequence[_Part]) -> list[_Part]:
        """Evaluates an equation."""
        changing = [index for index, operand in enumerate(operands) if operand.changes]
        floats = [
            jnp.issubdtype(variable.aval.dtype, jnp.floating) for variable in equation.outvars
        ]
        if not changing or not any(floats):
            values = graph.bind(equation, *(operand.value for operand in operands))
            return [_Part(value, False) for value in values]
        body = graph.called_jaxpr(equation)
        pointwise = body is not None and len(changing) == 1 and _is_pointwise(body)
        if body is not None and (not pointwise or _is_relu(body)):
            return self.run(body, graph.constants_of(body), operands)
        if body is None and len(changing) == 1:
            carried = self.carried(equation, operands, changing[0])
            if carried is not None:
                return [carried]
        operands = [self.settled(operand) for operand in operands]
        values = graph.bind(equation, *(operand.value for operand in operands))
        if _is_homogeneous(equation, changing, operands):
            return [_Part(v, is_float) for v, is_float in zip(values, floats, strict=True)]
        linear = _linear_part(equation, [operand.value for operand in operands], changing)
        return [
            _Part(value, True, value - next(linear)) if is_float else _Part(value, False)
            for value, is_float in zip(values, floats, strict=True)
        ]

    def carried(self, equation: Equation, operands: Sequence[_Part], changing: int) -> _Part | None:
        """The result with the operand's bias carried along, for what scales and adds; else None."""
        name, operand = equation.primitive.name, operands[changing]
        values = [operand.value for operand in operands]
        scales = name in _CARRIED or kinds.is_linear_cast(equation)
        scales = scales or name == "mul" or (name == "div" and changing == 0)
        adds = name in ("add", "sub", "add_any")
        if not scales and not adds:
            return None
        (value,) = graph.bind(equation, *values)
        pending = operand.pending
        adds_zero = adds and all(_is_zero(each) for i, each in enumerate(values) if i != changing)
        if pending is None and adds and not adds_zero:
            pending = jnp.zeros_like(operand.value)
        if pending is not None:
            values[changing] = pending
            (pending,) = graph.bind(equation, *values)
        return _Part(value, True, pending)


def _linear_part(equation: Equation, values: Sequence[Array], changing: Sequence[int]):
    """The derivative of an equation applied to its operands, for each of its float results.

    By two pullbacks: what has a reverse-mode rule only (`custom_vjp`) has no forward mode.
    """
    moving = [values[index] for index in changing]

    def outputs(*given):
        filled = list(values)
        for index, value in zip(changing, given, strict=True):
            filled[index] = value
        found = zip(graph.bind(equation, *filled), equation.outvars, strict=True)
        return [v for v, variable in found if jnp.issubdtype(variable.aval.dtype, jnp.floating)]

    results, pull = jax.vjp(outputs, *moving)
    _, push = jax.vjp(pull, [jnp.zeros_like(result) for result in results])
    (tangents,) = push(tuple(moving))
    return iter(tangents)


def _is_homogeneous(equation: Equation, changing: Sequence[int], operands: Sequence[_Part]) -> bool:
    """Whether an equation adds nothing."""
    name = equation.primitive.name
    if name in _PRODUCTS:
        return len(changing) == 1 and (name != "div" or changing[0] == 0)
    if name == "custom_jvp_call":
        return _is_relu(equation.params["call_jaxpr"])
    if name == "pad":
        fill = operands[1].value
        return changing == [0] and (_is_zero(fill) or _is_infinite(fill))
    if name in ("dynamic_slice", "gather"):
        return changing == [0]
    known = [i for i in range(len(operands)) if i not in changing]
    if name == "select_n":
        known = [i for i in known if i != 0]
    return name in _HOMOGENEOUS and all(_is_zero(operands[i].value) for i in known)


def _is_relu(jaxpr: Any) -> bool:
    return kinds.body_is(jaxpr, (("max", 0.0),))


def _is_pointwise(jaxpr: Any) -> bool:
    """Whether all equations of a body are elementwise."""
    return all(
        kinds.elementwise(equation) is not None
        or (
            graph.called_jaxpr(equation) is not None and _is_pointwise(graph.called_jaxpr(equation))
        )
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _is_zero(value: Array) -> bool:
    """Whether a number is known to be 0."""
    return kinds.known_number(value) == 0


def _is_infinite(value: Array) -> bool:
    number = kinds.known_number(value)
    return number is not None and math.isinf(number)
