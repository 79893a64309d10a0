"""How well the lesions of a scan are found: by voxels, by lesions, and by their surfaces.

    scores = lesion_scores(predicted, truth, spacing=(1.0, 1.0, 1.0), connectivity=18, min_iou=0.25)

All counts leave out voxels that are ignored. A score whose denominator is 0 is NaN: no lesion is in
the truth, or none was found.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool

from segcam_jax.data.instances import Instances, label_instances, large_enough, matched
from segcam_jax.types import InputError

# The share of lesion voxels at which normalised Dice compares scans, of Raina et al.
REFERENCE_LOAD = 0.001
WEAK_IOU = 0.25  # a true lesion of less adjusted IoU, but some, is weakly found


@dataclasses.dataclass(frozen=True)
class LesionScores:
    """Scores of one scan, where higher is better for all but `*_fpr`, `*_fdr`, `*_fnr` and `assd`.

    With TP, FP, FN voxels of prediction and truth, of N voxels in all, and G = TP + FN:

        dice = 2 TP / (2 TP + FP + FN)
        normalised_dice = 2 TP / (k FP + 2 TP + FN),  k = (1 - r) G / (r (N - G)),  r = 0.001
        voxel_tpr = TP / G        voxel_fpr = FP / (N - G)        voxel_fdr = FP / (TP + FP)

    With lesions: hits of the prediction H of P found, and D of T true lesions detected:

        lesion_fdr = 1 - H / P    lesion_tpr = D / T    lesion_fnr = 1 - D / T
        lesion_f1 = 2 H' / (2 H' + FP + FN)  with  H' = D,  FP = P - H,  FN = T - D

    Attributes:
        dice: overlap of voxels.
        normalised_dice: the same at a load of lesions that all scans share, so that scans with few
            lesions compare with those with many.
        voxel_tpr: share of the truth's voxels that are found.
        voxel_fpr: share of all other voxels that are taken for a lesion.
        voxel_fdr: share of the found voxels that are wrong.
        lesion_f1: balance of detected and invented lesions.
        lesion_tpr: share of true lesions that are detected.
        lesion_fdr: share of found lesions that are no hit.
        lesion_fnr: share of true lesions that are missed.
        assd: average symmetric distance of the surfaces of prediction and truth, in mm.
        true: how many lesions the truth has.
        found: how many the prediction has.
        weak: how many true lesions are weakly found: 0 < `adjusted_iou` < `min_iou`, or 0.25.
        lesion_adjusted_iou: its mean over the true lesions, those that are missed with 0.

    References:
        Raina et al., Novel structural-scale uncertainty measures and error retention curves, 2022
        (normalised Dice). Heimann et al., Comparison and evaluation of methods for liver
        segmentation from CT datasets, 2009 (surface distance).
    """

    dice: float
    normalised_dice: float
    voxel_tpr: float
    voxel_fpr: float
    voxel_fdr: float
    lesion_f1: float
    lesion_tpr: float
    lesion_fdr: float
    lesion_fnr: float
    assd: float
    true: int
    found: int
    weak: int
    lesion_adjusted_iou: float


def lesion_scores(
    predicted: Bool[np.ndarray, "*space"] | Instances,
    truth: Bool[np.ndarray, "*space"] | Instances,
    *,
    spacing: Sequence[float] | None = None,
    connectivity: int | None = None,
    min_iou: float | None = 0.25,
    ignored: Bool[np.ndarray, "*space"] | None = None,
    min_voxels: int = 1,
    min_volume: float = 0.0,
    load: float = REFERENCE_LOAD,
    beyond: float = 0,
) -> LesionScores:
    """Compares a prediction of lesions with a truth, in 2D or 3D.

    Args:
        predicted: where the network sees a lesion; or its instances.
        truth: where there is one, of the same extents; or its lesions, which may touch.
        spacing: size of a voxel in mm along each axis; None: 1 mm.
        connectivity: neighbours of a voxel in a lesion: 6, 18, 26 (3D, the default), 4, 8 (2D).
        min_iou: in (0, 1]: a found lesion is a hit, and a true one detected, if it has this much in
            common with one of the other side. None: any voxel in common.
        ignored: where the truth is unknown.
        min_voxels: smaller lesions count on neither side, after all were compared; the prediction's
            are no prediction.
        min_volume: likewise, in mm^3 (mm^2).
        load: share of lesion voxels that `normalised_dice` assumes, in (0, 1).
        beyond: how many voxels more the scan has, which are in neither mask.

    Raises:
        InputError: if extents differ, or a number is out of range.
    """
    if not 0 < load < 1:
        raise InputError(f"load={load}; expected a share of voxels between 0 and 1")
    sides = [
        side
        if isinstance(side, Instances)
        else label_instances(side, spacing=spacing, connectivity=connectivity)
        for side in (predicted, truth)
    ]
    shape = sides[1].labels.shape
    known = np.ones(shape, bool) if ignored is None else ~np.asarray(ignored, bool)
    ours, _ = matched(*sides, min_iou=min_iou, ignored=ignored)
    theirs, _ = matched(*sides[::-1], min_iou=min_iou, ignored=ignored)
    ours, theirs = (
        large_enough(side, min_voxels=min_voxels, min_volume=min_volume) for side in (ours, theirs)
    )
    found, true = (ours.labels > 0) & known, (sides[1].labels > 0) & known
    return LesionScores(
        **_by_voxels(found[known], true[known], load, beyond),
        **_by_lesions(ours, theirs, WEAK_IOU if min_iou is None else min_iou),
        assd=surface_distance(found, true, spacing=spacing),
    )


def _by_voxels(
    predicted: np.ndarray, truth: np.ndarray, load: float, beyond: float
) -> dict[str, Any]:
    """The scores of voxels."""
    hits = float((predicted & truth).sum())
    wrong, missed = predicted.sum() - hits, truth.sum() - hits
    lesions, rest = hits + missed, truth.size + beyond - hits - missed
    scale = _ratio((1 - load) * lesions, load * rest) if wrong else 0.0
    return {
        "dice": _ratio(2 * hits, 2 * hits + wrong + missed),
        "normalised_dice": _ratio(2 * hits, scale * wrong + 2 * hits + missed),
        "voxel_tpr": _ratio(hits, lesions),
        "voxel_fpr": _ratio(wrong, rest),
        "voxel_fdr": _ratio(wrong, hits + wrong),
    }


def _by_lesions(ours: Instances, theirs: Instances, least: float) -> dict[str, Any]:
    """Those of lesions; what lies mostly where the truth is unknown counts on neither side."""
    counted = [
        [each.group for each in side.instances if each.group != "IGNORED"]
        for side in (ours, theirs)
    ]
    (found, true), (hits, detected) = map(len, counted), (each.count("TP") for each in counted)
    overlaps = [each.adjusted_iou for each in theirs.instances if each.group != "IGNORED"]
    return {
        "lesion_f1": _ratio(2 * detected, 2 * detected + (found - hits) + (true - detected)),
        "lesion_tpr": _ratio(detected, true),
        "lesion_fdr": _ratio(found - hits, found),
        "lesion_fnr": _ratio(true - detected, true),
        "true": true,
        "found": found,
        "weak": sum(0 < each < least for each in overlaps),
        "lesion_adjusted_iou": _ratio(sum(overlaps), true),
    }


def surface_distance(
    first: Bool[np.ndarray, "*space"],
    second: Bool[np.ndarray, "*space"],
    *,
    spacing: Sequence[float] | None = None,
) -> float:
    """Average symmetric distance of the surfaces of two masks, in mm; NaN where one is empty.

        ASSD = (sum_{s in S1} d(s, S2) + sum_{s in S2} d(s, S1)) / (|S1| + |S2|)

    A surface is the voxels of a mask with a neighbour outside, along an axis; beyond the end of the
    volume is outside.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape:
        raise InputError(f"masks have extents {first.shape} and {second.shape}; expected the same")
    sizes = np.ones(first.ndim) if spacing is None else np.asarray(spacing, float)
    if sizes.shape != (first.ndim,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(f"spacing={spacing!r}; expected {first.ndim} positive lengths in mm")
    if not (first.any() and second.any()):
        return float("nan")
    # Nothing outside of the box that holds both masks is nearer.
    box = scipy.ndimage.find_objects((first | second).astype(np.int8))[0]
    first, second = first[box], second[box]
    surfaces = [mask & (scipy.ndimage.binary_erosion(mask) == 0) for mask in (first, second)]
    away = [
        np.asarray(scipy.ndimage.distance_transform_edt(np.logical_not(surface), sampling=sizes))
        for surface in surfaces
    ]
    total = away[1][surfaces[0]].sum() + away[0][surfaces[1]].sum()
    return float(total / sum(map(np.count_nonzero, surfaces)))


def adjusted_iou(predicted: Instances, truth: Instances) -> dict[int, float]:
    """The adjusted IoU of every true lesion, by its label.

        IoU_adj(T) = |T & P| / |T | (P - Q)|

    P is the union of all found lesions that touch T, and Q the union of all other true lesions:
    what the prediction covers of a neighbour does not count against T, as where it takes two
    lesions for one. A lesion with 0 < IoU_adj < 0.25 is weakly found.

    References:
        Rottmann et al., Prediction error meta classification in semantic segmentation, 2020.

    Raises:
        InputError: if extents differ.
    """
    lesions, _ = matched(truth, predicted)
    return {each.label: each.adjusted_iou for each in lesions.instances}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
