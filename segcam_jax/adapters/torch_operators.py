"""Operators of torch that torchax 0.0.13 lacks or computes otherwise than torch."""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segcam_jax.extras import require


def mend(torchax: Any) -> None:
    """Puts the functions of this file in the place of torchax's."""
    from torchax.ops import op_base, ops_registry

    torch = require("torch", extra="torchax")
    env = torchax.default_env()  # It fills the registry.
    aten, functional = torch.ops.aten, torch.nn.functional

    def plain(operator: Any) -> Callable[..., Any]:
        return ops_registry.all_aten_ops[operator].func

    mended = {
        aten.convolution: functools.partial(_convolution, plain(aten.convolution)),
        aten.max_unpool2d: _max_unpool,
        aten.max_unpool3d: _max_unpool,
        aten.col2im: _fold,
        aten.softplus: _softplus,
        aten.mean: _mean,
        aten.mT: lambda x: x.mT,
        aten._fft_c2r: _inverse_real_fft,
        aten._upsample_bilinear2d_aa: functools.partial(_resize, _triangle, 1),
        aten._upsample_bicubic2d_aa: functools.partial(_resize, _cubic, 2),
    }
    for axes in (1, 2, 3):
        average = getattr(aten, f"avg_pool{axes}d")
        mended[average] = functools.partial(_average_pool, plain(average))
        mended[getattr(functional, f"max_pool{axes}d")] = functools.partial(_max_pool, axes)
    for axes in (2, 3):
        indexed = functools.partial(_max_pool, axes, return_indices=True)
        mended[getattr(aten, f"max_pool{axes}d_with_indices")] = indexed
        mended[getattr(aten, f"adaptive_max_pool{axes}d")] = _adaptive_max_pool
    for operator, function in mended.items():
        env.override_op_definition(operator, functools.partial(torchax.interop.call_jax, function))
    for operator, new in ((aten.zero_, aten.zeros_like), (aten.fill_, aten.fill)):
        written = op_base.InplaceOp(new)  # Into `x[...]` too.
        env.override_op_definition(operator, written, is_view_op=True)


def mend_torchvision(torchax: Any) -> None:
    """Adds the operators of torchvision, once it is imported: a module may have them."""
    if "torchvision" in sys.modules:
        operator = require("torch", extra="torchax").ops.torchvision.deform_conv2d
        function = functools.partial(torchax.interop.call_jax, _deformable_convolution)
        torchax.default_env().override_op_definition(operator, function)


def _convolution(plain: Callable[..., Any], x: Any, weight: Any, bias: Any, *how: Any) -> Any:
    """Transposed convolutions of several groups, whose weights torchax mixes up."""
    *sizes, transposed, padding, groups = how
    if not transposed or groups == 1:
        return plain(x, weight, bias, *how)

    def of_group(*operands: Any) -> jax.Array:
        return plain(*operands, *sizes, True, padding, 1)

    x = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    bias = None if bias is None else bias.reshape(groups, -1)
    found = jax.vmap(of_group, (1, 0, 0), 1)(x, weight, bias)
    return found.reshape(found.shape[0], -1, *found.shape[3:])


def _each(sizes: Any, axes: int) -> tuple[int, ...]:
    """A size of every axis, of which there may be one for all."""
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return given * axes if len(given) == 1 else given


