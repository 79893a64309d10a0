"""Equations that XLA's CPU backend runs slowly, as faster equal ones. For CPUs only.

    a convolution's gradient in a loop    a convolution with its weights laid out like any other's
    depthwise convolution                 shifted multiply-adds
    convolution of one position           a product
    3D convolution                        2D convolutions over the taps along depth
    convolution without padding           the same, padded at one end, and cut
    transposed convolution                convolutions without the zeros between positions

Every rewrite is a sum over the same products, so that results differ by rounding alone. A program
is rewritten after it has been differentiated, gradients of convolutions too: nothing here stands in
the way of a further derivative, forwards or backwards.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.graph import Equation

Array = Any


def lowered(closed: Any) -> Callable[..., list]:
    """The function of a jaxpr, its slow equations rewritten."""
    return lambda *inputs: graph.evaluate(closed, graph.constants_of(closed), inputs, rewritten)


def rewritten(equation: Equation, operands: Sequence[Array]) -> list[Array] | None:
    """The results of an equation that has a faster form, or whose body has, or None."""
    if equation.primitive.name == "conv_general_dilated":
        return [convolution(equation, *operands)]
    if equation.primitive.name in ("scan", "while", "cond") and _convolves(equation):
        return graph.bind(_with_fast_bodies(equation), *operands)
    return None


def _convolves(equation: Equation) -> bool:
    """Whether there is a convolution inside."""
    return equation.primitive.name == "conv_general_dilated" or any(
        _convolves(each) for body in graph.bodies(equation) for each in body.eqns
    )


def _with_fast_bodies(equation: Equation) -> Equation:
    """A loop or condition whose closed jaxprs are rewritten."""

    def other(value):
        if isinstance(value, tuple):
            return tuple(map(other, value))
        if not hasattr(value, "in_avals"):
            return value
        structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in value.in_avals]
        return jax.make_jaxpr(lowered(value))(*structs)

    return equation.replace(params={name: other(value) for name, value in equation.params.items()})


def convolution(equation: Equation, value: Array, weight: Array) -> Array:
    """A convolution in the form that is fast."""
    params = dict(equation.params)
    numbers = params["dimension_numbers"]
    plain = params["batch_group_count"] == 1 and params["preferred_element_type"] is None
    if not plain:
        return equation.primitive.bind(value, weight, **params)
    x = value.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    w = weight.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    shape = (
        tuple(params["window_strides"]),
        tuple(map(tuple, params["padding"])),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
    )
    groups = params["feature_group_count"]
    if 1 < groups == x.shape[-1] == w.shape[-1] and set(params["lhs_dilation"]) == {1}:
        y = _depthwise(x, w, *shape)
    elif groups != 1:
        return equation.primitive.bind(value, weight, **params)
    else:
        y = _convolve(shape, params["precision"], x, w)
    places = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return y.transpose([places.index(axis) for axis in range(y.ndim)])


def _numbers(rank: int) -> tuple[str, str, str]:
    letters = "DHW"[-rank:]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


# An output more along so long an axis costs next to nothing.
_LONG = 8


def _straight(shape: tuple, precision: Any, x: Array, w: Array) -> Array:
    """A channels-last convolution.

    Without any padding, as on windows, XLA writes all patches to memory first, and takes up to
    three times as long: so one position more is computed where that is a small share.
    """
    strides, padding, x_dilation, w_dilation = shape
    padding = list(padding)
    reaches = [(n - 1) * step + 1 for n, step in zip(w.shape, w_dilation, strict=False)]
    extents = [n - reach + 1 for n, reach in zip(x.shape[1:-1], reaches, strict=True)]
    longest = int(np.argmax(extents))
    plain = set(strides) == {1} == set(x_dilation) and set(padding) == {(0, 0)}
    cut = plain and max(reaches) > 1 and extents[longest] >= _LONG
    if cut:
        padding[longest] = (0, 1)
    y = jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        x_dilation,
        w_dilation,
        dimension_numbers=_numbers(x.ndim - 2),
        precision=precision,
    )
    return jax.lax.slice_in_dim(y, 0, extents[longest], axis=longest + 1) if cut else y


def _convolve(shape: tuple, precision: Any, x: Array, w: Array) -> Array:
    """A channels-last convolution, in the form that is fast."""
    strides, _, x_dilation, w_dilation = shape
    if _is_pointwise(w, shape):
        return _pointwise(x, w, strides, precision)
    if set(x_dilation) != {1} and set(strides) == {1} == set(w_dilation):
        return _transposed(x, w, shape, precision)
    if x.ndim == 5 and x_dilation[0] == 1:
        return _over_depth(x, w, shape, precision)
    return _straight(shape, precision, x, w)


def taps(
    x: Array, kernel: Sequence[int], strides: Sequence[int], spread: Sequence[int], first: int
) -> list[Array]:
    """What each tap of a kernel reads of a padded image whose positions begin at axis `first`."""
    rank, found = len(kernel), []
    along = zip(x.shape[first : first + rank], kernel, spread, strides, strict=True)
    counts = [(n - (k - 1) * step - 1) // stride + 1 for n, k, step, stride in along]
    for tap in np.ndindex(*kernel):
        starts, limits, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for axis, at in enumerate(tap):
            starts[first + axis] = low = at * spread[axis]
            limits[first + axis] = low + (counts[axis] - 1) * strides[axis] + 1
            steps[first + axis] = strides[axis]
        found.append(jax.lax.slice(x, starts, limits, steps))
    return found


def _depthwise(x, w, strides, padding, _, dilation) -> Array:
    """Shifted multiply-adds, one per element of the kernel."""
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
    weights = w.reshape(-1, *(1,) * (x.ndim - 1), w.shape[-1])
    parts = taps(x, w.shape[: x.ndim - 2], strides, dilation, first=1)
    terms = [part * weight for part, weight in zip(parts, weights, strict=True)]
    return functools.reduce(jnp.add, terms)


def _is_pointwise(w: Array, shape: tuple) -> bool:
    _, padding, dilation, _ = shape
    return set(w.shape[:-2]) == {1} and set(dilation) == {1} and set(padding) == {(0, 0)}


def _pointwise(x: Array, w: Array, strides: tuple, precision: Any) -> Array:
    """A product over channels at every position that the strides keep."""
    x = jax.lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
    w = w.reshape(w.shape[-2:])
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


# Of so few channels, those that all taps along depth read are convolved at once.
_NARROW = 16


def _over_depth(x: Array, w: Array, shape: tuple, precision: Any) -> Array:
    """A 3D convolution as the sum, over the taps along depth, of 2D convolutions of all slices.

    Of few channels, as one 2D convolution of what the taps read, side by side: with few products
    for every position, reading and writing partial sums takes longer than they do.
    """
    strides, padding, _, w_dilation = shape
    low, high = padding[0]
    x = jax.lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), (low, high, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    )
    flat = tuple(each[1:] for each in shape)
    slices = taps(x, w.shape[:1], strides[:1], w_dilation[:1], first=1)
    images = [each.reshape(-1, *each.shape[2:]) for each in slices]
    weights = list(w)
    if x.shape[-1] <= _NARROW:
        images, weights = [jnp.concatenate(images, -1)], [jnp.concatenate(weights, -2)]
    parts = [_convolve(flat, precision, *each) for each in zip(images, weights, strict=True)]
    total = functools.reduce(jnp.add, parts)
    return total.reshape(*slices[0].shape[:2], *total.shape[1:])


# With fewer outputs than this, one convolution with many is faster than many with few.
_FEW_CHANNELS = 8


def _transposed(x: Array, w: Array, shape: tuple, precision: Any) -> Array:
    """A convolution of positions with zeros in between, without the zeros.

    Outputs d apart read the same of the d times dilated x: the s-th of d neighbours reads what taps
    k = (padding - s) mod d, k + d, ... see. So each of these phases is a convolution with its taps
    of x as it is, and their outputs are interleaved. Phases of few channels are computed as the
    channels of one convolution, with weight 0 where a phase lacks a tap.
    """
    _, padding, dilation, _ = shape
    rank = x.ndim - 2
    extents = [
        (n - 1) * d + 1 + low + high - k + 1
        for n, d, (low, high), k in zip(
            x.shape[1:-1], dilation, padding, w.shape[:rank], strict=True
        )
    ]
    axes = [
        _Phases.along(low, k, d, -(-extent // d))
        for (low, _), k, d, extent in zip(padding, w.shape[:rank], dilation, extents, strict=True)
    ]
    if w.shape[-1] < _FEW_CHANNELS:
        phases = _phases_as_channels(x, w, axes, precision)
    else:
        phases = jnp.stack(
            [_phase(x, w, axes, each, precision) for each in np.ndindex(*dilation)], axis=-2
        )
    count = [phases.shape[0], *phases.shape[1:-2]]
    y = phases.reshape(*count, *dilation, w.shape[-1])
    order = [0, *(a for i in range(rank) for a in (1 + i, 1 + rank + i)), 1 + 2 * rank]
    y = y.transpose(order).reshape(
        count[0], *(q * d for q, d in zip(count[1:], dilation, strict=True)), w.shape[-1]
    )
    return jax.lax.slice(y, (0,) * y.ndim, (count[0], *extents, w.shape[-1]))


@dataclasses.dataclass(frozen=True)
class _Phases:
    """Along one axis: for every phase, its taps and where they begin to read; how many outputs."""

    taps: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    count: int

    @classmethod
    def along(cls, padding: int, kernel: int, dilation: int, count: int) -> "_Phases":
        first = [(padding - s) % dilation for s in range(dilation)]
        return cls(
            tuple(tuple(range(k, kernel, dilation)) for k in first),
            tuple((s + k - padding) // dilation for s, k in enumerate(first)),
            count,
        )

    def padding(self, start: int, taps: int, extent: int) -> tuple[int, int]:
        """Of an axis so long, so that `count` outputs read `taps` positions from `start` on."""
        return -start, start + self.count + taps - 1 - extent


def _phase(
    x: Array, w: Array, axes: Sequence[_Phases], which: Sequence[int], precision: Any
) -> Array:
    """One phase along every axis."""
    taps = [axis.taps[s] for axis, s in zip(axes, which, strict=True)]
    if not all(taps):
        return jnp.zeros((x.shape[0], *(axis.count for axis in axes), w.shape[-1]), x.dtype)
    padding = [
        axis.padding(axis.starts[s], len(t), extent)
        for axis, s, t, extent in zip(axes, which, taps, x.shape[1:-1], strict=True)
    ]
    return _plain(x, w[np.ix_(*taps)], padding, precision)


def _phases_as_channels(
    x: Array, w: Array, axes: Sequence[_Phases], precision: Any
) -> Float[Array, "n *space phases c"]:
    """All phases as the output channels of one convolution, the last axis's phase the fastest."""
    rank, padding = len(axes), []
    for at, axis in enumerate(axes):
        lowest = min(axis.starts)
        reach = max(
            start - lowest + len(taps) for start, taps in zip(axis.starts, axis.taps, strict=True)
        )
        table = np.full((reach, len(axis.taps)), w.shape[at], np.int32)
        for s, (start, taps) in enumerate(zip(axis.starts, axis.taps, strict=True)):
            table[start - lowest : start - lowest + len(taps), s] = taps
        zero = jnp.zeros_like(jax.lax.slice_in_dim(w, 0, 1, axis=at))
        # The phase goes behind the channels, in the order of axes.
        w = jnp.moveaxis(jnp.concatenate([w, zero], at)[(slice(None),) * at + (table,)], at + 1, -1)
        padding.append(axis.padding(lowest, reach, x.shape[at + 1]))
    w = jnp.moveaxis(w, rank + 1, -1)
    y = _plain(x, w.reshape(*w.shape[: rank + 1], -1), padding, precision)
    return y.reshape(*y.shape[:-1], -1, w.shape[-1])


def _plain(x: Array, w: Array, padding: Sequence[tuple[int, int]], precision: Any) -> Array:
    """A convolution without strides and dilation; where padding is negative, x is cropped."""
    crop = [(0, 0, 0), *((min(low, 0), min(high, 0), 0) for low, high in padding), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), crop)
    ones = (1,) * len(padding)
    around = tuple((max(low, 0), max(high, 0)) for low, high in padding)
    return _convolve((ones, around, ones, ones), precision, x, w)
