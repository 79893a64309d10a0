"""What was done to the scans that a network was trained on, step by step, done to a scan.

Training frameworks write such steps into the folder of a trained network; `networks.nnunet` and
`networks.bundles` read them. Each is a frozen value, which a stored run keeps as JSON, and takes a
scan to a scan: voxels, the grid that they lie on, and the way back to the file's.

    steps = (Exchange((2, 1, 0)), CropToNonzero(), Normalise((ZScore(inside=True),)),
             Resize((1.0, 0.8, 0.8), order=3))
    scan = prepared(read_scan(paths), steps)
    scan.restored(probability)  # on the grid of the file
"""

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np
import scipy
from jaxtyping import Bool, Float

from segcam_jax.data.frames import size_words
from segcam_jax.data.scans import Scan, onto, oriented, turned, zscore
from segcam_jax.data.volume import Turn, Volume, resized
from segcam_jax.types import InputError, counted

# No deviation or range is divided by that is smaller.
_LEAST = 1e-8
# nnU-Net's: voxels that are longer by more, along one axis, are resampled slice by slice.
_ANISOTROPIC = 3


class Orient(msgspec.Struct, frozen=True, tag=True):
    """Axes are exchanged and reversed.

    Attributes:
        letters: where they lead afterwards, such as RAS.
    """

    letters: str

    def __call__(self, scan: Scan) -> Scan:
        """The scan, oriented; one whose file does not say how it lies stays, which is noted."""
        notes = scan.notes
        if not scan.grid.oriented:
            said = f"its axes are assumed to be {self.letters}, like the network's"
            notes = (*notes, f"{scan.file.path}: {said}")
        return dataclasses.replace(oriented(scan, self.letters), notes=notes)


class Exchange(msgspec.Struct, frozen=True, tag=True):
    """Axes are exchanged.

    Attributes:
        order: for each axis afterwards, which one it was.
    """

    order: tuple[int, int, int]

    def __call__(self, scan: Scan) -> Scan:
        """The scan with its axes in that order."""
        return turned(scan, Turn(self.order))


class CropToNonzero(msgspec.Struct, frozen=True, tag=True):
    """The smallest box that holds all voxels that are not 0 in some modality."""

    def __call__(self, scan: Scan) -> Scan:
        """The scan in that box; whole, if all of it is 0."""
        boxes = scipy.ndimage.find_objects(_nonzero(scan.values).astype(np.int8))
        return scan.cropped(boxes[0]) if boxes else scan


class ZScore(msgspec.Struct, frozen=True, tag=True):
    """Values less their mean, over their standard deviation.

    Attributes:
        inside: both are of the voxels that are not 0 in some modality, holes filled; what is
            outside of those stays as it is.
    """

    inside: bool = False

    def __call__(
        self, values: Float[np.ndarray, "*space"], inside: Bool[np.ndarray, "*space"]
    ) -> Float[np.ndarray, "*space"]:
        """Values of a modality, normalised."""
        part = inside if self.inside else np.ones_like(inside)
        out = values.copy()
        if part.any():
            chosen = values[part]
            out[part] = (chosen - chosen.mean()) / max(float(chosen.std()), _LEAST)
        return out


class NonzeroZScore(msgspec.Struct, frozen=True, tag=True):
    """`ZScore` of a modality's own voxels that are not 0; one of constant values is centred."""

    def __call__(
        self, values: Float[np.ndarray, "*space"], inside: Bool[np.ndarray, "*space"]
    ) -> Float[np.ndarray, "*space"]:
        """Values of a modality, normalised."""
        return zscore(values[..., None])[..., 0]


class Linear(msgspec.Struct, frozen=True, tag=True):
    """Values from one range to another: `start` to 0, `start + length` to 1, then `* gain + shift`.

    Attributes:
        start: of the range; None: the least value.
        length: of the range; None: of all values, above the least.
        gain: of the new range.
        shift: of it.
        before: what values are clipped to first; None: nothing.
        after: what they are clipped to in the end; None: nothing.
    """

    start: float | None = None
    length: float | None = None
    gain: float = 1.0
    shift: float = 0.0
    before: tuple[float, float] | None = None
    after: tuple[float, float] | None = None

    def __call__(
        self, values: Float[np.ndarray, "*space"], inside: Bool[np.ndarray, "*space"]
    ) -> Float[np.ndarray, "*space"]:
        """Values of a modality, normalised."""
        values = values if self.before is None else np.clip(values, *self.before)
        out = values - np.float32(values.min() if self.start is None else self.start)
        length = max(float(out.max()), _LEAST) if self.length is None else self.length
        out = out / np.float32(length) * np.float32(self.gain) + np.float32(self.shift)
        return out if self.after is None else np.clip(out, *self.after)


Scheme = ZScore | NonzeroZScore | Linear


