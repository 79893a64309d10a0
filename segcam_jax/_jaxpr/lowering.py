"""Equations that XLA's CPU backend runs slowly, as faster equal ones. For CPUs only.

    a convolution's gradient in a loop    a convolution with its weights laid out like any other's
    depthwise convolution                 shifted multiply-adds
    convolution of one position           a product
    3D convolution                        2D convolutions over the taps along depth

Every rewrite is a sum over the same products, so that results differ by rounding alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import Equation

Array = Any


def lowered(closed: Any) -> Callable[..., list]:
    """The function of a jaxpr, its slow equations rewritten.

    Args:
        closed: as `jax.make_jaxpr` returns it.
    """
    jaxpr = getattr(closed, "jaxpr", closed)

    def run(*inputs):
        environment = graph.evaluate(jaxpr, graph.constants_of(closed), inputs, rewritten)
        return [graph.read(environment, atom) for atom in jaxpr.outvars]

    return run


def rewritten(equation: Equation, operands: Sequence[Array]) -> list[Array] | None:
    """The results of an equation that has a faster form, or None."""
    if equation.primitive.name == "conv_general_dilated":
        return [convolution(equation, *operands)]
    return None


def convolution(equation: Equation, value: Array, weight: Array) -> Array:
    """A convolution in the form that is fast."""
    params = dict(equation.params)
    numbers = params["dimension_numbers"]
    plain = params["batch_group_count"] == 1 and params["preferred_element_type"] is None
    if not plain:
        return equation.primitive.bind(value, weight, **params)
    rank = value.ndim - 2
    x = value.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    w = weight.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    shape = (
        tuple(params["window_strides"]),
        tuple(map(tuple, params["padding"])),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
    )
    if _is_depthwise(x, w, params["feature_group_count"], shape):
        y = _depthwise(x, w, *shape)
    elif params["feature_group_count"] != 1:
        return equation.primitive.bind(value, weight, **params)
    elif _is_pointwise(w, shape):
        y = _pointwise(x, w, shape[0], params["precision"])
    elif rank == 3 and shape[2][0] == 1:
        y = _over_depth(x, w, shape, params["precision"])
    else:
        y = _convolve(shape, params["precision"], x, w)
    places = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return y.transpose([places.index(axis) for axis in range(y.ndim)])


def _numbers(rank: int) -> tuple[str, str, str]:
    letters = "DHW"[-rank:]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def _straight(shape: tuple, precision: Any, x: Array, w: Array) -> Array:
    """A channels-last convolution."""
    strides, padding, x_dilation, w_dilation = shape
    return jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        x_dilation,
        w_dilation,
        dimension_numbers=_numbers(x.ndim - 2),
        precision=precision,
    )


# The same, with a gradient that is a channels-last convolution as well.
_convolve: Any = jax.custom_vjp(_straight, nondiff_argnums=(0, 1))


def _convolve_forward(shape, precision, x, w):
    return _convolve(shape, precision, x, w), (x, w)


def _convolve_backward(shape, precision, saved, y):
    """dL/dx is a convolution of dL/dy with the flipped weights, strides and dilation exchanged."""
    x, w = saved
    strides, padding, x_dilation, w_dilation = shape
    rank = x.ndim - 2
    back = []
    for axis in range(rank):
        reach = (w.shape[axis] - 1) * w_dilation[axis] + 1
        long = (x.shape[axis + 1] - 1) * x_dilation[axis] + 1
        wide = (y.shape[axis + 1] - 1) * strides[axis] + 1
        before = reach - 1 - padding[axis][0]
        back.append((before, long + reach - 1 - wide - before))
    flipped = jnp.flip(w, tuple(range(rank))).swapaxes(-1, -2)
    dx = _convolve((x_dilation, tuple(back), strides, w_dilation), precision, y, flipped)
    forward = functools.partial(_straight, shape, precision, x)
    (dw,) = jax.vjp(forward, w)[1](y)
    return dx, dw


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _is_depthwise(x: Array, w: Array, groups: int, shape: tuple) -> bool:
    return groups > 1 and groups == x.shape[-1] == w.shape[-1] and set(shape[2]) == {1}


def _depthwise(x, w, strides, padding, _, dilation) -> Array:
    """Shifted multiply-adds, one per element of the kernel."""
    rank = x.ndim - 2
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
    extents = [
        (x.shape[axis + 1] - (w.shape[axis] - 1) * dilation[axis] - 1) // strides[axis] + 1
        for axis in range(rank)
    ]
    total = None
    for at in np.ndindex(*w.shape[:rank]):
        starts = [i * d for i, d in zip(at, dilation, strict=True)]
        limits = [
            s + (n - 1) * step + 1 for s, n, step in zip(starts, extents, strides, strict=True)
        ]
        part = jax.lax.slice(
            x, (0, *starts, 0), (x.shape[0], *limits, x.shape[-1]), (1, *strides, 1)
        )
        term = part * w[at].reshape((1,) * (x.ndim - 1) + (-1,))
        total = term if total is None else total + term
    assert total is not None
    return total


def _is_pointwise(w: Array, shape: tuple) -> bool:
    _, padding, dilation, _ = shape
    return set(w.shape[:-2]) == {1} and set(dilation) == {1} and set(padding) == {(0, 0)}


def _pointwise(x: Array, w: Array, strides: tuple, precision: Any) -> Array:
    """A product over channels at every position that the strides keep."""
    x = jax.lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
    w = w.reshape(w.shape[-2:])
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _over_depth(x: Array, w: Array, shape: tuple, precision: Any) -> Array:
    """A 3D convolution as the sum, over the taps along depth, of 2D convolutions of all slices."""
    strides, padding, _, w_dilation = shape
    low, high = padding[0]
    x = jax.lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), (low, high, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    )
    depth = (x.shape[1] - (w.shape[0] - 1) * w_dilation[0] - 1) // strides[0] + 1
    flat = tuple(each[1:] for each in shape)
    total = None
    for tap in range(w.shape[0]):
        start = tap * w_dilation[0]
        slices = jax.lax.slice_in_dim(x, start, start + (depth - 1) * strides[0] + 1, strides[0], 1)
        images = slices.reshape(-1, *slices.shape[2:])
        part = _convolve(flat, precision, images, w[tap])
        total = part if total is None else total + part
    assert total is not None
    return total.reshape(x.shape[0], depth, *total.shape[1:])
