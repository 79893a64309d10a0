"""What a few channels add to a convolution or product that sums over channels.

    conv(D, W)[p, o] = sum over taps t and channels k of the window  D[p + t, k] W[t, k, o]

computed as one product of patches with a slice of the weights: a window of one channel costs 1/C of
the convolution.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import kinds, spans
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Places, Window, Windowed

Array = Any


def place(
    equation: Equation, windows: Sequence[Window | None], zeros: frozenset[Any]
) -> int | None:
    """Which operand is 0 but for a window of a summed axis, and the only one that changes."""
    if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
        return None
    changed = [at for at, window in enumerate(windows) if window is not None]
    if len(changed) != 1 or equation.invars[changed[0]] not in zeros:
        return None
    (at,) = changed
    window = windows[at]
    assert window is not None
    axes = [axis for axis, s in enumerate(window) if s is not None]
    return at if len(axes) == 1 and kinds.summed_with(equation, at, axes[0]) is not None else None


def contribution(
    equation: Equation, at: int, delta: Array, window: Window, other: Windowed, places: Places
) -> Array:
    """What `delta`, a window of operand `at`, adds to the output.

    Args:
        equation: one that `place` accepts.
        at: which operand it is of.
        delta: operand `at` inside the window; outside it is 0.
        window: of operand `at`, along one summed axis.
        other: all of the other operand.
        places: as in `spans.start`.
    """
    axis, have = next((axis, s) for axis, s in enumerate(window) if s is not None)
    along = kinds.summed_with(equation, at, axis)
    assert along is not None
    wanted = tuple(have if a == along else None for a in range(len(other.shape)))
    weight = spans.narrow(other, wanted, places)
    if equation.primitive.name == "dot_general":
        pair = (delta, weight) if at == 0 else (weight, delta)
        return equation.primitive.bind(*pair, **equation.params)
    return _convolution(equation, delta, weight)


def _convolution(equation: Equation, value: Array, weight: Array) -> Array:
    """A convolution of few channels as one product over taps and channels."""
    params = equation.params
    numbers = params["dimension_numbers"]
    rank = value.ndim - 2
    x = value.transpose(numbers.lhs_spec[0], numbers.lhs_spec[1], *numbers.lhs_spec[2:])
    w = weight.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    inner = [d - 1 for d in params["lhs_dilation"]]
    config = [(0, 0, 0)] * 2 + [(*p, d) for p, d in zip(params["padding"], inner, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
    out = [equation.outvars[0].aval.shape[axis] for axis in numbers.out_spec[2:]]
    strides = params["window_strides"]
    taps = []
    for tap in np.ndindex(*w.shape[:rank]):
        starts = [t * d for t, d in zip(tap, params["rhs_dilation"], strict=True)]
        limits = [s + (n - 1) * step + 1 for s, n, step in zip(starts, out, strides, strict=True)]
        taps.append(jax.lax.slice(x, (0, 0, *starts), (*x.shape[:2], *limits), (1, 1, *strides)))
    patches = jnp.stack(taps, 1).reshape(x.shape[0], -1, math.prod(out))
    product = jax.lax.dot_general(
        patches,
        w.reshape(-1, w.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    y = product.reshape(x.shape[0], *out, w.shape[-1])
    ours = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return y.transpose([ours.index(axis) for axis in range(y.ndim)])
