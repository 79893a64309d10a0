"""Scans: one patient's volumes, a modality each, as one array; by file, or found in a folder."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from segcam_jax import _files
from segcam_jax.data import nifti
from segcam_jax.data.frames import Frame
from segcam_jax.data.volume import (
    Grid,
    Turn,
    Volume,
    affine_along,
    grid_words,
    interpolated,
    part_of,
    resampled,
    resized,
    same_grid,
    share_grid,
    turn_to,
)
from segcam_jax.types import InputError, counted


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """Volumes of one patient on one grid, that of a network.

    Attributes:
        volumes: one per modality, all on one grid.
        modalities: what they are called, without those letters that are not for file names.
        file: the first volume as it is in its file, where its axes lead assumed if the file does
            not say: what maps are written like.
        turn: from the axes of the file to those of `volumes`.
        notes: what was converted, each with its file.
        part: of the turned file, the part that `volumes` lie in; None: all.
        apart: the axis along which values are brought back to the nearest slice; None: none.
    """

    volumes: tuple[Volume, ...]
    modalities: tuple[str, ...]
    file: Volume
    turn: Turn = dataclasses.field(default_factory=Turn)
    notes: tuple[str, ...] = ()
    part: tuple[slice, ...] | None = None
    apart: int | None = None

    @property
    def values(self) -> Float[np.ndarray, "d h w c"]:
        """All modalities, the last axis."""
        return np.stack([volume.values for volume in self.volumes], axis=-1)

    @property
    def grid(self) -> Volume:
        """The volume whose grid all share."""
        return self.volumes[0]

    @property
    def resampled(self) -> bool:
        """Whether the grid has other voxels than the file."""
        return not same_grid(self.grid.shape, self.grid.affine, *self._turned)

    @property
    def _extents(self) -> tuple[int, ...]:
        """Extents of the file along the axes of the grid."""
        return tuple(self.file.shape[axis] for axis in self.turn.order)

    @property
    def _turned(self) -> tuple[tuple[int, ...], Float[np.ndarray, "4 4"]]:
        """Extents and affine of the file's voxels along the axes of the grid, in its part."""
        affine = self.turn.affine(self.file.affine, self.file.shape)
        return part_of(self._extents, affine, self.part)

    def cropped(self, box: tuple[slice, ...]) -> "Scan":
        """The part of the scan in a box of its voxels, which must be the file's."""
        assert not self.resampled
        volumes = []
        for each in self.volumes:
            affine = part_of(each.shape, each.affine, box)[1]
            volumes.append(
                dataclasses.replace(each, values=each.values[box], affine=affine, header=None)
            )
        before = self.part or (slice(0, None),) * len(box)
        part = tuple(
            slice(old.start + new.start, old.start + new.stop)
            for old, new in zip(before, box, strict=True)
        )
        return dataclasses.replace(self, volumes=tuple(volumes), part=part)

    def framed(
        self, values: Shaped[np.ndarray, "u v w"], *, nearest: bool = False
    ) -> Shaped[np.ndarray, "d h w"]:
        """Values on the file's grid brought to the network's: turned, and resampled if need be.

        Args:
            values: of the file's extents.
            nearest: resample to the nearest voxel, for labels; else linearly.
        """
        turned = self.turn.of(values)
        turned = turned if self.part is None else turned[self.part]
        if not self.resampled:
            return turned
        affine = self._turned[1]
        return interpolated(turned, affine, self.grid.shape, self.grid.affine, nearest=nearest)

    def restored(
        self, values: Shaped[np.ndarray, "d h w"], *, nearest: bool = False
    ) -> Shaped[np.ndarray, "u v w"]:
        """Values on the network's grid brought back to the file's; undoes `framed`.

        Exactly where nothing is resampled. Outside of the part that the network was given, all is
        0.
        """
        if self.resampled and self.apart is not None and not nearest:
            values = resized(values, self._turned[0], order=1, apart=self.apart)
        elif self.resampled:
            values = interpolated(values, self.grid.affine, *self._turned, nearest=nearest)
        if self.part is not None:
            whole = np.zeros(self._extents, values.dtype)
            whole[self.part] = values
            values = whole
        return self.turn.back.of(values)


@dataclasses.dataclass(frozen=True)
class ScanFiles:
    """The files of one scan.

    Attributes:
        name: for its output folder.
        files: one per modality.
        truth: a label map, where there is one.
    """

    name: str
    files: tuple[Path, ...]
    truth: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.files, *((self.truth,) if self.truth else ()))

    def stamp(self) -> str:
        """Size and time of each file as they are now; `-` where there is none."""
        found = []
        for path in self.paths:
            try:
                about = os.stat(path)
                found.append(f"{about.st_size}:{about.st_mtime_ns}")
            except OSError:
                found.append("-")
        return " ".join(found)

    def digest(self) -> str:
        """Of the contents of the files.

        Raises:
            InputError: if one cannot be read.
        """
        return _files.key_of([_files.sha256_of(path) for path in self.paths])


