"""Gradients of a region, position by position, averaged over noisy copies of the activation."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import devices, memory, record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.scoring import Reading, fast, reading, scoring
from segcam_jax.taps import Carry, Split
from segcam_jax.targets import Target
from segcam_jax.types import wide

Aggregation = Literal["mean", "max"]


def region_gradients(
    split: Split,
    carry: Carry,
    target: Target,
    activation_of: Callable[[Array], Array],
    indices: Int[Array, "n"],
    aggregation: Aggregation,
    divisor: Array | float | None,
    execution: Execution,
) -> Float[Array, "*space c"]:
    """The mean over activations of what the gradients of a region's positions come to.

    With g_v the gradient of the value at position v of the region:

        mean    sum_v g_v / divisor                   one backward pass
        max     g_v* with v* = argmax_v |g_v|         element by element; a backward pass a position

    The forward pass is run once per activation, and only the part of the activation that the region
    depends on is differentiated. Positions are run in chunks, of which the running maximum and
    minimum are kept; so the size of chunks changes nothing.

    Args:
        activation_of: index -> activation at which the gradients are taken.
        divisor: of the sum; None: how many positions the region has.
    """
    read = reading(split, carry, target, execution)
    positions = read.weights.size
    dealt = devices.share(indices.size, execution.mesh)
    bytes_each, flops = _backward_cost(read)
    chunk = memory.chunk(execution, len(dealt) if aggregation == "mean" else positions, bytes_each)
    record.study(
        lambda: record.Study(
            "gradients",
            dealt.count * (1 if aggregation == "mean" else positions),
            flops,
            scoring(split, carry, target, execution),
            chunk,
        )
    )
    of_part = _scaled(read, _summed(read) if aggregation == "mean" else _extreme(read, chunk))
    rows, own = dealt.rows(chunk if aggregation == "mean" else 1)

    def add(total, rows):
        row, keep = rows
        found = jax.vmap(lambda i: of_part(read.part(activation_of(i))))(indices[row])
        keep = keep.reshape(-1, *[1] * (found.ndim - 1))
        return total + jnp.where(keep, found, 0).sum(0), None

    start = wide(jnp.zeros(read.struct.shape, read.struct.dtype))
    total, _ = jax.lax.scan(add, start, (rows, own))
    if dealt.devices > 1:
        total = dealt.summed(total)
    if aggregation == "mean":
        area = read.weights.sum() if divisor is None else jnp.asarray(divisor, total.dtype)
        total = total / jnp.where(area != 0, area, 1)
    return read.whole(total / indices.size)


def _backward_cost(read: Reading) -> tuple[int, int]:
    """Bytes that one backward pass holds at its peak, and its operations."""

    def backward(part, cotangent):
        return read.pull(part)(cotangent)

    values = jax.ShapeDtypeStruct(read.weights.shape, read.weights.dtype)
    _, forward = graph.closed(read.read, read.struct)
    _, both = graph.closed(backward, read.struct, values)
    return cost.live_bytes(both), cost.flops(both) - cost.flops(forward)


def _scaled(read: Reading, of_part: Callable[[Array, Any], Array]) -> Callable[[Array], Array]:
    """part -> `of_part(part, unit) / unit`, at least float32: in float16 gradients underflow."""

    def scaled(part):
        unit = 1.0 if read.unit is None else jax.lax.stop_gradient(read.unit(part))
        return wide(of_part(part, unit)) / unit

    return fast(scaled, read.execution, read.struct)


def _summed(read: Reading) -> Callable[[Array, Any], Array]:
    """`(part, unit)` -> the gradient of the positions' weighted sum, times the unit."""
    return lambda part, unit: read.pull(part)(read.weights * unit)


def _extreme(read: Reading, chunk: int) -> Callable[[Array, Any], Array]:
    """`(part, unit)` -> of all positions' gradients, times the unit, the largest in magnitude.

    Of two that differ in sign alone, the positive one.
    """
    positions = read.weights.size
    inside = read.weights != 0
    order = jnp.argsort(~inside).astype(jnp.int32)
    count = inside.sum(dtype=jnp.int32)

    def of_part(part, unit):
        pull = read.pull(part)

        def extend(step, extremes):
            largest, smallest = extremes
            at = step * chunk + jnp.arange(chunk, dtype=jnp.int32)
            which = order[jnp.minimum(at, positions - 1)]
            wanted = (at < count).astype(read.weights.dtype) * unit
            cotangents = jax.nn.one_hot(which, positions, dtype=wanted.dtype) * wanted[:, None]
            found = jax.vmap(pull)(cotangents)
            return jnp.maximum(largest, found.max(0)), jnp.minimum(smallest, found.min(0))

        zeros = jnp.zeros(part.shape, part.dtype)
        steps = (count + chunk - 1) // chunk
        largest, smallest = jax.lax.fori_loop(0, steps, extend, (zeros, zeros))
        return jnp.where(largest >= -smallest, largest, smallest)

    return of_part
