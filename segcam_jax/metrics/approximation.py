"""What an approximate method costs in accuracy: it is run beside the exact one, on one example.

from segcam_jax.methods import ablation_cam, screened_ablation_cam
from segcam_jax.metrics import approximation_error

approximation_error(screened_ablation_cam, ablation_cam, split, params, x, target, exact=64)
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax.metrics.rank import rank_correlation
from segcam_jax.types import Explanation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ApproximationError:
    """How far an approximate explanation lies from the exact one.

    Attributes:
        weight_rank_correlation: Spearman's of the channel weights; None without weights.
        map_rank_correlation: Spearman's of the maps.
        map_error: largest difference of the maps, as a share of the exact map's largest magnitude.
        approximate: the approximate explanation.
        exact: the exact one.
    """

    weight_rank_correlation: Float[Array, ""] | None
    map_rank_correlation: Float[Array, ""]
    map_error: Float[Array, ""]
    approximate: Explanation
    exact: Explanation


def approximation_error(
    approximate: Callable[..., Explanation],
    exact: Callable[..., Explanation],
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    /,
    **options: Any,
) -> ApproximationError:
    """Runs both methods and compares them.

    Args:
        approximate: the approximate method.
        exact: the exact one: `METHODS[name].approximates` names it.
        options: of the approximate method; those that the exact one has too go to both.
    """
    known = inspect.signature(exact).parameters
    shared = {name: value for name, value in options.items() if name in known}
    return compared(
        approximate(split, params, x, target, **options), exact(split, params, x, target, **shared)
    )


def compared(approximate: Explanation, exact: Explanation) -> ApproximationError:
    """Compares two explanations of the same activation."""
    weights = None
    if approximate.weights is not None and exact.weights is not None:
        weights = rank_correlation(approximate.weights, exact.weights)
    largest = jnp.abs(exact.map).max()
    distance = jnp.abs(approximate.map - exact.map).max()
    return ApproximationError(
        weights,
        rank_correlation(approximate.map, exact.map),
        distance / jnp.where(largest > 0, largest, 1),
        approximate,
        exact,
    )
