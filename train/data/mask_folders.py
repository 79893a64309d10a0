"""Folders of images and of masks: what most segmentation networks are trained on.

    defects/
      images/  001.png  002.png  ...
      masks/   001.png  002.png  ...

    images = read_mask_folders([Path("defects")], form=Form(channels=1))

An image and its mask are paired as `segcam_jax.data.pairs` says. The values of masks are those
stored, the indices of a palette and not its colours. Which classes they stand for:

| values of all masks | classes |
|---|---|
| 0 and one other | background, foreground |
| 0, 1, ..., K - 1 | class 0 to class K - 1 |
| any, with a threshold | background, and foreground above it |
| some of 0 to K - 1, with K names | those of the names |

One more value may be of what is unknown (`ignore`), as 255 in Pascal VOC. All else is an error:
every mask is read once before work begins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from segcam_jax.data.mask_images import stored_mask
from segcam_jax.data.pairs import paired
from segcam_jax.networks.image_inputs import SUFFIXES
from segcam_jax.types import InputError, nearest_first
from train.data.image_folders import natural_key
from train.data.segmented import UNKNOWN, Form, SegmentedImages, contents

_LISTED = 8  # values that a message lists


class MaskValues(NamedTuple):
    """What the values of masks mean.

    Attributes:
        threshold: values above it are the foreground; None: values are classes.
        ignore: the value of what is unknown; None: nothing is.
        class_names: names of the classes in the order of their values; empty: by the values.
    """

    threshold: float | None = None
    ignore: int | None = None
    class_names: tuple[str, ...] = ()


class _File(NamedTuple):
    """An image, its mask, and what they are called."""

    name: str
    image: Path
    mask: Path


def read_mask_folders(
    roots: Sequence[Path],
    *,
    form: Form,
    values: MaskValues = MaskValues(),
    images: str = "images",
    masks: str = "masks",
) -> SegmentedImages:
    """Reads a folder of images and masks, or one of images to train on and one of held-out ones.

    Args:
        roots: the folder, and that of held-out images if they have one of their own.
        images: the sub-folder of images.
        masks: that of masks.
    """
    if values.class_names and len(values.class_names) < 2:
        raise InputError("one class name was given; give at least two, the background's first")
    files = [[*_files(root, images, masks)] for root in roots]
    every = [file for part in files for file in part]
    found: set[float] = set()
    for file in every:
        stored = _stored(file)
        found |= set(np.unique(stored).tolist())
        form.pair(file.image, stored)
    origin = " and ".join(repr(str(root / masks)) for root in roots)
    names, classes = _classes(found, values, f"the masks of {origin}")

    def read(index: int):
        stored = _stored(every[index])
        return form.pair(every[index].image, _labels(stored, classes, values.threshold))

    first = len(files[0]) if len(files) > 1 else len(every)
    return SegmentedImages(
        class_names=names,
        names=tuple(file.name for file in every),
        held_out=tuple(range(first, len(every))),
        sha256=contents(every, form, (*names, str(classes))),
        read=read,
    )


def _files(root: Path, images: str, masks: str) -> list[_File]:
    """The pairs of a folder, in natural order."""
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"{str(root)!r} {kind}; give a folder with images and masks")
    pairs = paired(_images_in(root, images, "images"), _images_in(root, masks, "masks"))
    return [_File((Path(root.name) / path.name).as_posix(), path, mask) for path, mask in pairs]


def _images_in(root: Path, name: str, option: str) -> list[Path]:
    folder = root / name
    if not folder.is_dir():
        others = [path.name for path in sorted(root.iterdir()) if path.is_dir()]
        has = f"it has {', '.join(nearest_first(name, others))}" if others else "it has no folders"
        raise InputError(f"{str(root)!r} has no folder {name!r}, {has}; name the one of {option}")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise InputError(f"{str(folder)!r} holds no {option} ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: natural_key(path.name))


def _stored(file: _File) -> np.ndarray:
    """The values of a mask, `h w`."""
    stored = stored_mask(file.mask)
    if stored.ndim == 3 and not (stored == stored[..., :1]).all():
        raise InputError(
            f"mask {str(file.mask)!r} has colours; save the numbers of classes, in grey or with a "
            "palette"
        )
    stored = stored[..., 0] if stored.ndim == 3 else stored
    if not np.isfinite(stored).all():
        raise InputError(f"mask {str(file.mask)!r} has values that are NaN or infinite")
    return stored


def _classes(
    found: set[float], values: MaskValues, origin: str
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The names of the classes, and the value of each; none for a threshold's."""
    ignored = set() if values.ignore is None else {float(values.ignore)}
    known = sorted(found - ignored)
    listed = ", ".join(f"{value:g}" for value in known[:_LISTED])
    listed += f", ... ({len(known)} in all)" if len(known) > _LISTED else ""
    if values.threshold is not None:
        if ignored or len(values.class_names) > 2:
            raise InputError("a mask threshold makes two classes; give no more names, no ignored")
        if not min(known) <= values.threshold < max(known):
            raise InputError(
                f"{origin} have the values {listed}: none on one side of the threshold "
                f"{values.threshold:g}; choose it between them"
            )
        return values.class_names or ("background", "foreground"), ()
    if len(known) < 2:
        raise InputError(f"{origin} hold one value, {listed}; a network needs at least two classes")
    names = values.class_names
    if len(known) == 2 and known[0] == 0 and len(names) in (0, 2):
        return names or ("background", "foreground"), (0.0, known[1])
    count = len(names) or len(known)
    if names and ignored & set(range(count)):
        raise InputError(
            f"--ignore-label {values.ignore:g} is among 0 to {count - 1}, the values of the "
            f"{count} classes that are named; renumber the masks, or leave it out"
        )
    if not set(known) <= set(range(count)):
        what = f"{count} classes are named" if names else "they do not number classes from 0"
        raise InputError(
            f"{origin} have the values {listed}, and {what}: say which value means unknown "
            "(--ignore-label), name all classes (--class-names), or give a --mask-threshold"
        )
    return names or tuple(f"class {k}" for k in range(count)), tuple(map(float, range(count)))


def _labels(
    stored: np.ndarray, classes: tuple[float, ...], threshold: float | None
) -> Int[np.ndarray, "h w"]:
    if threshold is not None:
        return (stored > threshold).astype(np.int32)
    labels = np.full(stored.shape, UNKNOWN, np.int32)
    for label, value in enumerate(classes):
        labels[stored == value] = label
    return labels