def read_scan(
    paths: Sequence[str | Path],
    *,
    modalities: Sequence[str] | None = None,
    resample: bool = False,
    frame: Frame | None = None,
    match_spacing: bool = False,
) -> Scan:
    """Reads the volumes of one patient, and brings them to a network's frame.

    Args:
        paths: one file per modality, in the order of the network's channels.
        modalities: their names; None takes those of the files.
        resample: bring volumes of another grid onto the first one's, which is noted. Else all must
            share one grid.
        frame: what the network was trained on; None: as in the file. Axes are exchanged and
            reversed, which is exact; a file that does not say where its axes lead is taken for what
            the network was trained on. Each is noted.
        match_spacing: resample linearly to the frame's voxels, without smoothing; else another size
            is noted only.

    Raises:
        InputError: if a file cannot be read or is given twice, or grids differ; says both.
    """
    if not paths:
        raise InputError("no volumes were given; name one file per modality")
    names = tuple(modalities) if modalities else modality_names(paths)
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise InputError(
            f"{counted(len(paths), 'volume')}, but modalities {list(names)}; give one name each, "
            "all different"
        )
    check_different(paths)
    volumes = [nifti.read_volume(path) for path in paths]
    volumes = [on_grid(volume, volumes[0], resample=resample) for volume in volumes]
    file = volumes[0]
    notes = [f"{volume.path}: {note}" for volume in volumes for note in volume.notes]
    frame = frame or Frame()
    scan = Scan(tuple(volumes), names, file)
    if frame.orientation is not None:
        scan = oriented(scan, frame.orientation)
    sizes = scan.grid.spacing
    told = frame.notes(file, sizes, match_spacing=match_spacing)
    notes += [f"{file.path}: {note}" for note in told]
    if match_spacing and not frame.is_size(sizes):
        grid = frame.grid(scan.grid.shape, scan.grid.affine)
        scan = dataclasses.replace(scan, volumes=tuple(onto(each, *grid) for each in scan.volumes))
    return dataclasses.replace(scan, notes=tuple(notes))


def oriented(scan: Scan, letters: str) -> Scan:
    """A scan that is whole and not resampled, its axes brought to where letters such as RAS lead.

    If its file does not say where its axes lead, they are taken to lead there already, in all that
    is told and drawn of it.
    """
    if scan.grid.oriented:
        return turned(scan, turn_to(scan.grid.affine, letters))
    affine = affine_along(letters, scan.grid.spacing)
    back = scan.turn.back.affine(affine, scan.grid.shape)
    volumes = tuple(
        dataclasses.replace(each, affine=affine, oriented=True) for each in scan.volumes
    )
    file = dataclasses.replace(scan.file, affine=back, stored=scan.file.affine)
    return dataclasses.replace(scan, volumes=volumes, file=file)


def turned(scan: Scan, turn: Turn) -> Scan:
    """A scan that is whole and not resampled, turned on."""
    assert scan.part is None
    assert not scan.resampled
    volumes = tuple(_turned(volume, turn) for volume in scan.volumes)
    return dataclasses.replace(scan, volumes=volumes, turn=scan.turn.then(turn))


def _turned(volume: Volume, turn: Turn) -> Volume:
    """A volume turned, every voxel where it is in space."""
    if turn == Turn():
        return volume
    affine = turn.affine(volume.affine, volume.shape)
    return dataclasses.replace(volume, values=turn.of(volume.values), affine=affine, header=None)


def onto(volume: Volume, shape: tuple[int, ...], affine: np.ndarray) -> Volume:
    """A volume at the voxels of a grid."""
    values = interpolated(volume.values, volume.affine, shape, affine)
    return dataclasses.replace(volume, values=values, affine=affine, header=None)


def read_labels(path: str | Path, like: Volume, *, resample: bool = False) -> Volume:
    """Reads a label map for a volume: anything above 0 is inside."""
    return on_grid(nifti.read_volume(path), like, resample=resample, nearest=True)


def on_grid(volume: Volume, like: Volume, *, resample: bool, nearest: bool = False) -> Volume:
    """A volume on the grid of another; with `resample`, resampled to it, else it must have it."""
    stored = like.affine if like.stored is None else like.stored
    one, other = (volume.shape, volume.affine, volume.oriented), (like.shape, stored, like.oriented)
    if share_grid(one, other):
        return volume
    if resample and volume.oriented and like.oriented:
        return resampled(volume, like, nearest=nearest)
    raise _differ(volume.path, one, like.path, other)


