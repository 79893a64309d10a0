"""Truths of images: the class of each pixel, of a mask or of a map of classes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from segcam_jax.data import mask_images
from segcam_jax.data.pairs import paired
from segcam_jax.networks import image_inputs
from segcam_jax.types import UNKNOWN, InputError

_IGNORED = 255  # what maps of classes say of pixels that do not count


@dataclasses.dataclass(frozen=True)
class TruthReading:
    """What the values of a truth's files mean.

    Attributes:
        threshold: of a mask, what lies above it is inside, as in `mask_images.read_mask`.
        value: of a mask, what has this value is inside.
        labels: values are numbers of classes, 255 is unknown; else a file is a mask of one class.
            Of a network of one class, 1 is inside of it and 0 outside.
    """

    threshold: float | None = None
    value: int | None = None
    labels: bool = False

    def __post_init__(self):
        if self.labels and (self.threshold is not None or self.value is not None):
            raise InputError(
                "--truth-labels means that values are classes; leave out --truth-threshold and "
                "--truth-value"
            )
        if self.threshold is not None and self.value is not None:
            raise InputError("give one of --truth-threshold and --truth-value")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise InputError(f"--truth-threshold is {self.threshold}; give a finite number")

    @classmethod
    def parse(
        cls, truths: Sequence[object], threshold: float | None, value: int | None, labels: bool
    ) -> "TruthReading":
        """What options of a command line say of its truths."""
        reading = cls(threshold, value, labels)
        if not truths and reading != cls():
            raise InputError("--truth-threshold, --truth-value and --truth-labels need --truth")
        return reading


def pair_truths(files: Sequence[Path], truths: Sequence[Path]) -> dict[Path, Path]:
    """The truth of each image: one of one, whatever it is called; else as `data.pairs` says."""
    if len(files) == len(truths) == 1:
        return {files[0]: truths[0]}
    return dict(paired(files, truths))


def outside_of_mask(class_index: int, background: int | None, classes: int) -> int | None:
    """The label of what lies outside of a mask of one class; None: the mask does not say it.

    Args:
        class_index: that the mask is of.
        background: the class of the background; None: there is none.
        classes: of the network: of more than two, what is not in the mask may be any other; of one
            (a sigmoid), it is not that class, which the number of classes stands for.

    >>> outside_of_mask(1, 0, 2), outside_of_mask(1, 0, 21), outside_of_mask(0, 0, 2)
    (0, None, None)
    >>> outside_of_mask(0, None, 1)
    1
    """
    if classes == 1:
        return classes
    return None if classes != 2 or background == class_index else background


def read_labels(
    path: Path,
    sample: image_inputs.Sample,
    reading: TruthReading,
    *,
    class_index: int,
    outside: int,
    classes: int,
    fit: image_inputs.Fit = "crop",
) -> Int[np.ndarray, "h w"]:
    """The class of each pixel of an image as a network is given it, without the padding.

    -1 is unknown; the number of classes is none of them, as outside of a network's only class.

    Args:
        path: the truth's file, of the image's extents.
        outside: the label of the pixels outside of a mask.
    """
    if not reading.labels:
        mask = mask_images.read_mask(
            path, sample.file_extent, threshold=reading.threshold, value=reading.value, truth=True
        )
        found = np.where(mask, class_index, outside)
        return image_inputs.fitted_labels(found, sample.extent, fit)
    stored = mask_images.stored_mask(path)
    if stored.shape != sample.file_extent:
        raise InputError(
            f"truth {str(path)!r} has shape {stored.shape}; expected one value for each pixel of "
            f"the image, {sample.file_extent}"
        )
    if not np.isfinite(stored).all() or classes > _IGNORED:
        raise InputError(
            f"truth {str(path)!r} holds NaN, or has {classes} classes; expected at most "
            f"{_IGNORED} classes"
        )
    # Of one class, maps say whether a pixel is of it.
    last = max(classes - 1, 1)
    wrong = np.setdiff1d(stored, [*range(last + 1), _IGNORED])
    if wrong.size:
        which = "no class of the network's" if classes > 1 else "neither outside nor inside,"
        raise InputError(
            f"truth {str(path)!r} has the value {wrong[0]:g}, {which} 0 to {last}, and not "
            f"{_IGNORED}, unknown; of a mask, leave out --truth-labels"
        )
    labels = stored.astype(np.int32) if classes > 1 else np.where(stored == 1, 0, classes)
    labels[stored == _IGNORED] = UNKNOWN
    return image_inputs.fitted_labels(labels, sample.extent, fit)
