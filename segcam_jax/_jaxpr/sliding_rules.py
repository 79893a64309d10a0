"""Window rules of what slides a window itself: convolutions, transposed ones too, and poolings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import spans
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Span, Window, Windowed, taken

Array = Any


def _axis_needs(
    have: Span | None, extent: int, low: np.ndarray, size: int, dilation: int
) -> Span | None:
    """The window of an operand that positions [low, low + size) of its dilated self lie on."""
    if have is None:
        return None
    first, last = -(-low // dilation), (low + size - 1) // dilation
    return spans.span(have.axis, first, last + 1, extent)


def pool_needs(equation: Equation, window: Window) -> list[Window] | None:
    shape, params = equation.invars[0].aval.shape, equation.params
    wanted = []
    for axis, have in enumerate(window):
        if have is None:
            wanted.append(None)
            continue
        if params["base_dilation"][axis] != 1:
            return None
        low = have.starts * params["window_strides"][axis] - params["padding"][axis][0]
        size = _read(have.size, params, axis)
        wanted.append(_axis_needs(have, shape[axis], low, size, 1))
    return [tuple(wanted)]


def _read(size: int, params: dict, axis: int) -> int:
    """How many positions a window of a pooling's output reads."""
    reach = (params["window_dimensions"][axis] - 1) * params["window_dilation"][axis]
    return (size - 1) * params["window_strides"][axis] + reach + 1


POOLS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")


def _pool_fill(equation: Equation) -> np.ndarray:
    """What lies outside of an image in a pooling: what changes nothing."""
    kind = equation.primitive.name.removeprefix("reduce_window_")
    dtype = equation.invars[0].aval.dtype
    if kind == "sum":
        return np.zeros((), dtype)
    if dtype == np.bool_:
        return np.asarray(kind == "min")
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return np.asarray(limits.min if kind == "max" else limits.max, dtype)
    return np.asarray(-np.inf if kind == "max" else np.inf, dtype)


def pool(equation, operands, window, places):
    params, value = dict(equation.params), operands[0]
    fill = _pool_fill(equation)
    padding = list(params["padding"])
    for axis, have in enumerate(window):
        if have is not None:
            low = have.starts * params["window_strides"][axis] - padding[axis][0]
            size = _read(have.size, params, axis)
            array = spans.take(value, axis, have.axis, low, size, fill, places)
            value, padding[axis] = taken(value, axis, array), (0, 0)
    return equation.primitive.bind(value.array, **{**params, "padding": tuple(padding)})


def convolution_axes(equation: Equation) -> list[tuple[int, int, int, int, int, int, int]]:
    """Per spatial axis: axis of the operand, of the output, stride, padding, dilations, reach."""
    params = equation.params
    numbers = params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    spatial = zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
    return [
        (
            left,
            out,
            params["window_strides"][at],
            params["padding"][at][0],
            params["lhs_dilation"][at],
            params["rhs_dilation"][at],
            (kernel[weight] - 1) * params["rhs_dilation"][at] + 1,
        )
        for at, (left, out, weight) in enumerate(spatial)
    ]


def convolution_needs(equation: Equation, window: Window) -> list[Window] | None:
    left, right = (atom.aval.shape for atom in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if any(window[axis] is not None for axis in numbers.out_spec[:2]):
        return None
    wanted: list[Span | None] = [None] * len(left)
    for source, out, stride, padding, dilation, _, reach in convolution_axes(equation):
        have = window[out]
        if have is None:
            continue
        if dilation != 1 and stride != 1:
            return None
        low = have.starts * stride - padding
        size = (have.size - 1) * stride + reach
        wanted[source] = _axis_needs(have, left[source], low, size, dilation)
    return [tuple(wanted), spans.whole(right)]


def convolution(equation, operands, window, places):
    value, weight = operands
    params = dict(equation.params)
    padding, sliced = list(params["padding"]), []
    for at, axes in enumerate(convolution_axes(equation)):
        source, out, stride, low_padding, dilation, _, reach = axes
        have = window[out]
        if have is None:
            continue
        if dilation == 1:
            low = have.starts * stride - low_padding
            size = (have.size - 1) * stride + reach
            array = spans.take(value, source, have.axis, low, size, np.zeros(()), places)
            value, padding[at] = taken(value, source, array), (0, 0)
        else:
            padding[at], offset = _dilated_padding(
                value, source, have, low_padding, dilation, reach
            )
            sliced.append((out, have, offset))
    array = equation.primitive.bind(
        value.array, weight.array, **{**params, "padding": tuple(padding)}
    )
    for out, have, offset in sliced:
        at_place = jnp.asarray(offset, jnp.int32)[places[have.axis]]
        array = jax.lax.dynamic_slice_in_dim(array, at_place, have.size, out)
    return array


def _dilated_padding(
    value: Windowed, axis: int, have: Span, padding: int, dilation: int, reach: int
) -> tuple[tuple[int, int], np.ndarray]:
    """Padding of a window in a transposed convolution, and where its outputs begin, for every t.

    Output o of the whole starts at o - padding of the dilated operand; of the window, whose first
    element lies at origin * dilation, it is output o - padding - origin * dilation + before.
    """
    source = value.window[axis]
    origin = np.zeros_like(have.starts) if source is None else source.starts
    extent = (value.array.shape[axis] - 1) * dilation + 1
    shift = have.starts - padding - origin * dilation
    before = max(0, -int(shift.min()))
    after = int((shift + before + have.size).max()) - (extent + before - reach + 1)
    return (before, after), shift + before
