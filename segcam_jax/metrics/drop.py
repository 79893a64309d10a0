"""What is left of the score when the map masks the image.

A map that is 1 nearly everywhere drops nearly nothing: read it beside the mean of the mask (Poppi
et al., CVPR workshop 2021), as `arcc` does.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.heatmap import divide_by_max
from segcam_jax.metrics.registry import is_defined, metric
from segcam_jax.metrics.removal import At, scene
from segcam_jax.metrics.road import road
from segcam_jax.metrics.similarity import correlation
from segcam_jax.targets import Target
from segcam_jax.types import InputError, TargetError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drop:
    """How the score moves when the image is multiplied by the map.

    Attributes:
        drop: `max(0, S - S') / |S|`; lower is better.
        increase: 1 if S' is above S, else 0; the mean over images is the average increase.
        gain: `max(0, S' - S) / (1 - S)`, of probabilities; NaN where S is 1 or more.
        shown: mean of the mask.
        masked: S'.
        score: S.
    """

    drop: Float[Array, ""]
    increase: Float[Array, ""]
    gain: Float[Array, ""]
    shown: Float[Array, ""]
    masked: Float[Array, ""]
    score: Float[Array, ""]


@metric(
    "network",
    title="Average drop",
    higher_is_better=False,
    range=(0.0, math.inf),
    cost="2 evaluations",
    paper="Chattopadhay et al., Grad-CAM++, WACV 2018",
)
def average_drop(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    at: At = "input",
    execution: Execution = Execution(),
) -> Drop:
    """Average drop, increase and gain: the score of the image under the map as a mask.

        M = max(map, 0) / max(map), at the input's positions;    S' = S(x M)

    Args:
        split, params, x, target, map: see `metrics.registry`.
        at: mask the input, or the activation at the tap.

    Returns:
        All three; NaN for a map without a positive value, and the drop of a score of 0.

    References:
        Chattopadhay et al., Grad-CAM++, WACV 2018; gain: Zhang et al., Opti-CAM, 2023. As
        torch-cam's and pytorch-grad-cam's, but divided by |S|: a negative logit would turn the sign
        around; pytorch-grad-cam does not divide.
    """
    there = scene(split, params, x, map, at, execution)
    mask = mask_of(there.map, there.positions)
    value = engine.score_of(there.split, there.carry, target, execution)
    score, masked = value(there.activation), value(there.activation * mask[..., None])
    fall, room = score - masked, 1 - score
    drop = jnp.maximum(fall, 0) / jnp.where(score != 0, jnp.abs(score), jnp.nan)
    gain = jnp.maximum(-fall, 0) / jnp.where(room > 0, room, jnp.nan)
    increase = jnp.where(jnp.isnan(fall), jnp.nan, (fall < 0).astype(score.dtype))
    found = Drop(drop, increase, gain, mask.mean(), masked, score)
    positive = there.map.max() > 0
    return jax.tree.map(lambda leaf: jnp.where(positive, leaf, jnp.nan), found)


def mask_of(map: Float[Array, "..."], positions: tuple[int, ...]) -> Float[Array, "*space"]:
    """The positive part of a map, its largest value 1."""
    if map.shape != positions:
        raise InputError(f"the map has shape {map.shape}; expected one value per position")
    return divide_by_max(jnp.maximum(map, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arcc:
    """ARCC and what it is made of.

    Attributes:
        arcc: the harmonic mean of the three, in [0, 1]; higher is better.
        coherency: `(Pearson(map of x M, map of x) + 1) / 2`.
        complexity: mean of M.
        road: `clip(2 ROAD combined, 0, 1)`.
    """

    arcc: Float[Array, ""]
    coherency: Float[Array, ""]
    complexity: Float[Array, ""]
    road: Float[Array, ""]


@metric(
    "network",
    "method",
    title="ARCC",
    higher_is_better=True,
    range=(0.0, 1.0),
    cost="2 explanations and ROAD of 4 percentiles",
    paper="arXiv 2605.14641, ICPR 2026",
)
def arcc(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    method: Callable,
    *,
    key: Array,
    execution: Execution = Execution(),
    options: tuple[tuple[str, Any], ...] = (),
) -> Arcc:
    """ARCC: coherency, simplicity and ROAD in one number, by their harmonic mean.

        3 / (1 / coherency + 1 / (1 - mean M) + 1 / road),    M as in `average_drop`

    Args:
        split, params, x, target, method: see `metrics.registry`; the target is a probability, or
            its mean over a region.
        key: of ROAD's noise.
        options: of the method, as pairs.

    Raises:
        TargetError: if the target is no probability, by which ROAD would be cut off at 1.

    References:
        arXiv 2605.14641; constants as pytorch-grad-cam's, whose docstring calls it geometric and
        whose code is harmonic.
    """
    _check_probability(target, len(split.output.shape) > 1)
    map = method(split, params, x, target, **dict(options)).map
    there = scene(split, params, x, map, "input", execution)
    mask = mask_of(there.map, there.positions)
    again = method(split, params, x * mask[..., None], target, **dict(options)).map
    alike = correlation(jnp.maximum(again, 0), jnp.maximum(map, 0))
    coherency, complexity = (alike + 1) / 2, mask.mean()
    found = road(
        split, params, x, target, map, key=key, percentiles=(20, 40, 60, 80), execution=execution
    )
    removal = jnp.clip(2 * found.combined, 0, 1)
    parts = jnp.stack([coherency, 1 - complexity, removal]) + 1e-8
    value = jnp.where(is_defined(map, False), 3 / (1 / parts).sum(), jnp.nan)
    return Arcc(value, coherency, complexity, removal)


def _check_probability(target: Any, dense: bool) -> None:
    """Raises `TargetError` for a score that may lie outside of 0 to 1."""
    if not isinstance(target, Target):
        said = "no Target, which alone says so"
    elif "probabilities" not in (target.of, target.outputs):
        said = "of logits"
    elif dense and target.reduce == "sum":
        said = "a sum over positions"
    else:
        return
    raise TargetError(
        f"ARCC needs a score that is a probability, but the target is {said}; make a target with "
        "of='probabilities', and reduce='mean' over a region"
    )
