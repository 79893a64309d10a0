"""Segmentation quality from label maps: pixel accuracy, and IoU and Dice of each class.

All scores come from one confusion matrix, so that matrices of several images can be added first:
scores of a data set are those of the summed matrix, not means over images.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax.types import InputError

Absent = Literal["both", "truth"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentationScores:
    """Scores of a segmentation, each in [0, 1].

    Attributes:
        accuracy: share of pixels with the right class.
        iou: intersection over union of each class; NaN for absent classes.
        dice: Dice coefficient of each class; NaN for absent classes.
        mean_iou: mean of `iou` over the classes that are present.
        mean_dice: mean of `dice` over the classes that are present.
    """

    accuracy: Float[Array, ""]
    iou: Float[Array, "k"]
    dice: Float[Array, "k"]
    mean_iou: Float[Array, ""]
    mean_dice: Float[Array, ""]


def confusion_matrix(
    truth: Int[Array, "*space"], prediction: Int[Array, "*space"], *, classes: int
) -> Int[Array, "k k"]:
    """Counts pixels by true class (row) and predicted class (column).

    Args:
        truth: label of each pixel, any shape. Pixels whose label is outside 0 to `classes - 1`, in
            either map, are not counted: -1 or 255 may mark what is to be ignored.
        prediction: predicted label of each pixel, same shape.
        classes: number of classes.

    Raises:
        InputError: if the shapes differ, the maps are not integers, or `classes` is less than 1.

    >>> confusion_matrix(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    if classes < 1:
        raise InputError(f"`classes` is {classes}; give at least 1")
    if jnp.shape(truth) != jnp.shape(prediction):
        raise InputError(
            f"`truth` has shape {jnp.shape(truth)}, `prediction` {jnp.shape(prediction)}; they "
            "must be the same"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
            raise InputError(
                f"`{name}` has dtype {jnp.result_type(labels)}; give integer labels, for example "
                "logits.argmax(-1)"
            )
    truth, prediction = jnp.ravel(truth), jnp.ravel(prediction)
    counted = _is_class(truth, classes) & _is_class(prediction, classes)
    cell = truth.astype(jnp.int32) * classes + prediction.astype(jnp.int32)
    cell = jnp.where(counted, cell, classes * classes)
    return jnp.bincount(cell, length=classes * classes + 1)[:-1].reshape(classes, classes)


def pixel_accuracy(matrix: Int[Array, "k k"]) -> Float[Array, ""]:
    """Share of pixels with the right class: `trace(M) / sum(M)`; NaN for an empty matrix."""
    matrix = jnp.asarray(matrix, jnp.float32)
    return jnp.trace(matrix) / matrix.sum()


def iou(matrix: Int[Array, "k k"], *, absent: Absent = "both") -> Float[Array, "k"]:
    """Intersection over union of each class: `M_kk / (sum_j M_kj + sum_i M_ik - M_kk)`.

    Args:
        matrix: a confusion matrix.
        absent: which classes are NaN: those in neither map (`"both"`; a class that is only
            predicted scores 0), or all that are not in the truth (`"truth"`).
    """
    hits, true, predicted = _counts(matrix)
    return _ratio(hits, true + predicted - hits, true, absent)


def dice(matrix: Int[Array, "k k"], *, absent: Absent = "both") -> Float[Array, "k"]:
    """Dice coefficient of each class: `2 M_kk / (sum_j M_kj + sum_i M_ik)`.

    Args:
        matrix: a confusion matrix.
        absent: as for `iou`.

    References:
        Dice, 1945. It is a monotone function of IoU: `2 IoU / (1 + IoU)`.
    """
    hits, true, predicted = _counts(matrix)
    return _ratio(2 * hits, true + predicted, true, absent)


def scores(matrix: Int[Array, "k k"], *, absent: Absent = "both") -> SegmentationScores:
    """All scores of a confusion matrix; means skip absent classes."""
    by_iou, by_dice = iou(matrix, absent=absent), dice(matrix, absent=absent)
    return SegmentationScores(
        accuracy=pixel_accuracy(matrix),
        iou=by_iou,
        dice=by_dice,
        mean_iou=jnp.nanmean(by_iou),
        mean_dice=jnp.nanmean(by_dice),
    )


def _is_class(labels: Int[Array, "n"], classes: int) -> Array:
    """Whether labels are from 0 to `classes - 1`; the dtype may hold neither -1 nor `classes`."""
    return (labels >= 0) & (labels <= min(classes - 1, jnp.iinfo(labels.dtype).max))


def _counts(matrix: Int[Array, "k k"]) -> tuple[Array, Array, Array]:
    matrix = jnp.asarray(matrix, jnp.float32)
    return jnp.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ratio(part: Array, whole: Array, true: Array, absent: Absent) -> Float[Array, "k"]:
    if absent not in ("both", "truth"):
        raise InputError(f"`absent` is {absent!r}; choose 'both' or 'truth'")
    present = (whole if absent == "both" else true) > 0
    return jnp.where(present, part / jnp.maximum(whole, 1), jnp.nan)
