"""Images with one class each, read when they are asked for: what a classifier is trained on.

images = read_folders("pollen")         # or pollen23e.read_tfrecords("test.tfrecords")
images[0]                               # float32 h w c, in [0, 1]
images.labels[0], images.class_names    # 0, ("Anadenanthera", ...)
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.types import InputError

_QUOTED = 3  # names that a message quotes


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """A random-access source of images with classes.

    Attributes:
        labels: the class of each image, 0 to `len(class_names) - 1`; every class has an image.
        names: of the images: files below the folder, or what a record says of itself.
        extents: height and width of each image.
        notes: what was left out on request, one sentence each.
        sha256: of names, classes and contents: whether two data sets are the same.
    """

    labels: Int[np.ndarray, "n"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    extents: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    sha256: str
    pixels: Callable[[int], Float[np.ndarray, "h w c"]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Float[np.ndarray, "h w c"]:
        """Reads an image, in [0, 1]."""
        return self.pixels(index)


def check_classes(labels: np.ndarray, class_names: tuple[str, ...], source: str) -> None:
    """Checks that there are two classes or more, each with an image; raises `InputError` if not."""
    if len(class_names) < 2:
        names = ", ".join(map(repr, class_names))
        raise InputError(f"{source!r} has one class, {names}; a classifier needs at least two")
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - _QUOTED} more" if len(empty) > _QUOTED else ""
        listed = ", ".join(map(repr, empty[:_QUOTED])) + more
        raise InputError(f"{source!r} has no image of class {listed}; each class needs one")


def fingerprint(lines: Iterable[tuple[object, ...]]) -> str:
    """The SHA-256 of lines of fields, hexadecimal."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update("\t".join(map(str, line)).encode() + b"\n")
    return digest.hexdigest()


def check_options(*, channels: int, size: int | None) -> None:
    """Checks what images are to be read as."""
    if channels not in (1, 3):
        raise InputError(f"`channels` is {channels}; choose 1 or 3")
    if size is not None and size < 1:
        raise InputError(f"`size` is {size}; give at least 1, or None to keep the images' own")
