"""ReLU and its kin in a traced function, with another rule for their gradient.

A rectifier passes what is positive, scales what is not by its slope, and may end at a cap:

    f(x) = min(max(x, 0) + slope min(x, 0), cap)      slope 0 and no cap: ReLU

Given the gradient R at its output, it sends back to its input

    gradient     1[x < cap] (1[x > 0] + slope 1[x <= 0]) R
    guided       1[x < cap] (1[x > 0] + slope 1[x <= 0]) max(R, 0)
    deconvnet    max(R, 0)

Found by what they compute, in whatever way it is written: `jax.nn.relu`, `relu6`, `leaky_relu`,
PReLU, `maximum(x, 0)`, `clip(x, 0, 6)`, `where(x > 0, x, slope * x)`, `maximum(x, slope * x)`,
`x * (x > 0)`; in calls (jit, remat), in the bodies of `scan` and the branches of `cond`. Values
keep what is known of them (a constant, the sign of another value, a product) through calls, and a
rectifier is where such facts meet.

Not rectifiers: the smooth activations (ELU, GELU, SiLU, ...) and the gates of `jax.nn` that use
`relu6` inside (`hard_sigmoid`); a maximum with 0 that only guards a root or a logarithm, as the
variance in a normalisation; what has a derivative rule of its own and is no rectifier as a whole.
These keep their gradient. A loop with an unknown number of steps (`while`) has none.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from segcam_jax._jaxpr import graph, kinds
from segcam_jax._jaxpr.graph import Equation, Var
from segcam_jax.types import InputError

Array = Any
Backward = Literal["guided", "deconvnet"]
BACKWARDS: tuple[str, ...] = get_args(Backward)


def rewritten(closed: Any, backward: Backward) -> Callable[..., tuple[list[Array], bool]]:
    """The function of a jaxpr, its rectifiers with another gradient.

    Returns:
        `(*inputs) -> ([*outputs], whether there are rectifiers)`; the outputs are those of the
        jaxpr, to the last bit.
    """
    jaxpr = getattr(closed, "jaxpr", closed)

    def run(*inputs):
        rewriter = _Rewriter(backward)
        outputs = rewriter.run(jaxpr, graph.constants_of(closed), [_Known(x) for x in inputs])
        return [output.value for output in outputs], rewriter.found

    return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rectify(backward: str, cap: float | None, x: Array, slope: Array, value: Array) -> Array:
    """Returns `value`, the rectified `x` as the model computed it."""
    return value


def _rectify_forward(backward, cap, x, slope, value):
    return value, (x, slope)


def _rectify_backward(backward, cap, saved, received):
    x, slope = saved
    passed = jnp.where(received > 0, received, jnp.zeros_like(received))
    if backward == "guided":
        passed = jnp.where(x > 0, passed, slope * passed)
        if cap is not None:
            passed = jnp.where(x < cap, passed, jnp.zeros_like(passed))
    return passed, jnp.zeros_like(slope), jnp.zeros_like(received)


_rectify.defvjp(_rectify_forward, _rectify_backward)


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """A value and what is known of it; two are the same value if they are the same object.

    Attributes:
        fact: a number that all elements are, or one of the facts below.
    """

    value: Array
    fact: Any = None


@dataclasses.dataclass(frozen=True)
class _Sign:
    """True, or 1, where `of` is positive (negative), whatever it is where `of` is 0."""

    of: _Known
    positive: bool


@dataclasses.dataclass(frozen=True)
class _Product:
    factors: tuple[_Known, _Known]

    def slope_of(self, x: _Known) -> _Known | None:
        """The other factor."""
        first, second = self.factors
        return second if first is x else first if second is x else None


@dataclasses.dataclass(frozen=True)
class _Capped:
    """min(of, cap)."""

    of: _Known
    cap: float | None


@dataclasses.dataclass(frozen=True)
class _Rectified:
    """min(max(of, 0) + slope min(of, 0), cap)."""

    of: _Known
    slope: Array
    cap: float | None = None


# Keep a constant a constant.
_REPEATING = frozenset("broadcast_in_dim copy copy_p name reshape squeeze transpose".split())
_POSITIVE = {"gt": True, "ge": True, "lt": False, "le": False}


class _Rewriter:
    def __init__(self, backward: str):
        self.backward = backward
        self.found = False

    def run(self, jaxpr: Any, consts: Sequence[Array], inputs: Sequence[_Known]) -> list[_Known]:
        """Evaluates a jaxpr; a variable holds a value and what is known of it."""
        guards = _guards(getattr(jaxpr, "jaxpr", jaxpr))

        def step(equation, operands):
            return self.results(equation, operands, not guards.isdisjoint(equation.outvars))

        return graph.interpret(jaxpr, consts, inputs, step, _of_array)

    def results(
        self, equation: Equation, operands: Sequence[_Known], guards_a_root: bool
    ) -> list[_Known]:
        """Evaluates an equation."""
        name = equation.primitive.name
        body = graph.called_jaxpr(equation)
        if body is not None and not kinds.jax_nn_name(body):
            return self.run(body, graph.constants_of(body), operands)
        if body is None and name.startswith("custom_"):
            body = equation.params.get("call_jaxpr")
        if body is not None:
            whole = self._as_a_whole(body, operands)
            return self._as_it_is(equation, operands) if whole is None else [whole]
        if name == "scan":
            return self._scan(equation, operands)
        if name == "cond":
            return self._cond(equation, operands)
        if name != "while" and not name.startswith("custom_"):
            _refuse_inside(equation)
        results = self._as_it_is(equation, operands)
        if len(results) != 1:
            return results
        if not guards_a_root and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
            fact = _meeting(name, operands)
            if fact is not None:
                return [self._rectified(fact, results[0].value)]
        return [_Known(results[0].value, _fact(name, operands))]

    def _as_it_is(self, equation: Equation, operands: Sequence[_Known]) -> list[_Known]:
        return [_Known(x) for x in graph.bind(equation, *(each.value for each in operands))]

    def _rectified(self, fact: _Rectified, value: Array) -> _Known:
        self.found = True
        x = fact.of.value
        slope = jax.lax.stop_gradient(jnp.asarray(fact.slope, jnp.result_type(x)))
        # The value is the model's own; what it would send back is in the rule.
        value = jax.lax.stop_gradient(value)
        return _Known(_rectify(self.backward, fact.cap, x, slope, value), fact)

    def _as_a_whole(self, body: Any, operands: Sequence[_Known]) -> _Known | None:
        """The result of a body that is one rectifier of its first operand, or None."""
        before = self.found
        results = self.run(body, graph.constants_of(body), operands)
        if len(results) == 1:
            fact = results[0].fact
            if isinstance(fact, _Rectified) and any(fact.of is operand for operand in operands):
                return results[0]
        self.found = before
        return None

    def _scan(self, equation: Equation, operands: Sequence[_Known]) -> list[_Known]:
        params = equation.params
        consts, carry = kinds.scan_counts(equation)
        moving = tuple(operand.value for operand in operands[consts:])

        def step(state, row):
            outputs = self._inside(params["jaxpr"], operands[:consts], *state, *row)
            return tuple(outputs[:carry]), tuple(outputs[carry:])

        options = {key: params[key] for key in ("length", "reverse", "unroll")}
        final, stacked = jax.lax.scan(step, moving[:carry], moving[carry:], **options)
        return [_Known(value) for value in (*final, *stacked)]

    def _cond(self, equation: Equation, operands: Sequence[_Known]) -> list[_Known]:
        index, *inputs = (operand.value for operand in operands)
        branches = equation.params["branches"]
        run = [functools.partial(self._inside, body, ()) for body in branches]
        return [_Known(value) for value in jax.lax.switch(index, run, *inputs)]

    def _inside(self, body: Any, shared: Sequence[_Known], *moving: Array) -> list[Array]:
        inputs = [*shared, *map(_Known, moving)]
        return [each.value for each in self.run(body, graph.constants_of(body), inputs)]


def _refuse_inside(equation: Equation) -> None:
    """Raises for a rectifier in a body that is not rewritten."""
    if any(map(_mentions_rectifiers, graph.bodies(equation))):
        raise InputError(
            f"a ReLU lies inside `{equation.primitive.name}`, where its gradient cannot be given "
            "another rule; call the model without it"
        )


def _mentions_rectifiers(jaxpr: Any) -> bool:
    """Whether there is a maximum with 0 in a jaxpr, calls included."""
    return any(
        any(map(_mentions_rectifiers, graph.bodies(equation)))
        or (
            equation.primitive.name == "max"
            and any(kinds.known_number(getattr(atom, "val", None)) == 0 for atom in equation.invars)
        )
        for equation in jaxpr.eqns
    )


def _of_array(value: Array) -> _Known:
    """A literal, or an array that a function closes over."""
    return _Known(value, kinds.known_number(value))


def _fact(name: str, operands: Sequence[_Known]) -> Any:
    """What is known of a result that is not a rectifier."""
    facts = [operand.fact for operand in operands]
    if name == "convert_element_type":
        return facts[0] if isinstance(facts[0], (float, _Sign)) else None
    if name in _REPEATING and isinstance(facts[0], float):
        return facts[0]
    if name in _POSITIVE:
        if facts[1] == 0:
            return _Sign(operands[0], _POSITIVE[name])
        if facts[0] == 0:
            return _Sign(operands[1], not _POSITIVE[name])
    if name == "mul":
        return _Product((operands[0], operands[1]))
    if name == "min":
        for x, cap in zip(operands, reversed(facts), strict=True):
            if isinstance(cap, float) and cap > 0:
                return _Capped(x, cap)
    return None


def _meeting(name: str, operands: Sequence[_Known]) -> _Rectified | None:
    """The rectifier that an equation ends, or None."""
    if name in ("max", "min", "mul"):
        first, second = operands
        pair = {"max": _maximum, "min": _minimum, "mul": _gate}[name]
        return pair(first, second) or pair(second, first)
    if name == "clamp":
        low, x, high = operands
        if low.fact == 0 and isinstance(high.fact, float) and high.fact > 0:
            return _Rectified(x, jnp.zeros(()), high.fact)
    if name == "select_n" and len(operands) == 3 and isinstance(operands[0].fact, _Sign):
        sign = operands[0].fact
        negative, positive = operands[1:] if sign.positive else reversed(operands[1:])
        slope = _slope(negative, sign.of) if positive is sign.of else None
        return None if slope is None else _Rectified(sign.of, slope)
    return None


def _maximum(x: _Known, other: _Known) -> _Rectified | None:
    """max(x, 0), max(min(x, cap), 0), max(x, slope x)."""
    if other.fact == 0:
        capped = x.fact if isinstance(x.fact, _Capped) else _Capped(x, None)
        return _Rectified(capped.of, jnp.zeros(()), capped.cap)
    if isinstance(other.fact, _Product):
        slope = other.fact.slope_of(x)
        if slope is not None and isinstance(slope.fact, float) and 0 <= slope.fact <= 1:
            return _Rectified(x, slope.value)
    return None


def _minimum(x: _Known, other: _Known) -> _Rectified | None:
    """min(a rectified value, cap)."""
    if not isinstance(x.fact, _Rectified) or not isinstance(other.fact, float):
        return None
    fits = x.fact.cap is None and other.fact > 0
    return dataclasses.replace(x.fact, cap=other.fact) if fits else None


def _gate(x: _Known, other: _Known) -> _Rectified | None:
    """x (x > 0)."""
    fact = other.fact
    passes = isinstance(fact, _Sign) and fact.positive and fact.of is x
    return _Rectified(x, jnp.zeros(())) if passes else None


def _slope(negative: _Known, x: _Known) -> Array | None:
    """The slope of what stands where x is not positive."""
    if negative.fact == 0:
        return jnp.zeros(())
    if isinstance(negative.fact, _Product):
        slope = negative.fact.slope_of(x)
        return None if slope is None else slope.value
    return None


_ROOTS = frozenset("sqrt rsqrt log pow".split())
_ON_THE_WAY = _REPEATING | {"add", "convert_element_type", "max", "min", "gather"}


def _guards(jaxpr: Any) -> set[Var]:
    """The maxima of a jaxpr that are read under a root or a logarithm only."""
    readers: dict[Var, list[Equation]] = collections.defaultdict(list)
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            if graph.is_variable(atom):
                readers[atom].append(equation)
    returned = {atom for atom in jaxpr.outvars if graph.is_variable(atom)}

    def ends_in_roots(variable):
        if variable in returned or not readers[variable]:
            return False
        return all(
            equation.primitive.name in _ROOTS
            or (equation.primitive.name in _ON_THE_WAY and ends_in_roots(equation.outvars[0]))
            for equation in readers[variable]
        )

    maxima = [e.outvars[0] for e in jaxpr.eqns if e.primitive.name in ("max", "clamp", "min")]
    return {variable for variable in maxima if ends_in_roots(variable)}
