"""The planted-bias study: where the saliency of a class lies that can be told from its background.

For every image the target is the class over the pixels predicted as it, and the heatmap is divided
among three places: the background tile with the planted texture, the rest of the background, and
the digit. A share per area above that of the other background says that the network looks at the
texture.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from segcam_jax.data.samples import TextureMnistSample
from segcam_jax.heatmap import find_profile
from segcam_jax.metrics.saliency import region_shares
from segcam_jax.networks.network import Network
from segcam_jax.sweep import batch
from segcam_jax.types import InputError, TargetError

PLACES = ("biased", "unbiased", "digit")


@dataclasses.dataclass(frozen=True)
class BiasRow:
    """Where the saliency of one method at one tap falls, as means over samples.

    Attributes:
        method: the method.
        tap: the tap.
        weights: name of the weights.
        biased: share per area on the biased background tile.
        unbiased: share per area on the other background.
        digit: share per area on the digit.
        biased_error: standard error of `biased`.
        unbiased_error: of `unbiased`.
        digit_error: of `digit`.
        biased_mass: share of all saliency on the biased background tile.
        unbiased_mass: on the other background.
        digit_mass: on the digit.
        biased_mass_error: standard error of `biased_mass`.
        unbiased_mass_error: of `unbiased_mass`.
        digit_mass_error: of `digit_mass`.
        preferred: share of samples whose biased tile has more saliency per area than the other.
        samples: samples that the means are over.
        zero_maps: samples left out because the heatmap is zero everywhere.
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
    biased_mass: float
    unbiased_mass: float
    digit_mass: float
    biased_mass_error: float
    unbiased_mass_error: float
    digit_mass_error: float
    preferred: float
    samples: int
    zero_maps: int


@dataclasses.dataclass(frozen=True)
class BiasStudy:
    """The outcome for one set of weights.

    Attributes:
        rows: one per tap and method.
        samples: samples that were explained.
        left_out: samples left out because nothing was predicted as the class.
        profile: how maps became heatmaps.
    """

    rows: tuple[BiasRow, ...]
    samples: int
    left_out: int
    profile: str


def regions_of(samples: TextureMnistSample) -> Bool[np.ndarray, "n 3 h w"]:
    """The three places of each sample, in the order of `PLACES`; they are disjoint."""
    tile, background = samples.biased_tile, samples.background
    return np.stack([tile & background, ~tile & background, samples.digit_with_infill], axis=1)


def bias_study(
    network: Network,
    samples: TextureMnistSample,
    *,
    class_index: int,
    methods: Sequence[str],
    taps: Sequence[str],
    weights: str | None = None,
    profile: str = "segcam_jax",
    chunk: int = 8,
    mesh: Mesh | None = None,
    advance: batch.Advance = lambda images: None,
) -> BiasStudy:
    """Measures where the saliency of a class lies on samples with a planted bias.

    Args:
        network: the network.
        samples: a batch of samples with a biased tile.
        class_index: the biased class.
        methods: names of methods.
        taps: names of taps.
        weights: name of the weights in the rows; None: as they were given.
        profile: how maps become heatmaps; one without negative values.
        chunk: images at once.
        mesh: devices that share the images.
        advance: is called with the number of images done at one tap since the last call.

    Raises:
        TargetError: if no sample has a pixel predicted as the class.
        InputError: if a tap or profile is unknown.
    """
    images = np.asarray(samples.image, np.float32)
    masks = (
        network.predicted_labels(batch.batch_logits(network.fn, network.params, images))
        == class_index
    )
    usable = masks.any(axis=(1, 2))
    if not usable.any():
        raise TargetError(
            f"class {class_index} is predicted nowhere in {len(images)} samples; these weights "
            "cannot be studied for it"
        )
    count = int(usable.sum())
    maps = {}
    for tap in taps:
        split = network.split(tap, images.shape[1:])
        maps[tap] = batch.batch_maps(
            split,
            network.params,
            images[usable],
            np.full(count, class_index),
            masks[usable],
            batch.cam_options(methods, split),
            chunk=chunk,
            mesh=mesh,
            advance=advance,
        )
    return study_of_maps(
        maps,
        regions_of(samples)[usable],
        weights=weights or network.spec.words,
        left_out=len(images) - count,
        profile=profile,
    )


def study_of_maps(
    maps: Mapping[str, Mapping[str, Float[np.ndarray, "n *space"]]],
    places: Bool[np.ndarray, "n 3 h w"],
    *,
    weights: str,
    left_out: int = 0,
    profile: str = "segcam_jax",
) -> BiasStudy:
    """Measures raw maps that are there already.

    Args:
        maps: by tap and method.
        places: what `regions_of` returns for the same samples.
        weights: name of the weights in the rows.
        left_out: samples that have no map.
        profile: how maps become heatmaps; one without negative values.

    Raises:
        InputError: if the profile is unknown, or keeps negative values.
    """
    if find_profile(profile).signed:
        raise InputError(
            f"profile {profile!r} keeps negative values, of which there is no share; choose one "
            "with a ReLU, for example segcam_jax"
        )
    extent = places.shape[2:]
    rows = tuple(
        _row(method, tap, weights, batch.heatmaps(raw, extent, profile), places)
        for tap, by_method in maps.items()
        for method, raw in by_method.items()
    )
    return BiasStudy(rows, len(places), left_out, profile)


def _row(
    method: str,
    tap: str,
    weights: str,
    heat: Float[np.ndarray, "n h w"],
    places: Bool[np.ndarray, "n 3 h w"],
) -> BiasRow:
    """Means and standard errors over the samples whose heatmap is not zero."""
    shares = jax.vmap(region_shares)(heat, places)
    mass, density = (np.asarray(each, np.float64) for each in shares)
    shown = mass.sum(1) > 0
    means, errors = _mean_and_error(density[shown])
    masses, mass_errors = _mean_and_error(mass[shown])
    preferred = density[shown, 0] > density[shown, 1]
    return BiasRow(
        method,
        tap,
        weights,
        *means,
        *errors,
        *masses,
        *mass_errors,
        preferred=float(preferred.mean()) if shown.any() else float("nan"),
        samples=int(shown.sum()),
        zero_maps=int((~shown).sum()),
    )


def _mean_and_error(values: Float[np.ndarray, "n r"]) -> tuple[list[float], list[float]]:
    """Mean, and its standard error; NaN where there are too few values."""
    count, width = values.shape
    mean = values.mean(0) if count else np.full(width, np.nan)
    error = values.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.full(width, np.nan)
    return mean.tolist(), error.tolist()