def _max_pool(
    axes: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window, and where it is: the first place of several, as in torch.

    JAX has no derivative of the maxima of dilated windows.
    """
    kernel, steps = _each(kernel_size, axes), _each(stride or kernel_size, axes)
    margins, gaps = _each(padding, axes), _each(dilation, axes)
    spatial = x.shape[-axes:]
    counts, borders = [], []
    for size, k, step, margin, gap in zip(spatial, kernel, steps, margins, gaps, strict=True):
        span = (k - 1) * gap + 1
        room = size + 2 * margin - span
        count = (-(-room // step) if ceil_mode else room // step) + 1
        count -= ceil_mode and (count - 1) * step >= size + margin
        counts.append(count)
        borders.append((margin, max((count - 1) * step + span - size - margin, 0)))
    lead = ((0, 0),) * (x.ndim - axes)
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
    if set(gaps) == {1} and not return_indices:
        ones = (1,) * (x.ndim - axes)
        window, strides = (*ones, *kernel), (*ones, *steps)
        start = np.array(lowest, x.dtype)
        return lax.reduce_window(x, start, lax.max, window, strides, (*lead, *borders))
    padded = jnp.pad(x, (*lead, *borders), constant_values=lowest)
    places = jnp.pad(np.arange(math.prod(spatial)).reshape(spatial), borders)
    windows = [
        tuple(
            slice(at * gap, at * gap + (count - 1) * step + 1, step)
            for at, gap, count, step in zip(offset, gaps, counts, steps, strict=True)
        )
        for offset in np.ndindex(*kernel)
    ]
    best = padded[(..., *windows[0])]
    place = jnp.broadcast_to(places[windows[0]], best.shape)
    for window in windows[1:]:
        value = padded[(..., *window)]
        first = best >= value
        best, place = jnp.where(first, best, value), jnp.where(first, place, places[window])
    return (best, place) if return_indices else best


def _adaptive_max_pool(x: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
    """Maxima of windows of about equal lengths, by windows of the greatest of these lengths."""
    axes, spatial = len(output_size), x.shape[-len(output_size) :]
    reads, kernel = [], []
    for axis, (size, count) in enumerate(zip(spatial, output_size, strict=True)):
        starts = np.arange(count) * size // count
        ends = -(-(np.arange(count) + 1) * size // count)
        kernel.append(int((ends - starts).max()))
        reads.append(np.minimum(starts[:, None] + np.arange(kernel[-1]), ends[:, None] - 1).ravel())
        if not np.array_equal(reads[-1], np.arange(size)):
            x = jnp.take(x, reads[-1], axis - axes)

    def windows(values: Any) -> Any:
        lead = values.ndim - axes
        parts = [n for both in zip(output_size, kernel, strict=True) for n in both]
        counts, inside = (range(lead + which, lead + 2 * axes, 2) for which in (0, 1))
        values = values.reshape(*values.shape[:lead], *parts)
        values = values.transpose(*range(lead), *counts, *inside)
        return values.reshape(*values.shape[: lead + axes], -1)

    found = _max_pool(axes, x, kernel)
    at = jnp.argmax(windows(lax.stop_gradient(x)), -1, keepdims=True)
    places = windows(np.arange(math.prod(spatial)).reshape(spatial)[np.ix_(*reads)])
    places = jnp.broadcast_to(places, (*at.shape[:-1], places.shape[-1]))
    return found, jnp.take_along_axis(places, at, -1)[..., 0]


def _max_unpool(x: Any, indices: Any, output_size: Sequence[int], *_: Any) -> Any:
    """Values at the places where their maxima were, and 0 elsewhere."""
    lead = x.shape[: x.ndim - len(output_size)]
    values, places = (each.reshape(math.prod(lead), -1) for each in (x, indices))
    empty = jnp.zeros((math.prod(lead), math.prod(output_size)), x.dtype)
    rows = np.arange(math.prod(lead))[:, None]
    return empty.at[rows, places].set(values).reshape(*lead, *output_size)


def _average_pool(
    plain: Callable[..., Any],
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Means of windows; of those that `ceil_mode` adds, torch counts the part in the margins."""
    if not (ceil_mode and count_include_pad and divisor_override is None):
        how = (ceil_mode, count_include_pad, divisor_override)
        return plain(x, kernel_size, stride, padding, *how)
    sums = plain(x, kernel_size, stride, padding, True, True, 1)
    axes = len(kernel_size)
    counts = np.ones(())
    for size, made, kernel, step, margin in zip(
        x.shape[-axes:],
        sums.shape[-axes:],
        kernel_size,
        stride or kernel_size,
        _each(padding, axes),
        strict=True,
    ):
        starts = np.arange(made) * step - margin
        counts = counts[..., None] * (np.minimum(starts + kernel, size + margin) - starts)
    return sums / jnp.asarray(counts, sums.dtype)


def _fold(
    columns: Any,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Any:
    """The sum of all patches, each where `unfold` took it from."""
    lead = columns.shape[:-2]
    counts = [
        (size + 2 * margin - (kernel - 1) * gap - 1) // step + 1
        for size, kernel, gap, margin, step in zip(
            output_size, kernel_size, dilation, padding, stride, strict=True
        )
    ]
    columns = columns.reshape(*lead, -1, *kernel_size, *counts)
    found: Any = 0
    for offset in np.ndindex(*kernel_size):
        borders = [(0, 0, 0)] * (len(lead) + 1)
        for at, size, gap, margin, step, count in zip(
            offset, output_size, dilation, padding, stride, counts, strict=True
        ):
            before = at * gap - margin
            borders.append((before, size - before - (count - 1) * step - 1, step - 1))
        part = columns[(..., *offset, *(slice(None),) * len(counts))]
        found = found + lax.pad(part, jnp.zeros((), part.dtype), borders)
    return found


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic of a = -1/2, as Pillow has it."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _resize(
    kernel: Callable[[np.ndarray], np.ndarray],
    support: int,
    x: Any,
    output_size: Sequence[int] | None,
    align_corners: bool,
    *scales: Any,
) -> Any:
    """Interpolation whose kernel is as wide as what a pixel of the result covers (`antialias`)."""
    given = [each for scale in scales for each in (scale if isinstance(scale, list) else [scale])]
    given = given or [None, None]
    for axis, factor in zip((-2, -1), given, strict=True):
        size = x.shape[axis]
        count = math.floor(size * factor) if output_size is None else output_size[axis]
        step = 1 / factor if factor else size / count
        if align_corners:
            step = (size - 1) / (count - 1) if count > 1 else 0.0
        if step == 1:
            continue
        wide = max(step, 1.0)
        centres = step * (np.arange(count)[:, None] + 0.5)
        places = np.arange(size)
        first = np.maximum((centres - support * wide + 0.5).astype(int), 0)
        last = np.minimum((centres + support * wide + 0.5).astype(int), size)
        weights = kernel((places - centres + 0.5) / wide) * ((places >= first) & (places < last))
        weights /= weights.sum(1, keepdims=True)
        x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(weights, x.dtype), (axis, 1)), -1, axis)
    return x


