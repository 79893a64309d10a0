"""How far an ablation lets the score fall, from the change that it makes: see `_jaxpr/difference`.

    fall = S(known) - S(known + change)        change = (mask - 1) A, known of A
                                               change = mask A,       known of an empty activation

Nothing is subtracted: the change goes through the network by itself, so that a fall has all its
digits however much larger the score is. Only what the target sees and the ablation changes is
computed.

The derivative of a fall, for whoever differentiates a method, is taken of S(A) - S(mask A) as the
model is written: right at ties, and for ablations that change nothing and are not run.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from segcam_jax._jaxpr import changes, constants, cost, difference, graph, lowering, spans
from segcam_jax._jaxpr.precision import at_precision
from segcam_jax._jaxpr.spans import Span, Windowed, narrow, whole
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.score import fast, lowers, window_of
from segcam_jax.masks import LocalMasks, Masks, around
from segcam_jax.taps import Carry, Split
from segcam_jax.types import wide


@dataclasses.dataclass(frozen=True)
class Falls:
    """The fall of the score by the index of an ablation, and what one costs.

    Attributes:
        fall: index -> scalar; not to be differentiated.
        score: of what the falls are from; not to be differentiated.
        live_bytes: bytes that one evaluation holds at its peak.
        flops: operations of its convolutions and products.
        window: what of the output is computed, or None for all of it.
        seen: which elements of the activation the score depends on, or None for all.
        fallbacks: primitives computed whole for want of a window rule.
        subtracted: primitives whose change is subtracted for want of a rule.
    """

    fall: Callable[[Array], Array]
    score: Callable[[], Array]
    live_bytes: int
    flops: int
    window: tuple[int, ...] | None
    seen: Array | None
    fallbacks: tuple[str, ...]
    subtracted: tuple[str, ...]


def _known(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    window: tuple[tuple[int, ...], Sequence[Array]] | None,
    execution: Execution,
) -> tuple[Sequence[Any], tuple[Any, ...]]:
    """The leaves of the output, and what changes of it are read off, in float32.

    As much of both as a window of the output needs, given by its extents and corner; None: all.
    Not to be differentiated. Slow equations are rewritten where `execution` says so.
    """
    given = jax.lax.stop_gradient((split.native(activation), *carry))
    run = split.changes.known
    if window is not None:
        plan, consts = split.changes.known_on(window[0])

        def run(*given):
            return plan.outputs([*given, *consts], window[1])

    run = at_precision(run, "float32", *given)
    found = fast(run, execution, *given)(*given)
    count = len(jax.tree.leaves(split.output))
    return found[:count], tuple(found[count:])


def is_linear(split: Split, target: Any) -> bool:
    """Whether the score is linear in the activation, but for a constant."""
    leaves, tree = jax.tree.flatten(split.output)
    return split.changes.is_linear and difference.is_linear(
        lambda *leaves: target(jax.tree.unflatten(tree, leaves)), *leaves
    )


def falls(
    split: Split,
    base: Float[Array, "*space c"],
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    masks: Masks,
    execution: Execution,
) -> Falls:
    """The cheapest way: on the window of the target, or of the ablation alone.

    Args:
        base: what scores are compared with.
        activation: what masks take away, or keep.
        carry: what decode needs besides.
    """
    given = (split, base, activation, carry, target, masks)
    ways = [_falls(*given, execution)]
    if ways[0].window is not None and isinstance(masks, LocalMasks):
        without = dataclasses.replace(execution, windows=False)
        other = _falls(*given, without)
        # What the target does not see is known either way.
        ways.append(dataclasses.replace(other, seen=ways[0].seen))
    return min(ways, key=lambda way: way.flops)


def _falls(split, base, activation, carry, target, masks, execution) -> Falls:
    activation = jax.lax.stop_gradient(activation)
    subtracted = dict.fromkeys(split.changes.subtracted)
    tree = jax.tree.structure(split.output)
    seen = window_of(split, target, execution)
    plan, corner = (None, []) if seen is None else (split.changes.plan(seen[0]), seen[1])
    target = target if plan is None else target.cropped()
    leaves, prepared = _known(split, base, carry, seen, execution)

    def fall(change):
        if plan is None:
            changed = split.changes.change(split.native(change), *prepared)
        else:
            changed = [plan.run([split.native(change), *prepared], corner)]
        moved, without_rule = difference.change_of(
            lambda *leaves: target(jax.tree.unflatten(tree, leaves)), leaves, changed
        )
        subtracted.update(dict.fromkeys(without_rule))
        return -moved

    dtype = difference.change_dtype(activation.dtype)
    struct = jax.ShapeDtypeStruct(activation.shape, dtype)
    rounded = at_precision(fall, execution.precision, struct, everywhere=True)
    closed, jaxpr = graph.flattened(rounded, struct)
    window = _window(masks, activation)
    consts = graph.constants_of(closed)
    equations = constants.as_literals(jaxpr.eqns, jaxpr.constvars, consts)
    by_change = changes.plan(jaxpr.replace(eqns=equations), window)
    rule = lowering.rewritten if lowers(execution) else None
    record = by_change.record(consts, [], rule)
    given = Windowed(activation.astype(dtype), whole(activation.shape), activation.shape)

    def of_index(index, rule=rule):
        local = isinstance(masks, LocalMasks)
        places = masks.places(index, activation.ndim) if local else {}
        mask = jax.lax.stop_gradient(jnp.asarray(masks(index), dtype))
        mask = mask.reshape((1,) * (activation.ndim - mask.ndim) + mask.shape)
        inside = tuple(s if n > 1 else None for s, n in zip(window, mask.shape, strict=True))
        mask = narrow(Windowed(mask, whole(mask.shape), mask.shape), inside, places)
        patch = narrow(given, window, places) * (mask - around(masks))
        return by_change.run(record, patch, places, rule)[0]

    index = jax.ShapeDtypeStruct((), jnp.int32)
    _, traced = graph.closed(lambda index: of_index(index, None), index)
    return Falls(
        of_index,
        lambda: target(jax.tree.unflatten(tree, leaves)),
        cost.live_bytes(traced),
        cost.flops(traced),
        None if seen is None else seen[0][:-1],
        None if plan is None else split.canonical(plan.seen([*corner])),
        () if plan is None else plan.fallbacks,
        tuple(subtracted),
    )


# A value so many times larger than what stays drowns it: float32 keeps 7 digits of a sum.
_DROWNS = 1e4


def drowning(activation: Float[Array, "*space c"], masks: Masks) -> Bool[Array, "m"]:
    """Which ablations take away what drowns the rest: `known + change` has no digits of that left.

    One that is 10^4 times as large as all that stays within a position of it, and as the geometric
    mean of what is not 0.
    """
    size = jnp.abs(wide(jax.lax.stop_gradient(activation)))
    size = jnp.where(jnp.isfinite(size), size, 0)
    count = jnp.maximum((size > 0).sum(dtype=size.dtype), 1)
    typical = jnp.exp(jnp.log(jnp.where(size > 0, size, 1)).sum() / count)
    around_each = (3,) * (size.ndim - 1) + (1,)

    def drowns(index):
        mask = jax.lax.stop_gradient(jnp.asarray(masks(index), size.dtype))
        mask = mask.reshape((1,) * (size.ndim - mask.ndim) + mask.shape)
        stays = (jnp.abs(mask) * size).max(-1, keepdims=True)
        near = jax.lax.reduce_window(
            stays, -jnp.inf, jax.lax.max, around_each, (1,) * size.ndim, "SAME"
        )
        return (jnp.abs(1 - mask) * size > _DROWNS * jnp.maximum(near, typical)).any()

    indices = jnp.arange(len(masks), dtype=jnp.int32)
    return jax.lax.cond(
        size.max() > _DROWNS * typical,
        lambda: jax.lax.map(drowns, indices),
        lambda: jnp.zeros(len(masks), bool),
    )


def _window(masks: Masks, activation: Array) -> spans.Window:
    """What of the activation an ablation changes."""
    if not isinstance(masks, LocalMasks):
        return whole(activation.shape)
    windows = masks.windows(activation.ndim)
    return tuple(
        Span(axis, *windows[axis]) if axis in windows and windows[axis][1] < extent else None
        for axis, extent in enumerate(activation.shape)
    )


def differentiable(
    value: Callable[..., Array], written: Callable[..., Array], *structs: Any
) -> Callable[..., Array]:
    """`value` with the derivative of `written`, with respect to all that both close over.

    Args:
        value: of the arguments, not to be differentiated.
        written: the same but for rounding, and for arguments that it need not know.
        structs: the arguments, or their shapes and dtypes; not differentiated.
    """
    pair = [graph.closed(function, *structs)[0] for function in (value, written)]
    fast, plain = map(graph.function_of, pair)

    @jax.custom_jvp
    def run(arguments, held, differentiated):
        return fast(held, *arguments)[0]

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        arguments, _, differentiated = primals
        # Models with a backward rule alone, `custom_vjp`, take no tangents that are zero.
        moving = [at for at, t in enumerate(tangents[-1]) if not isinstance(t, SymbolicZero)]

        def moved(values):
            held = dict(enumerate(differentiated)) | dict(zip(moving, values, strict=True))
            return plain(list(held.values()), *arguments)[0]

        out = run(*primals)
        if not moving:
            return out, jnp.zeros_like(out)
        values, slopes = ([each[at] for at in moving] for each in (differentiated, tangents[-1]))
        return out, jax.jvp(moved, (values,), (slopes,))[1]

    held = [list(graph.constants_of(each)) for each in pair]
    return lambda *arguments: run(arguments, *held)
