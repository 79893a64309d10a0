"""Whether the map lies on a mask: of the truth, of an object, or of a region.

These measure plausibility, not faithfulness: the mask itself is the best map. A map is resized
linearly to the mask's extents.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from segcam_jax.metrics.rank import average_ranks
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import brought
from segcam_jax.types import InputError

_SHARE = (0.0, 1.0)
_COST = "none: the map alone"
_of_mask = functools.partial(metric, "mask", higher_is_better=True, range=_SHARE, cost=_COST)


def per_instance(
    function: Callable[..., Array],
    map: Float[Array, "*space"],
    labels: Int[ArrayLike, "*space"],
    count: int,
) -> Float[Array, "i"]:
    """A metric of a map for each instance of a label map, 1 to `count`; NaN for missing ones."""
    labels = jnp.asarray(labels).astype(jnp.int32)  # uint8 may not hold the count.
    numbers = jnp.arange(1, count + 1, dtype=jnp.int32)
    return jax.vmap(lambda number: function(map, labels == number))(numbers)


@_of_mask(title="Pointing game", paper="Zhang et al., ECCV 2016")
def pointing_game(
    map: Float[Array, "*space"],
    mask: Bool[ArrayLike, "*space"],
    *,
    tolerance: int = 0,
    ties: bool = True,
) -> Float[Array, ""]:
    """Pointing game: 1 if the map's largest value lies in the mask, else 0.

    Args:
        map: of positions.
        mask: True inside.
        tolerance: pixels by which it may miss; 15 in the original.
        ties: whether any of several largest values may hit; False: the first one.

    Raises:
        InputError: if the mask is empty.

    References:
        Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016. Quantus' is 1 for
        an empty mask.
    """
    values, inside = _checked(map, mask)
    top = values == values.max()
    if not ties:
        top &= jnp.cumsum(top.ravel()).reshape(top.shape) == 1
    if tolerance:
        near = _within(inside, tolerance)
        inside = near
    return _or_nan(mask, (top & inside).any().astype(jnp.float32))


@_of_mask(title="Relevance rank accuracy", paper="Arras et al., Information Fusion 2022")
def rank_accuracy(map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"]) -> Float[Array, ""]:
    """Rank accuracy: the share of the |mask| largest values that lies in the mask.

    Of equal values that are not all among them, each counts by the share of them that is: what an
    order by chance gives on average.

    Raises `InputError` if the mask is empty. Arras et al., 2022, section 3.
    """
    values, inside = _checked(map, mask)
    return _or_nan(mask, _among_largest(values, inside, inside.sum(dtype=jnp.int32)))


@_of_mask(
    title="Relevance mass accuracy",
    paper="Arras et al., 2022; Wang et al., Score-CAM, 2020 (energy-based pointing game)",
)
def mass_accuracy(map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"]) -> Float[Array, ""]:
    """Mass accuracy, or energy: the share of the map's positive part that lies in the mask.

        sum_{mask} max(a, 0) / sum max(a, 0)

    Returns:
        NaN for a map without a positive value.

    Raises:
        InputError: if the mask is empty.
    """
    values, inside = _checked(map, mask)
    return _or_nan(mask, _share(jnp.maximum(values, 0), inside))


@_of_mask(title="Attribution localisation", paper="Kohlbrenner et al., IJCNN 2020")
def attribution_localisation(
    map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"]
) -> Float[Array, ""]:
    """Attribution localisation: the share of the map's magnitude that lies in the mask.

    Raises `InputError` if the mask is empty. Kohlbrenner et al., 2020, by magnitudes as Quantus.
    """
    values, inside = _checked(map, mask)
    return _or_nan(mask, _share(jnp.abs(values), inside))


@_of_mask(title="Top-k intersection", paper="Theiner et al., WACV 2022")
def top_k_intersection(
    map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"], *, k: int = 1000
) -> Float[Array, ""]:
    """Top-k intersection: the share of the k largest values that lies in the mask.

    Equal values count as in `rank_accuracy`.

    Args:
        map: of positions.
        mask: True inside.
        k: how many, or all positions where there are fewer.

    Raises:
        InputError: if the mask is empty, or k is not positive.
    """
    if k < 1:
        raise InputError(f"k={k}; give at least 1")
    values, inside = _checked(map, mask)
    return _or_nan(mask, _among_largest(values, inside, jnp.int32(min(k, values.size))))


@_of_mask(title="AUC", paper="Fawcett, 2006")
def auc(map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"]) -> Float[Array, ""]:
    """AUC: the chance that a position in the mask has a larger value than one outside.

        (sum of ranks inside - p (p + 1) / 2) / (p n),    p positions inside, n outside; ties half

    Returns:
        The area under the ROC curve; NaN where the mask is everything.

    Raises:
        InputError: if the mask is empty.
    """
    values, inside = _checked(map, mask)
    count = inside.sum(dtype=jnp.float32)
    others = inside.size - count
    # Around the middle rank, whose multiples of 1/2 are exact.
    middle = (inside.size + 1) / 2
    above = jnp.where(inside.ravel(), average_ranks(values.ravel()) - middle, 0).sum()
    pairs = jnp.where((count > 0) & (others > 0), count * others, jnp.nan)
    return _or_nan(mask, 0.5 + above / pairs)


def _checked(map: Float[Array, "*space"], mask: Bool[ArrayLike, "*space"]) -> tuple[Array, Array]:
    """The map at the mask's positions, and the mask."""
    inside = jnp.asarray(mask)
    if inside.dtype != bool:
        raise InputError(f"the mask has dtype {inside.dtype}; give booleans, True inside")
    if not isinstance(inside, Tracer) and not bool(inside.any()):
        raise InputError("the mask is empty; give one with a position inside")
    if jnp.ndim(map) != inside.ndim:
        raise InputError(f"the map has shape {jnp.shape(map)}, and the mask {inside.shape}")
    return brought(map, (*inside.shape, 1), "positions"), inside


