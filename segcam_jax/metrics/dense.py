"""Metrics made for segmentation: what removing and keeping does to the prediction itself.

The target is frozen on the untouched image. Of each output all `readings` are taken side by side,
of one evaluation: logits have no scale, probabilities saturate, Dice is blind to what stays on its
side of a threshold. Removing the object itself is trivially harmful: `where="outside"`
removes its context alone. Run `controls` beside every comparison.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.masks import ablate
from segcam_jax.metrics.deletion import Curve, curve_of, ordered, steps_of
from segcam_jax.metrics.drop import mask_of
from segcam_jax.metrics.readings import Reading, Threshold, check_threshold, reader
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, By, Order, RankMasks, Scene, Where, scene
from segcam_jax.outputs import THRESHOLD
from segcam_jax.taps import Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError

_SHARE = (0.0, 1.0)
_of_region = functools.partial(metric, "network", "region", check=check_threshold)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseCurve:
    """Deletion or insertion of a segmentation, in all readings.

    Attributes:
        dice: area under Dice over the fractions removed or shown.
        probability: likewise.
        logit: likewise.
        others: likewise, of the other regions.
        normalised: that of the logit, as `Curve.normalised`.
        curves: of each reading, by its name.
    """

    dice: Float[Array, ""]
    probability: Float[Array, ""]
    logit: Float[Array, ""]
    others: Float[Array, ""]
    normalised: Float[Array, ""]
    curves: dict[str, Curve]


def _read(
    there: Scene, target: Any, threshold: Threshold, execution: Execution
) -> Callable[[Array], Reading]:
    """Readings as a function of the activation."""
    output = there.split.decode(there.activation, there.carry)
    return engine.read_of(there.split, there.carry, reader(output, target, threshold), execution)


def _dense_curve(
    there: Scene,
    target: Target,
    masks: RankMasks,
    count: Int[Array, ""],
    baseline: Any,
    threshold: Threshold,
    execution: Execution,
) -> DenseCurve:
    base = there.base(baseline)

    def shown(index):
        return base + ablate(there.activation - base, masks(index))

    read = _read(there, target, threshold, execution)
    found: Reading = engine.readings(read, shown, len(masks), execution)
    fractions = masks.ends / jnp.maximum(count, 1)
    whole, empty = (0, -1) if masks.around else (-1, 0)
    curves = {
        name: curve_of(fractions, scores, scores[whole], scores[empty])
        for name, scores in vars(found).items()
    }
    areas = {name: curve.area for name, curve in curves.items()}
    return DenseCurve(**areas, normalised=curves["logit"].normalised, curves=curves)


@_of_region(
    title="Dice deletion",
    higher_is_better=False,
    range=_SHARE,
    cost="steps + 1 evaluations",
    paper="Petsiuk et al., BMVC 2018, with Dice as the score",
)
def dice_deletion(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    map: Float[Array, "*space"],
    *,
    steps: int = 20,
    baseline: Any = "zeros",
    order: Order = "signed",
    at: At = "input",
    where: Where = "all",
    by: By | None = None,
    threshold: Threshold = THRESHOLD,
    execution: Execution = Execution(),
) -> DenseCurve:
    """Dice deletion: how fast the predicted region is lost while the map's largest positions go.

    Arguments as in `deletion`; the target needs a region. Where classes do not exclude each other,
    one is predicted where its probability is above `threshold`: give that of the target's region,
    one number or one for each class. Lower areas of dice, probability and logit are better, of
    others higher ones.
    """
    there = scene(split, params, x, map, at, execution, by)
    masks, count = steps_of(there, target, steps, order, where, around=1.0)
    return _dense_curve(there, target, masks, count, baseline, threshold, execution)


@_of_region(
    title="Dice insertion",
    higher_is_better=True,
    range=_SHARE,
    cost="steps + 1 evaluations",
    paper="Petsiuk et al., BMVC 2018, with Dice as the score",
)
def dice_insertion(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    map: Float[Array, "*space"],
    *,
    steps: int = 20,
    baseline: Any = "zeros",
    order: Order = "signed",
    at: At = "input",
    where: Where = "all",
    by: By | None = None,
    threshold: Threshold = THRESHOLD,
    execution: Execution = Execution(),
) -> DenseCurve:
    """Dice insertion: how soon the predicted region is there while the largest positions come.

    Arguments as in `insertion` and `dice_deletion`; the target needs a region. Higher
    areas are better.
    """
    there = scene(split, params, x, map, at, execution, by)
    masks, count = steps_of(there, target, steps, order, where, around=0.0)
    return _dense_curve(there, target, masks, count, baseline, threshold, execution)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sufficiency:
    """What is predicted of what the map keeps, over all thresholds.

    Attributes:
        area: under Dice over the share of the image that is kept, by trapezoids.
        kept: share of positions whose mask is above each threshold, ascending; with 0 and 1.
        dice: at each.
        thresholds: descending, with those of nothing and of everything.
    """

    area: Float[Array, ""]
    kept: Float[Array, "t"]
    dice: Float[Array, "t"]
    thresholds: Float[Array, "t"]

    @property
    def fractions(self) -> Float[Array, "t"]:
        """`kept`: what a `Curve` is drawn over."""
        return self.kept

    @property
    def scores(self) -> Float[Array, "t"]:
        """`dice`: what a `Curve` shows."""
        return self.dice


@_of_region(
    title="Sufficiency",
    higher_is_better=True,
    range=_SHARE,
    cost="one evaluation a threshold",
    paper="the explained Dice and saliency ratio of dense predictions",
)
def sufficiency(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    map: Float[Array, "*space"],
    *,
    thresholds: int = 10,
    baseline: Any = "zeros",
    at: At = "input",
    threshold: Threshold = THRESHOLD,
    execution: Execution = Execution(),
) -> Sufficiency:
    """Sufficiency: Dice of what is predicted of the part of the image above a threshold.

        D(t) = Dice(P(A [M > t]), P(A)),    kept(t) = mean [M > t],    M = max(map, 0) / max map

    A pair (kept, Dice) at one threshold says little: a map of ones keeps all. This is its curve.

    Args:
        split, params, x, target, map: see `metrics.registry`; the target has a region.
        thresholds: how many, evenly from 0 to below 1.
        threshold: of probabilities, as in `dice_deletion`.

    Returns:
        The curve; higher areas are better. NaN for a map without a positive value.
    """
    if thresholds < 1:
        raise InputError(f"thresholds={thresholds}; give at least 1")
    there = scene(split, params, x, map, at, execution)
    mask = mask_of(there.map, there.positions)
    levels = jnp.linspace(1, 0, thresholds + 1)
    levels = jnp.concatenate([levels, -jnp.ones(1)])
    base = there.base(baseline)

    def shown(index):
        return jnp.where((mask > levels[index])[..., None], there.activation, base)

    read = _read(there, target, threshold, execution)
    dice = engine.readings(read, shown, len(levels), execution).dice
    kept = (mask[None] > levels.reshape(-1, *[1] * mask.ndim)).reshape(len(levels), -1)
    shares = kept.mean(1, dtype=jnp.float32)
    area = jnp.where(mask.max() > 0, jnp.trapezoid(dice, shares), jnp.nan)
    return Sufficiency(area, shares, dice, levels)


@_of_region(
    title="IoU drop",
    higher_is_better=False,
    range=_SHARE,
    cost="2 evaluations",
    paper="SegClarity, J. Imaging 11(12), 2025",
)
def iou_drop(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    map: Float[Array, "*space"],
    *,
    at: At = "input",
    threshold: Threshold = THRESHOLD,
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """IoU drop: `1 - IoU(P(A M), P(A))` of the class, M as in `average_drop`.

    A map that is 1 nearly everywhere has 0: read it beside the mask's mean. NaN for a map that is
    constant or has no positive value. `threshold` as in `dice_deletion`.
    """
    there = scene(split, params, x, map, at, execution)
    mask = mask_of(there.map, there.positions)
    dice = _read(there, target, threshold, execution)(there.activation * mask[..., None]).dice
    return jnp.where(mask.max() > 0, 1 - dice / (2 - dice), jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OffTarget:
    """What removing the top of a map takes from the target, and from all else.

    Attributes:
        specific: `target - others`; higher is better.
        target: fall of the mean probability over the region.
        others: fall of that of what was predicted elsewhere; NaN where nothing was.
    """

    specific: Float[Array, ""]
    target: Float[Array, ""]
    others: Float[Array, ""]


@_of_region(
    title="Off-target drop",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="2 evaluations",
    paper="DEA, arXiv 2603.22624",
)
def off_target_drop(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    map: Float[Array, "*space"],
    *,
    share: float = 0.2,
    baseline: Any = "zeros",
    at: At = "input",
    by: By | None = None,
    threshold: Threshold = THRESHOLD,
    execution: Execution = Execution(),
) -> OffTarget:
    """Off-target drop: how much more the target loses than other regions without the map's top.

    Args:
        split, params, x, target, map: see `metrics.registry`; the target has a region.
        share: of the positions that go; the paper does not say its own.
        by: as in `deletion`.
        threshold: of probabilities, as in `dice_deletion`.
    """
    there = scene(split, params, x, map, at, execution, by)
    places, _, size = ordered(there, target, "signed", "all", None)
    base = there.base(baseline)
    read = _read(there, target, threshold, execution)
    before = read(there.activation)
    gone = places.astype(jnp.float32) < share * size
    after = read(jnp.where(gone, base, there.activation))
    target_fall, others = before.probability - after.probability, before.others - after.others
    return OffTarget(target_fall - others, target_fall, others)
