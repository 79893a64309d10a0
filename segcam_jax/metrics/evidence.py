"""What the predicted segments of an image have to do with each other."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, scene, touched
from segcam_jax.metrics.saliency import region_shares
from segcam_jax.outputs import Meaning
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError


def evidence_shares(
    map: Float[Array, "*space"], labels: Int[ArrayLike, "*space"], *, classes: int
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Where the evidence of a class lies, by what is predicted there: a row of the evidence table.

    Args:
        map: signed, at the extents of the labels.
        labels: class of each position.
        classes: how many there are.

    Returns:
        `(positive, negative)`: the shares of the positive and of the negative part that lie on each
        class; all 0 for a part that is 0. Means over images are those of a data set.

    Raises:
        InputError: if the map has other extents than the labels.

    References:
        Agg2Exp, WACV 2025, arXiv:2407.16653.
    """
    if jnp.shape(map) != jnp.shape(labels):
        raise InputError(
            f"the map has shape {jnp.shape(map)}, and the labels {jnp.shape(labels)}; give both at "
            "the same extents"
        )
    every = jnp.arange(classes).reshape(-1, *[1] * jnp.ndim(map))
    regions = jnp.asarray(labels)[None] == every
    parts = (jnp.maximum(map, 0), jnp.maximum(-map, 0))
    positive, negative = (region_shares(part, regions)[0] for part in parts)
    return positive, negative


@engine.compiled
def ablation_matrix(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    labels: Int[Array, "*space"],
    *,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, "k k"]:
    """What removing each predicted segment does to each class.

        F[i, j] = (q_j - q_j without segment i) / q_j,    q_j the mean probability of class j there

    Args:
        split: the model.
        target: says what the output means; its class and region do not matter.
        labels: predicted class of each position of the output.
        at: remove from the input or from the activation at the tap.

    Returns:
        Segment removed (row) by class; NaN for classes that are not predicted.

    References:
        captum's tutorial on semantic segmentation, which ablates one segment after the other.
    """
    nothing = jnp.zeros((split.at_input if at == "input" else split).activation.shape[:-1])
    there = scene(split, params, x, nothing, at, execution)
    classes = jax.tree.leaves(split.output)[0].shape[-1]
    every = jnp.arange(classes, dtype=jnp.int32).reshape(-1, *[1] * labels.ndim)
    segments = labels[None].astype(jnp.int32) == every  # int8 may not hold all classes.
    base = there.base(baseline)
    meaning = Meaning(target.outputs, target.exclusive)

    def read(output):
        shares = jnp.moveaxis(meaning.probabilities(output), -1, 0)
        return jnp.where(segments, shares, 0).sum(tuple(range(1, shares.ndim)))

    def without(index):
        inside = touched(segments[index], there.positions)
        return jnp.where(inside[..., None], base, there.activation)

    value = engine.read_of(there.split, there.carry, read, execution)
    found = engine.readings(value, without, classes, execution)
    whole = value(there.activation)
    present = segments.any(tuple(range(1, segments.ndim)))
    fall = (whole[None] - found) / jnp.where(whole > 0, whole, 1)[None]
    return jnp.where(present[:, None] & present[None], fall, jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentShares:
    """A row of the evidence table.

    Attributes:
        inside: share of the positive evidence that lies where the class itself is predicted.
        scores: shares of the positive evidence on each class, then those of the negative.
    """

    inside: Float[Array, ""]
    scores: Float[Array, "2*k"]


@metric(
    "labels",
    title="Evidence by segment",
    higher_is_better=None,
    range=(0.0, 1.0),
    cost="none",
    paper="Agg2Exp, WACV 2025",
    constant=True,
)
def segment_evidence(
    map: Float[Array, "*space"], labels: Int[Array, "*space"], class_index: Any, *, classes: int
) -> SegmentShares:
    """Evidence by segment: how much of a class's evidence lies where each class is predicted.

    Args:
        map, labels, classes: as in `evidence_shares`.
        class_index: the class that the map explains.
    """
    positive, negative = evidence_shares(map, labels, classes=classes)
    inside = jnp.where((map > 0).any(), positive[class_index], jnp.nan)
    return SegmentShares(inside, jnp.concatenate([positive, negative]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentFalls:
    """A column of the ablation matrix.

    Attributes:
        itself: how far the class falls without the segment where it is predicted.
        scores: likewise, without the segment of each class.
    """

    itself: Float[Array, ""]
    scores: Float[Array, "k"]


@metric(
    "network",
    "labels",
    title="Segment ablation",
    higher_is_better=None,
    range=(-math.inf, 1.0),
    cost="one evaluation a class",
    paper="captum, tutorial on segmentation",
)
def segment_ablation(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    labels: Int[Array, "*space"],
    *,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> SegmentFalls:
    """Segment ablation: what removing each predicted segment does to the target's class.

    The column of `ablation_matrix`, whose arguments it has; no map is asked.
    """
    falls = ablation_matrix(
        split, params, x, target, labels, baseline=baseline, at=at, execution=execution
    )
    column = jax.lax.dynamic_index_in_dim(falls, target.class_index, 1, keepdims=False)
    own = jax.lax.dynamic_index_in_dim(column, target.class_index, 0, keepdims=False)
    return SegmentFalls(own, column)
