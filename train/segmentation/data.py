"""The images of a segmentation network's training: which are held out, and how they are seen."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from segcam_jax.networks.image_inputs import fitted, fitted_labels
from segcam_jax.types import InputError, counted
from train.data.cityscapes import SIZE, read_cityscapes
from train.data.coco_panoptic import read_panoptic
from train.data.epochs import Epochs
from train.data.mask_folders import MaskValues, read_mask_folders
from train.data.segmented import Extents, Form, Pair, SegmentedImages, kept
from train.segmentation.config import SegmentationTraining

_LOOKED_AT = 50  # images whose extents are compared before work begins
# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_HELD_OUT, _ORDER, _AUGMENT = range(3)


def read_images(config: SegmentationTraining) -> SegmentedImages:
    """Reads and checks the data set of a run; which kind it is, its folders say."""
    roots = [path for path in (config.data, config.held_out) if path is not None]
    form = Form(config.channels, size_of(config))
    values = MaskValues(config.mask_threshold, config.ignore_label, config.class_names)
    if config.data.suffix.lower() == ".json":
        _check_no_values(values, "COCO's annotations have categories")
        return read_panoptic(roots, form=form, images=config.images)
    if _is_cityscapes(config.data):
        _check_no_values(values, "Cityscapes has categories")
        if config.held_out is not None:
            raise InputError("Cityscapes holds out its own images; leave out `held_out`")
        return read_cityscapes(config.data, form=form)
    images = "images" if config.images is None else str(config.images)
    return read_mask_folders(roots, form=form, values=values, images=images, masks=config.masks)


def size_of(config: SegmentationTraining) -> Extents | None:
    """What images are stretched to; None if they keep their own size."""
    return SIZE if config.size is None and _is_cityscapes(config.data) else config.size


def _is_cityscapes(root: Path) -> bool:
    return any((root / name).is_dir() for name in ("leftImg8bit", "gtFine"))


def _check_no_values(values: MaskValues, why: str) -> None:
    if values != MaskValues():
        raise InputError(f"{why}; leave out mask_threshold, ignore_label and class_names")


def held_out(config: SegmentationTraining, images: SegmentedImages) -> Int[np.ndarray, "m"]:
    """The images that are not trained on: those that the data hold out, or a share at random."""
    if images.held_out:
        return np.array(images.held_out)
    count = max(1, round(config.held_out_share * len(images)))
    if count >= len(images):
        raise InputError(
            f"{counted(len(images), 'image')}, of which {count} would be held out: none is left to "
            "train on; give more images, or a smaller `held_out_share`"
        )
    generator = np.random.default_rng((config.seed, _HELD_OUT))
    return np.sort(generator.permutation(len(images))[:count])


class TrainingImages:
    """The images of a training, one after another: image and labels by position.

    An item is a function of configuration and position alone.

    Args:
        members: those that are trained on.
        multiple: of what extents must be, for the network.

    Raises:
        InputError: if images have several extents, and neither `size` nor `crop` is given.
    """

    def __init__(
        self,
        config: SegmentationTraining,
        images: SegmentedImages,
        members: Int[np.ndarray, "m"],
        multiple: int,
    ):
        self._config, self._names, self._multiple = config, images.names, multiple
        self._pairs = kept(images, members)
        self.epochs = Epochs(members, config.epochs, config.batch, (config.seed, _ORDER))
        first = self._pairs[int(members[0])][1].shape
        self.extents = config.crop or padded_extents(first, multiple)
        for index in members[:_LOOKED_AT].tolist():
            self._check(self._pairs[index][1].shape, images.names[index])

    def _check(self, found: Extents, name: str) -> None:
        """Raises `InputError` if an image does not fit into a batch."""
        if self._config.crop is None and padded_extents(found, self._multiple) != self.extents:
            raise InputError(
                f"image {name!r} is {found[0]} x {found[1]}, others are about {self.extents[0]} x "
                f"{self.extents[1]}; give `size`, or a `crop` of them"
            )

    def __len__(self) -> int:
        """The images of all steps."""
        return len(self.epochs)

    def __getitem__(self, position: int) -> Pair:
        """Reads an image and its labels, changed at random."""
        index = self.epochs.image(position)
        generator = np.random.default_rng((self._config.seed, _AUGMENT, position))
        pair = self._pairs[index]
        self._check(pair[1].shape, self._names[index])
        return augmented(pair, self._config, self.extents, generator)


def padded_extents(extents: Extents, multiple: int) -> Extents:
    """The least multiples that are not below extents."""
    height, width = (-(-extent // multiple) * multiple for extent in extents)
    return height, width


def augmented(
    pair: Pair, config: SegmentationTraining, extents: Extents, generator: np.random.Generator
) -> Pair:
    """A part of an image at random, zoomed, flipped and coloured; its labels with it.

    A window of `extents / z` is cut out, z = (1 + zoom)^u with u in [-1, 1], and brought to the
    extents: images linearly, labels by the nearest pixel. Where an image is smaller than the
    window, it is mirrored at its bottom and right, and so are its labels. Colours become
    `(x - m) a + m + b` for the image's mean m, clipped to [0, 1].
    """
    image, labels = pair
    zoom = (1 + config.zoom) ** generator.uniform(-1, 1)
    window = tuple(max(1, round(extent / zoom)) for extent in extents)
    missing = [(0, max(0, w - n)) for w, n in zip(window, labels.shape, strict=True)]
    image = np.pad(image, (*missing, (0, 0)), mode="symmetric")
    labels = np.pad(labels, missing, mode="symmetric")
    top, left = (
        generator.integers(0, n - w + 1) for n, w in zip(labels.shape, window, strict=True)
    )
    cut = np.s_[top : top + window[0], left : left + window[1]]
    image = fitted(image[cut], extents, "stretch")
    labels = fitted_labels(labels[cut], extents, "stretch")
    across, down = generator.integers(0, 2, 2)
    if across and config.flips != "none":
        image, labels = image[:, ::-1], labels[:, ::-1]
    if down and config.flips == "both":
        image, labels = image[::-1], labels[::-1]
    contrast = 1 + config.colour * generator.uniform(-1, 1)
    brightness = config.colour / 2 * generator.uniform(-1, 1, image.shape[-1])
    if config.colour:
        mean = image.mean()
        image = np.clip((image - mean) * contrast + mean + brightness, 0, 1)
    return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(labels)
