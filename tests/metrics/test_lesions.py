"""Scores of lesions against values by hand, and against brute force over voxels."""

import dataclasses
import itertools

import numpy as np
import pytest

from segcam_jax.data.instances import label_instances, matched, measured
from segcam_jax.metrics.lesions import LesionScores, adjusted_iou, lesion_scores, surface_distance
from segcam_jax.runs.table import SCORES
from segcam_jax.types import InputError


def boxes(shape, *places):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[tuple(slice(*along) for along in place)] = True
    return mask


def test_scores_by_hand():
    truth = boxes((10, 10), ((0, 2), (0, 2)), ((5, 7), (5, 7)))  # two lesions of 4
    predicted = boxes((10, 10), ((0, 2), (0, 3)), ((9, 10), (0, 2)))  # a hit of 6, and 2 invented
    found = lesion_scores(predicted, truth)
    assert (found.true, found.found) == (2, 2)
    hits, wrong, missed = 4, 4, 4
    assert found.dice == 2 * hits / (2 * hits + wrong + missed)
    k = 0.999 * 8 / (0.001 * 92)
    assert found.normalised_dice == pytest.approx(8 / (k * wrong + 8 + missed))
    assert (found.voxel_tpr, found.voxel_fdr) == (0.5, 0.5)
    assert found.voxel_fpr == pytest.approx(4 / 92)
    assert (found.lesion_tpr, found.lesion_fnr, found.lesion_fdr) == (0.5, 0.5, 0.5)
    assert found.lesion_f1 == 0.5


def test_a_hit_needs_its_share_of_overlap():
    truth = boxes((4, 20), ((0, 4), (0, 10)))
    predicted = boxes((4, 20), ((0, 4), (8, 20)))  # 8 of 80 voxels in common: an IoU of 0.1
    assert lesion_scores(predicted, truth).lesion_tpr == 0
    assert lesion_scores(predicted, truth, min_iou=None).lesion_tpr == 1
    assert lesion_scores(predicted, truth, min_iou=0.1).lesion_f1 == 1


def test_two_lesions_under_one_prediction_are_both_detected_and_it_is_one_hit():
    truth = boxes((1, 12), ((0, 1), (0, 5)), ((0, 1), (6, 11)))
    predicted = boxes((1, 12), ((0, 1), (0, 11)))
    found = lesion_scores(predicted, truth, connectivity=4)
    assert (found.lesion_tpr, found.lesion_fdr, found.lesion_f1) == (1, 0, 1)


def test_nothing_found_and_nothing_there_is_undefined_not_perfect():
    nothing, some = np.zeros((5, 5, 5), bool), boxes((5, 5, 5), ((1, 3),) * 3)
    missed = lesion_scores(nothing, some)
    assert (missed.dice, missed.lesion_tpr, missed.lesion_f1) == (0, 0, 0)
    assert np.isnan([missed.voxel_fdr, missed.lesion_fdr, missed.assd]).all()
    invented = lesion_scores(some, nothing)
    assert (invented.dice, invented.lesion_fdr) == (0, 1)
    assert np.isnan([invented.voxel_tpr, invented.lesion_tpr]).all()
    assert np.isnan(lesion_scores(nothing, nothing).dice)


def test_small_lesions_count_on_no_side():
    truth = boxes((10, 10), ((0, 3), (0, 3)), ((6, 7), (6, 7)))  # of 9 voxels, and of 1
    predicted = boxes((10, 10), ((0, 3), (0, 3)), ((9, 10), (0, 2)))  # of 9, and of 2
    found = lesion_scores(predicted, truth, min_voxels=3)
    assert (found.true, found.found, found.lesion_f1, found.voxel_fdr) == (1, 1, 1, 0)
    assert found.dice == 18 / 19  # The truth's voxel is still there.


def test_what_is_ignored_counts_on_no_side():
    truth = boxes((6, 6), ((0, 2), (0, 2)))
    predicted = truth | boxes((6, 6), ((4, 6), (4, 6)))
    ignored = boxes((6, 6), ((4, 6), (4, 6)))
    found = lesion_scores(predicted, truth, ignored=ignored)
    assert (found.dice, found.lesion_f1, found.found, found.assd) == (1, 1, 1, 0)


