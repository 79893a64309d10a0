"""The planted bias: where a stored run's maps of a class lie that its background gives away.

The heatmap of every image is divided among three places: the striped half of the background, its
other half, and the digit. A share per area above that of the other half says that the network looks
at the stripes.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

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
    return tuple(
        _row(method, tap, run.manifest.network.title, density)
        for method, tap, _, density in _shares(run, places, profile)
    )


def proportion_rows(
    run: StoredRun, places: Mapping[int, Bool[np.ndarray, "3 h w"]], *, profile: str = "segcam_jax"
) -> list[dict[str, Any]]:
    """The ProportionBias of the Seg-Grad-CAM code: a row for each image, method and tap.

    Args:
        run: as in `bias_rows`.
        places: likewise.
        profile: likewise.

    Returns:
        `image`, `class`, `method`, `tap`; `biased_per_area`, `unbiased_per_area` and
        `digit_per_area`, the saliency in a place over its area, made to sum to 1; `biased`,
        `unbiased` and `digit`, the shares of the saliency in all three. Zeros of an empty map.

    Raises:
        InputError: as `bias_rows`.
    """
    rows = []
    for method, tap, mass, density in _shares(run, places, profile):
        for number, row in enumerate(places):
            about = run.row(row)
            rows.append(
                {"image": about["item"], "class": about["class"], "method": method, "tap": tap}
                | {f"{name}_per_area": x for name, x in zip(PLACES, density[number], strict=True)}
                | dict(zip(PLACES, mass[number], strict=True))
            )
    return rows


def _shares(
    run: StoredRun, places: Mapping[int, Bool[np.ndarray, "3 h w"]], profile: str
) -> Iterator[tuple[str, str, Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]]:
    """Method, tap, and the shares of each row, in all and per area."""
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
    for method, tap in pairs(run, places):
        raw = np.stack([run.map(row, tap, method) for row in places])
        mass, density = _of_maps(raw, where, profile=profile)
        yield method, tap, np.asarray(mass, np.float64), np.asarray(density, np.float64)


@compiled_function
def _of_maps(
    raw: Float[ArrayLike, "n u v"], places: Bool[ArrayLike, "n 3 h w"], *, profile: str
) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"]]:
    """The shares of each heatmap, in all and per area; zeros where it is zero everywhere."""

    def of_one(raw: Array, places: Array) -> tuple[Array, Array]:
        return region_shares(heatmap(raw, places.shape[1:], profile), places)

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
