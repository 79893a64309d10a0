"""Gradients of the score: one, of many samples, by other rules, of biases, of single positions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax._jaxpr import biases, cost, graph, rectifiers
from segcam_jax.engine import devices, memory, record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.score import Reading, Scoring, fast, reading, scoring
from segcam_jax.taps import Carry, Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError, TargetError, wide

Aggregation = Literal["mean", "max"]


def value_and_gradient(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score and its gradient with respect to the activation."""
    how = _smooth(split, scoring(split, carry, target, execution))
    _record_gradients(how, 1, 1)
    return how.value_and_gradient(activation)


def _smooth(split: Split, how: Scoring) -> Scoring:
    """Raises `TargetError` if no gradient can flow from a score back to the tap."""
    if not how.depends:
        raise TargetError(
            f"the target does not depend on tap {split.tap!r}: the model computes the output that "
            "the target reads without this activation, and the map would be zero. Score another "
            "part of the output, or explain a tap that leads to this one"
        )
    if not how.has_slope:
        raise TargetError(
            f"the score does not depend smoothly on tap {split.tap!r}: a threshold, argmax, "
            "one-hot, rounding or stop_gradient lies between them, and the map would be zero. "
            "Score logits or probabilities, or use a method that ablates (ablation_cam)"
        )
    return how


def _record_gradients(how: Scoring, count: int, chunk: int) -> None:
    record.study(lambda: record.Study("gradients", count, how.gradient_flops, how, chunk))


def sampled_moments(
    split: Split,
    carry: Carry,
    target: Any,
    activation_of: Callable[[Array], Array],
    weights: Float[Array, "n"],
    execution: Execution,
) -> tuple[Array, Array]:
    """Weighted mean and variance of the score's gradient over activations, none of them kept.

    Chunks are merged by the rule of Chan et al. (1979), so that neither result depends on the size
    of chunks but for rounding.

    Args:
        activation_of: index -> activation at which the gradient is taken.
        weights: non-negative, not all zero.
    """
    how = _smooth(split, scoring(split, carry, target, execution))
    dealt = devices.share(weights.shape[0], execution.mesh)
    chunk = memory.chunk(execution, len(dealt), how.total_bytes)
    _record_gradients(how, dealt.count, chunk)
    rows, own = dealt.rows(chunk)

    def sample(index):
        return wide(how.value_and_gradient(activation_of(index))[1])

    def merge(state, chunk):
        total, mean, spread = state
        index, keep = chunk
        values = jax.vmap(sample)(index)
        weight = jnp.where(keep, weights[index], 0)
        mass = weight.sum()
        column = weight.reshape(-1, *[1] * (values.ndim - 1)) / jnp.where(mass > 0, mass, 1)
        chunk_mean = (column * values).sum(0)
        chunk_spread = mass * (column * (values - chunk_mean[None]) ** 2).sum(0)
        new_total = total + mass
        share = jnp.where(new_total > 0, mass / jnp.where(new_total > 0, new_total, 1), 0)
        delta = chunk_mean - mean
        moved = spread + chunk_spread + delta**2 * total * share
        return (new_total, mean + delta * share, moved), None

    zeros = wide(jnp.zeros(split.activation.shape, split.activation.dtype))
    start = (jnp.zeros((), weights.dtype), zeros, zeros)
    (total, mean, spread), _ = jax.lax.scan(merge, start, (rows, own))
    if dealt.devices > 1:
        own_total, own_mean = total, mean
        total = dealt.summed(own_total)
        mean = dealt.summed(own_total * own_mean) / total
        spread = dealt.summed(spread + own_total * (own_mean - mean) ** 2)
    return mean, spread / total


def rectified_gradient(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    rule: rectifiers.Backward,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
    """The score, and what a rule for rectifiers sends back to the activation.

    Args:
        execution: how to run; the network is always run whole, as it is written.

    Raises:
        InputError: if there is no rectifier after the tap, or one that cannot be rewritten.
    """
    # Rectifiers are found in the equations as written, differentiated by their own rule.
    how = _whole(split, carry, target, execution)
    _record_gradients(how, 1, 1)
    run = rectifiers.rewritten(how.jaxpr, rule)

    def score(a):
        (value,), found = run(a)
        if not found:
            raise InputError(
                f"no ReLU of any kind follows tap {split.tap!r}; {rule} backpropagation would be "
                "the plain gradient: use the method gradient"
            )
        return value

    return dataclasses.replace(how, plain=score).value_and_gradient(activation)


def bias_gradients(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    execution: Execution,
) -> tuple[Float[Array, ""], Float[Array, "*space c"], list[Array], Float[Array, ""]]:
    """The score, its gradient, each bias times its gradient, and what the target itself adds.

    Their sum is the score: see `_jaxpr/biases.py`.

    Args:
        execution: how to run; the network is always run whole.

    Returns:
        `(score, gradient, products, rest)`: a product has the shape and layout of the value in the
        model that its bias was added to; rest is S - <dS/dy, y> of the output y, 0 for logits.
    """
    how = _whole(split, carry, target, execution)
    _record_gradients(how, 1, 1)
    unit = 1.0 if how.unit is None else jax.lax.stop_gradient(how.unit(activation))
    tree = jax.tree.structure(split.output)
    closed, _ = graph.closed(lambda a: jax.tree.leaves(split.decode(a, carry)), split.activation)
    run = biases.with_biases(closed)
    shapes = jax.eval_shape(lambda a: run(a)[1], activation)
    nudges = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def score(a, nudges, outward):
        outputs, found = run(a, nudges)
        outputs = [y + nudge for y, nudge in zip(outputs, outward, strict=True)]
        value = target(jax.tree.unflatten(tree, outputs))
        return value * unit, (value, found, outputs)

    outward = [jnp.zeros(y.shape, y.dtype) for y in jax.tree.leaves(split.output)]
    given = (activation, nudges, outward)
    differentiated = fast(jax.value_and_grad(score, (0, 1, 2), has_aux=True), execution, *given)
    (_, (value, found, outputs)), slopes = differentiated(*given)
    gradient, inner, outer = jax.tree.map(lambda slope: wide(slope) / unit, slopes)
    products = [_product(bias, slope) for bias, slope in zip(found, inner, strict=True)]
    reached = [_product(y, slope).sum() for y, slope in zip(outputs, outer, strict=True)]
    return value, gradient, products, value - sum(reached)


def _whole(split: Split, carry: Carry, target: Any, execution: Execution) -> Scoring:
    """The score of the whole network in the order in which it is written."""
    execution = dataclasses.replace(execution, difference=False, windows=False)
    return scoring(split, carry, target, execution)


def _product(bias: Array, slope: Array) -> Array:
    """Their product; what nothing reaches counts nothing: the padding of a maximum is infinite."""
    return jnp.where(slope != 0, wide(bias) * slope, 0)


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