def check_different(paths: Sequence[str | Path]) -> None:
    """Checks that no file is given as two modalities of a scan."""
    seen: dict[str, int] = {}
    for number, path in enumerate(paths, 1):
        first = seen.setdefault(os.path.realpath(path), number)
        if first != number:
            raise InputError(
                f"{str(path)!r} is given as modality {first} and as modality {number} of a scan; "
                "give each modality its own file"
            )


def check_grids(files: ScanFiles) -> None:
    """Checks by the headers that all files of a scan share one grid."""
    first, *others = files.paths
    one = nifti.read_grid(first)
    for other in others:
        grid = nifti.read_grid(other)
        if not share_grid(grid, one):
            raise _differ(other, grid, first, one)


def _differ(path: Path, grid: Grid, first: Path, other: Grid) -> InputError:
    unknown = [each for each, (*_, known) in ((path, grid), (first, other)) if not known]
    if unknown:
        extents = [" x ".join(map(str, shape)) for shape, *_ in (grid, other)]
        return InputError(
            f"{str(unknown[0])!r} does not give its orientation, so it is not known how "
            f"{str(path)!r} ({extents[0]} voxels) lies on the grid of {str(first)!r} "
            f"({extents[1]}); give files of one grid, or write it into the header"
        )
    return InputError(
        f"{str(path)!r} has another grid ({grid_words(*grid[:2])}) than {str(first)!r} "
        f"({grid_words(*other[:2])}); register them, or resample (--resample, resample=True)"
    )


def modality_names(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """A name for each file: its stem; numbered where several share it."""
    stems = [nifti.stem(path) for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}-{number}" for number, stem in enumerate(stems, 1)]
    return tuple(stems)


def find_scans(
    folder: str | Path, prefixes: Sequence[str], *, truth: str | None = None
) -> list[ScanFiles]:
    """Finds scans in the layout `FOLDER/*/*/PREFIX`: a patient, a session, a file per modality.

    Args:
        folder: the outermost folder.
        prefixes: per modality the name of its file, or how that begins. A session that has none of
            them is passed over; one that has some must have all.
        truth: name of the label map, likewise; every scan must have one.

    Returns:
        Scans in the order of their names, `PATIENT-SESSION`.

    Raises:
        InputError: if there is no such folder or scan, or a scan lacks a file or has several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"data {str(folder)!r} is not a folder")
    if not prefixes or len(set(prefixes)) != len(prefixes):
        raise InputError(f"prefixes {list(prefixes)}; give one per modality, all different")
    sessions = sorted(path for path in folder.glob("*/*") if path.is_dir())
    scans = []
    for session in sessions:
        names = sorted(path.name for path in session.iterdir() if nifti.is_volume(path))
        found = [_matching(names, prefix) for prefix in prefixes]
        if not any(found):
            continue
        wanted = [*prefixes, truth] if truth is not None else list(prefixes)
        if truth is not None:
            found.append(_matching(names, truth))
        files = [
            session / _single(each, prefix, session)
            for each, prefix in zip(found, wanted, strict=True)
        ]
        label = files.pop() if truth is not None else None
        scans.append(ScanFiles(f"{session.parent.name}-{session.name}", tuple(files), label))
    if not scans:
        raise InputError(
            f"no folder {str(folder / '*' / '*')!r} holds a volume that begins with "
            f"{' or '.join(map(repr, prefixes))}"
        )
    return scans


def _matching(names: Sequence[str], prefix: str) -> list[str]:
    """The file of that name; else those that begin so."""
    exact = [name for name in names if name == prefix or nifti.stem(name) == prefix]
    return exact or [name for name in names if name.startswith(prefix)]


def _single(found: Sequence[str], prefix: str, session: Path) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{str(session)!r} lacks the volume {prefix!r}, although the other modalities are there"
        )
    raise InputError(
        f"{str(session)!r} has {len(found)} volumes that begin with {prefix!r}: "
        f"{', '.join(found[:3])}; give a longer prefix"
    )


def zscore(values: Float[np.ndarray, "*space c"]) -> Float[np.ndarray, "*space c"]:
    """Each channel less the mean of its non-zero voxels, over their standard deviation.

        z = (v - mean) / std  where v != 0;   0 elsewhere

    A channel whose non-zero voxels are all alike is centred only. As MONAI's
    `NormalizeIntensity(nonzero=True, channel_wise=True)`.
    """
    out = np.zeros_like(values, np.float32)
    for channel in range(values.shape[-1]):
        inside = values[..., channel] != 0
        chosen = values[..., channel][inside].astype(np.float64)
        if chosen.size:
            out[..., channel][inside] = (chosen - chosen.mean()) / (chosen.std() or 1.0)
    return out
