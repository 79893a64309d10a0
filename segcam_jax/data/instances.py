"""Instances: the connected components of a segmentation, numbered, measured and held to a truth.

Host code on numpy arrays, in 2D and 3D. `segcam.targets.instances(labels, class_index)` makes
targets of a label map, stacked, so that a batch of instances `vmap`s.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from segcam_jax import _print
from segcam_jax.types import InputError, counted

Group = Literal["", "TP", "WEAK", "FP", "IGNORED", "FN"]
# With a truth, in the order of tables and figures.
GROUPS: tuple[Group, ...] = ("TP", "WEAK", "FP", "IGNORED", "FN")
# Neighbours of a position -> how many axes they may differ in.
CONNECTIVITY = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}


@dataclasses.dataclass(frozen=True)
class Instance:
    """One connected component.

    Attributes:
        label: its number in the label map, from 1.
        group: as `matched` sorts it: `"TP"`, `"WEAK"`, `"FP"`, `"IGNORED"`, `"FN"` (of the ground
            truth), or `""` where nothing is known.
        voxels: how many.
        volume: in mm^3; in 2D its area in mm^2.
        box: `(start, stop)` along each axis.
        touches_border: whether it reaches the end of the volume, where a part may be cut off.
        iou: with the instance of the other side that it shares most with; NaN where nothing is
            known.
        adjusted_iou: with all that it touches of the other side, as `matched` has it; likewise.
    """

    label: int
    group: Group
    voxels: int
    volume: float
    box: tuple[tuple[int, int], ...]
    touches_border: bool
    iou: float = float("nan")
    adjusted_iou: float = float("nan")

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box, for indexing."""
        return tuple(slice(start, stop) for start, stop in self.box)


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
    """A label map and its instances.

    Attributes:
        labels: 0 outside; instance k has the value k.
        instances: in the order of their labels, which need not begin at 1.
    """

    labels: Int[np.ndarray, "*space"]
    instances: tuple[Instance, ...]

    def __len__(self) -> int:
        return len(self.instances)

    def __repr__(self) -> str:
        """How many, in which volume, by group, and the sizes of the smallest and the largest."""
        title = f"{counted(len(self), 'instance')} in {_print.extents(self.labels.shape)}"
        if not self.instances:
            return title
        sizes = [instance.voxels for instance in self.instances]
        groups = {group: sum(each.group == group for each in self.instances) for group in GROUPS}
        by_group = ", ".join(f"{count} {group}" for group, count in groups.items() if count)
        low, high = min(sizes), max(sizes)
        size = f"{counted(low, 'voxel')} each" if low == high else f"{low} to {high} voxels"
        return ": ".join(filter(None, (title, "; ".join(filter(None, (by_group, size))))))

    def mask(self, label: int) -> Bool[np.ndarray, "*space"]:
        """Where an instance is."""
        return self.labels == label


def structure(rank: int, connectivity: int | None = None) -> Bool[np.ndarray, "..."]:
    """The neighbourhood of a connectivity: 6, 18 or 26 in 3D, 4 or 8 in 2D; None takes the most."""
    known = CONNECTIVITY.get(rank, {})
    chosen = max(known, default=0) if connectivity is None else connectivity
    if chosen not in known:
        choices = ", ".join(map(str, known)) or "none"
        raise InputError(f"connectivity={connectivity} in {rank}D; choose from {choices}")
    return scipy.ndimage.generate_binary_structure(rank, known[chosen])


