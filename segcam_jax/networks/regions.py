"""Regions in words: what `segcam explain --region` takes."""

import dataclasses
import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from segcam_jax import targets
from segcam_jax.components import component_mask
from segcam_jax.data import images
from segcam_jax.networks import image_inputs as pictures
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
_WITH_VALUE = {form.split(":")[0] for form in FORMS if ":" in form}
_OF_PREDICTION = {"predicted", "largest", "smallest", "component", "at"}


@dataclasses.dataclass(frozen=True)
class Region:
    """A region in words, parsed.

    Attributes:
        kind: a word of `FORMS` without its value.
        value: a number (component), (row, column) (at, pixel), a path (mask), or None.
    """

    kind: str
    value: Any = None


def parse(words: str) -> Region:
    """Reads a region such as `"predicted"`, `"component:1"` or `"pixel:10,20"`.

    Raises:
        InputError: if there is no such form, or its value is malformed.
    """
    kind, colon, value = words.partition(":")
    kind = kind.strip().lower()
    known = {form.split(":")[0]: form for form in FORMS}
    if kind not in known:
        forms = ", ".join(known[each] for each in nearest_first(kind, known))
        raise InputError(f"unknown region {words!r}; choose from {forms}")
    if bool(colon) != (kind in _WITH_VALUE):
        raise InputError(f"region {words!r} is not of the form {known[kind]}")
    if kind == "mask":
        if not value:
            raise InputError(f"region {words!r} is not of the form {known[kind]}")
        return Region(kind, value)
    if kind == "component":
        if not re.fullmatch(r"\s*\d+\s*", value):
            raise InputError(f"region {words!r}: {value!r} is no number from 0")
        return Region(kind, int(value))
    if kind in ("at", "pixel"):
        numbers = re.fullmatch(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*", value)
        if numbers is None:
            raise InputError(f"region {words!r} is not of the form {known[kind]}, from 0")
        return Region(kind, (int(numbers[1]), int(numbers[2])))
    return Region(kind)


def check(region: Region, *, min_probability: float | None) -> None:
    """Raises `InputError` if a least probability is out of range, or has nothing to narrow."""
    if min_probability is None:
        return
    if not 0 <= min_probability < 1:
        raise InputError(f"min probability {min_probability}; give a number from 0 to below 1")
    if region.kind not in _OF_PREDICTION:
        raise InputError(
            f"a min probability narrows predicted pixels; region {region.kind!r} has none"
        )


def resolve(
    region: Region,
    output: Float[np.ndarray, "h w k"],
    class_index: int,
    meaning: Meaning = Meaning(),
    *,
    min_probability: float | None = None,
    file_extent: tuple[int, int] | None = None,
    fit: pictures.Fit = "stretch",
    mask_threshold: float | None = None,
) -> Bool[np.ndarray, "h w"]:
    """The pixels of a region, on the network's output for the unchanged image.

    Args:
        region: parsed; positions and masks are in coordinates of the image file as displayed.
        output: what the network returned.
        class_index: the explained class.
        meaning: what the output means.
        min_probability: predicted pixels need a probability above this.
        file_extent: `(h, w)` of the image file as displayed, before it was brought to a size; None:
            the output's.
        fit: how it was brought to that size.
        mask_threshold: as in `images.read_mask`.

    Raises:
        TargetError: if the region is empty, or a position lies outside of the image.
        InputError: if a mask file cannot be read or has other extents.
    """
    extent = (output.shape[0], output.shape[1])
    file_extent = extent if file_extent is None else file_extent
    if region.kind in ("at", "pixel") and file_extent != extent:
        position = pictures.fitted_position(region.value, file_extent, extent, fit)
        region = dataclasses.replace(region, value=position)
    if region.kind == "all":
        return np.ones(extent, bool)
    if region.kind == "pixel":
        return _mask_of(targets.pixel(class_index, region.value, extent))
    if region.kind == "mask":
        return _of_file(region.value, file_extent, extent, fit, mask_threshold)
    if region.kind == "at":
        # Outside of the image is a clearer complaint than a class that is not predicted.
        targets.pixel(class_index, region.value, extent)
    exclusive = meaning.excludes(output.shape[-1])
    threshold = None if exclusive or min_probability is not None else meaning.threshold
    predicted = targets.predicted(
        output,
        class_index,
        min_probability=min_probability,
        outputs=meaning.outputs,
        exclusive=meaning.exclusive,
        threshold=threshold,
    )
    whole = _mask_of(predicted)
    if region.kind == "predicted":
        return whole
    if region.kind == "at":
        return np.asarray(component_mask(whole, at=region.value))
    which: Any = region.value if region.kind == "component" else region.kind
    return np.asarray(component_mask(whole, which))


def _of_file(
    words: str,
    file_extent: tuple[int, int],
    extent: tuple[int, int],
    fit: pictures.Fit,
    threshold: float | None,
) -> Bool[np.ndarray, "h w"]:
    """The mask of `FILE` or `FILE=VALUE`, brought to the image's size as the image was."""
    picked = re.fullmatch(r"(.+\.\w+)=(\d+)", words)
    path, value = (picked[1], int(picked[2])) if picked else (words, None)
    whole = images.read_mask(path, file_extent, threshold=threshold, value=value)
    if not whole.any():
        raise TargetError(f"mask {words!r} is empty; nothing would be explained")
    mask = whole if file_extent == extent else pictures.fitted_mask(whole, extent, fit)
    if not mask.any():
        raise TargetError(f"mask {words!r} has no pixel left at {extent[0]} x {extent[1]}")
    return mask


def _mask_of(target: targets.Target) -> Bool[np.ndarray, "h w"]:
    return np.asarray(target.mask, bool)
