"""A brain as a template: T1 intensities on a coarse grid, from which cases are made.

    brain = mni152()                        # nilearn's, offline, 2 mm
    brain = read_template("ch2bet.nii.gz")  # any skull-stripped T1, for example Colin27

The template of nilearn is the ICBM 152 nonlinear symmetric 2009a average brain, Copyright (C)
1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University; free to use, copy, modify and distribute for any purpose with that notice kept.
"""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from segcam_jax.data import nifti
from segcam_jax.data.volume import spacing_of
from segcam_jax.extras import require
from segcam_jax.types import InputError

SPACING = 2.0  # mm
MULTIPLE = 16  # what four halvings need


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """A skull-stripped T1.

    Attributes:
        t1: intensities; white matter about 1, outside the brain 0.
        levels: mean intensity of cerebrospinal fluid, grey matter and white matter.
        affine: voxel indices -> mm.
    """

    t1: Float[np.ndarray, "d h w"]
    levels: tuple[float, float, float]
    affine: Float[np.ndarray, "4 4"]
    name: str

    @property
    def brain(self) -> Bool[np.ndarray, "d h w"]:
        """Where there is brain."""
        return self.t1 > 0.5 * self.levels[0]


def mni152(*, spacing: float = SPACING) -> Template:
    """The ICBM 152 average brain that nilearn ships, cut to the brain.

    Args:
        spacing: edge of a voxel, mm.
    """
    datasets = require("nilearn.datasets", extra="train")
    image = datasets.load_mni152_template(resolution=1)
    return make_template(image.get_fdata(), image.affine, "MNI ICBM 152", spacing=spacing)


def read_template(path: str | Path, *, spacing: float = SPACING) -> Template:
    """Reads a skull-stripped T1 whose first axis leads from side to side."""
    volume = nifti.read_volume(path)
    return make_template(volume.values, volume.affine, nifti.stem(path), spacing=spacing)


def make_template(
    values: Float[np.ndarray, "d h w"],
    affine: Float[np.ndarray, "4 4"],
    name: str,
    *,
    spacing: float = SPACING,
) -> Template:
    """Resamples a T1 to cubic voxels, cuts it to the brain and finds its tissues' intensities.

    Args:
        values: intensities, 0 outside the brain.
        spacing: edge of a voxel afterwards, mm.

    Returns:
        A template whose sides are multiples of `MULTIPLE`.
    """
    if not np.isfinite(values).all() or not (values > 0).any():
        raise InputError(f"template {name!r} is empty or holds NaN; give a skull-stripped T1")
    factor = spacing / np.array(spacing_of(affine))
    corners = [np.flatnonzero((values > 0).any(axis=_others(axis))) for axis in range(3)]
    low = np.array([found[0] for found in corners])
    high = np.array([found[-1] + 1 for found in corners])
    sides = np.ceil((high - low) / factor).astype(int)
    sides += -sides % MULTIPLE
    # Index of voxel 0 before: the brain in the middle of the new grid.
    start = (low + high - 1) / 2 - (sides - 1) / 2 * factor
    blurred = ndimage.gaussian_filter(values, np.where(factor > 1, 0.4 * factor, 0))
    t1 = ndimage.affine_transform(
        blurred,
        factor,
        offset=cast(Any, start),
        output_shape=tuple(sides),
        order=1,
        output=np.float32,
    )
    moved = affine.copy()
    moved[:3, :3] *= factor
    moved[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    inside = t1[t1 > 0.1 * np.percentile(values[values > 0], 95)]
    levels = _three_means(inside)
    t1[t1 < 0.5 * levels[0]] = 0
    fluid, grey, white = levels
    return Template(
        (t1 / white).astype(np.float32), (fluid / white, grey / white, 1.0), moved, name
    )


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _three_means(values: np.ndarray) -> tuple[float, float, float]:
    """The centres of three clusters of intensities, dark to bright: Lloyd's iterations."""
    centres = np.percentile(values, [5, 45, 90])
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        found = [values[nearest == k] for k in range(3)]
        centres = np.array(
            [part.mean() if part.size else centres[k] for k, part in enumerate(found)]
        )
    low, middle, high = (float(value) for value in centres)
    return low, middle, high
