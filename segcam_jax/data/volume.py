"""A volume and its place in space: voxels, and an affine to millimetres.

A volume is read in the order of its file, `d h w` being the file's first, second and third axis,
whatever their anatomical directions; `Turn` exchanges and reverses them. The affine takes voxel
indices to RAS coordinates in mm: x grows to the patient's right, y to the front (anterior), z to
the top (superior).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import scipy
from jaxtyping import Float, Shaped

from segcam_jax.types import InputError

# Grids whose corners are this close, as a share of a voxel, are one grid: affines are stored as
# float32, or as quaternions.
_SAME = 0.05
_SAME_SIZE = 1e-3  # of voxels, as a share: headers store float32
Grid = tuple[tuple[int, ...], Float[np.ndarray, "4 4"], bool]  # and whether it is oriented
# The volume of a voxel with edges of 1, where they lie in a plane but for rounding.
_SINGULAR = 1e-6
# Of an atom, and of a town, in mm.
SMALLEST, LARGEST = 1e-8, 1e7
_DIRECTIONS = ("LR", "PA", "IS")


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A volume of a file, as it is there or brought onto another grid.

    Attributes:
        values: voxels, finite float32; scale factors of the file are applied.
        affine: `4 4`, from voxel indices to RAS mm.
        path: the file.
        header: the file's NIfTI header, so that what is written can keep codes and units; None for
            other formats, and on another grid than the file's.
        notes: what was converted, in words.
        oriented: whether the file says where its axes lead, or it is assumed.
        stored: the affine in the file, if another one is assumed.
    """

    values: Float[np.ndarray, "d h w"]
    affine: Float[np.ndarray, "4 4"]
    path: Path
    header: Any = None
    notes: tuple[str, ...] = ()
    oriented: bool = True
    stored: Float[np.ndarray, "4 4"] | None = None

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
    """The affine as float64, checked: finite, and no plane."""
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"{str(path)!r} has an affine that is not 4 x 4 and finite")
    # Directions alone: voxels may be small.
    sizes = np.asarray(spacing_of(affine))
    if sizes.all() and not (sizes.min() >= SMALLEST and sizes.max() <= LARGEST):
        raise InputError(
            f"{str(path)!r} has voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm, "
            f"expected {SMALLEST:g} to {LARGEST:g}; repair its header"
        )
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < _SINGULAR:
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
    return farthest(shape, affine, other_affine) <= _SAME * min(spacing_of(affine))


def share_grid(one: Grid, other: Grid) -> bool:
    """Whether two files have one grid; if neither gives its orientation, by extents and sizes."""
    sizes = map(spacing_of, (one[1], other[1]))
    by_size = not (one[2] or other[2]) and np.allclose(*sizes, rtol=_SAME_SIZE)
    return one[0] == other[0] if by_size else same_grid(*one[:2], *other[:2])


