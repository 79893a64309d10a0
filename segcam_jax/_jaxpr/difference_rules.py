"""How a change goes through an operation, by a rule for each primitive.

Linear operations do to the change what they do to the value, and sums, biases and padding fall out:

    conv(A + D, W) - conv(A, W) = conv(D, W)
    (x + dx) (y + dy) - x y = dx y + (x + dx) dy

Nonlinear ones are expanded so that no two values that are nearly equal are subtracted:

    exp(x + d) - exp(x) = exp(x) expm1(d)
    sqrt(x + d) - sqrt(x) = d / (sqrt(x + d) + sqrt(x))
    max(x + d, c) - max(x, c) = max(d + min(u, 0), -max(u, 0))       u = x - c

Infinities that are equal are no distance apart, as those that pad a maximum or mask an attention; a
change that is really infinite, or not a number, stays so.

A rule is `(apply, params, known, changes) -> change`, or None where it does not hold. `apply` is
the primitive with its parameters; `changes` has None for an operand that does not change. The
derivatives of these formulas are not those of the functions at ties; nobody takes them (see
`engine/fall.py`).

What has a pole or an infinite slope at 0 reads the changed operand itself, as in `x / (|x| + 1e-6)`
where all of x is ablated: `known + change` is rounding there. The rules in `SINGULAR` take `fresh`
too: the changed operands that were not computed so, or None.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from segcam_jax._jaxpr import kinds
from segcam_jax._jaxpr.graph import Equation

Array = Any
Changes = Sequence[Array | None]
Rule = Callable[[Callable, dict, Sequence[Array], Changes], Any]


def filled(known: Array, change: Array | None) -> Array:
    """A change, zeros where there is none."""
    if change is not None:
        return change
    return lax.full(np.shape(known), 0, jnp.result_type(known))


def _add(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    x, y = changes
    if x is None or y is None:
        return y if x is None else x
    return apply(x, y)


def _subtract(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    x, y = changes
    if y is None:
        return x
    return lax.neg(y) if x is None else apply(x, y)


def _multiply(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    x, y = changes
    if y is None:
        return apply(x, known[1])
    if x is None:
        return apply(known[0], y)
    return apply(x, known[1]) + apply(known[0] + x, y)


def _together(says: slice) -> Rule:
    """Linear in all operands together but those that say where, which or by how much."""

    def rule(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
        if any(change is not None for change in changes[says]):
            return None
        operands = list(known)
        for at in _summed(says, len(known)):
            operands[at] = filled(known[at], changes[at])
        return apply(*operands)

    return rule


def _summed(says: slice, count: int) -> list[int]:
    """The operands that do not say anything."""
    return [at for at in range(count) if at not in range(count)[says]]


# The operands that say where, which or by how much.
_SAYING: dict[str, slice] = {
    **dict.fromkeys(
        """
        neg reshape transpose squeeze broadcast_in_dim slice rev reduce_sum cumsum reduce_window_sum
        real imag conj fft convert_element_type copy copy_p name stop_gradient split tile
        sharding_constraint dynamic_slice gather
        """.split(),
        slice(1, None),
    ),
    **dict.fromkeys(
        "add add_any sub concatenate pad complex optimization_barrier pvary".split(), slice(0)
    ),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), slice(1, 2)),
    "dynamic_update_slice": slice(2, None),
    "select_n": slice(1),
}
PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))
LINEAR: dict[str, Rule] = {
    **{name: _together(says) for name, says in _SAYING.items()},
    **dict.fromkeys(("add", "add_any"), _add),
    "sub": _subtract,
    **dict.fromkeys(PRODUCTS, _multiply),
}


def is_linear(equation: Equation, changed: Sequence[bool]) -> bool:
    """Whether an equation is linear in those of its operands that change, but for a constant."""
    name = equation.primitive.name
    if name in PRODUCTS:
        return sum(changed) == 1
    if name == "convert_element_type":
        return kinds.is_linear_cast(equation)
    says = slice(1, None) if name == "div" else _SAYING.get(name)
    return says is not None and name != "stop_gradient" and not any(changed[says])


def keeps_zero(name: str, zero: Sequence[bool]) -> bool:
    """Whether the result of a primitive is 0 where some operands are."""
    if name in PRODUCTS:
        return any(zero)
    if name in ("div", "reduce_precision"):
        return zero[0]
    says = _SAYING.get(name)
    return says is not None and all(zero[at] for at in _summed(says, len(zero)))


# So many times the unit of rounding is what a sum of many terms may be off.
_ROUNDING = 16
# Gauss-Legendre on [0, 1].
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def where(chosen: Array, yes: Array, no: Array) -> Array:
    """`jnp.where` as one equation; scalars and arrays of one shape."""
    shape = np.shape(chosen)
    dtype = jnp.result_type(yes, no)
    pair = [
        lax.broadcast_in_dim(jnp.asarray(x, dtype), shape, ()) if not np.ndim(x) else x
        for x in (no, yes)
    ]
    return lax.select_n(chosen, *pair)


def gap(x: Array, y: Array) -> Array:
    """x - y, 0 for equal infinities."""
    apart = x - y
    return where(lax.eq(apart, apart), apart, where(jnp.equal(x, y), 0.0, apart))


def _exp(x: Array, d: Array) -> Array:
    # Far upwards nothing cancels, and expm1 could overflow where exp(x) vanishes.
    after = lax.exp(x + d) - lax.exp(x)
    return where(d > 1, after, lax.exp(x) * lax.expm1(d))


def _exp2(x: Array, d: Array) -> Array:
    return where(d > 1, lax.exp2(x + d) - lax.exp2(x), lax.exp2(x) * lax.expm1(d * math.log(2)))


def _log(x: Array, d: Array, after: Array) -> Array:
    small = abs(d) < 0.5 * abs(x)
    ratio = where(small, d / where(x != 0, x, 1.0), 0.0)
    return where(small, lax.log1p(ratio), lax.log(after / x))


def _logistic(x: Array, d: Array) -> Array:
    """sinh(d / 2) / (2 cosh(x / 2) cosh((x + d) / 2)), all factors bounded."""
    after = x + d
    near = where(x * after > 0, lax.min(abs(x), abs(after)), 0.0)
    share = (1 + lax.exp(-abs(x))) * (1 + lax.exp(-abs(after)))
    return lax.sign(d) * -lax.expm1(-abs(d)) * lax.exp(-near) / share


def _sqrt(x: Array, d: Array, after: Array) -> Array:
    both = lax.sqrt(after) + lax.sqrt(x)
    return where(both == 0, 0.0, d / where(both == 0, 1.0, both))


def _rsqrt(x: Array, d: Array, after: Array) -> Array:
    x, after = lax.sqrt(x), lax.sqrt(after)
    return -d / (x * after * (x + after))


def _cbrt(x: Array, d: Array, after: Array) -> Array:
    x, after = lax.cbrt(x), lax.cbrt(after)
    both = x * x + x * after + after * after
    return where(both == 0, 0.0, d / where(both == 0, 1.0, both))


def _integer_pow(x: Array, d: Array, after: Array, power: int) -> Array:
    """(x + d)^n - x^n = d (sum of x^i (x + d)^(n - 1 - i))."""
    count = abs(power)
    if count == 0:
        return d * 0
    total = jnp.ones_like(d)
    for at in range(1, count):
        total = total * after + lax.integer_pow(x, at)
    change = d * total
    if power > 0:
        return change
    return -change / (lax.integer_pow(x, count) * lax.integer_pow(after, count))


def _abs(x: Array, d: Array) -> Array:
    after = x + d
    return where(x * after > 0, lax.sign(x) * d, abs(after) - abs(x))


def _erf(x: Array, d: Array) -> Array:
    """The integral of the derivative where the step is small; else in the tail that it lies in."""
    points = [(w / 2, (t + 1) / 2) for t, w in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True)]
    total = functools.reduce(lax.add, [w * lax.exp(-lax.square(x + t * d)) for w, t in points])
    after = x + d
    above = lax.erfc(x) - lax.erfc(after)
    below = lax.erfc(-after) - lax.erfc(-x)
    large = where(x + after >= 0, above, below)
    return where(abs(d) < 0.5, 2 / math.sqrt(math.pi) * d * total, large)


_UNARY: dict[str, Callable[..., Array]] = {
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _exp,
    "logistic": _logistic,
    "tanh": lambda x, d: 2 * _logistic(2 * x, 2 * d),
    "square": lambda x, d: d * (x + (x + d)),
    "abs": _abs,
    "erf": _erf,
    "erfc": lambda x, d: -_erf(x, d),
    "sin": lambda x, d: 2 * lax.cos(x + d / 2) * lax.sin(d / 2),
    "cos": lambda x, d: -2 * lax.sin(x + d / 2) * lax.sin(d / 2),
}


def _now(known: Array, change: Array | None, fresh: Array | None) -> Array:
    """The changed operand."""
    added = known if change is None else known + change
    return added if fresh is None else fresh


def _rounding(x: Array) -> Array:
    """What `x + change` may be off where it should be 0."""
    return abs(x) * (_ROUNDING * float(jnp.finfo(x.dtype).eps))


def _unary(formula: Callable) -> Rule:
    def rule(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
        assert changes[0] is not None
        return formula(known[0], changes[0])

    return rule


def _singular(formula: Callable, *, root: bool = False) -> Callable[..., Array]:
    def rule(apply, params, known: Sequence[Array], changes: Changes, fresh: Changes) -> Array:
        x, after = known[0], _now(known[0], changes[0], fresh[0])
        if root and fresh[0] is None:  # Squares of which nothing is left may sum to less than 0.
            least = _rounding(x)
            after = where((after < least) & (after > -least), least, after)
        return formula(x, changes[0], after)

    return rule


def _power(apply, params, known: Sequence[Array], changes: Changes, fresh: Changes) -> Array:
    now = _now(known[0], changes[0], fresh[0] if params["y"] < 0 else None)
    return _integer_pow(known[0], changes[0], now, params["y"])


def _real_power(apply, params, known: Sequence[Array], changes: Changes, fresh: Changes) -> Any:
    """x^p, p known."""
    (x, p), (d, other) = known, changes
    if other is not None or d is None:
        return None
    p = jnp.asarray(p, d.dtype)
    small = (abs(d) < 0.5 * abs(x)) & (abs(x) > 0)
    ratio = where(small, d / where(x != 0, x, 1.0), 0.0)
    near = apply(x, p) * lax.expm1(p * lax.log1p(ratio))
    return where(small, near, apply(_now(x, d, fresh[0]), p) - apply(x, p))


def _divide(apply, params, known: Sequence[Array], changes: Changes, fresh: Changes) -> Array:
    """(dx - q dy) / (y + dy), q = x / y; (x + dx) / (y + dy) - q where |dy| > |y + dy|."""
    (x, y), (dx, dy) = known, changes
    if dy is None:
        return apply(dx, y)
    quotient, now, numerator = x / y, _now(y, dy, fresh[1]), _now(x, dx, fresh[0])
    near = -quotient * dy if dx is None else dx - quotient * dy
    if dx is not None and fresh[0] is None:
        numerator = where(abs(numerator) < _rounding(x), 0.0, numerator)
    far = jnp.broadcast_to(abs(dy) > abs(now), near.shape)
    return where(far, numerator / now - quotient, near / now)


def picked(first0: Array, first1: Array, changes: tuple, values: tuple) -> Array:
    """The change of where(first, x, y) when the choice itself may change."""
    (dx, dy), (x, y) = changes, values
    return where(first1, where(first0, dx, gap(x, y) + dx), where(first0, gap(y, x) + dy, dy))


def _larger(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    (x, y), (dx, dy) = known, changes
    if dx is not None and dy is not None:
        return picked(x >= y, x + dx >= y + dy, (dx, dy), (x, y))
    apart, d = (gap(x, y), dx) if dy is None else (gap(y, x), dy)
    assert d is not None
    return lax.max(
        d + lax.min(apart, lax.full_like(apart, 0)), -lax.max(apart, lax.full_like(apart, 0))
    )


def _smaller(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    mirrored = [None if change is None else -change for change in changes]
    return -_larger(apply, params, [-jnp.asarray(value) for value in known], mirrored)


def _clamp(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
    low, x, high = known
    if changes[0] is not None or changes[2] is not None:
        return None
    raised = lax.max(x, jnp.broadcast_to(low, np.shape(x)))
    change = _larger(apply, params, (x, low), (changes[1], None))
    return _smaller(apply, params, (raised, high), (change, None))


def _extreme(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    """max_i(x_i + d_i) - max_i x_i = max_i(d_i + (x_i - max x)), the bracket known."""
    x, axes = known[0], params["axes"]
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    most = lax.broadcast_in_dim(apply(x), x.shape, kept)
    return apply(changes[0] + gap(x, most))


def _pooled(kind: Callable, outside: float) -> Rule:
    """The same for every window, along one axis after the other."""

    def rule(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
        if set(params["base_dilation"]) != {1}:
            return None
        (x,), (d,) = known, changes
        assert d is not None
        for axis, width in enumerate(params["window_dimensions"]):
            step, padding = params["window_strides"][axis], params["padding"][axis]
            if (width, step, tuple(padding)) == (1, 1, (0, 0)):
                continue
            dilation = params["window_dilation"][axis]
            reach = (width - 1) * dilation + 1
            config = [(*padding, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
            x = lax.pad(x, jnp.asarray(outside, x.dtype), config)
            d = lax.pad(d, jnp.zeros((), d.dtype), config)
            count = (x.shape[axis] - reach) // step + 1
            if count < 1:
                return None
            ends = [(t * dilation, t * dilation + (count - 1) * step + 1) for t in range(width)]
            values = [lax.slice_in_dim(x, *end, step, axis) for end in ends]
            moved = [lax.slice_in_dim(d, *end, step, axis) for end in ends]
            most = functools.reduce(kind, values)
            d = functools.reduce(
                kind, [m + gap(v, most) for v, m in zip(values, moved, strict=True)]
            )
            x = most
        return d

    return rule


NONLINEAR: dict[str, Rule] = {
    **{name: _unary(formula) for name, formula in _UNARY.items()},
    "max": _larger,
    "min": _smaller,
    "clamp": _clamp,
    "reduce_max": _extreme,
    "reduce_min": _extreme,
    "reduce_window_max": _pooled(lax.max, -math.inf),
    "reduce_window_min": _pooled(lax.min, math.inf),
}

SINGULAR: dict[str, Callable[..., Any]] = {
    "log": _singular(_log),
    "log1p": _singular(lambda x, d, after: _log(1 + x, d, 1 + after)),
    "sqrt": _singular(_sqrt, root=True),
    "rsqrt": _singular(_rsqrt, root=True),
    "cbrt": _singular(_cbrt),
    "integer_pow": _power,
    "pow": _real_power,
    "div": _divide,
}