def find_instances(
    probability: Float[np.ndarray, "*space"],
    *,
    threshold: float = 0.5,
    connectivity: int | None = None,
    min_voxels: int = 1,
    min_volume: float = 0.0,
    spacing: Sequence[float] | None = None,
    voxel_volume: float | None = None,
) -> Instances:
    """The connected components of `probability > threshold`.

    Args:
        probability: in [0, 1], 2D or 3D.
        threshold: in [0, 1); strictly above it is inside.
        connectivity: neighbours of a position: 6, 18, 26 (3D, the default), 4, 8 (2D, the default).
        min_voxels: smaller components are dropped.
        min_volume: likewise, in mm^3 (mm^2).
        spacing: size of a voxel in mm along each axis; None: 1 mm.
        voxel_volume: in mm^3 (mm^2); None: the product of `spacing`, which a sheared grid exceeds.

    Returns:
        Instances numbered 1, 2, ... in the order of their first voxels; there may be none.

    Raises:
        InputError: if a number is out of range, or a probability is not finite.
    """
    probability = np.asarray(probability)
    if not 0 <= threshold < 1:
        raise InputError(f"threshold={threshold}; expected a probability, from 0 to below 1")
    if not np.isfinite(probability).all():
        raise InputError("the probability map holds NaN or infinite values")
    return label_instances(
        probability > threshold,
        connectivity=connectivity,
        min_voxels=min_voxels,
        min_volume=min_volume,
        spacing=spacing,
        voxel_volume=voxel_volume,
    )


def label_instances(
    mask: Bool[np.ndarray, "*space"],
    *,
    connectivity: int | None = None,
    min_voxels: int = 1,
    min_volume: float = 0.0,
    spacing: Sequence[float] | None = None,
    voxel_volume: float | None = None,
) -> Instances:
    """The connected components of a mask, as `find_instances` finds them.

    Raises:
        InputError: if a number is out of range, or the mask holds other values than 0 and 1.
    """
    given = np.asarray(mask)
    if given.dtype != bool and not np.isin(given, (0, 1)).all():
        raise InputError(
            f"the mask holds values from {given.min():.4g} to {given.max():.4g}; give booleans, as "
            "`probability > 0.5`, or `measured(labels)` of a label map"
        )
    mask = given.astype(bool)
    each = _voxel_size(spacing, voxel_volume, mask.ndim)
    if min_voxels < 0 or not (np.isfinite(min_volume) and min_volume >= 0):
        raise InputError(
            f"min_voxels={min_voxels}, min_volume={min_volume}; neither may be negative"
        )
    found, count = cast(
        tuple[np.ndarray, int], scipy.ndimage.label(mask, structure(mask.ndim, connectivity))
    )
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    kept = (sizes >= min_voxels) & (sizes * each >= min_volume)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return measured(numbers[found], spacing=spacing, voxel_volume=voxel_volume)


