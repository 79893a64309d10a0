"""Images with a class at each pixel, read when they are asked for: what segmenters are trained on.

images = read_mask_folders([Path("defects")], form=Form())   # or cityscapes, coco_panoptic
image, labels = images[0]                                    # float32 h w c in [0, 1], int32 h w
images.class_names                                           # ("background", "foreground")

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
from segcam_jax.networks.image_inputs import fitted, fitted_labels
from segcam_jax.types import InputError
from train.data.labelled import fingerprint

UNKNOWN = -1
_KEPT_BYTES = 1 << 30  # images up to this size are read once and kept
Pair = tuple[Float[np.ndarray, "h w c"], Int[np.ndarray, "h w"]]
Extents = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SegmentedImages:
    """A random-access source of images with label maps.

    Attributes:
        names: of the images: files below the folder.
        held_out: the images that the data set itself holds out; empty if it does not say.
        sha256: of classes, names and contents: whether two data sets are the same.
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
        """An image file in this form, and its labels with it."""
        image = read_image(path, channels=self.channels).pixels
        if labels.shape != image.shape[:2]:
            mine, its = (" x ".join(map(str, each)) for each in (image.shape[:2], labels.shape))
            raise InputError(f"image {str(path)!r} is {mine}, its mask {its}; give equal extents")
        if self.size is None:
            return image, labels
        labels = fitted_labels(labels, self.size, "stretch")
        return fitted(image, self.size, "stretch"), labels


class _Kept(dict[int, Pair]):
    """Images that are read once; a copy, in another process, reads its own."""

    def __init__(self, read: Callable[[int], Pair]):
        super().__init__()
        self._read = read

    def __missing__(self, index: int) -> Pair:
        return self.setdefault(index, self._read(index))

    def __reduce__(self) -> tuple[type, tuple]:
        return _Kept, (self._read,)


def kept(
    images: SegmentedImages, members: Int[np.ndarray, "m"]
) -> SegmentedImages | dict[int, Pair]:
    """Images by index, each read once if the members are small enough to be kept."""
    first = images[int(members[0])]
    large = sum(each.nbytes for each in first) * len(members) > _KEPT_BYTES
    return images if large else _Kept(images.read)


def contents(
    paths: Sequence[tuple[str, Path, Path]], form: Form, class_names: tuple[str, ...]
) -> str:
    """The fingerprint of a data set: of form, classes, and all names and files."""
    lines = [(name, files.sha256_of(image), files.sha256_of(mask)) for name, image, mask in paths]
    return fingerprint([(form, *class_names), *lines])
