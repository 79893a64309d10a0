"""Truths of volumes: what values mean, which is asked where it is in doubt."""

import numpy as np
import pytest
from scipy import ndimage

from segcam_jax import InputError
from segcam_jax.data.instances import find_instances, large_enough, matched, measured
from segcam_jax.data.truths import TruthOptions, read_truth


def lesions():
    """Two touching lesions, 2 and 9, of 8 and 4 voxels, and one apart, 5, of 1."""
    truth = np.zeros((8, 6, 5), np.float32)
    truth[1:3, 1:3, 1:3] = 2
    truth[3, 1:3, 1:3] = 9
    truth[6, 4, 4] = 5
    return truth


def sizes(truth):
    return [each.voxels for each in truth.lesions.instances]


def test_one_positive_value_is_a_mask_of_components():
    for value in (1, 7, 255):
        truth = read_truth(np.where(lesions() > 0, value, 0))
        assert sizes(truth) == [12, 1]
        wanted, _ = ndimage.label(lesions() > 0)  # pyright: ignore
        np.testing.assert_array_equal(truth.lesions.labels, wanted)
        assert truth.ignored is None
        assert not truth.notes


def test_several_values_are_instances_or_classes_as_said():
    """By scipy, as a mask: 2 lesions. By their values: 3, of which two touch."""
    apart = read_truth(lesions(), TruthOptions("instances"), spacing=(1, 1, 2))
    assert sizes(apart) == [8, 1, 4]  # in the order of the values 2, 5, 9
    assert [each.volume for each in apart.lesions.instances] == [16, 2, 8]
    assert sizes(read_truth(lesions(), TruthOptions("classes"))) == [12, 1]
    assert sizes(read_truth(lesions(), TruthOptions("classes", (9, 5)))) == [4, 1]
    assert sizes(read_truth(lesions(), TruthOptions(classes=(2,)))) == [8]
    everywhere = read_truth(np.array([[1, 1], [2, 2]]), TruthOptions("instances"))
    assert sizes(everywhere) == [2, 2]


def test_one_value_of_several_parts_is_one_lesion_where_values_are_instances():
    scattered = np.zeros((5, 5), int)
    scattered[0, 0] = scattered[4, 4] = 3
    assert sizes(read_truth(scattered)) == [1, 1]
    assert sizes(read_truth(scattered, TruthOptions("instances"))) == [2]


def test_in_doubt_it_is_asked_what_values_mean():
    words = r"3 positive values \(2, 5, 9\).*--truth-labels instances .*--truth-labels classes"
    with pytest.raises(InputError, match=words):
        read_truth(lesions())
    marked = lesions()
    marked[0] = 255
    with pytest.raises(InputError, match="if 255 means unknown, add --ignore-label=255"):
        read_truth(marked)
    (note,) = read_truth(marked, TruthOptions("instances")).notes
    assert "255 stands beside smaller labels" in note
    for known in (TruthOptions("classes", (2, 9)), TruthOptions("instances", ignore=255)):
        assert not read_truth(marked, known).notes


def test_what_is_ignored_is_no_lesion():
    marked = np.where(lesions() > 0, 1.0, 0.0)
    marked[0] = 255
    truth = read_truth(marked, TruthOptions(ignore=255))
    assert sizes(truth) == [12, 1]
    np.testing.assert_array_equal(truth.ignored, marked == 255)
    marked[0] = -1
    with pytest.raises(InputError, match=r"negative values in 30 voxels,.*--ignore-label=-1"):
        read_truth(marked)
    assert sizes(read_truth(marked, TruthOptions(ignore=-1))) == [12, 1]


