"""Regions in words: what `segcam explain --region` takes."""

import dataclasses
import math
import re
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from segcam_jax import components, targets
from segcam_jax.data import mask_images
from segcam_jax.networks import image_inputs
from segcam_jax.outputs import Meaning
from segcam_jax.types import InputError, TargetError, nearest_first

FORMS = {
    "predicted": "the pixels predicted as the class",
    "all": "the whole image",
    "largest": "the largest connected component of the predicted pixels",
    "smallest": "the smallest one",
    "component:K": "the K-th largest, from 0",
    "at:ROW,COL": "the component at a pixel",
    "pixel:ROW,COL": "one pixel",
    "mask:FILE": "where an image file or .npy array of the image's extents is not 0; "
    "mask:FILE=VALUE where it has that value",
}
_KINDS = {form.split(":")[0]: form for form in FORMS}
_OF_PREDICTION = {"predicted", "largest", "smallest", "component", "at"}


def short_words(words: str) -> str:
    """A region's words, of a mask its file's name without its folders.

    >>> short_words("mask:scans/left/lesion.png=2"), short_words("pixel:3,5")
    ('mask:lesion.png=2', 'pixel:3,5')
    """
    kind, _, value = words.partition(":")
    return f"mask:{PurePath(value).name}" if kind.strip().lower() == "mask" else words


@dataclasses.dataclass(frozen=True)
class Region:
    """A region, before an image is seen; positions and masks are in coordinates of its file.

    Attributes:
        kind: a word of `FORMS` without its value.
        value: a number (component), (row, column) (at, pixel), a path (mask), or None.
        min_probability: predicted pixels need a probability above this.
        mask_threshold: of a mask's file, what lies above it is inside.
    """

    words: str
    kind: str
    value: Any = None
    min_probability: float | None = None
    mask_threshold: float | None = None

    @classmethod
    def parse(
        cls,
        words: str,
        *,
        min_probability: float | None = None,
        mask_threshold: float | None = None,
    ) -> "Region":
        """Reads a region such as `"predicted"`, `"component:1"` or `"pixel:10,20"`.

        Raises:
            InputError: if there is no such form, its value is malformed, or a number is out of
                range or has nothing that it holds for.
        """
        kind, colon, value = words.partition(":")
        kind = kind.strip().lower()
        if kind not in _KINDS:
            forms = ", ".join(_KINDS[each] for each in nearest_first(kind, _KINDS))
            raise InputError(f"unknown region {words!r}; choose from {forms}")
        form = _KINDS[kind]
        if bool(colon) != (":" in form) or (kind == "mask" and not value):
            raise InputError(f"region {words!r} is not of the form {form}")
        if min_probability is not None and not 0 <= min_probability < 1:
            raise InputError(
                f"--min-probability was given {min_probability}; give a number from 0 to below 1"
            )
        if min_probability is not None and kind not in _OF_PREDICTION:
            raise InputError(
                f"--min-probability narrows predicted pixels; region {kind!r} has none"
            )
        if mask_threshold is not None and not math.isfinite(mask_threshold):
            raise InputError(f"--mask-threshold was given {mask_threshold}; give a finite number")
        if mask_threshold is not None and kind != "mask":
            raise InputError(f"--mask-threshold needs the region mask:FILE, not {words!r}")
        return cls(words, kind, _value(words, kind, value), min_probability, mask_threshold)

    def resolve(
        self,
        output: Float[np.ndarray, "h w k"],
        class_index: int,
        meaning: Meaning = Meaning(),
        *,
        file_extent: tuple[int, int] | None = None,
        fit: image_inputs.Fit = "stretch",
    ) -> Bool[np.ndarray, "h w"]:
        """The pixels of the region, on the network's output for the unchanged image.

        Args:
            file_extent: `(h, w)` of the image file as displayed, before it was brought to a size;
                None: the output's.

        Raises:
            TargetError: if the region is empty, or a position lies outside of the image.
            InputError: if a mask file cannot be read or has other extents.
        """
        extent = (output.shape[0], output.shape[1])
        file_extent = extent if file_extent is None else file_extent
        if self.kind == "all":
            return np.ones(extent, bool)
        if self.kind == "mask":
            return self._of_file(file_extent, extent, fit)
        # Outside of the image is a clearer complaint than a class that is not predicted.
        at = self._position(file_extent, extent, fit) if self.kind in ("at", "pixel") else None
        if at is not None and self.kind == "pixel":
            return _mask_of(targets.pixel(class_index, at, extent))
        exclusive = meaning.excludes(output.shape[-1])
        narrowed = exclusive or self.min_probability is not None
        predicted = targets.predicted(
            output,
            class_index,
            min_probability=self.min_probability,
            outputs=meaning.outputs,
            exclusive=meaning.exclusive,
            threshold=None if narrowed else meaning.threshold,
        )
        if self.kind == "predicted":
            return _mask_of(predicted)
        which: Any = {"component": self.value, "at": "largest"}.get(self.kind, self.kind)
        return np.asarray(components.component_mask(_mask_of(predicted), which, at=at))

    def check(
        self, extent: tuple[int, int], file_extent: tuple[int, int], fit: image_inputs.Fit
    ) -> None:
        """Checks what can be checked of an image without the network's output.

        Arguments and errors are those of `resolve`; `extent` is that of the output.
        """
        if self.kind == "mask":
            self._of_file(file_extent, extent, fit)
        elif self.kind in ("at", "pixel"):
            self._position(file_extent, extent, fit)

    def _position(
        self, file_extent: tuple[int, int], extent: tuple[int, int], fit: image_inputs.Fit
    ) -> tuple[int, int]:
        """The row and column of `at` and `pixel`, on the network's output."""
        if file_extent == extent:
            components.check_position(self.value, extent)
            return self.value
        return image_inputs.fitted_position(self.value, file_extent, extent, fit)

    def _of_file(
        self, file_extent: tuple[int, int], extent: tuple[int, int], fit: image_inputs.Fit
    ) -> Bool[np.ndarray, "h w"]:
        """The mask of `FILE` or `FILE=VALUE`, brought to the image's size as the image was."""
        path, value = self.value
        whole = mask_images.read_mask(path, file_extent, threshold=self.mask_threshold, value=value)
        given = self.words.partition(":")[2]
        if not whole.any():
            raise TargetError(f"mask {given!r} is empty, so there is nothing to explain")
        mask = whole if file_extent == extent else image_inputs.fitted_mask(whole, extent, fit)
        if not mask.any():
            raise TargetError(f"mask {given!r} has no pixel left at {extent[0]} x {extent[1]}")
        return mask


def _value(words: str, kind: str, value: str) -> Any:
    """What stands behind the colon: a number, a position, or a file and the value of its mask."""
    if kind == "mask":
        picked = re.fullmatch(r"(.+\.\w+)=(\d{1,18})", value)
        return (picked[1], int(picked[2])) if picked else (value, None)
    if kind == "component":
        if not re.fullmatch(r"\s*\d{1,18}\s*", value):
            raise InputError(f"region {words!r}: {value!r} is not a number from 0")
        return int(value)
    if kind in ("at", "pixel"):
        numbers = re.fullmatch(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*", value)
        if numbers is None:
            raise InputError(f"region {words!r} is not of the form {_KINDS[kind]}, from 0")
        return int(numbers[1]), int(numbers[2])
    return None


def _mask_of(target: targets.Target) -> Bool[np.ndarray, "h w"]:
    return np.asarray(target.mask, bool)
