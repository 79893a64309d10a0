"""A user's own scans with label maps: crops to train on, and whole scans that are held out.

Scans lie in the folders `DATA/PATIENT/SESSION`, with a file for each modality and one with the
lesions. All are brought to the axes R, A, S, and z-scored. As IES trains: each time that a scan is
seen, 32 windows of 128 voxels are cut out of it, four of five around a lesion's voxel, turned,
scaled and flipped at random, and cut down to 96.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from segcam_jax.data import nifti
from segcam_jax.data.frames import Frame, size_words
from segcam_jax.data.scans import ScanFiles, find_scans
from segcam_jax.data.truths import TruthOptions, read_truth
from segcam_jax.data.volume import spacing_of, turn_to
from segcam_jax.types import InputError, counted
from segcam_jax.volumes import ScanInput, ScanOptions, read_input, scan_inputs
from train.data.epochs import Epochs
from train.data.labelled import fingerprint
from train.lesions.config import LesionTraining

ORIENTATION = "RAS"
CONNECTIVITY = 18  # neighbours of a voxel in a lesion, of truths and of predictions, as in IES
WINDOW = 4 / 3  # extents of what is turned, by those of what is cut out of it
ANGLE, SCALE, INTENSITY = 15.0, 0.1, 0.1  # degrees; shares; of a standard deviation
_SAME = 1e-2  # of voxel sizes, as a share
# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_HELD_OUT, _ORDER, _CROP = range(3)
Pair = tuple[Float[np.ndarray, "d h w c"], Int[np.ndarray, "d h w"]]


class LesionTruth(TruthOptions):
    """What the values of a truth mean to a training, which cannot leave voxels out."""

    def if_unknown(self, value: int) -> str:
        """What to do where a value means unknown."""
        named = value > 0 and self.labels != "instances"
        return ("name the labels of lesions with --truth-classes, or " if named else "") + (
            "change it in the file"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A scan with its lesions.

    Attributes:
        image: the modalities, z-scored.
        lesions: number of the lesion that a voxel belongs to, from 1; else 0.
    """

    image: Float[np.ndarray, "d h w c"]
    lesions: Int[np.ndarray, "d h w"]


class Scans:
    """Scans by index, read when they are asked for; the last few are kept."""

    def __init__(self, cases: Sequence[scan_inputs.VolumeCase], options: ScanOptions, most: int):
        self.cases, self.options, self._most = tuple(cases), options, most
        self._kept = functools.lru_cache(most)(self._read)

    def __reduce__(self) -> tuple[type, tuple]:
        """A copy, in another process, reads its own."""
        return Scans, (self.cases, self.options, self._most)

    def __len__(self) -> int:
        """Their number."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        """The scan of a number."""
        return self._kept(index)

    def check(self) -> tuple[bool, list[tuple[str, Path]]]:
        """Reads every scan: whether any has a lesion, and what is to be told of which file."""
        any_lesion, told = False, []
        for case in self.cases:
            given = read_input(case.files, self.options)
            any_lesion |= bool(self._lesions(given).any())
            told += _doubts(given)
        return any_lesion, told

    def _read(self, index: int) -> Case:
        given = read_input(self.cases[index].files, self.options)
        return Case(given.x, self._lesions(given))

    def _lesions(self, given: ScanInput) -> Int[np.ndarray, "d h w"]:
        """The numbers of a scan's lesions on the network's grid."""
        assert given.truth is not None
        with scan_inputs.about(given.truth.path):
            values = given.scan.framed(given.truth.values, nearest=True)
            truth = read_truth(values, self.options.truth, connectivity=CONNECTIVITY)
        if truth.notes and values.max() not in self.options.truth.classes:
            raise InputError(
                f"{str(given.truth.path)!r}: {values.max():g} stands beside smaller labels and may "
                f"mean unknown; {self.options.truth.if_unknown(int(values.max()))}"
            )
        return truth.lesions.labels


def _doubts(given: ScanInput) -> Iterator[tuple[str, Path]]:
    """What was assumed of a scan's files, and what the network cannot see in them."""
    assert given.truth is not None
    if not given.scan.file.oriented:
        raise InputError(
            f"{str(given.scan.file.path)!r} does not say where its axes lead, which are to be "
            f"{', '.join(ORIENTATION)}; write an orientation into its header"
        )
    for volume in (*given.scan.volumes, given.truth):
        for note in volume.notes:
            yield note, volume.path
    for volume in given.scan.volumes:
        if volume.values.min() == volume.values.max():
            yield "all voxels are alike; the network sees nothing in it", volume.path
        elif volume.values.all():
            words = "no voxel is 0, so mean and standard deviation are the background's too"
            yield words, volume.path


