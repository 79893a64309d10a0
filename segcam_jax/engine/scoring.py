"""From a split and a target to the score as a function of the activation, as cheap as exact allows.

    score(activation) = target(decode(activation, carry))

Hoisting moves to the outside what the activation cannot change. A target that knows the window of
its region has decode run for that window only.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax._jaxpr import cost, graph, linearity, lowering, slopes
from segcam_jax._jaxpr.windows import WindowPlan
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.precision import at_precision
from segcam_jax.taps import Carry, Split
from segcam_jax.targets import Target
from segcam_jax.types import TargetError, wide


@dataclasses.dataclass(frozen=True)
class Scoring:
    """The score as a function of the activation, and what an evaluation costs.

    Attributes:
        score: activation -> scalar, traceable.
        plain: the same before equations are rewritten by `rule`.
        rule: how equations run, or None for as they are.
        live_bytes: bytes that one evaluation holds at its peak.
        total_bytes: bytes of all its values, a bound on what its gradient holds.
        flops: operations of its convolutions and products.
        is_affine: whether the score is linear in the activation, but for a constant.
        window: what of the output is computed, or None for all of it.
        seen: which elements of the activation the score depends on, or None for all.
        fallbacks: primitives computed whole for want of a window rule.
        depends: whether the score is computed of the activation at all.
        has_slope: whether a gradient can flow from the score back to the activation.
        unit: activation -> a power of two, with which the score's gradient at a float16 output is
            about 1: the gradient of a mean underflows there. None where nothing is float16.
    """

    score: Callable[[Array], Array]
    plain: Callable[[Array], Array]
    rule: graph.Rewrite | None
    live_bytes: int
    total_bytes: int
    flops: int
    is_affine: bool
    window: tuple[int | None, ...] | None
    seen: Array | None
    fallbacks: tuple[str, ...]
    depends: bool
    has_slope: bool
    unit: Callable[[Array], Array] | None

    def value_and_gradient(
        self, activation: Float[Array, "*space c"]
    ) -> tuple[Float[Array, ""], Float[Array, "*space c"]]:
        """The score and its gradient, in float32 where the network's are float16."""
        if self.unit is None:
            return jax.value_and_grad(self.score)(activation)
        unit = jax.lax.stop_gradient(self.unit(activation))

        def scaled(activation):
            score = self.score(activation)
            return score * unit.astype(score.dtype), score

        (_, score), gradient = jax.value_and_grad(scaled, has_aux=True)(activation)
        return score, wide(gradient) / unit


def encode(
    split: Split, params: Any, x: Any, execution: Execution
) -> tuple[Float[Array, "*space c"], Carry]:
    """`split.encode`, its slow equations rewritten where `execution` says so."""
    if not lowers(execution):
        return split.encode(params, x)

    def leaves(params, x):
        activation, carry = split.encode(params, x)
        return [activation, *carry]

    closed, _ = graph.closed(leaves, params, x)
    activation, *carry = lowering.lowered(closed)(*jax.tree.leaves((params, x)))
    return activation, tuple(carry)


def lowers(execution: Execution) -> bool:
    """Whether slow equations are rewritten."""
    on_cpu = jax.default_backend() == "cpu"
    return on_cpu if execution.lowering is None else execution.lowering


def scoring(split: Split, carry: Carry, target: Any, execution: Execution) -> Scoring:
    """Chooses how the score is computed. Traced along; the choice rests on shapes alone."""
    plan, read, decode = _decoder(split, carry, target, execution)
    decode = at_precision(decode, execution.precision, split.activation)

    def plain(activation):
        return read(decode(activation))

    closed, jaxpr = graph.closed(plain, split.activation)
    if [variable.aval.shape for variable in jaxpr.outvars] != [()]:
        shapes = [tuple(variable.aval.shape) for variable in jaxpr.outvars]
        raise TargetError(f"the target returns shape(s) {shapes}; expected one scalar")
    slow = lowers(execution)
    return Scoring(
        _first_of(lowering.lowered(closed)) if slow else plain,
        plain,
        lowering.rewritten if slow else None,
        cost.live_bytes(jaxpr),
        cost.total_bytes(jaxpr),
        cost.flops(jaxpr),
        linearity.is_affine(jaxpr),
        None if plan is None else plan.extents[:-1],
        None if plan is None else split.canonical(plan.seen([*target.corner, 0])),
        () if plan is None else plan.fallbacks,
        slopes.depends(jaxpr),
        slopes.has_slope(jaxpr),
        functools.partial(_unit, read, decode) if _is_half(split) else None,
    )


