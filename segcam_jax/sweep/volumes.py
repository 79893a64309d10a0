"""Scans for a sweep: files found, a 3D network opened, its prediction, and the instances in it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Float

from segcam_jax import _files
from segcam_jax.data import instances as instances_module, nifti, scans
from segcam_jax.data.frames import Frame
from segcam_jax.data.instances import Instance, Instances
from segcam_jax.data.scans import Scan, ScanFiles
from segcam_jax.data.truths import TruthOptions, check_options, check_values, read_truth
from segcam_jax.engine import Execution, compiled_function
from segcam_jax.engine.sliding import sliding_window, tiling
from segcam_jax.networks.class_queries import find_class
from segcam_jax.networks.network import Network
from segcam_jax.outputs import Meaning
from segcam_jax.sweep.frames import known_frame
from segcam_jax.types import InputError

Normalise = Literal["zscore", "none"]
AXES = 3


@dataclasses.dataclass(frozen=True)
class SegmentOptions:
    """How instances come out of a scan.

    Attributes:
        class_index: number or name of the class; None: the last one, or the only one.
        threshold: probabilities strictly above it are inside.
        connectivity: neighbours of a voxel: 6, 18 or 26.
        min_voxels: smaller instances are dropped, predicted and missed ones, once all are matched.
        min_volume: likewise, in mm^3.
        min_iou: predicted and true instances match from this intersection over union on; None: if
            they share a voxel.
        truth: what the values of a truth mean.
        normalise: `"zscore"` of each modality's non-zero voxels, or `"none"`.
        resample: bring volumes of other grids onto the first one's.
        frame: the orientation and voxel size that the network was trained on; where None,
            `checked` takes what its weights say.
        match_spacing: resample scans to that voxel size.
        roi: extents of the network's window, one number or three.
        overlap: of neighbouring windows, as a share of a window.
    """

    class_index: str | None = None
    threshold: float = 0.5
    connectivity: int = 26
    min_voxels: int = 1
    min_volume: float = 0.0
    min_iou: float | None = None
    truth: TruthOptions = dataclasses.field(default_factory=TruthOptions)
    normalise: Normalise = "zscore"
    resample: bool = False
    frame: Frame = dataclasses.field(default_factory=Frame)
    match_spacing: bool = False
    roi: tuple[int, ...] = (96,)
    overlap: float = 0.25

    @property
    def window(self) -> tuple[int, ...]:
        """The extents of the network's window along each axis."""
        return self.roi * AXES if len(self.roi) == 1 else self.roi


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeCase:
    """One scan of a run.

    Attributes:
        name: of its output folder.
        files: its volumes.
        digests: SHA-256 of its files, the truth's last.
    """

    name: str
    files: ScanFiles
    digests: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Segmented:
    """A scan with what the network makes of it.

    Attributes:
        scan: as read, on the network's grid, as all that follows.
        x: what the network is given.
        probability: of the class, at every voxel.
        predicted: its instances, with groups where there is a truth.
        missed: the truth's instances that were not found; None where there is no truth.
        notes: what was converted.
    """

    scan: Scan
    x: Float[np.ndarray, "d h w c"]
    probability: Float[np.ndarray, "d h w"]
    predicted: Instances
    missed: Instances | None
    notes: tuple[str, ...]

    def instances(self) -> list[Instance]:
        """All, the predicted first."""
        return [*self.predicted.instances, *(self.missed.instances if self.missed else ())]

    def mask(self, instance: Instance) -> Bool[np.ndarray, "d h w"]:
        """Where an instance is."""
        side = self.missed if instance.group == "FN" else self.predicted
        assert side is not None
        return side.mask(instance.label)


def checked(options: SegmentOptions, network: Network) -> SegmentOptions:
    """The options, as far as they can be checked before a volume is read.

    Raises:
        InputError: if a number is out of range, or the window does not fit the network.
    """
    if len(options.roi) not in (1, AXES):
        raise InputError(f"roi {options.roi}; give one extent, or three")
    tiling((1,) * AXES, options.window, overlap=options.overlap)
    config = network.config
    if getattr(config, "classifies", False):
        raise InputError(
            f"{network.spec.words} classifies whole volumes; instances need logits of each voxel"
        )
    only = getattr(config, "extents", None)
    if only is not None and options.window != only:
        raise InputError(
            f"roi {' x '.join(map(str, options.window))}; the network takes "
            f"{' x '.join(map(str, only))} alone"
        )
    multiples = network.multiples
    if any(size % each for size, each in zip(options.window, multiples, strict=True)):
        words = " x ".join(map(str, multiples))
        raise InputError(
            f"roi {' x '.join(map(str, options.window))}; the network takes multiples of {words}"
        )
    # The same checks as at run time, on nothing.
    nothing = np.zeros((1,) * AXES)
    empty = instances_module.find_instances(
        nothing,
        threshold=options.threshold,
        connectivity=options.connectivity,
        min_voxels=options.min_voxels,
        min_volume=options.min_volume,
    )
    instances_module.matched(empty, empty, min_iou=options.min_iou)
    check_options(options.truth)
    class_of(options, network)
    frame = known_frame(network, options.frame)
    if options.match_spacing and frame.spacing is None:
        raise InputError(
            f"{network.spec.words!r} does not say on voxels of what size it was trained, so scans "
            "cannot be resampled to it; add --spacing (mm)"
        )
    return dataclasses.replace(options, frame=frame)


