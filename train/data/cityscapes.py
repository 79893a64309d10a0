"""Cityscapes' fine annotations, in the eight categories of Seg-Grad-CAM.

    cityscapes/
      leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
      gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png
      ...

    images = read_cityscapes("cityscapes", form=Form(size=(256, 512)))

`train` (2,975 images) is trained on, `val` (500) is held out; `test` has no public labels. The ids
of labelIds become their categories: 0-6 void, 7-10 flat, 11-16 construction, 17-20 object, 21-22
nature, 23 sky, 24-25 human, 26-33 vehicle; a licence plate (-1, which is 255 in a file) is of its
vehicle. Seg-Grad-CAM divides extents of 1024 x 2048 by four. Here images get smaller linearly and
without aliasing, as `segcam explain --size 256 512` does it, so that what is explained is what was
trained on; the source does not smooth before it takes every fourth pixel.

References:
    Cordts et al., The Cityscapes dataset, CVPR 2016; Vinogradova et al., AAAI 2020.
"""

from pathlib import Path

import numpy as np

from segcam_jax.data.mask_images import stored_mask
from segcam_jax.types import InputError, counted
from train.data.segmented import Form, SegmentedImages, contents

CATEGORIES = ("void", "flat", "construction", "object", "nature", "sky", "human", "vehicle")
SIZE = (256, 512)
_LAST_IDS = (6, 10, 16, 20, 22, 23, 25, 33)  # of each category
_PLATE = 255  # -1 as an unsigned byte
_NONE = -1
_IMAGE, _LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png"


def category_of_id() -> np.ndarray:
    """The category of each id from 0 to 255; -1 where there is no such id."""
    found = np.full(256, _NONE, np.int32)
    found[: _LAST_IDS[-1] + 1] = np.searchsorted(_LAST_IDS, np.arange(_LAST_IDS[-1] + 1))
    found[_PLATE] = CATEGORIES.index("vehicle")
    return found


def read_cityscapes(root: str | Path, *, form: Form) -> SegmentedImages:
    """Reads the images that are trained on, and those held out.

    Args:
        root: the folder of `leftImg8bit` and `gtFine`.
    """
    root = Path(root)
    files = [file for part in ("train", "val") for file in _files(root, part)]
    training = sum(name.startswith("train/") for name, *_ in files)
    categories = category_of_id()

    def read(index: int):
        _, image, mask = files[index]
        ids = stored_mask(mask)
        if ids.ndim != 2 or ids.min() < 0 or ids.max() > _PLATE or ids.dtype.kind not in "iu":
            raise InputError(f"{str(mask)!r} is not a map of label ids; expected grey of 8 bits")
        labels = categories[ids]
        if (labels == _NONE).any():
            wrong = int(ids[labels == _NONE][0])
            raise InputError(f"{str(mask)!r} has the label id {wrong}; ids are 0 to 33, and 255")
        return form.pair(image, labels)

    return SegmentedImages(
        class_names=CATEGORIES,
        names=tuple(name for name, *_ in files),
        held_out=tuple(range(training, len(files))),
        sha256=contents(files, form, CATEGORIES),
        read=read,
    )


def _files(root: Path, part: str) -> list[tuple[str, Path, Path]]:
    """Name, image and labels of each image of a part, by city and number."""
    pictures, truths = root / "leftImg8bit" / part, root / "gtFine" / part
    for folder in (pictures, truths):
        if not folder.is_dir():
            raise InputError(
                f"{str(folder)!r} does not exist; Cityscapes has leftImg8bit and gtFine, each with "
                "train and val: unpack both archives into one folder"
            )
    found, alone = [], []
    for image in sorted(pictures.glob(f"*/*{_IMAGE}")):
        city, stem = image.parent.name, image.name.removesuffix(_IMAGE)
        labels = truths / city / f"{stem}{_LABELS}"
        found.append((f"{part}/{city}/{image.name}", image, labels))
        alone += [] if labels.is_file() else [labels.name]
    if not found:
        raise InputError(f"{str(pictures)!r} holds no images CITY/*{_IMAGE}")
    if alone:
        raise InputError(
            f"{counted(len(alone), 'image')} of {str(pictures)!r} without labels, the first lacks "
            f"{alone[0]}; unpack all of gtFine"
        )
    return found