@dataclasses.dataclass(frozen=True)
class UserScans:
    """The scans of a run.

    Attributes:
        held_out: those that are not, of other patients.
        sha256: of all files, and of who is held out.
        patients: names of those who are.
        notes: what is to be told before the run, each with the first file that it is about.
        frame: the axes and voxels of all.
    """

    training: Scans
    held_out: Scans
    sha256: str
    patients: tuple[str, ...]
    notes: tuple[str, ...]
    frame: Frame


def read_scans(config: LesionTraining) -> UserScans:
    """Finds the scans of a run, and reads each of them once."""
    assert config.data is not None
    found = find_scans(config.data, config.prefixes, truth=config.truth_prefix)
    wanted = None if config.spacing is None else (config.spacing,)
    options = ScanOptions(
        truth=LesionTruth(config.truth_labels, config.truth_classes, None, config.truth_threshold),
        frame=Frame(ORIENTATION, wanted),
        match_spacing=wanted is not None,
        resample=config.resample,
    )
    spacing = wanted or _spacing_of_all(found)
    cases = scan_inputs.make_cases(found, options)
    patients = [case.files.files[0].parent.parent for case in cases]
    apart = _held_out(config, sorted(set(patients)))
    sides = [[], []]
    for case, patient in zip(cases, patients, strict=True):
        sides[patient in apart].append(case)
    if config.batch > len(sides[0]):
        raise InputError(
            f"`batch` is {config.batch}, and the crops of a step are of different scans, of which "
            f"{len(sides[0])} are trained on; give --batch {len(sides[0])}"
        )
    training, held_out = Scans(sides[0], options, config.batch), Scans(sides[1], options, 1)
    told: dict[str, list[Path]] = {}
    for side, words in ((training, "trained on"), (held_out, "held out")):
        any_lesion, notes = side.check()
        if not any_lesion:
            raise InputError(
                f"no scan that is {words} has a lesion in {config.truth_prefix!r}; give another "
                "truth or seed"
            )
        for note, path in notes:
            told.setdefault(note, []).append(path)
    names = tuple(sorted(patient.name for patient in apart))
    return UserScans(
        training,
        held_out,
        fingerprint((*(case.digests for case in cases), names)),
        names,
        tuple(_of_files(paths, note) for note, paths in told.items()),
        Frame(ORIENTATION, spacing),
    )


def _of_files(paths: Sequence[Path], note: str) -> str:
    """A note with the file that it is about, or the first of several."""
    others = f" and {counted(len(paths) - 1, 'other file')}" if len(paths) > 1 else ""
    return f"{paths[0]}{others}: {note}"


def _spacing_of_all(found: Sequence[ScanFiles]) -> tuple[float, ...]:
    """The size of the voxels of all scans along the network's axes."""
    sizes = []
    for each in found:
        shape, affine, _ = nifti.read_grid(each.files[0])
        sizes.append(spacing_of(turn_to(affine, ORIENTATION).affine(affine, shape)))
        if not np.allclose(sizes[-1], sizes[0], rtol=_SAME):
            raise InputError(
                f"{str(each.files[0])!r} has voxels of {size_words(sizes[-1])}, "
                f"{str(found[0].files[0])!r} of {size_words(sizes[0])}; give --spacing MM, to "
                "which all are resampled"
            )
    return sizes[0]


def _held_out(config: LesionTraining, patients: Sequence[Path]) -> set[Path]:
    """The patients whose scans are not trained on."""
    count = max(1, round(config.held_out_share * len(patients)))
    if count >= len(patients):
        raise InputError(
            f"{counted(len(patients), 'patient')} in {str(config.data)!r}, of which {count} would "
            "be held out: none is left to train on; give more, or a smaller --held-out-share"
        )
    order = np.random.default_rng((config.seed, _HELD_OUT)).permutation(len(patients))
    return {patients[number] for number in order[:count]}


