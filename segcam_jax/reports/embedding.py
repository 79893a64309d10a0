"""Images as points: the stored pooled activations of a layer, projected to the plane.

OUT/run.zarr                      the run
OUT/LAYER.csv, LAYER.npy          points of the images, and their activations
OUT/LAYER.pca.png, LAYER.tsne.png
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars
from jaxtyping import Float

from segcam_jax import _files, viz
from segcam_jax.extras import require
from segcam_jax.reports.figures import drawable
from segcam_jax.runs import StoredRun
from segcam_jax.runs.pooling import THUMBNAIL, pool_names
from segcam_jax.types import InputError, counted
from segcam_jax.viz.points import scatter

_KNOWN_AS = {"pca": "PCA", "tsne": "t-SNE"}
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
        note: what to know when reading distances.
    """

    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    note: str


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """The images of a run that have results, in order.

    Attributes:
        groups: the sub-folder of each; empty where it lies in none.
        values: by layer, a row per image.
    """

    names: Sequence[str]
    groups: Sequence[str]
    thumbnails: Sequence[Float[np.ndarray, "h w c"]]
    values: Mapping[str, Float[np.ndarray, "n c"]]

    @classmethod
    def of(cls, run: StoredRun, taps: Sequence[str], folders: Sequence[Path]) -> "Points":
        """Reads them.

        Args:
            run: of pooled activations.
            folders: that images were found in: names are relative to them, and their sub-folders
                are the groups.
        """
        there = run.table.filter(polars.col("error").is_null())
        places = [_place(Path(path), folders) for path in there["path"]]
        names = pool_names(taps)
        return cls(
            [place.as_posix() for place in places],
            [place.parts[0] if len(place.parts) > 1 else "" for place in places],
            [drawable(each) for each in run.of_items(THUMBNAIL).values()],
            {tap: np.stack([*run.of_items(names[tap]).values()]) for tap in taps},
        )


def _place(path: Path, folders: Sequence[Path]) -> Path:
    """An image relative to the first folder that it lies in."""
    inside = [folder for folder in folders if path.is_relative_to(folder)]
    return path.relative_to(inside[0]) if inside else Path(path.name)


def write_layer(
    points: Points, tap: str, projected: Mapping[str, Projection], base: Path, words: Sequence[str]
) -> None:
    """Writes the table, the activations and the figures of a layer.

    Args:
        projected: by kind, `pca` or `tsne`.
        base: the files without their endings.
        words: what the images, the network and the layer are called.
    """
    columns: dict[str, Sequence[str]] = {"image": points.names, "group": points.groups}
    for kind, each in projected.items():
        for axis in (0, 1):
            columns[f"{kind}_{axis + 1}"] = [f"{value:.6g}" for value in each.points[:, axis]]
    table = polars.DataFrame(columns).write_csv()
    _files.write_bytes(base.with_name(f"{base.name}.csv"), table.encode())
    _files.write_array(base.with_name(f"{base.name}.npy"), points.values[tap])
    images, network, layer = words
    for kind, each in projected.items():
        figure = scatter(
            each.points,
            points.thumbnails,
            [group or "(no sub-folder)" for group in points.groups],
            title=f"{images}: {_KNOWN_AS[kind]} of {network}",
            subtitle=f"{layer}, {points.values[tap].shape[1]} channels; {each.note}",
            axes=each.axes,
        )
        viz.save(figure, base.with_name(f"{base.name}.{kind}.png"))


def check_count(count: int, projections: Sequence[str], perplexity: float | None) -> None:
    """Checks, before anything is computed, that there are enough images."""
    if count < FEWEST:
        raise InputError(f"{counted(count, 'image')} cannot make a map; give at least {FEWEST}")
    if "tsne" not in projections:
        return
    if count < FEWEST_TSNE:
        raise InputError(
            f"t-SNE of {count} images has no meaning; give at least {FEWEST_TSNE}, or choose "
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

    Returns:
        `(projection, shares)`: `n count`, and the share of the variance of each component.
    """
    rows = values.astype(np.float64)
    rows = rows - rows.mean(0, keepdims=True)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    total = float((sizes**2).sum())
    if total <= 1e-12 * max(float((values.astype(np.float64) ** 2).sum()), 1e-300):
        raise InputError(
            "the layer gives all images the same activation, so there is nothing to map"
        )
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
        perplexity: how many neighbours an image has, about; None: 30, or a third of the number of
            images if that is less.

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
