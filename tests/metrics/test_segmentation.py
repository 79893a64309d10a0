import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from segcam_jax.metrics import segmentation
from segcam_jax.types import InputError

# True class by row: class 0 has 3 hits of 4, class 1 has 1 of 2, class 2 is absent, class 3 is
# predicted once but never true.
TRUTH = jnp.array([[0, 0, 0], [0, 1, 1]])
PREDICTION = jnp.array([[0, 0, 0], [3, 1, 0]])


@pytest.fixture
def matrix():
    return segmentation.confusion_matrix(TRUTH, PREDICTION, classes=4)


def test_confusion_matrix_by_hand(matrix):
    assert matrix.tolist() == [[3, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_scores_by_hand(matrix):
    found = segmentation.scores(matrix)
    np.testing.assert_allclose(found.accuracy, 4 / 6, rtol=1e-6)
    np.testing.assert_allclose(found.iou, [3 / 5, 1 / 2, np.nan, 0], rtol=1e-6)
    np.testing.assert_allclose(found.dice, [6 / 8, 2 / 3, np.nan, 0], rtol=1e-6)
    np.testing.assert_allclose(found.mean_iou, (3 / 5 + 1 / 2) / 3, rtol=1e-6)
    np.testing.assert_allclose(found.mean_dice, (3 / 4 + 2 / 3) / 3, rtol=1e-6)


def test_classes_absent_from_the_truth_can_be_skipped(matrix):
    found = segmentation.scores(matrix, absent="truth")
    np.testing.assert_allclose(found.iou, [3 / 5, 1 / 2, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found.mean_iou, 0.55, rtol=1e-6)


def test_labels_outside_the_classes_are_not_counted():
    for ignored, dtype in ((-1, jnp.int32), (255, jnp.uint8)):
        truth = jnp.array([0, 1, ignored]).astype(dtype)
        found = segmentation.confusion_matrix(truth, jnp.array([0, 1, 0]), classes=2)
        assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("dtype", "classes"), [(jnp.int8, 150), (jnp.uint8, 256), (jnp.uint8, 300)]
)
def test_labels_of_a_narrow_dtype_count_where_it_cannot_hold_all_classes(dtype, classes):
    labels = np.array([0, 100, jnp.iinfo(dtype).max])
    found = segmentation.confusion_matrix(
        jnp.asarray(labels, dtype), jnp.asarray(labels, dtype), classes=classes
    )
    expected = np.zeros((classes, classes))
    expected[labels, labels] = 1
    np.testing.assert_array_equal(found, expected)


def test_under_jit_and_vmap_as_eager(matrix):
    count = jax.jit(segmentation.confusion_matrix, static_argnames="classes")
    assert count(TRUTH, PREDICTION, classes=4).tolist() == matrix.tolist()
    by_row = jax.vmap(lambda t, p: segmentation.confusion_matrix(t, p, classes=4))(
        TRUTH, PREDICTION
    )
    assert by_row.sum(axis=0).tolist() == matrix.tolist()
    scores = jax.jit(segmentation.scores)(matrix)
    np.testing.assert_allclose(scores.iou, segmentation.scores(matrix).iou)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=12, max_size=12))
def test_dice_is_a_function_of_iou(pairs):
    truth, prediction = jnp.array(pairs).T
    matrix = segmentation.confusion_matrix(truth, prediction, classes=4)
    iou, dice = segmentation.iou(matrix), segmentation.dice(matrix)
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), rtol=1e-5)
    assert int(matrix.sum()) == 12


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: segmentation.confusion_matrix(TRUTH, TRUTH[0], classes=2), "shape"),
        (
            lambda: segmentation.confusion_matrix(TRUTH.astype(float), TRUTH, classes=2),
            "dtype float32",
        ),
        (lambda: segmentation.confusion_matrix(TRUTH, TRUTH, classes=0), "at least 1"),
        (lambda: segmentation.iou(jnp.eye(2, dtype=int), absent="none"), "'none'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_bad_input_is_one_clear_line(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