def _softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    """`log(1 + exp(beta x)) / beta`, with a derivative where `exp` is infinite."""
    return jnp.where(x * beta > threshold, x, jnp.logaddexp(x * beta, 0) / beta)


def _mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    axes = tuple(dim) if isinstance(dim, (list, tuple)) else dim
    axes = None if axes == () or x.ndim == 0 else axes
    return jnp.mean(x, axes, dtype=dtype, keepdims=keepdim)


def _inverse_real_fft(x: Any, dim: Sequence[int], normalization: int, last_dim_size: int) -> Any:
    norm = ("forward", "ortho", "backward")[normalization]
    sizes = [*(x.shape[axis] for axis in dim[:-1]), last_dim_size]
    return jnp.fft.irfftn(x, s=sizes, axes=dim, norm=norm)


def _deformable_convolution(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    *how: Any,
) -> Any:
    """A convolution that reads between the pixels, each of its taps elsewhere at every position.

    y[p] = sum_t w_t m_t[p] x(p + t + offset_t[p]),    x linear between pixels, 0 outside
    """
    *sizes, groups, offset_groups, modulated = how
    steps, margins, gaps = (sizes[i : i + 2] for i in (0, 2, 4))
    count, channels, height, width = x.shape
    kernel, taps, out = weight.shape[2:], math.prod(weight.shape[2:]), offset.shape[2:]
    offset = offset.reshape(count, offset_groups, taps, 2, *out)
    places = []
    for axis in (0, 1):
        start = np.arange(out[axis]) * steps[axis] - margins[axis]
        tap = np.indices(kernel)[axis].ravel() * gaps[axis]
        start = start.reshape([-1 if a == axis else 1 for a in (0, 1)])
        places.append(offset[:, :, :, axis] + (tap[:, None, None] + start).astype(x.dtype))
    parts = x.reshape(count, offset_groups, -1, height * width)
    read: Any = 0
    for corner in np.ndindex(2, 2):
        share, inside, flat = 1.0, True, 0
        for place, step, size in zip(places, corner, (height, width), strict=True):
            at = jnp.floor(place) + step
            share = share * (1 - jnp.abs(place - at))
            inside = inside & (at >= 0) & (at < size)
            flat = flat * size + jnp.clip(at, 0, size - 1).astype(jnp.int32)
        flat = jnp.reshape(flat, (count, offset_groups, 1, -1))
        found = jnp.take_along_axis(parts, flat, -1).reshape(*parts.shape[:3], taps, *out)
        read = read + found * jnp.where(inside, share, 0)[:, :, None]
    if modulated:
        read = read * mask.reshape(count, offset_groups, 1, taps, *out)
    read = read.reshape(count, groups, -1, taps, *out)
    weight = weight.reshape(groups, -1, channels // groups, taps)
    found = jnp.einsum("ngctyx,goct->ngoyx", read, weight).reshape(count, -1, *out)
    return found + bias[:, None, None]
