"""How the volumes lay that a network was trained on: their orientation and voxel size.

A network of volumes knows left from right, and how large a lesion is, only by the axes and voxels
that it was trained on. `data.scans.read_scan` brings a scan to a frame, and back.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segcam_jax.data.volume import (
    LARGEST,
    SMALLEST,
    Volume,
    check_orientation,
    orientation,
    spacing_of,
)
from segcam_jax.types import InputError

AXES = 3
# Voxels that differ by less, as a share, are of one size.
_SAME_SIZE = 0.01
# More voxels along an axis are rather a mistaken unit.
_LARGEST = 4096


@dataclasses.dataclass(frozen=True)
class Frame:
    """The orientation and voxel size of volumes.

    Attributes:
        orientation: where the three axes lead, for example `"RAS"`; None: as in the file.
        spacing: size of a voxel in mm along each of these axes, or one number for all; None: as in
            the file.

    Raises:
        InputError: if letters name no orientation, sizes are not three positive numbers, or sizes
            differ where no orientation says along which axes.
    """

    orientation: str | None = None
    spacing: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.orientation is not None:
            object.__setattr__(self, "orientation", check_orientation(self.orientation))
        if self.spacing is None:
            return
        sizes = tuple(float(size) for size in self.spacing)
        sizes *= AXES if len(sizes) == 1 else 1
        if len(sizes) != AXES or not all(SMALLEST <= size <= LARGEST for size in sizes):
            words = " ".join(map(str, self.spacing))
            raise InputError(
                f"spacing {words}; give the size of a voxel in mm, one number or three"
            )
        if self.orientation is None and len(set(sizes)) > 1:
            raise InputError(
                f"spacing {' x '.join(f'{size:g}' for size in sizes)} mm without an orientation; "
                "name the axes that these sizes belong to, such as RAS"
            )
        object.__setattr__(self, "spacing", sizes)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Frame":
        """What a weights file says: its `orientation` and `spacing`."""
        spacing = metadata.get("spacing")
        return cls(metadata.get("orientation"), None if spacing is None else tuple(spacing))

    @property
    def metadata(self) -> dict[str, Any]:
        """What `of` reads: what is known, as a weights file holds it."""
        known = {"orientation": self.orientation, "spacing": self.spacing and [*self.spacing]}
        return {name: value for name, value in known.items() if value is not None}

    def is_size(self, spacing: Sequence[float]) -> bool:
        """Whether voxels have this frame's size, or it has none."""
        return self.spacing is None or np.allclose(spacing, self.spacing, rtol=_SAME_SIZE)

    def grid(self, shape: Sequence[int], affine: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
        """Extents and affine of a grid of this frame's voxels over the same part of space.

        Args:
            shape: extents of a grid whose axes lead where this frame's do.
            affine: its affine. Directions and the middle stay, extents are rounded.

        Raises:
            InputError: if more than 4096 voxels would lie along an axis.
        """
        assert self.spacing is not None
        factor = np.asarray(self.spacing) / np.asarray(spacing_of(affine))
        extents = np.maximum(1, np.rint(np.asarray(shape) / factor))
        if extents.max() > _LARGEST:
            raise InputError(
                f"resampled to voxels of {size_words(self.spacing)}, a volume of "
                f"{size_words(spacing_of(affine))} voxels has extents "
                f"{' x '.join(f'{extent:.0f}' for extent in extents)}; are its units right?"
            )
        moved = np.array(affine, float)
        moved[:3, :3] *= factor
        moved[:3, 3] += affine[:3, :3] @ (np.asarray(shape) - 1) / 2
        moved[:3, 3] -= moved[:3, :3] @ (extents - 1) / 2
        return tuple(int(extent) for extent in extents), moved

    def notes(self, volume: Volume, turned: Sequence[float], *, match_spacing: bool) -> list[str]:
        """What bringing a volume to this frame changes or leaves, in words.

        Args:
            volume: as in its file.
            turned: its voxels' size along this frame's axes.
            match_spacing: whether it is resampled.
        """
        told, own = [], orientation(volume.affine)
        if self.orientation is not None and not volume.oriented:
            told.append(f"its axes are assumed to be {self.orientation}, like the network's")
        elif self.orientation not in (None, own):
            told.append(
                f"turned from {own} to {self.orientation} for the network; results are turned "
                "back to the file's axes"
            )
        if self.spacing is not None and not self.is_size(turned):
            sizes = f"its voxels are {size_words(turned)}, the network's {size_words(self.spacing)}"
            done = "resampled linearly for the network"
            left = "--match-spacing (match_spacing=True) resamples them"
            told.append(f"{sizes}; {done if match_spacing else left}")
        return told


def size_words(spacing: Sequence[float]) -> str:
    """The size of a voxel in words."""
    return " x ".join(f"{size:.3g}" for size in spacing) + " mm"