class Crops:
    """The crops of all steps: image and numbers of lesions by position.

    A step has one crop each of as many scans as there are crops a step; the next steps have others
    of the same scans, until each has given as many as it does at a time. Scans that are too few for
    one more step rest until all have been in turn. An item is a function of configuration, scans
    and position.
    """

    def __init__(self, config: LesionTraining, scans: Scans):
        self._config, self._scans = config, scans
        members = np.arange(len(scans))
        self._order = Epochs(members, 1, config.batch, (config.seed, _ORDER))
        self._turns = len(scans) // config.batch  # of as many scans each, before all come again

    def __len__(self) -> int:
        """The crops of all steps."""
        return self._config.steps * self._config.batch

    def __getitem__(self, position: int) -> Pair:
        """Reads a crop, changed at random."""
        config = self._config
        step, place = divmod(int(position), config.batch)
        again, turn = divmod(step // config.crops, self._turns)
        number = again * len(self._scans) + turn * config.batch + place
        case = self._scans[self._order.image(number)]
        generator = np.random.default_rng((config.seed, _CROP, position))
        return cropped(case, config.crop, config.positives, generator)


def cropped(case: Case, extent: int, positives: float, generator: np.random.Generator) -> Pair:
    """A cube of a scan at random, turned, scaled, flipped, and changed in intensity.

    A window of 4/3 of the extent is cut out around a voxel of a lesion or, once for so many of
    these, around another; it stays inside of the scan, which is padded with zeros where it is
    smaller. Half of the windows are turned by up to 15 degrees about each axis and scaled by up to
    10 %, images linearly and labels by the nearest voxel. Of the window a cube is kept, at a place
    at random, mirrored along each axis in half of the cases, and turned by quarters in each plane
    likewise. Half of them are multiplied by 0.9 to 1.1, half get -0.1 to 0.1 added.

    Args:
        extent: of the cube, along all axes.
        positives: windows around lesions for each one around anything else.
    """
    image, lesions = _window(case, round(extent * WINDOW), positives, generator)
    room = np.array(lesions.shape) - extent
    corner = generator.integers(0, room + 1)
    matrix = _matrix(generator) if generator.random() < 0.5 else np.eye(3)
    middle = (np.array(lesions.shape) - 1) / 2
    place = {"offset": middle + matrix @ (corner - middle), "output_shape": (extent,) * 3}
    channels = [
        ndimage.affine_transform(image[..., c], matrix, order=1, **place)
        for c in range(image.shape[-1])
    ]
    image = np.stack(channels, axis=-1)
    lesions = ndimage.affine_transform(lesions, matrix, order=0, **place)
    for axis in range(3):
        if generator.random() < 0.5:
            image, lesions = np.flip(image, axis), np.flip(lesions, axis)
    for plane in ((0, 1), (0, 2), (1, 2)):
        quarters = int(generator.integers(1, 4)) if generator.random() < 0.5 else 0
        image, lesions = np.rot90(image, quarters, plane), np.rot90(lesions, quarters, plane)
    factor, added = generator.uniform(-INTENSITY, INTENSITY, 2) * (generator.random(2) < 0.5)
    image = image * np.float32(1 + factor) + np.float32(added)
    return np.ascontiguousarray(image, np.float32), _renumbered(lesions)


def _renumbered(lesions: Int[np.ndarray, "d h w"]) -> Int[np.ndarray, "d h w"]:
    """The lesions of a cube numbered from 1 without gaps, so that no number is above its voxels."""
    there = np.bincount(lesions.ravel()) > 0
    there[0] = True
    return (np.cumsum(there) - 1)[lesions].astype(np.int32)


def _window(case: Case, extent: int, positives: float, generator: np.random.Generator) -> Pair:
    """A cube around a voxel of a lesion, or around another."""
    missing = [(max(0, extent - n) // 2, -(-max(0, extent - n) // 2)) for n in case.lesions.shape]
    image = np.pad(case.image, (*missing, (0, 0)))
    lesions = np.pad(case.lesions, missing)
    inside, outside = (np.flatnonzero(part) for part in (lesions > 0, lesions == 0))
    wanted = generator.random() * (1 + positives) < positives
    among = inside if (wanted and inside.size) or not outside.size else outside
    voxel = np.array(np.unravel_index(generator.choice(among), lesions.shape))
    low = np.clip(voxel - extent // 2, 0, np.array(lesions.shape) - extent)
    box = tuple(slice(at, at + extent) for at in low)
    return image[box], lesions[box]


def _matrix(generator: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A turn about each axis and a scale: from places in what is made to those it is made of."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(generator.uniform(-ANGLE, ANGLE, 3))):
        turn = np.eye(3)
        one, two = (other for other in range(3) if other != axis)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix / (1 + generator.uniform(-SCALE, SCALE, 3))
