"""What ablations make of the output, kept; and targets that are linear in the output, read off it.

drop_m(S) = L(y - y_m)        S(y) = L(y) + constant, L linear
"""

import functools
import math
import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from segcam_jax._jaxpr import difference
from segcam_jax.engine import devices, fall, memory
from segcam_jax.engine.compiled import checked_target
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.programs import kept
from segcam_jax.engine.score import encode
from segcam_jax.masks import Masks, ablate
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError, TargetError, wide

Stored = Literal["float32", "float16", "bfloat16"]
# Rows are filled up to a multiple of this, so that images with other dead channels share a program.
_ROWS = 64


def output_changes(
    split: Split,
    params: Any,
    x: Any,
    masks: Masks,
    *,
    block: int,
    dtype: Stored,
    execution: Execution,
) -> tuple[Float[Array, "*space c"], Array, Int[Array, "m"], Array, Float[Array, "m"]]:
    """The change of the output, y - y_m, under every mask that changes anything.

    Returns:
        `(activation, output, rows, changes, scale)`: `changes * scale` are the sums of y - y_m over
        blocks of output positions, `m *blocks k`, of the masks `rows`; masks that are not among
        them change nothing. A mask's largest change is 1 in `changes`, so that narrow numbers hold
        small ones.

    Raises:
        InputError: if the model returns more than one array, or all of it does not fit the memory.
    """
    _check_size(split, len(masks), block, dtype, execution)
    shared = (params, x)
    if execution.mesh is not None:
        shared = devices.replicate(shared, execution.mesh)
    activation, output, live, drowning = kept(_unchanged, (split, masks, execution), shared)(
        *shared
    )
    rows, changes, scales = [], [], []
    for subtract in (False, True):
        chosen = np.flatnonzero(np.asarray(live & (drowning == subtract)))
        if not len(chosen):
            continue
        filled = chosen[np.minimum(np.arange(-(-len(chosen) // _ROWS) * _ROWS), len(chosen) - 1)]
        given = (*shared, jnp.asarray(filled, jnp.int32))
        static = (split, masks, block, dtype, subtract, execution)
        change, scale = kept(_changes, static, given)(*given)
        rows.append(chosen)
        changes.append(change[: len(chosen)])
        scales.append(scale[: len(chosen)])
    if not rows:
        blocks = _blocks(split, block)
        return activation, output, jnp.zeros(0, int), jnp.zeros((0, *blocks), dtype), jnp.zeros(0)
    joined = [each[0] if len(each) == 1 else jnp.concatenate(each) for each in (changes, scales)]
    return activation, output, jnp.asarray(np.concatenate(rows)), joined[0], joined[1]


def linear_target(target: Any, split: Split) -> Any:
    """The target, checked: linear in the output but for a constant."""
    target = checked_target(target, split)
    if not difference.is_linear(target, split.output):
        raise TargetError(
            "the target is not linear in the output (probabilities of logits are not), and an "
            "atlas cannot answer it; take logits, or a method without an atlas"
        )
    return target


def read_changes(
    split: Split, target: Any, changes: Array, scale: Float[Array, "m"], *, block: int
) -> Float[Array, "m"]:
    """L(y - y_m) of a target as `linear_target` returned it, from what `output_changes` did."""
    inputs = (target, changes, scale)
    return kept(_read, (split, block), inputs)(*inputs)


def _check_size(split: Split, count: int, block: int, dtype: Stored, execution: Execution) -> None:
    if not hasattr(split.output, "shape"):
        raise InputError(
            "the model returns more than one array, and an atlas needs one; wrap the model so "
            "that it returns its logits"
        )

    def size(block):
        return count * math.prod(_blocks(split, block)) * jnp.dtype(dtype).itemsize

    limit = memory.limit(execution) or _physical_bytes()
    if limit is None or size(block) <= limit:
        return
    fitting = block
    while size(fitting) > limit and max(_blocks(split, fitting)[:-1], default=1) > 1:
        fitting += 1
    told = "a smaller model would" if size(fitting) > limit else f"block={fitting} would fit"
    if dtype == "float32" and size(block) <= 2 * limit:
        told = f"dtype='float16' or {told}"
    raise InputError(
        f"the atlas takes {size(block) / 2**20:,.0f} MiB ({count} ablations of "
        f"{_blocks(split, block)} {dtype}), and {limit / 2**20:,.0f} MiB are allowed; {told}"
    )


def _physical_bytes() -> int | None:
    """Of the machine, where it tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _blocks(split: Split, block: int) -> tuple[int, ...]:
    *space, classes = split.output.shape
    return (*(-(-n // block) for n in space), classes)


def _unchanged(split, masks, execution, params, x):
    activation, carry = encode(split, params, x, execution)
    removed = masks.removed((activation != 0).astype(jnp.float32)) != 0
    return activation, split.decode(activation, carry), removed, fall.drowning(activation, masks)


def _changes(split, masks, block, dtype, subtract, execution, params, x, rows):
    summed = functools.partial(_summed, block=block)

    def run(params, x, rows):
        activation, carry = encode(split, params, x, execution)
        dealt = devices.share(len(rows), execution.mesh)
        before = wide(split.decode(activation, carry))

        def subtracted(row):
            return summed(before - wide(split.decode(ablate(activation, masks(row)), carry)))

        chunk, change_of = 1, subtracted
        if not subtract:
            by_change = fall.falls(split, activation, activation, carry, summed, masks, execution)
            chunk = memory.chunk(execution, len(dealt), by_change.live_bytes)
            change_of = by_change.fall

        def stored(row):
            change = change_of(row)
            largest = jnp.abs(change).max()
            scale = jnp.where(largest > 0, largest, 1)
            return (change / scale).astype(dtype), scale

        found = jax.lax.map(jax.vmap(stored), rows[dealt.rows(chunk)[0]])
        return [dealt.gathered(each.reshape(-1, *each.shape[2:])) for each in found]

    return devices.on_mesh(run, execution.mesh)(params, x, rows)


def _summed(output: Float[Array, "*space k"], block: int) -> Float[Array, "*blocks k"]:
    """The sum over each block of positions; those at the far borders may be smaller."""
    for axis in range(output.ndim - 1):
        missing = -output.shape[axis] % block
        widths = [(0, missing if a == axis else 0) for a in range(output.ndim)]
        output = jnp.pad(output, widths)
        shape = (*output.shape[:axis], -1, block, *output.shape[axis + 1 :])
        output = output.reshape(shape).sum(axis + 1)
    return output


def _read(split, block, target, changes, scale):
    if isinstance(target, Target):
        found = _weighed(target, changes, math.prod(split.output.shape[:-1]), block)
    else:
        area = _summed(jnp.ones(split.output.shape), block)
        nothing = target(jnp.zeros(split.output.shape, split.output.dtype))

        def one(change):
            spread = wide(change) / area
            for axis, extent in enumerate(split.output.shape[:-1]):
                spread = jnp.repeat(spread, block, axis)
                spread = jax.lax.slice_in_dim(spread, 0, extent, axis=axis)
            return target(spread.astype(split.output.dtype)) - nothing

        found = jax.lax.map(one, changes)
    return found * scale


def _weighed(target: Target, changes: Array, positions: int, block: int) -> Float[Array, "m"]:
    """The weighted sum, or mean, of one class over the target's region."""
    space = changes.shape[1:-1]
    corner, extent, weights = [0] * len(space), space, jnp.ones(space)
    area = jnp.float32(positions)
    if target.mask is not None:
        mask = jnp.asarray(target.mask, jnp.float32)[..., None]
        area = mask.sum()
        weights = (_summed(mask, block) / _summed(jnp.ones_like(mask), block))[..., 0]
    if target.mask is not None and target.extent is not None:
        # The blocks that the target's window can reach.
        pairs = [*zip(target.extent, space, strict=True)]
        extent = tuple(min((length - 2) // block + 2, blocks) for length, blocks in pairs)
        firsts = [jnp.asarray(first) // block for first in target.corner]
        ends = [blocks - length for length, blocks in zip(extent, space, strict=True)]
        corner = [jnp.minimum(first, end) for first, end in zip(firsts, ends, strict=True)]
        weights = jax.lax.dynamic_slice(weights, corner, extent)
    start = [jnp.asarray(at, jnp.int32) for at in (0, *corner, target.class_index)]
    there = jax.lax.dynamic_slice(changes, start, (len(changes), *extent, 1))
    drops = wide(there).reshape(len(changes), -1) @ weights.reshape(-1)
    return drops / area if target.reduce == "mean" else drops