def class_of(options: SegmentOptions, network: Network) -> int:
    """The index of the segmented class."""
    names = network.labels
    return len(names) - 1 if options.class_index is None else find_class(options.class_index, names)


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

    Raises:
        InputError: if neither or both are given, or counts differ.
    """
    if (data is None) == (not volumes):
        raise InputError("give volumes by name, or a folder by --data with --prefixes")
    if data is not None:
        if len(prefixes) != channels:
            raise InputError(
                f"--prefixes names {len(prefixes)} modalit(ies), the network takes {channels}"
            )
        if truth:
            raise InputError("--truth goes with volumes by name; use --truth-prefix with --data")
        return scans.find_scans(data, prefixes, truth=truth_prefix)
    if prefixes or truth_prefix:
        raise InputError("--prefixes and --truth-prefix go with --data")
    if len(volumes) % channels:
        raise InputError(
            f"{len(volumes)} volume(s) were given; the network takes {channels} modalities a scan"
        )
    groups = [tuple(volumes[at : at + channels]) for at in range(0, len(volumes), channels)]
    if truth and len(truth) != len(groups):
        raise InputError(f"--truth names {len(truth)} file(s) for {len(groups)} scan(s)")
    labels = [*truth] or [None] * len(groups)
    # Named by their folders, unless several lie in one.
    folders = [group[0].resolve().parent for group in groups]
    apart = len(set(folders)) == len(groups)
    return [
        ScanFiles(folder.name if apart and folder.name else nifti.stem(group[0]), group, label)
        for group, label, folder in zip(groups, labels, folders, strict=True)
    ]


def make_cases(files: Sequence[ScanFiles], options: SegmentOptions) -> list[VolumeCase]:
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
    """What modalities are called in file names and tables.

    Raises:
        InputError: if the given names are too many, too few or alike.
    """
    names = tuple(map(slug, given or prefixes or scans.modality_names(files[0].files)))
    names = tuple(map(nifti.stem, names))
    expected = len(files[0].files)
    if len(names) != expected or len({name.casefold() for name in names}) != expected:
        raise InputError(
            f"modalities {list(names)}; give {expected} different name(s) with --modalities"
        )
    return names


def slug(name: str) -> str:
    """A name for files."""
    return _files.slug(name, "scan")


def read_scan(
    case: VolumeCase, options: SegmentOptions, modalities: Sequence[str] | None = None
) -> Scan:
    """The volumes of a scan on the network's grid.

    Raises:
        InputError: if a file is broken.
    """
    return scans.read_scan(
        case.files.files,
        modalities=modalities,
        resample=options.resample,
        frame=options.frame,
        match_spacing=options.match_spacing,
    )


def segment(
    network: Network, case: VolumeCase, options: SegmentOptions, execution: Execution
) -> Segmented:
    """Reads a scan, runs the network over it window by window, and finds the instances.

    Raises:
        InputError: if a file is broken, or the network's output is not finite.
    """
    scan = read_scan(case, options)
    values = scan.values
    x = scans.zscore(values) if options.normalise == "zscore" else values
    output = sliding_window(
        network.fn,
        network.params,
        x,
        roi=options.window,
        overlap=options.overlap,
        execution=execution,
    )
    network.meaning.check_values(output)
    index = class_of(options, network)
    probability = np.asarray(class_probability(output, index, meaning=network.meaning))
    if not np.isfinite(probability).all():
        raise InputError(
            f"{str(case.files.files[0])!r}: the network's output holds NaN or infinite values"
        )
    grid = scan.grid
    same: dict[str, Any] = {
        "connectivity": options.connectivity,
        "spacing": grid.spacing,
        "voxel_volume": grid.voxel_volume,
    }
    # All are matched before small ones are dropped.
    found = instances_module.find_instances(probability, threshold=options.threshold, **same)
    missed, notes = None, (*scan.notes, *_constant(case, values))
    if options.normalise == "zscore":
        notes = (*notes, *_without_background(case, values))
    if case.files.truth is not None:
        volume = scans.read_labels(case.files.truth, scan.file, resample=options.resample)
        with about(volume.path):
            truth = read_truth(scan.framed(volume.values, nearest=True), options.truth, **same)
        found, missed = instances_module.matched(
            found, truth.lesions, min_iou=options.min_iou, ignored=truth.ignored
        )
        told = (*volume.notes, *truth.notes)
        if not len(truth.lesions):
            told = (*told, "holds no lesion; all that is found counts as FP")
        notes = (*notes, *(f"{volume.path}: {note}" for note in told))
    least = {"min_voxels": options.min_voxels, "min_volume": options.min_volume}
    predicted = instances_module.large_enough(found, **least)
    if missed is not None:
        missed = instances_module.large_enough(missed, **least, after=len(predicted))
    return Segmented(scan, x, probability, predicted, missed, notes)


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Errors name the file that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from None


def _constant(case: VolumeCase, values: np.ndarray) -> list[str]:
    """A note for each modality that tells nothing."""
    return [
        f"{path}: all voxels are {values[..., at].flat[0]:g}; the network sees nothing in it"
        for at, path in enumerate(case.files.files)
        if values[..., at].min() == values[..., at].max()
    ]


def _without_background(case: VolumeCase, values: np.ndarray) -> list[str]:
    """A note for each modality of which z-scores leave nothing out."""
    return [
        f"{path}: no voxel is 0, so mean and standard deviation are those of all voxels, the "
        "background's too; set the background to 0, or say --normalise none if they are "
        "normalised already"
        for at, path in enumerate(case.files.files)
        if values[..., at].all()
    ]


@compiled_function
def class_probability(output: Any, class_index: int, *, meaning: Meaning) -> Any:
    """The probability of a class at every position of an output."""
    shares = meaning.probabilities(output)
    return jax.lax.dynamic_index_in_dim(shares, class_index, -1, keepdims=False)