class Normalise(msgspec.Struct, frozen=True, tag=True):
    """Values of each modality are normalised.

    Attributes:
        schemes: how, one for all modalities or one for each.
        together: all modalities are one array for the scheme.
    """

    schemes: tuple[Scheme, ...]
    together: bool = False

    def __call__(self, scan: Scan) -> Scan:
        """The scan, normalised."""
        count = len(scan.volumes)
        if len(self.schemes) not in (1, count):
            raise InputError(
                f"the network's folder has {counted(len(self.schemes), 'normalisation')} for "
                f"{counted(count, 'volume')} of a scan"
            )
        schemes = self.schemes * (count if len(self.schemes) == 1 else 1)
        values = scan.values
        inside = _nonzero(values)
        if self.together:
            out = schemes[0](values, np.broadcast_to(inside[..., None], values.shape))
        else:
            each = zip(np.moveaxis(values, -1, 0), schemes, strict=True)
            out = np.stack([scheme(one, inside) for one, scheme in each], axis=-1)
        volumes = [
            dataclasses.replace(volume, values=np.ascontiguousarray(out[..., at], np.float32))
            for at, volume in enumerate(scan.volumes)
        ]
        return dataclasses.replace(scan, volumes=tuple(volumes))


class Resize(msgspec.Struct, frozen=True, tag=True):
    """Resampled to voxels of about a size, as nnU-Net does it: the box stays, extents are rounded.

    Attributes:
        spacing: size of a voxel in mm along each axis.
        order: of the splines.
        apart: True: slice by slice, and from slice to slice the nearest; False: in 3D. None: slice
            by slice if one axis alone has voxels more than three times as long as another.
    """

    spacing: tuple[float, ...]
    order: int = 3
    apart: bool | None = None

    def __call__(self, scan: Scan) -> Scan:
        """The scan at such voxels, and the way back that nnU-Net takes of its logits."""
        sizes, shape = scan.grid.spacing, scan.grid.shape
        extents = tuple(
            max(1, round(size / other * extent))
            for size, other, extent in zip(sizes, self.spacing, shape, strict=True)
        )
        if extents == shape:
            return scan
        axis = self._axis(sizes)
        volumes = [_on_extents(each, extents, order=self.order, axis=axis) for each in scan.volumes]
        note = _resampled(scan, self.spacing, f"by splines of order {self.order}")
        return dataclasses.replace(
            scan, volumes=tuple(volumes), apart=axis, notes=(*scan.notes, note)
        )

    def _axis(self, sizes: Sequence[float]) -> int | None:
        """The axis along which the nearest slice is taken; None: none."""
        if self.apart is False:
            return None
        both = [np.asarray(sizes), np.asarray(self.spacing)]
        chosen = both[:1] if self.apart else [s for s in both if s.max() / s.min() > _ANISOTROPIC]
        longest = np.flatnonzero(chosen[0] == chosen[0].max()) if chosen else ()
        return int(longest[0]) if len(longest) == 1 else None


class Respace(msgspec.Struct, frozen=True, tag=True):
    """Resampled linearly to voxels of a size, as MONAI's `Spacing` does it: the first voxel stays.

    Attributes:
        spacing: size of a voxel in mm along each axis.
    """

    spacing: tuple[float, ...]

    def __call__(self, scan: Scan) -> Scan:
        """The scan at such voxels."""
        sizes = scan.grid.spacing
        factor = np.asarray(self.spacing) / np.asarray(sizes)
        if np.allclose(factor, 1, rtol=1e-4):
            return scan
        extents = tuple(
            np.rint((np.asarray(scan.grid.shape) - 1) / factor + 1).astype(int).tolist()
        )
        affine = np.array(scan.grid.affine, float)
        affine[:3, :3] *= factor
        volumes = tuple(onto(each, extents, affine) for each in scan.volumes)
        note = _resampled(scan, self.spacing, "linearly")
        return dataclasses.replace(scan, volumes=volumes, notes=(*scan.notes, note))


Step = Orient | Exchange | CropToNonzero | Normalise | Resize | Respace


def prepared(scan: Scan, steps: Sequence[Step]) -> Scan:
    """A scan as a network takes it: the steps one after the other."""
    for step in steps:
        scan = step(scan)
    return scan


def spacing_after(steps: Sequence[Step]) -> tuple[float, ...] | None:
    """The size of the voxels that scans are resampled to; None if they keep theirs."""
    found = [step.spacing for step in steps if isinstance(step, Resize | Respace)]
    return found[-1] if found else None


def _nonzero(values: Float[np.ndarray, "d h w c"]) -> Bool[np.ndarray, "d h w"]:
    """Where any modality is not 0, holes filled."""
    return np.asarray(scipy.ndimage.binary_fill_holes((values != 0).any(-1)))


def _resampled(scan: Scan, spacing: Sequence[float], how: str) -> str:
    return (
        f"{scan.file.path}: its voxels are {size_words(scan.grid.spacing)}, the network's "
        f"{size_words(spacing)}; resampled {how} for the network"
    )


def _on_extents(
    volume: Volume, extents: tuple[int, ...], *, order: int, axis: int | None
) -> Volume:
    """A volume with other voxels in the same box."""
    factor = np.asarray(volume.shape) / np.asarray(extents)
    affine = np.array(volume.affine, float)
    affine[:3, 3] += affine[:3, :3] @ ((factor - 1) / 2)
    affine[:3, :3] *= factor
    values = resized(volume.values, extents, order=order, apart=axis)
    return dataclasses.replace(volume, values=values, affine=affine, header=None)