def _among_largest(values: Array, inside: Array, count: Int[Array, ""]) -> Float[Array, ""]:
    """The share of so many largest values that is inside, of equal ones on average."""
    least = jnp.sort(values.ravel())[values.size - jnp.maximum(count, 1)]
    above, ties = values > least, values == least
    of_ties = (count - above.sum(dtype=jnp.int32)) / ties.sum(dtype=jnp.int32)
    sure, likely = (each.sum(dtype=jnp.float32) for each in (above & inside, ties & inside))
    return (sure + of_ties * likely) / jnp.maximum(count, 1).astype(jnp.float32)


def _share(values: Array, inside: Array) -> Float[Array, ""]:
    total = values.sum()
    within = jnp.where(inside, values, 0).sum()
    return within / jnp.where(total > 0, total, jnp.nan)


def _or_nan(mask: Bool[ArrayLike, "*space"], value: Array) -> Float[Array, ""]:
    """A value, NaN where the mask, traced, is empty."""
    return jnp.where(jnp.asarray(mask).any(), value, jnp.nan)


def _within(mask: Bool[Array, "*space"], reach: int) -> Bool[Array, "*space"]:
    """The positions within so many of a mask."""
    squares = jnp.zeros(mask.shape, jnp.float32)
    found = jnp.where(mask, squares, jnp.inf)
    for axis, extent in enumerate(mask.shape):
        steps = range(-min(reach, extent - 1), min(reach, extent - 1) + 1)
        place = jnp.arange(extent)
        moved = []
        for step in steps:
            there = (place + step >= 0) & (place + step < extent)
            there = there.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
            moved.append(jnp.where(there, jnp.roll(found, -step, axis) + step * step, jnp.inf))
        found = jnp.min(jnp.stack(moved), 0)
    return found <= reach * reach
