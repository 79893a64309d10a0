"""The planted bias: where a stored run's maps of a class lie that its background gives away.

The heatmap of every image is divided among three places: the striped half of the background, its
other half, and the digit. A share per area above that of the other half says that the network looks
at the stripes.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from segcam_jax.data.samples import TextureMnistSample
from segcam_jax.engine import compiled_function
from segcam_jax.heatmap import find_profile, heatmap
from segcam_jax.metrics.saliency import region_shares
from segcam_jax.reports.images import pairs
from segcam_jax.runs import StoredRun
from segcam_jax.types import InputError

PLACES = ("biased", "unbiased", "digit")


@dataclasses.dataclass(frozen=True)
class BiasRow:
    """Where the saliency of one method at one tap falls, as means over images.

    Attributes:
        weights: name of the network.
        biased: share per area on the striped half of the background; NaN if no map has any.
        unbiased: share per area on its other half.
        digit: share per area on the digit.
        biased_error, unbiased_error, digit_error: standard errors; NaN of fewer than two images.
        preferred: share of images whose striped half has more saliency per area than the other.
        samples: images that the means are over.
        zero_maps: images left out because the heatmap is zero everywhere.
    """

    method: str
    tap: str
    weights: str
    biased: float
    unbiased: float
    digit: float
    biased_error: float
    unbiased_error: float
    digit_error: float
    preferred: float
    samples: int
    zero_maps: int


def places_of(samples: TextureMnistSample) -> Bool[np.ndarray, "n 3 h w"]:
    """The three places of each sample, in the order of `PLACES`; they are disjoint."""
    tile, background = samples.biased_tile, samples.background
    return np.stack([tile & background, ~tile & background, samples.digit_with_infill], axis=1)


def bias_rows(
    run: StoredRun, places: Mapping[int, Bool[np.ndarray, "3 h w"]], *, profile: str = "segcam_jax"
) -> tuple[BiasRow, ...]:
    """Measures where the maps of a run lie, by tap and method.

    Args:
        run: of images of one extent, without padding.
        places: of rows that have results, by their numbers, as `places_of` has them.
        profile: how raw maps become heatmaps; one without negative values.
    """
    if find_profile(profile).signed:
        raise InputError(
            f"profile {profile!r} keeps negative values, which have no share; choose a profile "
            "with a ReLU, for example segcam_jax"
        )
    if not places:
        raise InputError(
            f"{str(run.path)!r}: no row was given; a bias is measured over several rows"
        )
    where = np.stack(list(places.values()))
    found = []
    for method, tap in pairs(run, places):
        raw = np.stack([run.map(row, tap, method) for row in places])
        shares = np.asarray(_densities(raw, where, profile=profile), np.float64)
        found.append(_row(method, tap, run.manifest.network.title, shares))
    return tuple(found)


@compiled_function
def _densities(
    raw: Float[ArrayLike, "n u v"], places: Bool[ArrayLike, "n 3 h w"], *, profile: str
) -> Float[Array, "n 3"]:
    """The shares per area of each heatmap; zeros where it is zero everywhere."""

    def of_one(raw: Array, places: Array) -> Array:
        _, density = region_shares(heatmap(raw, places.shape[1:], profile), places)
        return density

    return jax.vmap(of_one)(jnp.asarray(raw), jnp.asarray(places))


def _row(method: str, tap: str, weights: str, shares: Float[np.ndarray, "n 3"]) -> BiasRow:
    """Means and their standard errors over the images whose heatmap is not zero."""
    shown = shares[shares.sum(1) > 0]
    count, nothing = len(shown), np.full(len(PLACES), np.nan)
    means = shown.mean(0) if count else nothing
    errors = shown.std(0, ddof=1) / np.sqrt(count) if count > 1 else nothing
    return BiasRow(
        method,
        tap,
        weights,
        *means.tolist(),
        *errors.tolist(),
        preferred=float((shown[:, 0] > shown[:, 1]).mean()) if count else float("nan"),
        samples=count,
        zero_maps=len(shares) - count,
    )
