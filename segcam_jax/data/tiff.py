"""TIFF files whose values Pillow changes or does not read: more than 8 bits, bands, numbers.

    values, notes = stored(data, "cells.tif")    # `h w c` in the type of the file, or None

Pillow reads 16-bit colour with 8 bits, and no 64-bit numbers and no more than four bands.
"""

import io
import logging
import math
import warnings

import numpy as np
import tifffile
from jaxtyping import Shaped

from segcam_jax.types import InputError

# Faults are told by errors alone; Python would write what nobody listens to on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ALPHA = {1, 2}  # of the tag ExtraSamples: associated, unassociated
_TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def stored(
    data: bytes, name: str, *, mask: bool = False
) -> tuple[Shaped[np.ndarray, "h w c"], list[str]] | None:
    """The first page's values as they are stored, turned as its orientation says.

    Of what is white at 0 the values are inverted; opaque colours lose their alpha.

    Args:
        mask: whether it is one: then values are not inverted, Pillow reads up to 32 bits as they
            are stored, and there is one page.

    Returns:
        `(values, notes)`; None for what is no TIFF, and for what Pillow reads as it is stored.
    """
    if data[:4] not in _MAGIC:
        return None
    try:
        with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(data)) as file:
            warnings.simplefilter("ignore")
            pages, page = len(file.pages), file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            few = np.max(page.bitspersample) < 64 and page.dtype != np.float16
            if few if mask else _is_plain(page):
                return None
            if mask and pages > 1:
                raise ValueError(f"it has {pages} pages; save one page as a file of its own")
            if not page.is_contiguous:
                _check_parts(page)  # tifffile would go through all of them.
            values = page.asarray()
            orientation = page.tags.valueof("Orientation", default=1)
    except Exception as error:  # Decoders raise many kinds on corrupt data.
        reason = " ".join(str(error).split())
        if "imagecodecs" in reason:
            reason += "; install it, or save the file without compression"
        raise InputError(
            f"{name!r} is a TIFF that cannot be decoded: {reason or type(error).__name__}"
        ) from None
    if values.dtype.kind not in "uif":
        raise InputError(f"{name!r} is a TIFF of {values.dtype}; expected real numbers")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise InputError(
            f"{name!r} is a TIFF with the axes {page.axes}; save one plane, `h w` or `h w c`"
        )
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = values[..., None] if values.ndim == 2 else values
    notes = [f"the first of {pages} pages was used"] if pages > 1 else []
    if orientation in _TURNS:
        values = _TURNS[orientation](values)
        notes.append("it was turned according to its orientation tag")
    white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and not mask
    if white_is_zero and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
        notes.append("it was inverted, because its 0 is white")
    if page.photometric == tifffile.PHOTOMETRIC.RGB and _ALPHA & set(page.extrasamples):
        if values.dtype.kind != "u" or (values[..., -1] != np.iinfo(values.dtype).max).any():
            raise InputError(
                f"{name!r} is partly transparent and has {values.dtype} values; flatten it, or "
                "drop its alpha channel"
            )
        values = values[..., :-1]
        notes.append("its opaque alpha channel was dropped")
    return values, notes


def whole(data: bytes) -> bytes:
    """The data of an image, as it is.

    Raises:
        ValueError: if a TIFF lacks strips or tiles, which Pillow would leave black; or whatever
            tifffile raises of one that it cannot read.
    """
    if data[:4] in _MAGIC:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            _check_parts(page)
    return data


def _check_parts(page: tifffile.TiffPage) -> None:
    parts, there = math.prod(page.chunked), len(page.dataoffsets)
    if there < parts:
        raise ValueError(f"it has {there} of the {parts} strips or tiles of its extents")


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Whether Pillow reads a page as it is stored: up to 8 bits, of grey, colour or a palette.

    It takes a band for opacity, or drops it, where the page does not say what the band is.
    """
    few = np.max(page.bitspersample) <= 8 and _ALPHA.issuperset(page.extrasamples)
    grey = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
    return bool(few) and (page.samplesperpixel <= 2 if grey else page.samplesperpixel <= 4)
