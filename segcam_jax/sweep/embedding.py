"""Images as points: the pooled activations of a layer, and their projections to the plane."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from segcam_jax.engine import compiled_function
from segcam_jax.extras import require
from segcam_jax.networks.network import Network
from segcam_jax.taps import Split
from segcam_jax.types import InputError

Pool = Literal["mean", "max"]
FEWEST, FEWEST_TSNE = 3, 5
_USUAL_PERPLEXITY = 30.0
# Before t-SNE, whose neighbourhoods need no more.
_COMPONENTS = 50
# Up to so many images t-SNE's sums over pairs are exact: they take less time than a tree of them.
_EXACT = 300


@dataclasses.dataclass(frozen=True)
class Projection:
    """Points of a plane.

    Attributes:
        points: one per image.
        axes: what the axes mean.
        note: what to know when reading distances.
    """

    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    note: str


def pooled(
    network: Network, taps: Sequence[str], padded: Float[np.ndarray, "h w c"], pool: Pool
) -> dict[str, Float[np.ndarray, "c"]]:
    """The activations of one image, pooled over positions: tap -> one number per channel."""
    splits = tuple(network.split(tap, padded.shape) for tap in taps)
    values = _pooled(network.params, padded, splits=splits, pool=pool)
    found = {tap: np.asarray(each, np.float32) for tap, each in zip(taps, values, strict=True)}
    for tap, each in found.items():
        if not np.isfinite(each).all():
            raise InputError(
                f"the activation at {tap} holds NaN or infinite values; the weights are broken"
            )
    return found


@compiled_function
def _pooled(params: Any, x: ArrayLike, *, splits: tuple[Split, ...], pool: Pool) -> list[Array]:
    """All taps in one program, so that they share the pass."""
    reduce: Callable = jnp.mean if pool == "mean" else jnp.max
    found = []
    for split in splits:
        activation, _ = split.encode(params, x)
        found.append(reduce(activation, axis=tuple(range(activation.ndim - 1))))
    return found


def check_count(count: int, projections: Sequence[str], perplexity: float | None) -> None:
    """Checks, before anything is computed, that there are enough images.

    Raises:
        InputError: if there are too few, or the perplexity asks for more.
    """
    if count < FEWEST:
        raise InputError(f"{count} image(s) make no map; give at least {FEWEST}")
    if "tsne" not in projections:
        return
    if count < FEWEST_TSNE:
        raise InputError(
            f"t-SNE of {count} images says nothing; give at least {FEWEST_TSNE}, or choose "
            "--projection pca"
        )
    if perplexity is not None and not 1 <= perplexity < count:
        raise InputError(
            f"perplexity {perplexity:g} does not fit {count} images; give at least 1 and less than "
            f"{count}"
        )


def principal(values: Float[np.ndarray, "n c"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components.

        X = U S V^T,    X the values less their mean;    projection U S

    The sign of a component is chosen so that its largest entry in V is positive.

    Args:
        values: one row per image.
        count: of components.

    Returns:
        `(projection, shares)`: `n count`, and the share of the variance of each component.

    Raises:
        InputError: if all rows are the same.
    """
    rows = values.astype(np.float64)
    rows = rows - rows.mean(0, keepdims=True)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    total = float((sizes**2).sum())
    if total <= 1e-12 * max(float((values.astype(np.float64) ** 2).sum()), 1e-300):
        raise InputError("the layer says the same of all images; there is nothing to map")
    count = min(count, len(sizes))
    peaks = np.take_along_axis(right, np.abs(right).argmax(1)[:, None], 1)[:, 0]
    signs = np.where(peaks < 0, -1.0, 1.0)
    projection = left * sizes[None] * signs[None]
    shares = sizes**2 / total
    missing = max(0, 2 - count)
    projection = np.pad(projection[:, :count], ((0, 0), (0, missing)))
    return projection, np.pad(shares[:count], (0, missing))


def pca(values: Float[np.ndarray, "n c"]) -> Projection:
    """The first two principal components."""
    points, shares = principal(values, 2)
    first, second = (f"component {k + 1}: {100 * shares[k]:.0f} % of the variance" for k in (0, 1))
    return Projection(points, (first, second), "near each other: alike for this layer")


def tsne(
    values: Float[np.ndarray, "n c"], *, perplexity: float | None = None, seed: int = 0
) -> Projection:
    """t-SNE of the first 50 principal components.

    Args:
        values: one row per image.
        perplexity: how many neighbours an image has, about; None: 30, or a third of the number of
            images if that is less.
        seed: of the optimisation.

    Raises:
        MissingExtraError: if scikit-learn is not installed.

    References:
        van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    manifold = require("sklearn.manifold", extra="embed")
    count = len(values)
    chosen = min(_USUAL_PERPLEXITY, (count - 1) / 3) if perplexity is None else perplexity
    components, _ = principal(values, _COMPONENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points = manifold.TSNE(
            n_components=2,
            perplexity=chosen,
            init="pca",
            learning_rate="auto",
            method="exact" if count <= _EXACT else "barnes_hut",
            random_state=seed,
        ).fit_transform(components.astype(np.float32))
    note = (
        f"neighbours are alike; distances between far groups mean little (perplexity {chosen:.3g})"
    )
    return Projection(np.asarray(points, np.float64), ("t-SNE 1", "t-SNE 2"), note)