def measured(
    labels: Int[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
    voxel_volume: float | None = None,
    group: Group = "",
) -> Instances:
    """A label map that is there already, its instances measured."""
    labels = np.asarray(labels, np.int32)
    if labels.size and labels.min() < 0:
        raise InputError(f"a label map holds {labels.min()}; labels are positive, 0 is outside")
    each = _voxel_size(spacing, voxel_volume, labels.ndim)
    sizes = np.bincount(labels.ravel())
    boxes = scipy.ndimage.find_objects(labels)
    instances = []
    for label, place in enumerate(boxes, 1):
        if place is None:
            continue
        box = tuple((int(along.start), int(along.stop)) for along in place)
        border = any(a == 0 or b == end for (a, b), end in zip(box, labels.shape, strict=True))
        voxels = int(sizes[label])
        instances.append(Instance(label, group, voxels, voxels * each, box, border))
    return Instances(labels, tuple(instances))


def _voxel_size(spacing: Sequence[float] | None, voxel_volume: float | None, rank: int) -> float:
    sizes = np.ones(rank) if spacing is None else np.asarray(spacing, float)
    if sizes.shape != (rank,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(f"spacing={spacing!r}; expected {rank} positive lengths in mm")
    if voxel_volume is None:
        return float(sizes.prod())
    if not (np.isfinite(voxel_volume) and voxel_volume > 0):
        raise InputError(f"voxel_volume={voxel_volume}; expected a positive volume in mm^3")
    return float(voxel_volume)


def large_enough(
    found: Instances, *, min_voxels: int = 1, min_volume: float = 0.0, after: int = 0
) -> Instances:
    """The instances that are not below a size, renumbered in their order.

    It is the last step: instances are matched with a truth first, all of them, lest a hit on a
    lesion that is dropped count as a false positive.

    Args:
        found: instances, with their groups.
        min_voxels: smaller ones are dropped.
        min_volume: likewise, in mm^3 (mm^2).
        after: the first label is one more.
    """
    kept = [
        each for each in found.instances if each.voxels >= min_voxels and each.volume >= min_volume
    ]
    numbers = np.zeros(1 + int(found.labels.max(initial=0)), np.int32)
    renumbered = []
    for label, each in enumerate(kept, after + 1):
        numbers[each.label] = label
        renumbered.append(dataclasses.replace(each, label=label))
    return Instances(numbers[found.labels], tuple(renumbered))


def matched(
    predicted: Instances,
    truth: Instances,
    *,
    min_iou: float | None = None,
    ignored: Bool[np.ndarray, "*space"] | None = None,
) -> tuple[Instances, Instances]:
    """Sorts instances by a ground truth: hits, false positives, and what of the truth is missed.

    Of predicted and true instances those voxels count that are not ignored, P' and T':

        IoU(P, T)   = |P' & T'| / |P' | T'|       best(P) = max over T,  best(T) = max over P

        P is IGNORED  if |P'| < |P| / 2           neither hit nor false positive
             TP       else if best(P) >= min_iou  (without `min_iou`: best(P) > 0)
             WEAK     else if best(P) > 0         with `min_iou` alone
             FP       else
        T is FN       if best(T) = 0, |T'| > 0    else it is found, or shown by a WEAK instance

        IoU_adj(P)  = |P' & U| / |P' | (U - Q)|   U: union of all T' that touch P',
                                                  Q: union of all other P'

    What U covers of a neighbour does not count against P, as where one instance is found as two.
    One true instance may make several predicted ones TP. An IGNORED instance that reaches into a
    lesion keeps that from being missed.

    Args:
        predicted: what the network finds, small ones too; `large_enough` drops them afterwards.
        truth: of the same extents.
        min_iou: in (0, 1], or None for any overlap.
        ignored: where the truth is unknown; None: nowhere.

    Returns:
        `(predicted, missed)`: the predicted instances with their groups, and the FN instances,
        renumbered on from the last predicted one. Both have the best `iou` of every instance, and
        its `adjusted_iou`.

    Raises:
        InputError: if extents differ, or `min_iou` is out of range.

    References:
        Rottmann et al., Prediction error meta classification, 2020 (adjusted IoU).
    """
    shape = predicted.labels.shape
    if shape != truth.labels.shape:
        raise InputError(
            f"the prediction has extents {shape}, the ground truth {truth.labels.shape}"
        )
    if ignored is not None and np.shape(ignored) != shape:
        raise InputError(f"the ignored region has extents {np.shape(ignored)}, expected {shape}")
    if min_iou is not None and not 0 < min_iou <= 1:
        raise InputError(f"min_iou={min_iou}; expected a number above 0, at most 1")
    unknown = np.zeros(shape, bool) if ignored is None else np.asarray(ignored, bool)
    sizes = _counted(predicted, unknown), _counted(truth, unknown)
    ours, theirs = _overlapping(predicted, truth, sizes, unknown)
    least = np.finfo(float).tiny if min_iou is None else min_iou
    ours = tuple(
        dataclasses.replace(each, group=_group(each, sizes[0][each.label], least)) for each in ours
    )
    theirs = tuple(
        dataclasses.replace(each, group="FN")
        for each in theirs
        if each.iou == 0 and sizes[1][each.label] > 0
    )
    last = max((each.label for each in predicted.instances), default=0)
    missed = large_enough(Instances(truth.labels, theirs), after=last)
    return Instances(predicted.labels, ours), missed


def _group(instance: Instance, counted: int, least: float) -> Group:
    """The group of a predicted instance, of which so many voxels count."""
    if 2 * counted < instance.voxels:
        return "IGNORED"
    if instance.iou >= least:
        return "TP"
    return "WEAK" if instance.iou > 0 else "FP"


def _counted(found: Instances, unknown: np.ndarray) -> dict[int, int]:
    """How many voxels of each instance are not unknown."""
    away = np.bincount(found.labels[unknown], minlength=1 + int(found.labels.max(initial=0)))
    return {each.label: each.voxels - int(away[each.label]) for each in found.instances}


def _overlapping(
    predicted: Instances,
    truth: Instances,
    sizes: tuple[dict[int, int], dict[int, int]],
    unknown: np.ndarray,
) -> list[list[Instance]]:
    """The instances of both sides, with their largest and their adjusted IoU."""
    both = (predicted.labels > 0) & (truth.labels > 0) & ~unknown
    pairs, counts = np.unique(
        np.stack([predicted.labels[both], truth.labels[both]]), axis=1, return_counts=True
    )
    best: list[dict[int, float]] = [dict.fromkeys(side, 0.0) for side in sizes]
    # What an instance shares, and what those that it touches have outside of all its own side.
    shared, beyond = ([dict.fromkeys(side, 0) for side in sizes] for _ in range(2))
    met = [*zip(pairs.T.tolist(), counts.tolist(), strict=True)]
    for labels, count in met:
        for side, label in enumerate(labels):
            shared[side][label] += count
    for labels, count in met:
        union = sizes[0][labels[0]] + sizes[1][labels[1]] - count
        for side, label in enumerate(labels):
            best[side][label] = max(best[side][label], count / union)
            other = labels[1 - side]
            beyond[side][label] += sizes[1 - side][other] - shared[1 - side][other]
    share = [
        {k: shared[side][k] / (size + beyond[side][k] or 1) for k, size in sizes[side].items()}
        for side in (0, 1)
    ]
    return [
        [dataclasses.replace(i, iou=best[n][i.label], adjusted_iou=share[n][i.label]) for i in each]
        for n, each in enumerate((predicted.instances, truth.instances))
    ]


def dilation_reach(
    mask: Bool[np.ndarray, "*space"], steps: int, *, connectivity: int | None = None
) -> Int[np.ndarray, "*space"]:
    """How many dilations it takes a mask to reach each position.

    Args:
        mask: not empty.
        connectivity: the neighbourhood of one dilation, as in `find_instances`.

    Returns:
        0 inside, 1 to `steps` around it, `steps + 1` wherever else; int16.
    """
    mask = np.asarray(mask, bool)
    neighbours = structure(mask.ndim, connectivity)
    if not mask.any():
        raise InputError("an empty mask cannot be dilated")
    if not 0 <= steps < np.iinfo(np.int16).max:
        raise InputError(f"steps={steps}; expected 0 to {np.iinfo(np.int16).max - 1} dilations")
    reach = np.full(mask.shape, steps + 1, np.int16)
    # A dilation goes one position further at most: all happens in a box around the mask.
    (place,) = scipy.ndimage.find_objects(mask.astype(np.int8))
    around: Any = tuple(slice(max(0, s.start - steps), s.stop + steps) for s in place)
    grown, inner = mask[around], reach[around]
    inner[grown] = 0
    for step in range(1, steps + 1):
        grown = scipy.ndimage.binary_dilation(grown, neighbours)
        inner[np.logical_and(grown, inner > steps)] = step
    return reach


def in_words(instances: Sequence[Instance]) -> str:
    """How many instances there are, and of which groups."""
    if not instances:
        return "no instance was found"
    counts = {group: sum(each.group == group for each in instances) for group in GROUPS}
    # The two that only some runs know are told where there are any.
    groups = [f"{n} {group}" for group, n in counts.items() if n or group in ("TP", "FP", "FN")]
    known = f" ({', '.join(groups)})" if instances[0].group else ""
    return f"{counted(len(instances), 'instance')}{known}"
