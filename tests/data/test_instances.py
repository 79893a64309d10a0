"""Instances: found, measured, matched with a truth, dilated, and made into a batch of targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import InputError, TargetError
from segcam_jax.data import instances as found_in
from segcam_jax.data.instances import dilation_reach, find_instances, label_instances, matched
from segcam_jax.volumes.crops import window_around
from tests.support.networks import make_input

AT_ONE_POINT = np.zeros((4, 4, 4), bool)  # neighbours over a face, an edge and a corner
AT_ONE_POINT[0, 0, 0] = AT_ONE_POINT[0, 0, 1] = AT_ONE_POINT[1, 1, 1] = AT_ONE_POINT[2, 2, 2] = True


def blobs():
    """Three squares of 4, 2 and 9 pixels."""
    image = np.zeros((10, 12))
    image[1:3, 2:4] = 0.9
    image[5, 0:2] = 0.7
    image[6:9, 7:10] = 0.6
    return image


def test_instances_are_measured():
    found = find_instances(blobs(), threshold=0.5, spacing=(2, 0.5))
    first, second, third = found.instances
    assert (first.voxels, second.voxels, third.voxels) == (4, 2, 9)
    assert first.volume == 4
    assert first.box == ((1, 3), (2, 4))
    assert [each.touches_border for each in found.instances] == [False, True, False]
    assert found.mask(3)[third.slices].all()
    assert found.mask(3).sum() == 9
    assert {each.group for each in found.instances} == {""}
    sheared = find_instances(blobs(), min_volume=2.5, spacing=(2, 0.5), voxel_volume=0.8)
    assert [each.volume for each in sheared.instances] == pytest.approx([4 * 0.8, 9 * 0.8])


@pytest.mark.parametrize(("connectivity", "count"), [(6, 3), (18, 2), (26, 1), (None, 1)])
def test_connectivity_decides_what_is_one(connectivity, count):
    assert len(label_instances(AT_ONE_POINT, connectivity=connectivity)) == count


def test_connectivity_in_two_dimensions():
    corner = np.eye(3, dtype=bool)
    assert len(label_instances(corner, connectivity=4)) == 3
    assert len(label_instances(corner, connectivity=8)) == 1


def test_small_ones_are_dropped_and_the_rest_renumbered():
    found = find_instances(blobs(), min_voxels=3)
    assert [(each.label, each.voxels) for each in found.instances] == [(1, 4), (2, 9)]
    assert set(np.unique(found.labels)) == {0, 1, 2}
    assert len(find_instances(blobs(), min_volume=5, spacing=(1, 1))) == 1
    assert len(find_instances(blobs(), min_volume=5, spacing=(2, 1))) == 2
    # Strictly above the threshold.
    assert len(find_instances(blobs(), threshold=0.7)) == 1
    nothing = find_instances(blobs(), threshold=0.95)
    assert len(nothing) == 0
    assert not nothing.labels.any()


def test_matched_with_a_truth_by_overlap_and_by_iou():
    truth = np.zeros((10, 12), bool)
    truth[1:3, 3:6] = True  # shares 2 of 4 + 6 with the first
    truth[8:10, 9:11] = True  # shares 1 of 9 + 4 with the third
    truth[4:6, 4:6] = True  # nothing
    truth = label_instances(truth)
    ours, missed = matched(find_instances(blobs()), truth)
    assert [each.group for each in ours.instances] == ["TP", "FP", "TP"]
    assert [each.iou for each in ours.instances] == [2 / 8, 0, 1 / 12]
    assert [each.adjusted_iou for each in ours.instances] == [2 / 8, 0, 1 / 12]
    assert missed.instances[0].adjusted_iou == 0
    assert [(each.label, each.group, each.voxels) for each in missed.instances] == [(4, "FN", 4)]
    assert missed.labels[4, 4] == 4
    assert (missed.labels > 0).sum() == 4

    ours, missed = matched(find_instances(blobs()), truth, min_iou=0.2)
    assert [each.group for each in ours.instances] == ["TP", "FP", "WEAK"]
    # The lesion under the weak overlap is not missed: that is one without any.
    assert [(each.label, each.iou) for each in missed.instances] == [(4, 0)]
    assert set(np.unique(missed.labels)) == {0, 4}

    none = find_instances(blobs() * 0)
    ours, missed = matched(none, truth)
    assert [each.label for each in missed.instances] == [1, 2, 3]
    ours, missed = matched(ours, none)
    assert len(ours) == len(missed) == 0


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_dilations_are_counted(connectivity):
    mask = np.random.default_rng(0).random((9, 7, 8)) > 0.98
    mask[4, 3, 0] = True
    reach = dilation_reach(mask, 4, connectivity=connectivity)
    structure = found_in.structure(3, connectivity)
    for steps in range(1, 5):
        wanted = ndimage.binary_dilation(mask, structure, iterations=steps)
        np.testing.assert_array_equal(reach <= steps, wanted)
    np.testing.assert_array_equal(reach == 0, mask)
    assert reach.max() <= 5
    assert (dilation_reach(mask, 0) == 1).sum() == (~mask).sum()


def test_a_batch_of_instances_is_explained_at_once():
    params, x = np.float32([[1, -2, 0.5], [0.3, 1, 2]]), make_input(3)
    labels = np.zeros((4, 6, 8), np.int32)
    labels[0, 0, 0] = 1
    labels[1:3, 2:5, 3] = 2
    labels[3, 5, 6:8] = 3
    split = segcam.split(lambda weights, x: jnp.tanh(x @ weights), "input", params, x)
    targets = segcam.targets.instances(1, labels)
    assert targets.extent == (2, 3, 2)
    many = jax.vmap(lambda one: segcam.methods.gradient(split, params, x, one))(targets)
    for label in (1, 2, 3):
        target = segcam.targets.region(1, labels == label, reduce="mean")
        one = segcam.methods.gradient(split, params, x, target)
        np.testing.assert_allclose(many.map[label - 1], one.map, atol=1e-6)
        np.testing.assert_allclose(many.score[label - 1], one.score, atol=1e-6)
    chosen = segcam.targets.instances(1, jnp.asarray(labels), only=(3, 1))
    np.testing.assert_array_equal(chosen.mask[0], labels == 3)


def test_a_window_around_an_instance_stays_inside():
    around = window_around(((0, 2), (5, 8), (9, 10)), (4, 5, 6), (10, 10, 10))
    assert around == (slice(0, 4), slice(4, 9), slice(4, 10))


def test_what_makes_no_sense_is_refused():
    for options, words in (
        ({"connectivity": 26}, "connectivity=26 in 2D; choose from 4, 8"),
        ({"threshold": 1}, "threshold=1"),
        ({"min_voxels": -1}, "may be negative"),
        ({"min_volume": np.nan}, "may be negative"),
        ({"spacing": (1, 0)}, "2 positive lengths"),
        ({"voxel_volume": 0}, "voxel_volume=0"),
    ):
        with pytest.raises(InputError, match=words):
            find_instances(blobs(), **options)
    with pytest.raises(InputError, match="NaN"):
        find_instances(blobs() * np.nan)
    with pytest.raises(InputError, match="min_iou=2"):
        matched(find_instances(blobs()), find_instances(blobs()), min_iou=2)
    with pytest.raises(InputError, match=r"extents \(10, 12\)"):
        matched(find_instances(blobs()), find_instances(blobs()[1:]))
    with pytest.raises(InputError, match="labels are positive"):
        found_in.measured(np.array([[-1]]))
    with pytest.raises(InputError, match="empty mask"):
        dilation_reach(np.zeros((3, 3), bool), 2)
    with pytest.raises(InputError, match="steps=-1"):
        dilation_reach(np.ones((3, 3), bool), -1)
    with pytest.raises(TargetError, match="the label map has no instances"):
        segcam.targets.instances(0, np.zeros((3, 3), int))
    with pytest.raises(TargetError, match="empty"):
        segcam.targets.instances(0, np.ones((3, 3), int), only=[2])