def farthest(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """How far apart two affines put the corners of a volume, at most."""
    ends = [(0, extent - 1) for extent in shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    apart = corners @ (affine - other)[:3, :3].T + (affine - other)[:3, 3]
    return float(np.sqrt((apart**2).sum(-1)).max())


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


@dataclasses.dataclass(frozen=True)
class Turn:
    """An exchange and reversal of a volume's axes; nothing is resampled.

    Attributes:
        order: for each axis afterwards, which one it was.
        reverse: whether it then runs backwards.
    """

    order: tuple[int, ...] = (0, 1, 2)
    reverse: tuple[bool, ...] = (False, False, False)

    def of(self, values: np.ndarray) -> np.ndarray:
        """A volume turned, as a view; further axes stay last."""
        turned = values.transpose(*self.order, *range(3, values.ndim))
        return turned[tuple(slice(None, None, -1 if back else None) for back in self.reverse)]

    def index(self, index: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """Where a voxel of a volume of extents `shape` is afterwards."""
        return tuple(
            shape[axis] - 1 - int(index[axis]) if back else int(index[axis])
            for axis, back in zip(self.order, self.reverse, strict=True)
        )

    def affine(
        self, affine: Float[np.ndarray, "4 4"], shape: Sequence[int]
    ) -> Float[np.ndarray, "4 4"]:
        """The affine afterwards: every voxel stays where it is in space."""
        before = np.zeros((4, 4))
        before[3, 3] = 1
        for new, (old, back) in enumerate(zip(self.order, self.reverse, strict=True)):
            before[old, new] = -1 if back else 1
            before[old, 3] = shape[old] - 1 if back else 0
        return affine @ before

    def then(self, other: "Turn") -> "Turn":
        """This turn and then another, as one."""
        reverse = (
            self.reverse[axis] != back
            for axis, back in zip(other.order, other.reverse, strict=True)
        )
        return Turn(tuple(self.order[axis] for axis in other.order), tuple(reverse))

    @property
    def back(self) -> "Turn":
        """The turn that undoes this one."""
        order = tuple(int(axis) for axis in np.argsort(self.order))
        return Turn(order, tuple(self.reverse[axis] for axis in order))


def check_orientation(letters: str) -> str:
    """Letters as `orientation` gives them, in capitals; checked: one for each anatomical axis."""
    found = sorted("".join(_DIRECTIONS).find(letter) // 2 for letter in letters.upper())
    if found != [0, 1, 2]:
        raise InputError(
            f"orientation {letters!r}; give the directions of the three axes, such as RAS or LPS: "
            "right or left, anterior or posterior, superior or inferior"
        )
    return letters.upper()


def turn_to(affine: np.ndarray, letters: str) -> Turn:
    """The turn after which a volume's axes lead where letters such as `RAS` say.

    Of oblique axes, the nearest anatomical direction counts, as in nibabel's
    `as_closest_canonical`.
    """
    axes, flips = _nearest_axes(affine)
    order, reverse = [], []
    for letter in check_orientation(letters):
        world, forward = divmod("".join(_DIRECTIONS).index(letter), 2)
        own = axes.index(world)
        order.append(own)
        reverse.append(flips[own] == bool(forward))
    return Turn(tuple(order), tuple(reverse))


def affine_along(letters: str, spacing: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    """The affine of voxels of a size whose axes lead where letters say, the first voxel at 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for own, (letter, size) in enumerate(zip(check_orientation(letters), spacing, strict=True)):
        world, forward = divmod("".join(_DIRECTIONS).index(letter), 2)
        affine[world, own] = size if forward else -size
    return affine


def part_of(
    shape: tuple[int, ...], affine: np.ndarray, part: tuple[slice, ...] | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Extents and affine of a part of a grid."""
    if part is None:
        return shape, affine
    moved = np.array(affine, float)
    moved[:3, 3] += moved[:3, :3] @ [along.start for along in part]
    return tuple(along.stop - along.start for along in part), moved


def canonical(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A volume turned so that its axes run to the right, the front and the top, for figures.

    Axes are exchanged and reversed, nothing is resampled; further axes stay last.
    """
    return turn_to(affine, "RAS").of(values)


def canonical_index(
    index: Sequence[int], shape: Sequence[int], affine: np.ndarray
) -> tuple[int, ...]:
    """Where a voxel of a volume is after `canonical`."""
    return turn_to(affine, "RAS").index(index, shape)


def canonical_spacing(affine: np.ndarray) -> tuple[float, ...]:
    """The size of a voxel along the axes of `canonical`."""
    sizes = spacing_of(affine)
    return tuple(sizes[axis] for axis in turn_to(affine, "RAS").order)


def _nearest_axes(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """For each axis of the file, the anatomical axis it follows best, and whether backwards."""
    directions = np.asarray(affine, float)[:3, :3] / np.asarray(spacing_of(affine))
    # The nearest rotation, so that a shear does not decide.
    left, _, right = np.linalg.svd(directions)
    directions = left @ right
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
    values = interpolated(
        volume.values, volume.affine, like.shape, like.affine, nearest=nearest, beyond="zero"
    )
    how = "to the nearest voxel" if nearest else "linearly"
    note = (
        f"resampled {how} from {grid_words(volume.shape, volume.affine)} onto the grid of "
        f"{like.path.name}, {grid_words(like.shape, like.affine)}"
    )
    notes = (*volume.notes, note)
    return Volume(values, like.affine, volume.path, like.header, notes, like.oriented)


def interpolated(
    values: Shaped[np.ndarray, "d h w"],
    affine: Float[np.ndarray, "4 4"],
    shape: Sequence[int],
    other: Float[np.ndarray, "4 4"],
    *,
    nearest: bool = False,
    beyond: Literal["zero", "edge"] = "edge",
) -> Shaped[np.ndarray, "u v w"]:
    """The values of a volume at the voxels of another grid: trilinear, or nearest for labels.

    Args:
        beyond: what lies outside of the volume: 0, or its outermost voxels.
    """
    matrix = np.linalg.inv(affine) @ other
    return scipy.ndimage.affine_transform(
        values,
        matrix[:3, :3],
        offset=cast(Any, matrix[:3, 3]),
        output_shape=tuple(shape),
        order=0 if nearest else 1,
        # With zeros, a point just off the edge, by rounding, keeps its value.
        mode="grid-constant" if beyond == "zero" else "nearest",
    )


def resized(
    values: Float[np.ndarray, "d h w"],
    extents: Sequence[int],
    *,
    order: int,
    apart: int | None = None,
) -> Float[np.ndarray, "u v w"]:
    """A volume with other voxels in the same box, by splines within the range of its values.

    Values are taken at the middles of the new voxels; beyond the outermost middles they are
    constant. As `skimage.transform.resize(mode="edge", anti_aliasing=False)`.

    Args:
        apart: the axis whose slices are resized one by one and then chosen, the nearest; None:
            splines go along all axes.
    """
    if apart is None:
        return _splined(values, extents, order).astype(values.dtype)
    within = [extent for axis, extent in enumerate(extents) if axis != apart]
    slices = [_splined(each, within, order) for each in np.moveaxis(values, apart, 0)]
    place = (np.arange(extents[apart]) + 0.5) * (len(slices) / extents[apart])
    chosen = np.stack(slices)[np.minimum(place.astype(int), len(slices) - 1)]
    return np.moveaxis(chosen, 0, apart).astype(values.dtype)


def _splined(values: np.ndarray, extents: Sequence[int], order: int) -> np.ndarray:
    values = values.astype(float)
    if values.shape == tuple(extents):
        return values
    factors = [new / old for new, old in zip(extents, values.shape, strict=True)]
    found = scipy.ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=True)
    assert found.shape == tuple(extents)
    return np.clip(found, values.min(), values.max())
