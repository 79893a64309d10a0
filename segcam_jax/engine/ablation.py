"""Scores under ablations, and what is read of the output under them or for other activations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax._jaxpr import cost, graph
from segcam_jax.engine import devices, fall, memory, record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.score import Scoring, encode, fast, itself, scoring
from segcam_jax.masks import Masks, ablate, around
from segcam_jax.taps import Carry, Split
from segcam_jax.types import wide

# Dead rows are skipped by whole chunks: enough of these that most dead rows are, none too small.
_CHUNKS = 8
_LEAST_ROWS = 8


def baseline(
    split: Split, params: Any, x: Any, target: Any, execution: Execution
) -> tuple[Array, Carry, Array]:
    """Returns `(activation, carry, score)` of the unchanged input."""
    activation, carry = encode(split, params, x, execution)
    score = scoring(split, carry, target, execution).score(activation)
    return activation, carry, score


def ablation_drops(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    masks: Masks,
    execution: Execution,
    empty: Float[Array, "*space c"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """The score of the activation, and how far it falls under each mask, S - S_m.

    What is ablated becomes `empty`, or 0: A_m = empty + mask_m (A - empty). Masks that keep are
    compared with an empty activation: S is the score of that.

    Where the score is linear in the activation, from one gradient:

        S - S_m = sum (1 - mask_m) (A - empty) dS/dA

    Else by an evaluation per mask, as many at once as fit: of the change that it makes, see
    `fall.py`. Masks that change nothing the target sees are not run, and fall by exactly 0; the
    others are dealt evenly over the devices.
    """
    how = scoring(split, carry, target, execution)
    ablated = _Ablated(activation, empty, masks)
    base, there = ablated.base, ablated.there
    if execution.closed_form and fall.is_linear(split, target):
        return _closed_form(ablated, how)
    if not execution.difference:
        return _subtracted(ablated, how, execution)
    by_change = fall.falls(split, base, there, carry, target, masks, execution)
    score_of = fall.differentiable(by_change.score, lambda: how.score(base))
    score = score_of()
    live = live_masks(there, masks, by_change.seen, execution)

    def written(rows, _):
        return how.score(base) - jax.vmap(lambda row: how.score(ablated(masks(row))))(rows)

    def drops_of(rows):
        return jax.vmap(by_change.fall)(rows).astype(score.dtype)

    order = jnp.argsort(~live).astype(jnp.int32)
    rows = Rows(order, live.sum(dtype=jnp.int32), by_change.live_bytes)
    study = functools.partial(
        record.Study,
        "ablations",
        len(masks),
        by_change.flops,
        how,
        masks=masks,
        live=live,
        by_change=by_change,
    )
    drops = in_chunks(rows, drops_of, execution, written=written, study=study)
    return score, _undrowned(drops, ablated, how) if around(masks) else drops


@dataclasses.dataclass(frozen=True)
class _Ablated:
    """What becomes of an activation under masks.

    Attributes:
        empty: what is ablated becomes this; None: 0.
    """

    activation: Float[Array, "*space c"]
    empty: Float[Array, "*space c"] | None
    masks: Masks

    def __call__(self, mask: Any) -> Float[Array, "*space c"]:
        """The activation under one of the masks."""
        shown = ablate(self.there, mask)
        return shown if self.empty is None else self.empty + shown

    @property
    def there(self) -> Float[Array, "*space c"]:
        """What masks take away, or keep."""
        return self.activation if self.empty is None else self.activation - self.empty

    @property
    def base(self) -> Float[Array, "*space c"]:
        """What scores are compared with."""
        if around(self.masks):
            return self.activation
        return jnp.zeros_like(self.activation) if self.empty is None else self.empty


def _undrowned(drops: Float[Array, "m"], ablated: _Ablated, how: Scoring) -> Float[Array, "m"]:
    """The drops, by two scores where they drown: such a drop is as large as the score is."""
    masks = ablated.masks

    def by_two_scores(index):
        pair = jnp.stack([ablated.activation, ablated(masks(index))])
        before, after = jax.vmap(how.score)(pair)
        return before - after

    def replaced():
        return undrowned(drops, ablated.there, masks, by_two_scores)

    return fall.differentiable(replaced, lambda: drops)()


def undrowned(found: Any, there: Array, masks: Masks, subtracted: Callable[[Array], Any]) -> Any:
    """What was found under each mask, anew where one takes away what drowns the rest.

    There are hardly ever any.

    Args:
        found: a pytree, along a leading axis.
        there: what masks take away.
        masks: the ablations, around 1.
        subtracted: index -> what is found by subtraction, which loses no digits there.
    """
    drowning = fall.drowning(there, masks)
    order = jnp.argsort(~drowning).astype(jnp.int32)

    def step(at, found):
        index = order[at]
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), found, subtracted(index))

    return jax.lax.fori_loop(0, drowning.sum(dtype=jnp.int32), step, found)


def ablation_scores(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    target: Any,
    masks: Masks,
    execution: Execution,
    empty: Float[Array, "*space c"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """The score of the activation, and under each mask: see `ablation_drops`."""
    score, drops = ablation_drops(split, activation, carry, target, masks, execution, empty)
    return score, score - drops


def _subtracted(
    ablated: _Ablated, how: Scoring, execution: Execution
) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    """By m + 1 evaluations of the whole score.

    The unchanged activation is one more row of the same computation: run apart, its score would be
    rounded in another way, and a channel without any effect would get a weight.
    """
    masks = ablated.masks
    live = live_masks(ablated.there, masks, how.seen, execution)

    def score_of(row):
        mask = masks(jnp.maximum(row - 1, 0))
        return how.score(ablated(jnp.where(row == 0, around(masks), mask)))

    order = jnp.concatenate([jnp.zeros(1, jnp.int32), 1 + jnp.argsort(~live).astype(jnp.int32)])
    rows = Rows(order, 1 + live.sum(dtype=jnp.int32), how.live_bytes)
    study = functools.partial(
        record.Study, "ablations", len(order), how.flops, how, masks=masks, live=live
    )
    every = jax.vmap(score_of)
    scores = in_chunks(rows, every, execution, written=lambda rows, _: every(rows), study=study)
    drops = scores[0] - scores[1:]
    return scores[0], jnp.where(live, drops, drops - jax.lax.stop_gradient(drops))


def live_masks(activation: Array, masks: Masks, seen: Array | None, execution: Execution) -> Array:
    """Which masks change anything that the target sees, or all where none is to be skipped."""
    there = activation != 0 if seen is None else (activation != 0) & seen
    removed = masks.removed(there.astype(jnp.float32)) != 0
    return removed if execution.skip_dead else jnp.ones_like(removed)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The evaluations of a study.

    Attributes:
        order: their indices, those that are needed first.
        needed: how many are.
        live_bytes: bytes that one holds at its peak.
    """

    order: Int[Array, "m"]
    needed: Int[Array, ""]
    live_bytes: int


