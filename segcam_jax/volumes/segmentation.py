"""What a network finds in a scan: the probability of a class, and the instances in it.

The network runs over the scan window by window (`engine.sliding`); instances are the connected
components of `probability > threshold`. Where there is a ground truth, they are held to it
(`data.instances.matched`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from segcam_jax.data import instances as instances_module
from segcam_jax.data.instances import Instance, Instances
from segcam_jax.data.scans import Scan
from segcam_jax.data.truths import TruthOptions, check_options, read_truth
from segcam_jax.data.volume import Volume
from segcam_jax.engine import Execution, compiled_function
from segcam_jax.engine.sliding import Windows, sliding_window, tiling
from segcam_jax.metrics.lesions import LesionScores, lesion_scores
from segcam_jax.networks.class_queries import find_class
from segcam_jax.networks.network import Network
from segcam_jax.outputs import Meaning
from segcam_jax.types import InputError, counted
from segcam_jax.volumes.scan_inputs import AXES, ScanInput, ScanOptions, about, known_frame


@dataclasses.dataclass(frozen=True)
class SegmentOptions(ScanOptions):
    """How instances come out of a scan, besides how that is read.

    Attributes:
        class_index: number or name of the class; None: the last one, or the only one.
        threshold: probabilities strictly above it are inside.
        connectivity: neighbours of a voxel: 6, 18 or 26.
        min_voxels: smaller instances are dropped, predicted and missed ones, once all are matched.
        min_volume: likewise, in mm^3.
        min_iou: predicted and true instances match from this intersection over union on; None: if
            they share a voxel.
        roi: extents of the network's window, one number or three.
        overlap: of neighbouring windows, as a share of a window.
        windows: whose grid and weights they have, as `engine.sliding.Tiling` tells.
    """

    class_index: str | None = None
    threshold: float = 0.5
    connectivity: int = 26
    min_voxels: int = 1
    min_volume: float = 0.0
    min_iou: float | None = None
    roi: tuple[int, ...] = (96,)
    overlap: float = 0.25
    windows: Windows = "monai"

    @classmethod
    def of(cls, network: Network, **said: Any) -> "SegmentOptions":
        """The options of a network: as said, else as its folder says, else the defaults."""
        known: dict[str, Any] = vars(network.recipe) if network.recipe else {}
        return cls(**(known | said))

    @property
    def window(self) -> tuple[int, ...]:
        """The extents of the network's window along each axis."""
        return self.roi * AXES if len(self.roi) == 1 else self.roi


@dataclasses.dataclass(frozen=True, eq=False)
class Segmented:
    """What a network makes of a scan, on the network's grid.

    Attributes:
        probability: of the class, at every voxel.
        predicted: its instances, with groups where there is a truth.
        missed: the truth's instances that were not found; None where there is no truth.
        notes: what has to be known of the truth, with its file.
        scores: of the instances against the truth, if there is one.
    """

    probability: Float[np.ndarray, "d h w"]
    predicted: Instances
    missed: Instances | None = None
    notes: tuple[str, ...] = ()
    scores: LesionScores | None = None

    def instances(self) -> list[Instance]:
        """All, the predicted first."""
        return [*self.predicted.instances, *(self.missed.instances if self.missed else ())]

    def mask(self, instance: Instance) -> Bool[np.ndarray, "d h w"]:
        """Where an instance is."""
        side = self.missed if instance.group == "FN" else self.predicted
        assert side is not None
        return side.mask(instance.label)


