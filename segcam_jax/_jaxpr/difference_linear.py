"""The change of what linear operations make: the same operation on the change, without the rest.

    conv(A + D, W) - conv(A, W) = conv(D, W)        sums, biases and padding fall out
    (x + dx) (y + dy) - x y = dx y + (x + dx) dy    products of two changed values, expanded

A rule is `(apply, params, known, changes) -> change`, or None where it does not hold. `apply` is
the primitive with its parameters; `changes` has None for an operand that does not change.
"""

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
RULES: dict[str, Rule] = {
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
