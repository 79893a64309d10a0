"""Images that are the rows of a Zarr array, each with a name as a file has one."""

import functools
from pathlib import Path
from typing import Any

from segcam_jax.types import InputError, whole_number


def row_name(array: str, row: int) -> str:
    """What the row of a Zarr array is called."""
    return f"{array}#{row}"


def row_of(name: str) -> tuple[str | None, int]:
    """The Zarr array and the row that a name means; None of a file."""
    array, _, words = name.rpartition("#")
    row = whole_number(words)
    if row is None or not array.lower().endswith(".zarr"):
        return None, 0
    return array, row


@functools.lru_cache(maxsize=4)
def open_array(path: Path) -> Any:
    """A Zarr array of images, `n h w` or `n h w c`; raises `InputError` if it is none."""
    import zarr
    from zarr.errors import ArrayNotFoundError, ContainsGroupError

    try:
        array = zarr.open_array(path, mode="r")
    except (OSError, ArrayNotFoundError, ContainsGroupError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{str(path)!r} is not a Zarr array; give one of images, `n h w c`"
        ) from None
    if array.metadata.zarr_format != 3:
        raise InputError(f"{str(path)!r} has Zarr's format 2; save it in format 3")
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "biuf":
        raise InputError(
            f"{str(path)!r} has shape {array.shape} of {array.dtype}; expected images, `n h w c`"
        )
    return array
