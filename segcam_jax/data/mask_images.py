"""Masks from image files: their values as they are stored, and the region that they mean."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import ImageOps

from segcam_jax import _files
from segcam_jax.data import tiff
from segcam_jax.data.images import ALPHA_MODES, is_deep_png, is_npy, load_npy, opened
from segcam_jax.types import InputError


def read_mask(
    path: str | Path,
    shape: tuple[int, int],
    *,
    threshold: float | None = None,
    value: int | None = None,
    truth: bool = False,
) -> Bool[np.ndarray, "h w"]:
    """Reads a region from an image file or a `.npy` array: inside wherever a value is not 0.

    Values are those stored: the indices of a palette, not its colours; of WhiteIsZero not the
    inverse. The orientation that a camera wrote down is applied, as to images. Of what was drawn
    in one colour on transparency, the opacity is the mask.

    Args:
        path: an image file of any mode, or an array `h w` or `h w c`.
        shape: the extents of the image that the region is for, as displayed.
        threshold: inside is what lies above it, in units of the file's values; of colours their
            largest channel. Grey and lossy masks need one.
        value: inside is what has this value: of a mask of several labels, one.
        truth: whether it is one, for messages.

    Raises:
        InputError: if the file cannot be read, has several pages or values that are not finite, or
            its extents are others; if it has values other than 0 and one more, or a palette in
            which only 0 is not black, and neither a threshold nor a value was given.
    """
    name = str(path)
    stored, palette = _read(path)
    if stored.shape[:2] != tuple(shape):
        raise InputError(
            f"mask {name!r} has extents {stored.shape[:2]}, the image {tuple(shape)} as displayed; "
            "give a mask of the whole image at the image's own size (--size resizes both)"
        )
    if not np.isfinite(stored).all():
        raise InputError(f"mask {name!r} has values that are NaN or infinite; replace them by 0")
    if stored.ndim == 3 and (stored == stored[..., :1]).all():
        stored = stored[..., 0]
    if threshold is not None and value is None:
        return (stored.max(-1) if stored.ndim == 3 else stored) > threshold
    found = np.unique(stored.reshape(stored.shape[0] * stored.shape[1], -1), axis=0)
    if value is not None:
        if stored.ndim == 3 or value not in found:
            raise InputError(f"mask {name!r} has no value {value}; it has {_listed(found)}")
        return stored == value
    if len(found) > 2 or (len(found) == 2 and found[0].any()):
        ways = f"a threshold (--{'truth' if truth else 'mask'}-threshold)"
        one = "--truth-value VALUE" if truth else "mask:FILE=VALUE"
        ways += "" if stored.ndim == 3 else f" or one of them ({one})"
        raise InputError(
            f"mask {name!r} has the values {_listed(found)}; expected 0 and one more: give {ways}"
        )
    inside = int(found[-1, 0])
    if palette and len(found) == 2 and any(palette[0]) and not any(palette[inside]):
        ways = "--truth-value {}" if truth else "mask:FILE={}"
        raise InputError(
            f"mask {name!r} has a palette with black at {inside}, and another colour at 0; say "
            f"which one is inside ({ways.format(0)} or {ways.format(inside)})"
        )
    return np.asarray(stored.any(-1) if stored.ndim == 3 else stored != 0)


def stored_mask(path: str | Path) -> np.ndarray:
    """The values of a mask's file, `h w`, or `h w c` of colours; raises as `read_mask`."""
    return _read(path)[0]


def _read(path: str | Path) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """The values of a mask's file, and its palette's colours, if there is one."""
    data, name = _files.read_bytes(path), str(path)
    stored, palette = (load_npy(data, name), []) if is_npy(path) else _picture(data, name)
    squeezed = stored.ndim == 3 and stored.shape[-1] == 1
    return stored[..., 0] if squeezed else stored, palette


def _listed(values: np.ndarray, most: int = 8) -> str:
    """Values or colours in words, the first ones of many."""
    words = [" ".join(f"{one:g}" for one in row) for row in values.astype(float)]
    several = f", ... ({len(words)} in all)" if len(words) > most else ""
    return ", ".join(words[:most]) + several


def _picture(data: bytes, name: str) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """An image file's values as they are stored, turned as it says, and its palette."""
    if (found := tiff.stored(data, name, mask=True)) is not None:
        return found[0], []
    image = opened(data, name)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"mask {name!r} has {frames} pages; save one page as a file of its own")
    if is_deep_png(data) and image.mode in ("RGB", "RGBA", "LA"):
        raise InputError(f"mask {name!r} has 16-bit colours; save it as grey, or with 8 bits")
    # TIFF's PhotometricInterpretation may say that 0 is white; Pillow inverts 8 bits and fewer.
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    inverted = white_is_zero and image.mode in ("1", "L")
    clear = image.info.get("transparency") if image.mode == "P" else None
    image = ImageOps.exif_transpose(image)
    if image.mode == "P":
        index = np.asarray(image)
        alphas = np.full(256, 255, np.uint8)
        if isinstance(clear, bytes):
            alphas[: len(clear)] = np.frombuffer(clear, np.uint8)
        elif isinstance(clear, int):
            alphas[clear] = 0
        seen = alphas[index] > 0
        colours = np.resize(image.getpalette() or [], (256, 3)).tolist()
        return _seen(index, seen), [*map(tuple, colours)] if seen.all() else []
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        return _seen(np.asarray(image), np.asarray(image.convert("RGBA"))[..., 3] > 0), []
    if image.mode in ALPHA_MODES:
        return _drawn(np.asarray(image.convert("RGBA"))), []
    if image.mode not in ("1", "L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if inverted:
        array = ~array if array.dtype == bool else 255 - array
    return array, []


def _seen(values: np.ndarray, seen: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Values, 0 where they are transparent; where all that is drawn is 0, 1 in place of it."""
    if seen.all():
        return values
    if not values[seen].any():
        return seen.astype(np.uint8)
    return np.where(seen if values.ndim == 2 else seen[..., None], values, 0)


def _drawn(rgba: np.ndarray) -> np.ndarray:
    """Of what has one colour, the opacity, unless all is opaque; else the colours that are seen."""
    colours, alpha = rgba[..., :3], rgba[..., 3]
    seen = colours[alpha > 0]
    if (alpha < 255).any() and (seen == seen[:1]).all():
        return alpha
    return np.where(alpha[..., None] > 0, colours, 0)
