"""ROAD: what is removed is filled in from around, so that the hole's outline tells nothing."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, ranks, scene
from segcam_jax.types import InputError, wide

# Weights of the neighbours at a squared distance of 1, 2, 3, before they are made to sum to 1.
_WEIGHTS = {1: 1.0, 2: 1 / 2, 3: 1 / 3}
_TOLERANCE = 1e-6
_MOST_ITERATIONS = 1000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Road:
    """How the score moves when the most and the least relevant positions are filled in.

    Attributes:
        combined: `(least - most) / 2`; higher is better.
        most: mean of S_p - S, the most relevant removed (MoRF); lower is better.
        least: mean of S_p - S, the least relevant removed (LeRF); higher is better.
        percentiles: p, ascending.
        most_changes: S_p - S at each.
        least_changes: likewise.
    """

    combined: Float[Array, ""]
    most: Float[Array, ""]
    least: Float[Array, ""]
    percentiles: Float[Array, "p"]
    most_changes: Float[Array, "p"]
    least_changes: Float[Array, "p"]


@metric(
    "network",
    title="ROAD",
    higher_is_better=True,
    range=(-math.inf, math.inf),
    cost="2 evaluations a percentile, and the solver",
    paper="Rong et al., ICML 2022",
)
def road(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    key: Array,
    percentiles: tuple[int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    noise: float = 0.01,
    at: At = "input",
    execution: Execution = Execution(),
) -> Road:
    """ROAD: the change of the score when positions are replaced by what lies around them.

        MoRF_p = S(A without the positions above percentile p) - S,    LeRF_p those below 100 - p,
        combined = mean_p (LeRF_p - MoRF_p) / 2

    What is removed is imputed by `impute`, and noise is added there.

    Args:
        split, params, x, target, map: see `metrics.registry`.
        key: of the noise.
        percentiles: p, above 0 and below 100: `100 - p` percent of the positions go.
        noise: standard deviation, in units of the input (or activation).

    Returns:
        Both curves and their means.

    Raises:
        InputError: if a percentile is not above 0 and below 100, or removes everything or nothing.

    References:
        Rong et al., A consistent and efficient evaluation strategy for attribution methods, ICML
        2022; percentiles and signs as `ROADCombined` of pytorch-grad-cam. Deviation: positions of
        equal values go as they lie, so that as many go as the percentile says; there all of them
        go, of a map that is 0 nearly everywhere the whole image. Quantus' ROAD is another number:
        the share of the images of its first batch whose class is still predicted.
    """
    there = scene(split, params, x, map, at, execution)
    if there.map.shape != there.positions:
        raise InputError(f"the map has shape {there.map.shape}; expected one value per position")
    size = math.prod(there.positions)
    # Those that lie on the percentile go too, as it is interpolated.
    removed = np.array([size + (1 - size) * p // 100 for p in percentiles], np.int32)
    if not percentiles or min(percentiles) < 0 or removed.max() >= size or removed.min() < 1:
        given = ", ".join(f"{each}" for each in percentiles) or "none"
        raise InputError(
            f"percentiles were given as {given}; give numbers above 0 and below 100, of which each "
            f"leaves a part of {size} positions"
        )
    both = jnp.stack([ranks(there.map), ranks(-there.map)])
    count = len(percentiles)

    def filled(index):
        hole = both[index // count] < jnp.asarray(removed)[index % count]
        drawn = jax.random.normal(jax.random.fold_in(key, index), there.activation.shape)
        shown = impute(there.activation, hole)
        return jnp.where(hole[..., None], shown + noise * drawn.astype(shown.dtype), shown)

    value = engine.score_of(there.split, there.carry, target, execution)
    scores = engine.readings(value, filled, 2 * count, execution)
    changes = (scores - value(there.activation)).reshape(2, count)
    most, least = changes.mean(1)
    at_percentiles = jnp.asarray(percentiles, jnp.float32)
    return Road((least - most) / 2, most, least, at_percentiles, changes[0], changes[1])


def impute(
    image: Float[Array, "*space c"], hole: Bool[Array, "*space"]
) -> Float[Array, "*space c"]:
    """Fills a hole from around: each position in it is the weighted mean of its neighbours.

        sum_j w_ij x_j = (sum_j w_ij) x_i    for every i in the hole, over its neighbours j

    In 2D 8 neighbours, of weights 1/6 beside and 1/12 across; in 3D 26, of weights as 1 : 1/2 : 1/3
    for a squared distance of 1, 2, 3. Neighbours outside of the image are left out. The equations
    are symmetric and positive definite; conjugate gradients solve them to 1e-6 of their right side,
    all channels at once.

    Args:
        image: one example, 1D, 2D or 3D.
        hole: what is filled in; not everything.

    Returns:
        The image, filled. NaN where there is nothing to fill from.
    """
    rank, given = hole.ndim, image
    kernel = _kernel(rank)
    image = wide(image)  # The solver needs the digits.
    inside = hole[..., None].astype(image.dtype)
    degree = _neighbours(jnp.ones_like(inside), kernel)
    known = image * (1 - inside)

    def system(values):
        return jnp.where(inside > 0, degree * values - _neighbours(values, kernel), 0)

    right = inside * _neighbours(known, kernel)
    count = jnp.maximum((1 - inside).sum(), 1)
    mean = known.sum(tuple(range(rank)), keepdims=True) / count
    solved, _ = jax.scipy.sparse.linalg.cg(
        system, right, inside * mean, tol=_TOLERANCE, maxiter=_MOST_ITERATIONS
    )
    filled = jnp.where(inside > 0, solved.astype(given.dtype), given)
    return jnp.where(hole.all(), jnp.nan, filled)


def _kernel(rank: int) -> Float[np.ndarray, "..."]:
    """Weights around a position, which sum to 1."""
    kernel = np.zeros((3,) * rank)
    for step in itertools.product((-1, 0, 1), repeat=rank):
        if distance := sum(each * each for each in step):
            kernel[tuple(1 + each for each in step)] = _WEIGHTS[distance]
    return kernel / kernel.sum()


def _neighbours(values: Float[Array, "*space c"], kernel: Float[np.ndarray, "..."]) -> Array:
    """The weighted sum of what lies around each position, of each channel; 0 outside."""
    padded = jnp.pad(values, [(1, 1)] * kernel.ndim + [(0, 0)])
    total = jnp.zeros_like(values)
    for place in np.argwhere(kernel).tolist():
        starts = [*place, 0]
        ends = [start + n for start, n in zip(starts, values.shape, strict=True)]
        total += float(kernel[tuple(place)]) * jax.lax.slice(padded, starts, ends)
    return total
