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


def _first(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
    """Linear in the first operand; the others say where or by how much."""
    if changes[0] is None or any(change is not None for change in changes[1:]):
        return None
    return apply(changes[0], *known[1:])


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


def _every(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
    """Linear in all operands together."""
    return apply(*(filled(k, c) for k, c in zip(known, changes, strict=True)))


def _scatter(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
    operand, indices, updates = changes
    if indices is not None:
        return None
    return apply(filled(known[0], operand), known[1], filled(known[2], updates))


def _dynamic_update(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Any:
    if any(change is not None for change in changes[2:]):
        return None
    return apply(filled(known[0], changes[0]), filled(known[1], changes[1]), *known[2:])


def _select(apply: Callable, params: dict, known: Sequence[Array], changes: Changes) -> Array:
    """Where the choice is known."""
    pairs = zip(known[1:], changes[1:], strict=True)
    return apply(known[0], *(filled(k, c) for k, c in pairs))


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        neg reshape transpose squeeze broadcast_in_dim slice rev reduce_sum cumsum reduce_window_sum
        real imag conj fft convert_element_type copy copy_p name stop_gradient split tile
        sharding_constraint optimization_barrier pvary dynamic_slice gather
        """.split(),
        _first,
    ),
    **dict.fromkeys(("add", "add_any"), _add),
    "sub": _subtract,
    **dict.fromkeys(("mul", "dot_general", "conv_general_dilated"), _multiply),
    **dict.fromkeys(("concatenate", "pad", "complex"), _every),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), _scatter),
    "dynamic_update_slice": _dynamic_update,
    "select_n": _select,
}


def is_linear(equation: Equation, changed: Sequence[bool]) -> bool:
    """Whether an equation is linear in those of its operands that change, but for a constant."""
    name, rule = equation.primitive.name, RULES.get(equation.primitive.name)
    if name == "convert_element_type":
        return kinds.is_linear_cast(equation)
    if rule is _multiply:
        return sum(changed) == 1
    if rule is _scatter or rule is _select:
        return not changed[1 if rule is _scatter else 0]
    if rule is _dynamic_update:
        return not any(changed[2:])
    if rule is _first or name == "div":
        return name != "stop_gradient" and not any(changed[1:])
    return rule is not None