def in_chunks(
    rows: Rows,
    evaluate: Callable[[Array], Any],
    execution: Execution,
    *,
    unneeded: Any = 0.0,
    written: Callable[[Array, Array], Array] | None = None,
    study: Callable[..., record.Study] | None = None,
) -> Any:
    """Evaluates the rows chunk after chunk.

    Args:
        evaluate: indices -> values, a pytree; not differentiated.
        unneeded: the values of a row that is not needed.
        written: `(indices, anything)` -> an array of values, whose derivative is taken, of every
            row; None: not to be differentiated.
        study: `(chunk=...)` -> what is recorded, if anything.
    """
    dealt = devices.share(len(rows.order), execution.mesh)
    most = max(_LEAST_ROWS, -(-len(dealt) // _CHUNKS)) if execution.skip_dead else None
    chunk = memory.chunk(execution, len(dealt), rows.live_bytes, most)
    if study is not None:
        record.study(lambda: dataclasses.replace(study(chunk=chunk), count=dealt.count))

    def values(rows, needed):
        like = jax.eval_shape(evaluate, rows)
        nothing = jax.tree.map(lambda x, one: jnp.full(x.shape, one, x.dtype), like, unneeded)
        return jax.lax.cond(needed, evaluate, lambda _: nothing, rows)

    indices, own = dealt.rows(chunk)
    given = rows.order[indices], own[:, 0] & (indices[:, 0] < rows.needed)
    run = values
    if written is not None:
        run = fall.differentiable(values, written, *jax.tree.map(lambda x: x[0], given))
    if len(indices) == 1:
        found = run(given[0][0], jnp.ones((), bool))
    else:
        _, found = jax.lax.scan(lambda _, row: (None, run(*row)), None, given)

    def in_order(leaf, one):
        every = dealt.gathered(leaf.reshape(-1, *jnp.shape(one)))
        return jnp.zeros_like(every).at[rows.order].set(every)

    return jax.tree.map(in_order, found, unneeded)


def _closed_form(ablated: _Ablated, how: Scoring) -> tuple[Float[Array, ""], Float[Array, "m"]]:
    masks = ablated.masks
    record.study(
        lambda: record.Study("ablations", 1, how.gradient_flops, how, masks=masks, closed_form=True)
    )
    score, gradient = how.value_and_gradient(ablated.activation)
    if not around(masks):
        score = how.score(ablated.base)
    # What the target does not look at counts nothing, though it be infinite.
    unseen = (gradient == 0) & ~jnp.isfinite(ablated.there)
    finite = jnp.where(unseen, 0, ablated.there)
    return score, masks.removed(finite.astype(score.dtype) * gradient.astype(score.dtype))


def score_of(
    split: Split, carry: Carry, target: Any, execution: Execution
) -> Callable[[Array], Array]:
    """The score as a function of the activation, on the window that the target sees."""
    return scoring(split, carry, target, execution).score


def read_of(
    split: Split, carry: Carry, read: Callable[[Any], Any], execution: Execution
) -> Callable[[Array], Any]:
    """What is read of the whole output, a pytree, as a function of the activation."""
    return fast(lambda a: read(split.decode(a, carry)), execution, split.activation)


def readings(
    value: Callable[[Array], Any],
    activation_of: Callable[[Int[Array, ""]], Array],
    count: int,
    execution: Execution,
) -> Any:
    """`value(activation_of(index))` for every index below `count`, along a new leading axis.

    Each is a whole evaluation: for what no mask makes (`ablation_scores` is for masks), or where
    several things are read of one output.

    Args:
        value: as `score_of` or `read_of` made it.
        activation_of: makes one activation at a time; not all are in memory together.
        execution: how to run; with a mesh, its devices share the activations.
    """

    def one(index):
        return value(activation_of(index))

    _, jaxpr = graph.closed(one, jax.ShapeDtypeStruct((), jnp.int32))
    dealt = devices.share(count, execution.mesh)
    rows, _ = dealt.rows(memory.chunk(execution, len(dealt), cost.live_bytes(jaxpr)))
    found = jax.lax.map(jax.vmap(one), rows)
    return jax.tree.map(lambda leaf: dealt.gathered(leaf.reshape(-1, *leaf.shape[2:])), found)


def change_readings(
    split: Split,
    activation: Float[Array, "*space c"],
    carry: Carry,
    masks: Masks,
    read: Callable[[Array, Array], Any],
    execution: Execution,
    empty: Float[Array, "*space c"],
) -> Any:
    """`read(y_m, y - y_m)` for every mask, along a new leading axis: for what no scalar says.

    The change goes through the network by itself, as in `ablation_drops`; masks that change nothing
    are not run, and their change is exactly 0. Not to be differentiated.

    Args:
        split: the model; its output is one array.
        masks: the ablations, around 1.
        read: of the output under a mask, and of how far it falls; a pytree.
        execution: how to run; with a mesh, its devices share the masks.
        empty: what is ablated becomes this.
    """
    there = activation - empty
    by_change = fall.falls(split, activation, there, carry, itself, masks, execution)
    output = wide(by_change.score())

    def subtracted(index):
        after = wide(split.decode(empty + ablate(there, masks(index)), carry))
        return read(after, output - after)

    def moved(index):
        change = by_change.fall(index)
        return read(output - change, change)

    one = moved if execution.difference else subtracted
    live = live_masks(there, masks, by_change.seen, execution)
    order = jnp.argsort(~live).astype(jnp.int32)
    rows = Rows(order, live.sum(dtype=jnp.int32), by_change.live_bytes)
    unchanged = read(output, jnp.zeros_like(output))
    found = in_chunks(rows, jax.vmap(one), execution, unneeded=unchanged)
    return undrowned(found, there, masks, subtracted) if execution.difference else found
