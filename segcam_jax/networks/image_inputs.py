"""Image files for networks of a fixed input size: found in folders, read, brought to size."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from segcam_jax.data import images
from segcam_jax.types import InputError, TargetError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
Fit = Literal["crop", "stretch"]
Report = Callable[[str], None]


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and in the folders inside, in order of their names.

    Hidden files and folders are left out.

    Raises:
        InputError: if it is no folder, cannot be read, or holds no image.
    """
    if not folder.exists():
        raise InputError(f"folder {str(folder)!r} does not exist")
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; give a folder of images")
    try:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be read: {error.strerror or error}") from None
    found = [path for path in found if path.is_file() and not _hidden(path.relative_to(folder))]
    if not found:
        raise InputError(f"folder {str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def expanded(paths: Sequence[Path], report: Report = lambda line: None) -> list[Path]:
    """The files given, those in the folders given, each once."""
    if not paths:
        raise InputError("no images were given; name at least one file before the options")
    found: dict[Path, Path] = {}
    for path in paths:
        for file in images_in(path) if path.is_dir() else [path]:
            if file.resolve() in found:
                report(f"{file}: given more than once, taken once")
            found.setdefault(file.resolve(), file)
    return list(found.values())


def fitted(
    pixels: Float[np.ndarray, "h w c"], size: tuple[int, int], fit: Fit
) -> Float[np.ndarray, "u v c"]:
    """An image at a given size, bilinear, without aliasing when it gets smaller.

    Args:
        pixels: the image.
        size: `(u, v)`.
        fit: `"crop"` cuts the largest part of that aspect out of the middle, and scales it;
            `"stretch"` keeps all of the image and changes its aspect.
    """
    height, width, _ = pixels.shape
    if (height, width) == size:
        return pixels
    top, left, rows, columns = kept((height, width), size, fit)
    pixels = pixels[top : top + rows, left : left + columns]
    channels = [
        np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return np.clip(np.stack(channels, axis=-1), pixels.min(), pixels.max())


def kept(extent: tuple[int, int], size: tuple[int, int], fit: Fit) -> tuple[int, int, int, int]:
    """The part of an image that `fitted` scales: `(top, left, rows, columns)`."""
    height, width = extent
    if fit == "stretch" or extent == size:
        return 0, 0, height, width
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def fitted_mask(
    mask: Bool[np.ndarray, "h w"], size: tuple[int, int], fit: Fit
) -> Bool[np.ndarray, "u v"]:
    """A mask of an image as `fitted` brings the image to a size; the nearest pixel counts."""
    top, left, rows, columns = kept((mask.shape[0], mask.shape[1]), size, fit)
    part = Image.fromarray(mask[top : top + rows, left : left + columns].astype(np.uint8))
    return np.asarray(part.resize((size[1], size[0]), Image.Resampling.NEAREST)) > 0


def fitted_position(
    position: tuple[int, int], extent: tuple[int, int], size: tuple[int, int], fit: Fit
) -> tuple[int, int]:
    """Where a pixel of an image lies once `fitted` has brought the image to a size.

    Raises:
        TargetError: if it lies outside of the image, or of the part that is kept.
    """
    row, column = position
    if not (0 <= row < extent[0] and 0 <= column < extent[1]):
        raise TargetError(f"pixel {position} lies outside of the image's extents {extent}")
    top, left, rows, columns = kept(extent, size, fit)
    if not (top <= row < top + rows and left <= column < left + columns):
        raise TargetError(
            f"pixel {position} is cut off: of the image's extents {extent}, rows {top} to "
            f"{top + rows - 1} and columns {left} to {left + columns - 1} are kept; choose another "
            "or `--fit stretch`"
        )
    # The middle of the pixel, in units of pixels of the new size.
    return (
        int((row - top + 0.5) * size[0] / rows),
        int((column - left + 0.5) * size[1] / columns),
    )


def read(
    path: Path,
    *,
    channels: int,
    size: tuple[int, int] | None,
    multiple: int,
    fit: Fit,
    reading: images.Reading = images.Reading(),
) -> tuple[images.ReadImage, Float[np.ndarray, "h w c"], Float[np.ndarray, "u v c"]]:
    """An image file, the part of it that is shown, and what the network is given.

    Args:
        path: the file.
        channels: that the network expects.
        size: that it is brought to; None leaves the image as large as it is.
        multiple: of extents, to which the image is then padded at the bottom and the right.
        fit: as in `fitted`.
        reading: what the file's values mean.

    Returns:
        `(image, shown, padded)`; the image's notes tell of the fit, too.

    Raises:
        InputError: if the file cannot be read.
    """
    image = images.read_image(path, channels=channels, reading=reading)
    if size is None:
        return image, image.pixels, images.pad_to_multiple(image.pixels, multiple)
    shown = fitted(image.pixels, size, fit)
    if image.pixels.shape[:2] != size:
        done = "its middle was scaled" if fit == "crop" else "it was stretched"
        note = f"{done} to {size[0]} x {size[1]}"
        image = dataclasses.replace(image, notes=(*image.notes, note))
    return image, shown, images.pad_to_multiple(shown, multiple)
