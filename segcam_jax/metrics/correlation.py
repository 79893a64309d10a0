"""Whether the map's sums over what is removed are the falls of the score that removing it makes."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.masks import Masks
from segcam_jax.metrics.rank import rank_correlation
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, RandomMasks, RankMasks, Scene, check_steps, ranks, scene
from segcam_jax.metrics.similarity import correlation
from segcam_jax.types import InputError

_CORRELATION = (-1.0, 1.0)
_correlating = functools.partial(metric, "network", higher_is_better=True, range=_CORRELATION)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SensitivityN:
    """Correlations over random subsets of each of several sizes.

    Attributes:
        mean: over the sizes that have one; NaN if a score is.
        correlations: of each size; NaN where all subsets sum to the same.
        sizes: positions of a subset.
    """

    mean: Float[Array, ""]
    correlations: Float[Array, "s"]
    sizes: Int[Array, "s"]


@_correlating(
    title="Sensitivity-n", cost="sizes x samples + 1 evaluations", paper="Ancona et al., ICLR 2018"
)
def sensitivity_n(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    key: Array,
    sizes: tuple[int, ...] = (),
    samples: int = 100,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> SensitivityN:
    """Sensitivity-n: correlation of the map's sum and the score's fall over random subsets of n.

        r_n = Pearson over subsets T, |T| = n, of (sum_{p in T} map[p], S - S(A without T))

    Args:
        split, params, x, target, map: see `metrics.registry`.
        key: of the subsets.
        sizes: n, each; none: 8 from 1 to 80 % of the positions, evenly spaced in their logarithm.
        samples: subsets of each size.

    Raises:
        InputError: if a subset would be larger than the map.

    References:
        Ancona et al., Towards better understanding of gradient-based attribution methods, ICLR
        2018. Quantus correlates over images, for subsets in the map's order: another number.
    """
    there = scene(split, params, x, map, at, execution)
    most = math.prod(there.positions)
    asked = sizes or np.unique(np.geomspace(1, max(1, 0.8 * most), 8).astype(int)).tolist()
    if not all(1 <= size <= most for size in asked):
        given = ", ".join(f"{each}" for each in asked)
        raise InputError(f"sizes were given as {given}; give 1 to {most}, the number of positions")
    each = jnp.repeat(jnp.asarray(asked, jnp.int32), samples)
    masks = RandomMasks(key, each, there.positions, there.positions)
    sums, falls = _sums_and_falls(there, target, masks, baseline, execution)
    rows = (len(asked), samples)
    found = jax.vmap(correlation)(sums.reshape(rows), falls.reshape(rows))
    mean = jnp.where(jnp.isnan(falls).any(), jnp.nan, jnp.nanmean(found))
    return SensitivityN(mean, found, jnp.asarray(asked, jnp.int32))


@_correlating(
    title="Faithfulness correlation",
    cost="samples + 1 evaluations",
    paper="Bhatt et al., IJCAI 2020",
)
def faithfulness_correlation(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    key: Array,
    subset: int = 224,
    samples: int = 100,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Faithfulness correlation: `sensitivity_n` of subsets of one size, at most half the positions.

    Arguments as there; `subset` is the size.

    References:
        Bhatt et al., Evaluating and aggregating feature-based model explanations, IJCAI 2020.
    """
    there = scene(split, params, x, map, at, execution)
    size = max(1, min(subset, math.prod(there.positions) // 2))
    each = jnp.full(samples, size, jnp.int32)
    masks = RandomMasks(key, each, there.positions, there.positions)
    return correlation(*_sums_and_falls(there, target, masks, baseline, execution))


@_correlating(
    title="Faithfulness estimate",
    cost="steps + 1 evaluations",
    paper="Alvarez-Melis and Jaakkola, NeurIPS 2018",
)
def faithfulness_estimate(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    steps: int = 32,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Faithfulness estimate: correlation over groups of positions in the map's order.

        Pearson over groups G of (sum_{p in G} map[p], S - S(A without G)); each group goes alone

    Args:
        split, params, x, target, map: see `metrics.registry`.
        steps: groups; as many as positions for one by one.

    Raises:
        InputError: if there are fewer positions than groups.

    References:
        Alvarez-Melis and Jaakkola, Towards robust interpretability, NeurIPS 2018.
    """
    there = scene(split, params, x, map, at, execution)
    masks = _groups(there, steps)
    return correlation(*_sums_and_falls(there, target, masks, baseline, execution))


@_correlating(
    title="Monotonicity correlation",
    cost="steps x samples + 1 evaluations",
    paper="Nguyen and Martinez, 2020",
)
def monotonicity_correlation(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    key: Array,
    steps: int = 32,
    samples: int = 10,
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Monotonicity correlation: whether larger values of the map are larger effects, of any sign.

        Spearman over groups G of (sum_{p in G} |map[p]|, mean over draws of (S - S(G drawn))^2)

    The values of a group are drawn anew, evenly from the least to the largest value of the channel.

    Args:
        split, params, x, target, map: see `metrics.registry`.
        key: of the draws.
        steps: groups of positions in the map's order.
        samples: draws for each group.

    References:
        Nguyen and Martinez, On quantitative aspects of model interpretability, 2020. The square is
        not divided by S^2, which changes no rank.
    """
    there = scene(split, params, x, jnp.abs(map), at, execution)
    masks, activation = _groups(there, steps), there.activation
    space = tuple(range(activation.ndim - 1))
    low, high = (f(activation, space, keepdims=True) for f in (jnp.min, jnp.max))

    def drawn(index):
        uniform = jax.random.uniform(jax.random.fold_in(key, index), activation.shape)
        value = low + uniform.astype(activation.dtype) * (high - low)
        return jnp.where(masks(index // samples) == 0, value, activation)

    value = engine.score_of(there.split, there.carry, target, execution)
    scores = engine.readings(value, drawn, len(masks) * samples, execution)
    effects = ((scores - value(activation)) ** 2).reshape(len(masks), samples).mean(1)
    return rank_correlation(masks.removed(there.map[..., None]), effects)


@_correlating(
    title="MuFidelity",
    cost="samples + 1 evaluations",
    paper="Bhatt et al., 2020; Novello et al., 2022",
)
def mu_fidelity(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    key: Array,
    grid: int = 9,
    rate: float = 0.2,
    samples: int = 200,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """MuFidelity: Spearman's correlation of the map's sum and the fall, over random cells.

    Args:
        split, params, x, target, map: see `metrics.registry`.
        key: of the subsets.
        grid: cells along each axis, at most the positions.
        rate: probability that a cell goes.
        samples: subsets.

    References:
        Bhatt et al., 2020; grid, rate and ranks as xplique's `MuFidelity`.
    """
    there = scene(split, params, x, map, at, execution)
    cells = tuple(min(grid, extent) for extent in there.positions)
    masks = RandomMasks(key, jnp.zeros(samples, jnp.int32), there.positions, cells, rate)
    return rank_correlation(*_sums_and_falls(there, target, masks, baseline, execution))


def _groups(there: Scene, steps: int) -> RankMasks:
    """Equal groups of positions in the map's order, each removed alone."""
    if there.map.shape != there.positions:
        raise InputError(f"the map has shape {there.map.shape}; expected one value per position")
    check_steps(steps, math.prod(there.positions), "positions")
    size = math.prod(there.positions)
    ends = np.unique(np.linspace(0, size, steps + 1).round().astype(np.int32))[1:]
    return RankMasks(ranks(there.map)[..., None], jnp.asarray(ends), 1.0, False)


def _sums_and_falls(
    there: Scene, target: Any, masks: Masks, baseline: Any, execution: Execution
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The map's sum over what each mask removes, and how far the score falls."""
    if there.map.shape != there.positions:
        raise InputError(f"the map has shape {there.map.shape}; expected one value a position")
    given = (there.split, there.activation, there.carry, target, masks, execution)
    _, falls = engine.ablation_drops(*given, there.empty(baseline))
    return masks.removed(there.map[..., None]), falls
