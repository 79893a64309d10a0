"""Scans as a network takes them: their files found and checked, read, turned and normalised."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from segcam_jax import _files
from segcam_jax.data import nifti, scans
from segcam_jax.data.frames import Frame
from segcam_jax.data.preparation import Step, prepared, spacing_after
from segcam_jax.data.scans import Scan, ScanFiles
from segcam_jax.data.truths import TruthOptions, check_values
from segcam_jax.data.volume import Volume, orientation
from segcam_jax.networks.network import Network
from segcam_jax.types import InputError, counted

Normalise = Literal["zscore", "none"]
AXES = 3


@dataclasses.dataclass(frozen=True)
class ScanOptions:
    """How scans are read.

    Attributes:
        truth: what the values of a truth mean.
        normalise: `"zscore"` of each modality's non-zero voxels, or `"none"`.
        resample: bring volumes of other grids onto the first one's.
        frame: the orientation and voxel size that the network was trained on; see `known_frame`.
        match_spacing: resample scans to that voxel size.
        preparation: what is done to a scan first, where the network's folder says so; normalise,
            frame and match_spacing are not read then. None: nothing is known of that.
    """

    truth: TruthOptions = dataclasses.field(default_factory=TruthOptions)
    normalise: Normalise = "zscore"
    resample: bool = False
    frame: Frame = dataclasses.field(default_factory=Frame)
    match_spacing: bool = False
    preparation: tuple[Step, ...] | None = None

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """The size of the voxels that scans are resampled to; None if they keep theirs."""
        if self.preparation is not None:
            return spacing_after(self.preparation)
        return self.frame.spacing if self.match_spacing else None


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeCase:
    """One scan of a run.

    Attributes:
        name: of its output folder.
        digests: SHA-256 of its files, the truth's last.
    """

    name: str
    files: ScanFiles
    digests: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ScanInput:
    """A scan as it was read.

    Attributes:
        scan: its volumes on the network's grid.
        x: what the network is given.
        truth: its label map as it is in the file; None where there is none.
        notes: what was converted, and what the network cannot see, each with its file.
    """

    scan: Scan
    x: Float[np.ndarray, "d h w c"]
    truth: Volume | None
    notes: tuple[str, ...]


def scan_files(
    volumes: Sequence[Path],
    channels: int,
    *,
    data: Path | None = None,
    prefixes: Sequence[str] = (),
    truth: Sequence[Path] = (),
    truth_prefix: str | None = None,
) -> list[ScanFiles]:
    """The scans that a command line names: by files, or by a folder and prefixes.

    Args:
        volumes: files, the modalities of one scan after the other.
        channels: modalities that the network takes.
        data: a folder in the layout `DATA/*/*/PREFIX`, instead of files.
        prefixes: one per modality, for `data`.
        truth: a label map per scan, for `volumes`.
        truth_prefix: for `data`.
    """
    if (data is None) == (not volumes):
        raise InputError("name volumes, or give a folder with --data and --prefixes")
    if data is not None:
        if len(prefixes) != channels:
            raise InputError(
                f"--prefixes names {len(prefixes)} modalit(ies), the network takes {channels}"
            )
        if truth:
            raise InputError("--truth needs volumes that are named; use --truth-prefix with --data")
        return scans.find_scans(data, prefixes, truth=truth_prefix)
    if prefixes or truth_prefix:
        raise InputError("--prefixes and --truth-prefix need --data")
    if len(volumes) % channels:
        raise InputError(
            f"{counted(len(volumes), 'volume')} given; the network takes {channels} modalities "
            "per scan"
        )
    groups = [tuple(volumes[at : at + channels]) for at in range(0, len(volumes), channels)]
    if truth and len(truth) != len(groups):
        raise InputError(
            f"--truth names {counted(len(truth), 'file')} for {counted(len(groups), 'scan')}"
        )
    labels = [*truth] or [None] * len(groups)
    # Named by their folders, unless several lie in one.
    folders = [Path(os.path.realpath(group[0])).parent for group in groups]
    apart = len(set(folders)) == len(groups)
    return [
        ScanFiles(folder.name if apart and folder.name else nifti.stem(group[0]), group, label)
        for group, label, folder in zip(groups, labels, folders, strict=True)
    ]


def make_cases(files: Sequence[ScanFiles], options: ScanOptions) -> list[VolumeCase]:
    """Looks at every header, and takes the digests of all files.

    Raises:
        InputError: if a file is missing, no volume or given twice, or grids differ and are not to
            be resampled.
    """
    cases = []
    names = _files.unique_names([slug(each.name) for each in files])
    for each, name in zip(files, names, strict=True):
        scans.check_different(each.files)
        every = (*each.files, *((each.truth,) if each.truth else ()))
        for path in every:
            nifti.read_grid(path)
        if not options.resample:
            scans.check_grids(each)
        if each.truth is not None:
            with about(each.truth):
                check_values(nifti.read_volume(each.truth).values, options.truth)
        cases.append(VolumeCase(name, each, tuple(_files.sha256_of(path) for path in every)))
    return cases


def modalities_of(
    given: Sequence[str], files: Sequence[ScanFiles], prefixes: Sequence[str]
) -> tuple[str, ...]:
    """What modalities are called in file names and tables."""
    names = tuple(map(slug, given or prefixes or scans.modality_names(files[0].files)))
    names = tuple(map(nifti.stem, names))
    expected = len(files[0].files)
    if len(names) != expected or len({name.casefold() for name in names}) != expected:
        raise InputError(
            f"modalities {list(names)}; give {counted(expected, 'different name')} with "
            "--modalities"
        )
    return names


def slug(name: str) -> str:
    """A name for files."""
    return _files.slug(name, "scan")


def read_input(
    files: ScanFiles, options: ScanOptions, modalities: Sequence[str] | None = None
) -> ScanInput:
    """Reads the volumes of a scan onto the network's grid, normalised, and its truth.

    Args:
        files: of the scan.
        options: how it is read.
        modalities: names of its volumes; None: those of the files.

    Raises:
        InputError: if a file is broken, or the truth has another grid that is not to be resampled.
    """
    own = options.preparation is not None
    scan = scans.read_scan(
        files.files,
        modalities=modalities,
        resample=options.resample,
        frame=None if own else options.frame,
        match_spacing=options.match_spacing and not own,
    )
    scan = prepared(scan, options.preparation or ())
    values, truth = scan.values, None
    zscored = options.normalise == "zscore" and not own
    notes = [*scan.notes, *_constant(files, values)]
    if zscored:
        notes += _without_background(files, values)
    if files.truth is not None:
        truth = scans.read_labels(files.truth, scan.file, resample=options.resample)
    return ScanInput(scan, scans.zscore(values) if zscored else values, truth, tuple(notes))


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Errors name the file that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from None


def _constant(files: ScanFiles, values: np.ndarray) -> list[str]:
    """A note for each modality that tells nothing."""
    return [
        f"{path}: all voxels are {values[..., at].flat[0]:g}; such a volume tells the network "
        "nothing"
        for at, path in enumerate(files.files)
        if values[..., at].min() == values[..., at].max()
    ]


def _without_background(files: ScanFiles, values: np.ndarray) -> list[str]:
    """A note for each modality of which z-scores leave nothing out."""
    return [
        f"{path}: no voxel is 0, so mean and standard deviation include the background; set the "
        "background to 0, or give --normalise none if the volume is normalised already"
        for at, path in enumerate(files.files)
        if values[..., at].all()
    ]


def known_frame(network: Network, asked: Frame) -> Frame:
    """What is asked for, and else what the weights say."""
    known = Frame.of(network.model.metadata)
    return Frame(asked.orientation or known.orientation, asked.spacing or known.spacing)


def frame_notes(network: Network, frame: Frame, files: Sequence[ScanFiles]) -> list[str]:
    """What has to be said of how scans lie: nothing is known, or something else was asked for.

    Args:
        frame: the one that its scans are brought to, of `known_frame`.
    """
    known, notes, name = Frame.of(network.model.metadata), [], network.spec.words
    if frame.orientation is None:
        grids = [nifti.read_grid(each.files[0]) for each in files]
        each = {orientation(affine) if known else "unknown" for _, affine, known in grids}
        found = ", ".join(sorted(each))
        notes.append(
            f"{name!r} does not state the orientation that it was trained with, so it gets scans "
            f"as they lie in their files ({found}); give the orientation with --orientation, such "
            "as RAS"
        )
    if frame.spacing is None:
        notes.append(
            f"{name!r} does not state the voxel size that it was trained with, so the scans' "
            "voxels are not checked; give the size with --spacing, in mm"
        )
    for what in ("orientation", "spacing"):
        said, taken = getattr(known, what), getattr(frame, what)
        if said not in (None, taken):
            notes.append(f"{name!r} was trained on {what} {said}, but you ask for {taken}")
    return notes
