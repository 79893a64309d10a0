"""Image files for a network: read, brought to size, padded."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from PIL import Image

from segcam_jax.data import images
from segcam_jax.networks.network import Network
from segcam_jax.types import TargetError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
Fit = Literal["crop", "stretch"]


def fitted(
    pixels: Float[np.ndarray, "h w c"], size: tuple[int, int], fit: Fit
) -> Float[np.ndarray, "u v c"]:
    """An image at a given size, bilinear, without aliasing when it gets smaller.

    Args:
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
    return fitted_labels(mask, size, fit) > 0


def fitted_labels(
    labels: Shaped[np.ndarray, "h w"], size: tuple[int, int], fit: Fit
) -> Int[np.ndarray, "u v"]:
    """Labels of an image's pixels, likewise."""
    top, left, rows, columns = kept((labels.shape[0], labels.shape[1]), size, fit)
    part = Image.fromarray(labels[top : top + rows, left : left + columns].astype(np.int32))
    return np.asarray(part.resize((size[1], size[0]), Image.Resampling.NEAREST))


def fitted_position(
    position: tuple[int, int], extent: tuple[int, int], size: tuple[int, int], fit: Fit
) -> tuple[int, int]:
    """Where a pixel of an image lies once `fitted` has brought the image to a size."""
    row, column = position
    if not (0 <= row < extent[0] and 0 <= column < extent[1]):
        raise TargetError(f"pixel {position} lies outside of the image's extents {extent}")
    top, left, rows, columns = kept(extent, size, fit)
    if not (top <= row < top + rows and left <= column < left + columns):
        raise TargetError(
            f"pixel {position} is cut off: of the image's extents {extent}, rows {top} to "
            f"{top + rows - 1} and columns {left} to {left + columns - 1} are kept; choose "
            "another pixel or `--fit stretch`"
        )
    # The middle of the pixel, in units of pixels of the new size.
    return (int((row - top + 0.5) * size[0] / rows), int((column - left + 0.5) * size[1] / columns))


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """In which form a network takes images: with the file, all that a `Sample` is made of.

    Attributes:
        size: `(h, w)` that images are brought to; None where any will do.
        multiple: of what their extents must be.
        reading: what the values of the files mean.
        fit: how images are brought to `size`, as in `fitted`.
    """

    channels: int
    size: tuple[int, int] | None = None
    multiple: int = 1
    reading: images.Reading = images.Reading()
    fit: Fit = "crop"

    @classmethod
    def of(cls, network: Network, fit: Fit) -> "ImageForm":
        """The form of a network of images."""
        config, size = network.config, network.size
        assert size is None or len(size) == 2
        return cls(config.in_channels, size, config.multiple, network.reading, fit)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """An image file, as a network is given it.

    Attributes:
        file_extent: `(h, w)` of the image in the file, as displayed.
        shown: the part of it that is explained.
        padded: the same with what is missing to the network's multiple, mirrored at the bottom and
            the right.
    """

    path: Path
    sha256: str
    notes: tuple[str, ...]
    file_extent: tuple[int, int]
    shown: Float[np.ndarray, "h w c"]
    padded: Float[np.ndarray, "u v c"]

    @property
    def extent(self) -> tuple[int, int]:
        """Of what is explained."""
        return self.shown.shape[0], self.shown.shape[1]

    def cropped(self, output: Float[np.ndarray, "*space k"]) -> Float[np.ndarray, "*space k"]:
        """An output of the network without the padding; a classifier's has none."""
        return output if output.ndim == 1 else output[: self.extent[0], : self.extent[1]]


def read_sample(path: Path, form: ImageForm) -> Sample:
    """Reads an image file for a network; raises `InputError` if the file cannot be read."""
    image = images.read_image(path, channels=form.channels, reading=form.reading)
    extent = (image.pixels.shape[0], image.pixels.shape[1])
    notes, shown = image.notes, image.pixels
    if form.size is not None and extent != form.size:
        shown = fitted(shown, form.size, form.fit)
        done = "its middle was scaled" if form.fit == "crop" else "it was stretched"
        notes = (*notes, f"{done} to {form.size[0]} x {form.size[1]}")
    padded = images.pad_to_multiple(shown, form.multiple)
    return Sample(path, image.sha256, notes, extent, shown, padded)
