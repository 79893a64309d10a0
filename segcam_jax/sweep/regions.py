"""Regions in words: what `segcam explain --region` takes."""

import dataclasses
import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from segcam_jax import targets
from segcam_jax.components import component_mask
from segcam_jax.data import images
from segcam_jax.types import InputError, TargetError, nearest_first

FORMS = {
    "predicted": "the pixels predicted as the class",
    "all": "the whole image",
    "largest": "the largest connected component of the predicted pixels",
    "smallest": "the smallest one",
    "component:K": "the K-th largest, from 0",
    "at:ROW,COL": "the component at a pixel",
    "pixel:ROW,COL": "one pixel",
    "mask:FILE": "where an image file or .npy array of the image's extents is not 0",
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
    logits: Float[np.ndarray, "h w k"],
    class_index: int,
    *,
    min_probability: float | None = None,
) -> Bool[np.ndarray, "h w"]:
    """The pixels of a region, on the network's output for the unchanged image.

    Raises:
        TargetError: if the region is empty, or a position lies outside of the image.
        InputError: if a mask file cannot be read or has other extents.
    """
    extent = logits.shape[:-1]
    if region.kind == "all":
        return np.ones(extent, bool)
    if region.kind == "pixel":
        return _mask_of(targets.pixel(class_index, region.value, extent))
    if region.kind == "mask":
        mask = images.read_mask(region.value, (extent[0], extent[1]))
        if not mask.any():
            raise TargetError(f"mask {region.value!r} is empty; nothing would be explained")
        return mask
    if region.kind == "at":
        # Outside of the image is a clearer complaint than a class that is not predicted.
        targets.pixel(class_index, region.value, extent)
    whole = _mask_of(targets.predicted(logits, class_index, min_probability=min_probability))
    if region.kind == "predicted":
        return whole
    if region.kind == "at":
        return np.asarray(component_mask(whole, at=region.value))
    which: Any = region.value if region.kind == "component" else region.kind
    return np.asarray(component_mask(whole, which))


def _mask_of(target: targets.Target) -> Bool[np.ndarray, "h w"]:
    return np.asarray(target.mask, bool)
