"""Deletion of whole segments: square patches and superpixels, in the order of the map on them."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from segcam_jax.engine import Execution
from segcam_jax.extras import require
from segcam_jax.metrics.deletion import Curve, drops_of, removal_curve
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, RankMasks, ranks, scene
from segcam_jax.types import InputError

_ANY = (-math.inf, math.inf)


@metric(
    "network",
    title="Region perturbation (AOPC)",
    higher_is_better=True,
    range=_ANY,
    cost="regions + 1 evaluations",
    paper="Samek et al., TNNLS 2017",
)
def region_perturbation(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    patch: int = 8,
    regions: int = 100,
    first: Literal["most", "least"] = "most",
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Region perturbation: how far the score falls on average while square patches are removed.

        AOPC = sum_{k=0}^{L} (S - S_k) / (L + 1)

    Args:
        split, params, x, target, map: see `metrics.registry`.
        patch: side of a patch; those at the far borders are smaller.
        regions: L, or as many patches as there are.
        first: remove patches of the largest sum of the map first (MoRF), or of the smallest (LeRF).

    References:
        Samek et al., Evaluating the visualization of what a deep neural network has learned, TNNLS
        2017, eq. 12, for one image. Quantus returns the falls one by one, without that of the
        untouched image, 0.
    """
    there = scene(split, params, x, map, at, execution)
    labels, count = patches(there.positions, patch)
    places = _by_segment(there.map if first == "most" else -there.map, labels, count, "sum")
    ends = jnp.arange(min(regions, count) + 1, dtype=jnp.int32)
    masks = RankMasks(places[labels][..., None], ends)
    return drops_of(there, target, masks, baseline, execution)[1].mean()


@metric(
    "network",
    title="Selectivity",
    higher_is_better=False,
    range=_ANY,
    cost="one evaluation a patch",
    paper="Montavon et al., Digital Signal Processing 2018",
)
def selectivity(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    patch: int = 8,
    baseline: Any = "zeros",
    at: At = "input",
    execution: Execution = Execution(),
) -> Curve:
    """Selectivity: the area under the score while all square patches go, the most relevant first.

    Arguments as in `region_perturbation`. Returns the curve over the share of patches; lower areas
    are better.

    References:
        Montavon et al., Methods for interpreting deep neural networks, 2018, section 6.2.
    """
    there = scene(split, params, x, map, at, execution)
    labels, count = patches(there.positions, patch)
    places = _by_segment(there.map, labels, count, "sum")
    masks = RankMasks(places[labels][..., None], jnp.arange(count + 1, dtype=jnp.int32))
    return removal_curve(there, target, masks, jnp.int32(count), baseline, execution)


def _check_segments(segments: Any, count: int) -> None:
    """Raises `InputError` for numbers of superpixels that are not 0 to `count - 1`."""
    if not jnp.issubdtype(jnp.result_type(segments), jnp.integer):
        raise InputError(f"segments have dtype {jnp.result_type(segments)}; give integers from 0")
    if isinstance(segments, Tracer):
        return
    low, high = int(np.min(segments)), int(np.max(segments))
    if low < 0 or high >= count:
        raise InputError(
            f"segments are numbered {low} to {high}; with count={count} give 0 to {count - 1}"
        )


@metric(
    "network",
    "superpixels",
    title="IROF",
    higher_is_better=True,
    range=_ANY,
    cost="one evaluation a superpixel",
    paper="Rieger and Hansen, IROF, 2020",
    check=_check_segments,
)
def irof(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    segments: Int[Array, "*space"],
    count: int,
    baseline: Any = "mean",
    at: At = "input",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """IROF: the area over the score's curve while superpixels go, by their mean of the map.

        IROF = 1 - trapezoid of S_k / S over k / n

    Args:
        split, params, x, target, map: see `metrics.registry`.
        segments: number of each position's superpixel, from 0, as `superpixels` makes them.
        count: how many numbers there may be, 0 to `count - 1`; some of them may be missing.
        baseline: what removed values become; the original's is the mean.

    Returns:
        The area; higher is better. NaN where the untouched score is not positive.

    Raises:
        InputError: if the segments are of other extents, are no integers, or are known to have
            other numbers.

    References:
        Rieger and Hansen, IROF: a low resource evaluation metric for explanation methods, 2020.
        Divided by the number of segments as in the paper, which Quantus leaves out; the mean is
        that of the untouched image, where Quantus takes the batch's as perturbed so far.
    """
    there = scene(split, params, x, map, at, execution)
    if segments.shape != there.positions:
        raise InputError(
            f"segments have shape {segments.shape}; expected the positions {there.positions}"
        )
    sizes = jnp.zeros(count).at[segments.ravel()].add(1.0)
    places = _by_segment(there.map, segments, count, "mean", sizes > 0)
    masks = RankMasks(places[segments][..., None], jnp.arange(count + 1, dtype=jnp.int32))
    score, drops = drops_of(there, target, masks, baseline, execution)
    present = (sizes > 0).sum()
    fractions = jnp.minimum(masks.ends, present) / present
    kept = (score - drops) / jnp.where(score > 0, score, jnp.nan)
    return 1 - jnp.trapezoid(kept, fractions)


def superpixels(image: Float[ArrayLike, "*space c"], count: int = 100) -> Int[Array, "*space"]:
    """About so many superpixels of an image on the host, numbered from 0: SLIC of scikit-image.

    Raises:
        MissingExtraError: without scikit-image.
    """
    segmentation = require("skimage.segmentation", extra="metrics")
    found = segmentation.slic(jax.device_get(image), n_segments=count, start_label=0)
    return jnp.asarray(found, jnp.int32)


def patches(shape: tuple[int, ...], side: int) -> tuple[Int[Array, "*space"], int]:
    """The number of the square or cubic patch of each position, and how many there are."""
    if side < 1:
        raise InputError(f"patch={side}; give at least 1")
    grid = tuple(-(-extent // side) for extent in shape)
    cells = np.arange(math.prod(grid), dtype=np.int32).reshape(grid)
    along = (np.arange(extent) // side for extent in shape)
    return jnp.asarray(cells[np.ix_(*along)]), cells.size


def _by_segment(map, labels, count, how, there=None) -> Int[Array, "r"]:
    """The rank of each segment by its sum or mean of a map; those that are not there come last."""
    if map.shape != labels.shape:
        raise InputError(f"the map has shape {map.shape}; expected one value for each position")
    sums = jnp.zeros(count, map.dtype).at[labels.ravel()].add(map.ravel())
    if how == "mean":
        sizes = jnp.zeros(count, map.dtype).at[labels.ravel()].add(1.0)
        sums = sums / jnp.maximum(sizes, 1)
    return ranks(sums, there)