def test_probabilities_are_refused_or_thresholded():
    """At 9a93cb7 anything above 0 was a lesion: 60 voxels for the 12 of at least a half."""
    chances = np.zeros((6, 5, 4), np.float32)
    chances[1:4] = 0.1
    chances[2:4, 1:4, 1:3] = 0.8
    with pytest.raises(InputError, match=r"60 values besides integers, from 0.1 to 0.8"):
        read_truth(chances)
    assert sizes(read_truth(chances, TruthOptions(threshold=0.5))) == [12]
    signed = np.array([[-2.5, 0, 3], [0, 0, 1.5]])
    assert sizes(read_truth(signed, TruthOptions(threshold=0))) == [2]
    # Scale factors of a file leave rounding errors, which are no fractions.
    assert sizes(read_truth(lesions() / 9 * 9.00001, TruthOptions("instances"))) == [8, 1, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TruthOptions("tissues"), "choose from instances, classes"),  # pyright: ignore
        (TruthOptions("instances", (1,)), "need truth labels 'classes'"),
        (TruthOptions("classes", (0,)), "truth class 0"),
        (TruthOptions("classes", (4,), ignore=4), "truth class 4"),
        (TruthOptions(ignore=0), "ignore label 0 is the background"),
        (TruthOptions("classes", threshold=0.5), "give one of them"),
        (TruthOptions(threshold=np.nan), "finite"),
    ],
)
def test_options_that_contradict_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        read_truth(lesions(), options)


def test_values_that_are_no_labels_are_refused():
    with pytest.raises(InputError, match="NaN"):
        read_truth(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="cannot be told apart"):
        read_truth(np.array([[0, 614454277]]))
    # float32 makes 2^24 of 2^24 + 1.
    with pytest.raises(InputError, match="labels from 16777216 on cannot be told apart"):
        read_truth(np.float32([[0, 2**24 + 1, 2**24]]), TruthOptions("instances"))
    assert len(read_truth(np.float32([[0, 2**24 - 1]]), TruthOptions("instances")).lesions) == 1


def test_a_large_hit_on_a_small_lesion_is_no_false_positive():
    """120 voxels on a lesion of 80, a least size of 91: the lesion is matched, then dropped."""
    truth = np.zeros((12, 12, 12), int)
    truth[1:6, 1:5, 1:5] = 1
    chance = np.zeros(truth.shape)
    chance[1:7, 1:6, 1:5] = 0.9
    lesion, found = measured(truth), find_instances(chance)
    assert (lesion.instances[0].voxels, found.instances[0].voxels) == (80, 120)
    ours, missed = matched(found, lesion)
    (hit,) = large_enough(ours, min_voxels=91).instances
    assert (hit.group, hit.voxels, hit.iou) == ("TP", 120, 80 / 120)
    assert len(large_enough(missed, min_voxels=91, after=1)) == 0
    # The other way about: a small hit is dropped, and its lesion still is none that is missed.
    ours, missed = matched(measured(truth), measured((chance > 0).astype(int)))
    assert len(large_enough(ours, min_voxels=91)) == len(missed) == 0


def test_what_is_ignored_takes_no_part_in_matching():
    """Three squares of 16: in the unknown wholly, with 12 of 16, and with 4 of 16."""
    chance, unknown = np.zeros((20, 6)), np.zeros((20, 6), bool)
    for start, width in ((1, 4), (7, 3), (13, 1)):
        chance[start : start + 4, 1:5] = 1
        unknown[start : start + 4, 1 : 1 + width] = True
    nothing = measured(np.zeros(chance.shape, int))
    ours, _ = matched(find_instances(chance), nothing, ignored=unknown)
    assert [each.group for each in ours.instances] == ["IGNORED", "IGNORED", "FP"]
    ours, _ = matched(find_instances(chance), nothing)
    assert [each.group for each in ours.instances] == ["FP", "FP", "FP"]
    truth = np.zeros(chance.shape, int)
    truth[13:17, 2:5] = 1
    ours, missed = matched(find_instances(chance), measured(truth), min_iou=1, ignored=unknown)
    assert [each.group for each in ours.instances] == ["IGNORED", "IGNORED", "TP"]
    assert ours.instances[2].iou == 1  # of the 12 that count; 12 / 16 with all
    assert len(missed) == 0
    with pytest.raises(InputError, match=r"ignored region has extents \(20, 5\)"):
        matched(ours, nothing, ignored=unknown[:, 1:])
