"""Images with a class at each pixel, read when they are asked for: what segmenters are trained on.

images = read_mask_folders(["defects"], ...)   # or cityscapes, coco_panoptic
image, labels = images[0]                      # float32 h w c in [0, 1], int32 h w
images.class_names                             # ("background", "foreground")

Labels are the numbers of the classes; `UNKNOWN` is where nothing is said: neither losses nor scores
count it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from segcam_jax import files
from segcam_jax.data.images import read_image
from segcam_jax.networks.image_inputs import fitted
from segcam_jax.types import InputError
from train.data.labelled import fingerprint

UNKNOWN = -1
Pair = tuple[Float[np.ndarray, "h w c"], Int[np.ndarray, "h w"]]
Extents = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SegmentedImages:
    """A random-access source of images with label maps.

    Attributes:
        class_names: names of the classes.
        names: of the images: files below the folder.
        held_out: the images that the data set itself holds out; empty if it does not say.
        sha256: of classes, names and contents: whether two data sets are the same.
        read: an image and its labels.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    held_out: tuple[int, ...]
    sha256: str
    read: Callable[[int], Pair] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        """Reads an image, in [0, 1], and its labels."""
        return self.read(index)


@dataclasses.dataclass(frozen=True)
class Form:
    """In which form images are read.

    Attributes:
        channels: 3 or 1.
        size: height and width that images are stretched to, linearly, and labels by the nearest
            pixel; None keeps their own.
    """

    channels: int = 3
    size: Extents | None = None

    def pair(self, path: Path, labels: Int[np.ndarray, "h w"]) -> Pair:
        """An image file in this form, and its labels with it.

        Raises:
            InputError: if the image cannot be read, or its labels have other extents.
        """
        image = read_image(path, channels=self.channels).pixels
        if labels.shape != image.shape[:2]:
            mine, its = (" x ".join(map(str, each)) for each in (image.shape[:2], labels.shape))
            raise InputError(f"image {str(path)!r} is {mine}, its mask {its}; give equal extents")
        if self.size is None:
            return image, labels
        return fitted(image, self.size, "stretch"), nearest(labels, self.size)


def nearest(labels: Int[np.ndarray, "h w"], size: Extents) -> Int[np.ndarray, "u v"]:
    """A label map at another size: of each new pixel's middle, the label that lies there."""
    rows, columns = (
        ((2 * np.arange(new) + 1) * old // (2 * new))
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def contents(
    paths: Sequence[tuple[str, Path, Path]], form: Form, class_names: tuple[str, ...]
) -> str:
    """The fingerprint of a data set: of form, classes, and all names and files."""
    lines = [(name, files.sha256_of(image), files.sha256_of(mask)) for name, image, mask in paths]
    return fingerprint([(form, *class_names), *lines])
