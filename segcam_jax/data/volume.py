"""A volume and its place in space: voxels in file order, and an affine to millimetres.

Voxel indices are those of the file, `d h w` being its first, second and third axis, whatever their
anatomical directions. The affine takes them to RAS coordinates in mm: x grows to the patient's
right, y to the front (anterior), z to the top (superior).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from segcam_jax.types import InputError

# Grids whose corners are this close, as a share of a voxel, are one grid: affines are stored as
# float32, or as quaternions.
_SAME = 0.05
_DIRECTIONS = ("LR", "PA", "IS")


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A volume as it is in its file.

    Attributes:
        values: voxels in file order, finite float32; scale factors of the file are applied.
        affine: `4 4`, from voxel indices to RAS mm.
        path: the file.
        header: the file's NIfTI header, so that what is written can keep codes and units; None for
            other formats.
        notes: what was converted, in words.
    """

    values: Float[np.ndarray, "d h w"]
    affine: Float[np.ndarray, "4 4"]
    path: Path
    header: Any = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the grid."""
        return self.values.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel in mm along each axis."""
        return spacing_of(self.affine)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm^3."""
        return voxel_volume(self.affine)


def spacing_of(affine: Float[np.ndarray, "4 4"]) -> tuple[float, ...]:
    """The size of a voxel in mm along each axis."""
    return tuple(np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(0)).tolist())


def voxel_volume(affine: Float[np.ndarray, "4 4"]) -> float:
    """The volume of a voxel in mm^3: |det|, so that sheared grids are right, too."""
    return float(abs(np.linalg.det(np.asarray(affine, float)[:3, :3])))


def check_affine(affine: Any, path: Path) -> Float[np.ndarray, "4 4"]:
    """The affine as float64.

    Raises:
        InputError: if it is not finite, or maps the volume onto a plane.
    """
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"{str(path)!r} has an affine that is not 4 x 4 and finite")
    if voxel_volume(affine) < 1e-9:
        raise InputError(
            f"{str(path)!r} has an affine that maps its voxels onto a plane; repair its header"
        )
    return affine


def same_grid(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray
) -> bool:
    """Whether two grids are one: equal extents, and corners within a twentieth of a voxel."""
    if tuple(shape) != tuple(other_shape):
        return False
    ends = [(0, extent - 1) for extent in shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    apart = corners @ (affine - other_affine)[:3, :3].T + (affine - other_affine)[:3, 3]
    return bool(np.sqrt((apart**2).sum(-1)).max() <= _SAME * min(spacing_of(affine)))


def grid_words(shape: Sequence[int], affine: np.ndarray) -> str:
    """A grid in words: extents, voxel size, directions and where its first voxel lies."""
    sizes = " x ".join(f"{size:.3g}" for size in spacing_of(affine))
    origin = ", ".join(f"{value:.4g}" for value in affine[:3, 3])
    extents = " x ".join(map(str, shape))
    return f"{extents} voxels of {sizes} mm, {orientation(affine)} from ({origin})"


def orientation(affine: np.ndarray) -> str:
    """Where each axis leads, for example `RAS` or `LPS`: the nearest anatomical direction."""
    axes, flips = _nearest_axes(affine)
    letters = [_DIRECTIONS[axis][0 if flip else 1] for axis, flip in zip(axes, flips, strict=True)]
    return "".join(letters)


def canonical(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A volume turned so that its axes run to the right, the front and the top, for figures.

    Axes are exchanged and reversed, nothing is resampled; further axes stay last.
    """
    axes, flips = _nearest_axes(affine)
    order = np.argsort(axes)
    turned = values.transpose(*order, *range(3, values.ndim))
    reverse = [slice(None, None, -1 if flips[axis] else None) for axis in order]
    return turned[tuple(reverse)]


def canonical_index(
    index: Sequence[int], shape: Sequence[int], affine: np.ndarray
) -> tuple[int, ...]:
    """Where a voxel of a volume is after `canonical`."""
    axes, flips = _nearest_axes(affine)
    return tuple(
        shape[axis] - 1 - index[axis] if flips[axis] else int(index[axis])
        for axis in np.argsort(axes)
    )


def canonical_spacing(affine: np.ndarray) -> tuple[float, ...]:
    """The size of a voxel along the axes of `canonical`."""
    sizes = spacing_of(affine)
    return tuple(sizes[axis] for axis in np.argsort(_nearest_axes(affine)[0]))


def _nearest_axes(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """For each axis of the file, the anatomical axis it follows best, and whether backwards."""
    directions = np.asarray(affine, float)[:3, :3] / np.asarray(spacing_of(affine))
    axes, flips = [-1, -1, -1], [False, False, False]
    for _ in range(3):
        free = [[a in axes or axes[b] != -1 for b in range(3)] for a in range(3)]
        strength = np.where(free, -1.0, np.abs(directions))
        world, own = np.unravel_index(np.argmax(strength), strength.shape)
        axes[own], flips[own] = int(world), bool(directions[world, own] < 0)
    return axes, flips


def resampled(volume: Volume, like: Volume, *, nearest: bool = False) -> Volume:
    """A volume on the grid of another: trilinear, or nearest for labels; 0 outside of the first.

    No smoothing precedes a resampling to larger voxels.

    Returns:
        The volume on the other's grid, with that grid's header; the notes say what was done.
    """
    matrix = np.linalg.inv(volume.affine) @ like.affine
    values = ndimage.affine_transform(
        volume.values,
        matrix[:3, :3],
        offset=cast(Any, matrix[:3, 3]),
        output_shape=like.shape,
        order=0 if nearest else 1,
        mode="grid-constant",  # a point just off the edge, by rounding, keeps its value
    )
    how = "to the nearest voxel" if nearest else "linearly"
    note = (
        f"resampled {how} from {grid_words(volume.shape, volume.affine)} onto the grid of "
        f"{like.path.name}, {grid_words(like.shape, like.affine)}"
    )
    return Volume(values, like.affine, volume.path, like.header, (*volume.notes, note))
