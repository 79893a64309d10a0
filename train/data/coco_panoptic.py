"""COCO's panoptic annotations: a class at each pixel, of things and of stuff.

    annotations/panoptic_val2017.json     what segments there are, and of which categories
    annotations/panoptic_val2017/*.png    which pixels: id = R + 256 G + 65536 B, 0 is void
    val2017/*.jpg

    images = read_panoptic([Path("annotations/panoptic_val2017.json")], form=Form())

Classes are the categories of the file, by their ids, and need not be numbered without gaps. Void is
unknown, crowds are of their category.

References:
    Kirillov et al., Panoptic segmentation, CVPR 2019; the format is that of cocodataset.org.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import files
from segcam_jax.data.mask_images import stored_mask
from segcam_jax.types import InputError
from train.data.segmented import UNKNOWN, Form, SegmentedImages, contents

_PREFIX = "panoptic_"


def read_panoptic(
    annotations: Sequence[Path], *, form: Form, images: Path | None = None
) -> SegmentedImages:
    """Reads the images of a JSON file, or of one to train on and one of held-out images.

    Args:
        annotations: the file, and that of held-out images if they have one of their own.
        images: the folder of images; None looks where COCO has them, `../val2017` for
            `annotations/panoptic_val2017.json`.
    """
    parts = [_Part(path, images) for path in annotations]
    first = parts[0]
    for part in parts[1:]:
        if part.categories != first.categories:
            raise InputError(f"{part.path} and {first.path} name other categories; give equal ones")
    every = [(part, image) for part in parts for image in part.images]
    held_out = range(len(first.images), len(every))
    names = tuple(name for _, name in sorted(first.categories.items()))

    def read(index: int):
        part, number = every[index]
        _, image, mask = part.file(number)
        return form.pair(image, part.labels(number, mask))

    described = [part.file(number) for part, number in every]
    digests = tuple(files.sha256_of(path) for path in annotations)
    return SegmentedImages(
        class_names=names,
        names=tuple(name for name, *_ in described),
        held_out=tuple(held_out),
        sha256=contents(described, form, (*names, *digests)),
        read=read,
    )


class _Part:
    """A JSON file of annotations, and where its images and masks are."""

    def __init__(self, path: Path, images: Path | None):
        self.path = path
        content = files.parse_json(files.read_bytes(path), f"{str(path)!r} is")
        try:
            self.categories: dict[int, str] = {
                int(each["id"]): str(each["name"]) for each in content["categories"]
            }
            names = {each["id"]: str(each["file_name"]) for each in content["images"]}
            self._annotations: dict[Any, tuple[str, dict[int, int]]] = {
                each["image_id"]: (
                    str(each["file_name"]),
                    {int(s["id"]): int(s["category_id"]) for s in each["segments_info"]},
                )
                for each in content["annotations"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{str(path)!r} is not a panoptic annotation of COCO: expected images, annotations "
                f"with segments_info, and categories ({type(error).__name__}: {error})"
            ) from None
        self._check(names)
        self._names = names
        self.images = sorted(names, key=names.__getitem__)
        self._masks = _folder(path.with_suffix(""), "the folder of masks")
        split = path.stem.removeprefix(_PREFIX)
        beside = path.parent.parent / split
        self._pictures = _folder(images or beside, "the folder of images, which --images names")

    def _check(self, names: dict[Any, str]) -> None:
        """Raises `InputError` if the parts of the file do not belong together."""
        if len(self.categories) < 2 or not names:
            raise InputError(
                f"{str(self.path)!r} has {len(self.categories)} categories and {len(names)} "
                "images; expected at least two and one"
            )
        alone = sorted(name for key, name in names.items() if key not in self._annotations)
        if alone:
            raise InputError(
                f"{str(self.path)!r}: {len(alone)} of its images have no annotation, the first is "
                f"{alone[0]}"
            )
        for name, segments in self._annotations.values():
            unknown = set(segments.values()) - self.categories.keys()
            if unknown:
                raise InputError(
                    f"{str(self.path)!r}: {name} has the category {min(unknown)}, which is not "
                    "among the file's"
                )

    def file(self, number: Any) -> tuple[str, Path, Path]:
        """Name, image and mask of an image; raises `InputError` if one is missing."""
        name, mask = self._names[number], self._masks / self._annotations[number][0]
        image = self._pictures / name
        for path in (image, mask):
            if not path.is_file():
                raise InputError(f"{str(path)!r} does not exist, and {str(self.path)!r} names it")
        return f"{self._pictures.name}/{name}", image, mask

    def labels(self, number: Any, mask: Path) -> np.ndarray:
        """The class of each pixel."""
        stored = stored_mask(mask)
        if stored.ndim != 3 or stored.shape[-1] != 3:
            raise InputError(f"mask {str(mask)!r} has no colours; panoptic masks hold ids as RGB")
        ids = stored.astype(np.int64) @ np.array([1, 256, 65536])
        found, places = np.unique(ids, return_inverse=True)
        segments, order = self._annotations[number][1], sorted(self.categories)
        class_of = {0: UNKNOWN} | {s: order.index(c) for s, c in segments.items()}
        unknown = [int(each) for each in found if int(each) not in class_of]
        if unknown:
            raise InputError(f"mask {str(mask)!r} has the segment {unknown[0]}, which has no entry")
        classes = np.array([class_of[int(each)] for each in found], np.int32)
        return classes[places].reshape(ids.shape)


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise InputError(f"{str(path)!r}, {what}, does not exist")
    return path