def checked(options: SegmentOptions, network: Network) -> SegmentOptions:
    """The options, as far as they can be checked before a volume is read."""
    if len(options.roi) not in (1, AXES):
        raise InputError(f"roi {options.roi}; give one extent, or three")
    tiling((1,) * AXES, options.window, overlap=options.overlap, windows=options.windows)
    config = network.config
    if getattr(config, "classifies", False):
        raise InputError(
            f"{network.spec.words} classifies whole volumes; instances need logits for each voxel"
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
    class_of(options, network.labels)
    if options.preparation is not None:
        return options
    frame = known_frame(network, options.frame)
    if options.match_spacing and frame.spacing is None:
        raise InputError(
            f"{network.spec.words!r} does not state the voxel size that it was trained with, so "
            "scans cannot be resampled to it; add --spacing (mm)"
        )
    return dataclasses.replace(options, frame=frame)


def class_of(options: SegmentOptions, labels: Sequence[str]) -> int:
    """The index of the segmented class, of the names of all."""
    given = options.class_index
    return len(labels) - 1 if given is None else find_class(given, labels)


def segment(
    network: Network, given: ScanInput, options: SegmentOptions, execution: Execution = Execution()
) -> Segmented:
    """Runs the network over a scan, window by window, and finds the instances.

    Args:
        network: what finds them.
        given: the scan.
        options: checked options.
        execution: how the engine runs it.

    Raises:
        InputError: if the network's output is not finite, or the truth is not what is said of it.
    """
    output = sliding_window(
        network.fn,
        network.params,
        given.x,
        roi=options.window,
        overlap=options.overlap,
        windows=options.windows,
        execution=execution,
    )
    network.meaning.check_values(output)
    index = class_of(options, network.labels)
    probability = np.asarray(class_probability(output, index, meaning=network.meaning))
    scan, grid = given.scan, given.scan.grid
    if not np.isfinite(probability).all():
        raise InputError(
            f"{str(scan.file.path)!r}: the network's output holds NaN or infinite values"
        )
    same: dict[str, Any] = {
        "connectivity": options.connectivity,
        "spacing": grid.spacing,
        "voxel_volume": grid.voxel_volume,
    }
    least: dict[str, Any] = {"min_voxels": options.min_voxels, "min_volume": options.min_volume}
    # All are matched before small ones are dropped.
    found = instances_module.find_instances(probability, threshold=options.threshold, **same)
    found = _bordering(found, scan)
    missed, notes, scores = None, (), None
    if given.truth is not None:
        volume = given.truth
        with about(volume.path):
            truth = read_truth(scan.framed(volume.values, nearest=True), options.truth, **same)
        lesions = _bordering(truth.lesions, scan)
        rules: dict[str, Any] = {"min_iou": options.min_iou, "ignored": truth.ignored}
        beyond, left_out = _outside(volume, scan, options.truth)
        scores = lesion_scores(
            found, lesions, spacing=grid.spacing, beyond=beyond, **rules, **least
        )
        found, missed = instances_module.matched(found, lesions, **rules)
        told = (*volume.notes, *truth.notes, *left_out)
        if not len(lesions):
            there = "no lesion else" if left_out else "no lesion"
            told = (*told, f"holds {there}; everything that is found counts as FP")
        notes = tuple(f"{volume.path}: {note}" for note in told)
    predicted = instances_module.large_enough(found, **least)
    if missed is not None:
        missed = instances_module.large_enough(missed, **least, after=len(predicted))
    return Segmented(probability, predicted, missed, notes, scores)


def _bordering(found: Instances, scan: Scan) -> Instances:
    """The instances, of which those touch the border that reach the end of the file's volume."""
    if scan.part is None:
        return found
    ends = [
        (along.start == 0, along.stop == extent)
        for along, extent in zip(scan.part, scan.turn.of(scan.file.values).shape, strict=True)
    ]

    def touches(instance: Instance) -> bool:
        along = zip(instance.box, ends, found.labels.shape, strict=True)
        return any((a == 0 and first) or (b == n and last) for (a, b), (first, last), n in along)

    kept = (dataclasses.replace(each, touches_border=touches(each)) for each in found.instances)
    return Instances(found.labels, tuple(kept))


def _outside(truth: Volume, scan: Scan, options: TruthOptions) -> tuple[float, list[str]]:
    """What a truth has beyond the part of the scan that the network is given.

    Returns:
        How many voxels of the network's size are known there, and a note if lesions are there.
    """
    if scan.part is None:
        return 0.0, []
    whole = read_truth(truth.values, options)
    inside = whole.lesions.labels > 0
    known = np.ones_like(inside) if whole.ignored is None else ~whole.ignored
    for each in (inside, known):
        scan.turn.of(each)[scan.part] = False
    size, part = int(inside.sum()), math.prod(along.stop - along.start for along in scan.part)
    told = f"{counted(size, 'voxel')} of its lesions are where all modalities are 0; segcam leaves "
    rest = float(known.sum()) * scan.grid.values.size / part
    return rest, [told + "them out"] if size else []


@compiled_function
def class_probability(output: Any, class_index: int | jax.Array, *, meaning: Meaning) -> Any:
    """The probability of a class at every position of an output."""
    shares = meaning.probabilities(output)
    return jax.lax.dynamic_index_in_dim(shares, class_index, -1, keepdims=False)