def test_distance_of_surfaces_is_that_of_all_pairs():
    generator = np.random.default_rng(0)
    spacing = (1.0, 2.5, 0.5)
    masks = [generator.random((4, 5, 6)) < 0.3 for _ in range(2)]

    def surface(mask):
        padded = np.pad(mask, 1)
        return [
            p
            for p in np.argwhere(mask)
            if not all(
                padded[tuple(p + 1 + sign * np.eye(3, dtype=int)[axis])]
                for axis, sign in itertools.product(range(3), (-1, 1))
            )
        ]

    ours, theirs = map(surface, masks)
    away = np.array([[np.linalg.norm((p - q) * spacing) for q in theirs] for p in ours])
    expected = (away.min(1).sum() + away.min(0).sum()) / (len(ours) + len(theirs))
    assert surface_distance(*masks, spacing=spacing) == pytest.approx(expected, rel=1e-6)
    assert surface_distance(masks[0], masks[0]) == 0


def test_adjusted_iou_forgives_what_lies_in_a_neighbour():
    truth = label_instances(boxes((1, 10), ((0, 1), (0, 4)), ((0, 1), (5, 9))), connectivity=4)
    predicted = label_instances(boxes((1, 10), ((0, 1), (0, 10))), connectivity=4)
    # Two voxels of the prediction lie in no lesion.
    assert adjusted_iou(predicted, truth) == {1: 4 / 6, 2: 4 / 6}
    assert adjusted_iou(truth, truth) == {1: 1.0, 2: 1.0}
    # One lesion as two instances: neither is at fault for what the other has.
    ours, _ = matched(truth, predicted, min_iou=0.5)
    assert [(each.group, each.iou, each.adjusted_iou) for each in ours.instances] == [
        ("WEAK", 0.4, 4 / 6),
        ("WEAK", 0.4, 4 / 6),
    ]


def test_adjusted_iou_is_that_of_masks():
    """By its formula, of masks, where instances and lesions touch one another at random."""
    rng = np.random.default_rng(0)
    sides = [measured(rng.integers(0, 5, (6, 7, 3))) for _ in range(2)]
    ignored = rng.random((6, 7, 3)) < 0.2
    kept = [np.where(ignored, 0, side.labels) for side in sides]
    predicted, _ = matched(*sides, ignored=ignored)
    for each in predicted.instances:
        mask = kept[0] == each.label
        touching = np.setdiff1d(kept[1][mask], [0])
        union, others = np.isin(kept[1], touching), (kept[0] > 0) & ~mask
        expected = (mask & union).sum() / (mask | (union & ~others)).sum()
        assert each.adjusted_iou == pytest.approx(expected)


def test_weakly_found_lesions_are_counted():
    truth = boxes((10, 10), ((0, 4), (0, 4)), ((6, 10), (6, 10)))  # two lesions of 16
    predicted = boxes((10, 10), ((0, 4), (3, 4)), ((6, 10), (6, 9)))  # 4 of one, 12 of the other
    found = lesion_scores(predicted, truth, min_iou=0.5)
    assert (found.weak, found.lesion_adjusted_iou) == (1, (4 / 16 + 12 / 16) / 2)
    assert lesion_scores(predicted, truth, min_iou=None).weak == 0  # 4/16 is 0.25
    assert lesion_scores(predicted, truth, min_iou=0.8).weak == 2
    assert lesion_scores(predicted & False, truth).lesion_adjusted_iou == 0


def test_refuses_other_extents_and_loads():
    mask = np.ones((3, 3), bool)
    with pytest.raises(InputError, match="extents"):
        lesion_scores(mask, np.ones((3, 4), bool))
    with pytest.raises(InputError, match="load=0"):
        lesion_scores(mask, mask, load=0)
    for given, said in ((mask * 0.3, "from 0.3 to 0.3; give booleans"), (mask * 2, "from 2 to 2")):
        with pytest.raises(InputError, match=said):
            lesion_scores(given, mask)
    assert lesion_scores(mask * 1.0, mask.astype(int)).dice == 1
    for spacing in ((1.0,), (1.0, -1.0), (1.0, 0.0)):
        with pytest.raises(InputError, match="expected 2 positive lengths"):
            surface_distance(mask, mask, spacing=spacing)


def test_a_stored_run_has_all_scores():
    assert tuple(field.name for field in dataclasses.fields(LesionScores)) == SCORES