def _is_half(split: Split) -> bool:
    """Whether gradients pass through float16."""
    structs = [split.activation, *jax.tree.leaves(split.output)]
    return any(struct.dtype == jnp.float16 for struct in structs)


def _unit(target: Callable, decode: Callable, activation: Array) -> Float[Array, ""]:
    """The power of two that brings the largest gradient of a target at the output to 1 up to 2."""
    output = jax.tree.map(wide, decode(activation))
    gradients = jax.tree.leaves(jax.grad(target)(output))
    largest = jnp.max(jnp.stack([jnp.abs(each).max() for each in gradients]))
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.exp2(-jnp.floor(jnp.log2(jnp.where(usable, largest, 1))))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a target reads at each position of its window, as a function of what that depends on.

    Attributes:
        part: activation -> the part of it that the window depends on.
        read: part -> value at every position, flat, traceable.
        weights: of the positions, 0 outside of the region.
        whole: part -> activation, 0 around the part.
        struct: shape and dtype of a part.
        unit: part -> as `Scoring.unit`, of the positions' weighted sum.
    """

    part: Callable[[Array], Array]
    read: Callable[[Array], Float[Array, "p"]]
    weights: Float[Array, "p"]
    whole: Callable[[Array], Array]
    struct: jax.ShapeDtypeStruct
    unit: Callable[[Array], Array] | None


def reading(split: Split, carry: Carry, target: Target, execution: Execution) -> Reading:
    """Reads a target position by position, on the window of its region where it knows one."""
    if target.extent is not None and on_window(split, target, execution):
        channels = jax.tree.leaves(split.output)[0].shape[-1]
        plan = split.window_plan((*target.extent, channels))
        corner, prepared = [*target.corner, 0], _prepared(split, carry, execution)

        def part(value):
            return plan.narrowed(split.native(value), corner)

        def whole(value):
            return split.canonical(plan.widened(value, corner))

        def output(part):
            return plan.run([part, *prepared], corner)

        target = target.cropped()
    else:
        _, _, output = _decoder(split, carry, target, execution)
        part = whole = _unchanged
    struct = jax.eval_shape(part, split.activation)
    output = at_precision(output, execution.precision, struct)

    def read(part):
        return target.values(output(part)).reshape(-1)

    values = jax.eval_shape(read, struct)
    weights = jnp.ones(values.shape, values.dtype)
    if target.mask is not None:
        weights = jnp.asarray(target.mask, values.dtype).reshape(-1)
    closed, _ = graph.closed(read, struct)
    fast = _first_of(lowering.lowered(closed)) if lowers(execution) else read

    def summed(output):
        return (weights * target.values(output).reshape(-1)).sum()

    unit = functools.partial(_unit, summed, output) if _is_half(split) else None
    return Reading(part, fast, weights, whole, struct, unit)


def _unchanged(value: Array) -> Array:
    return value


def _first_of(function: Callable[[Array], list]) -> Callable[[Array], Array]:
    return lambda activation: function(activation)[0]


def _decoder(
    split: Split, carry: Carry, target: Any, execution: Execution
) -> tuple[WindowPlan | None, Any, Callable]:
    """The window that is computed, if any, the target of it, and what computes it."""
    if on_window(split, target, execution):
        channels = jax.tree.leaves(split.output)[0].shape[-1]
        plan = split.window_plan((*target.extent, channels))
        corner, prepared = [*target.corner, 0], _prepared(split, carry, execution)
        return plan, target.cropped(), lambda a: plan.run([split.native(a), *prepared], corner)
    if execution.hoist:
        prepared = _prepared(split, carry, execution)
        return None, target, lambda a: split.decode_prepared(a, prepared)
    return None, target, lambda a: split.decode(a, carry)


def _prepared(split: Split, carry: Carry, execution: Execution) -> Carry:
    """`split.prepare`, its slow equations rewritten where `execution` says so."""
    if not lowers(execution):
        return split.prepare(carry)
    closed, _ = graph.closed(lambda *carry: split.prepare(carry), *carry)
    return tuple(lowering.lowered(closed)(*carry))


def on_window(split: Split, target: Any, execution: Execution) -> bool:
    """Whether only the window of a target's region is computed."""
    if not execution.windows or not isinstance(target, Target) or target.extent is None:
        return False
    shape = jax.tree.leaves(split.output)[0].shape
    return target.extent != shape[:-1]
