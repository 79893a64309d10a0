"""The images of a classifier's training, their folds, and the order in which they are seen."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.types import InputError
from train.classifier.config import ClassifierConfig
from train.data.epochs import Epochs
from train.data.image_folders import read_folders
from train.data.labelled import LabelledImages
from train.data.pollen23e import read_tfrecords

_KEPT_BYTES = 1 << 30  # images up to this size are read once and kept
# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_FOLDS, _ORDER, _AUGMENT = range(3)


def read_images(config: ClassifierConfig) -> LabelledImages:
    """Reads and checks the data set of a run; images are kept in memory if they are small."""
    first = config.data[0]
    files = list(config.data)
    if len(files) == 1 and first.is_dir():
        files = sorted(path for path in first.glob("*.tfrecord*") if path.is_file())
        if not files:
            found = read_folders(
                first, channels=config.channels, size=config.size, skip_broken=config.skip_broken
            )
            return _kept(_checked(found, config))
    folder = next((path for path in files if path.is_dir()), None)
    if folder is not None:
        raise InputError(f"{str(folder)!r} is a folder; give one folder, or TFRecord files")
    found = read_tfrecords(
        files,
        channels=config.channels,
        size=config.size,
        scale=config.scale,
        skip_broken=config.skip_broken,
    )
    return _kept(_checked(found, config))


def _checked(images: LabelledImages, config: ClassifierConfig) -> LabelledImages:
    extents = sorted(set(images.extents))
    if len(extents) > 1:
        few = " and ".join(f"{height} x {width}" for height, width in (extents[0], extents[-1]))
        raise InputError(f"images have several sizes, {few} among them; give `size`")
    if config.augment == "dihedral" and extents[0][0] != extents[0][1]:
        raise InputError(
            f"images are {extents[0][0]} x {extents[0][1]}; quarter turns need squares, give "
            "`size`, or choose augment flips"
        )
    return images


def _kept(images: LabelledImages) -> LabelledImages:
    first = images[0]
    if first.nbytes * len(images) > _KEPT_BYTES:
        return images
    pixels = np.stack([images[index] for index in range(len(images))])
    return dataclasses.replace(images, pixels=pixels.__getitem__)


def folds_of(images: LabelledImages, *, folds: int, seed: int) -> Int[np.ndarray, "n"]:
    """The fold of each image, 1 to `folds`, at random; stratified.

    Numbers of images differ by at most one between folds, and so do those of each class.
    """
    counts = np.bincount(images.labels)
    smallest = int(counts.argmin())
    if folds > counts[smallest]:
        raise InputError(
            f"`folds` is {folds}, but class {images.class_names[smallest]!r} has "
            f"{counts[smallest]} image(s); give at most as many, or add images"
        )
    generator = np.random.default_rng((seed, _FOLDS))
    # Classes follow each other as at dealing cards: each goes round all folds, none starts anew.
    order = np.concatenate(
        [generator.permutation(np.flatnonzero(images.labels == k)) for k in range(len(counts))]
    )
    fold = np.empty(len(images), np.int32)
    fold[order] = np.arange(len(images)) % folds + 1
    return fold


class TrainingImages:
    """The images of a fold's training, one after another: image and label by position.

    An item is a function of configuration, fold and position alone.
    """

    def __init__(
        self, config: ClassifierConfig, images: LabelledImages, members: np.ndarray, fold: int
    ):
        self._config, self._images, self._fold = config, images, fold
        self.epochs = Epochs(members, config.epochs, config.batch, (config.seed, _ORDER, fold))

    def __len__(self) -> int:
        """The images of all steps."""
        return len(self.epochs)

    def __getitem__(self, position: int) -> tuple[Float[np.ndarray, "h w c"], np.int32]:
        """Reads an image and its label."""
        index = self.epochs.image(position)
        generator = np.random.default_rng((self._config.seed, _AUGMENT, self._fold, position))
        image = augmented(self._images[index], self._config.augment, generator)
        return image, self._images.labels[index]


def augmented(
    image: Float[np.ndarray, "h w c"], kind: str, generator: np.random.Generator
) -> Float[np.ndarray, "h w c"]:
    """An image flipped, or turned as well, at random."""
    if kind == "none":
        return image
    down, across, turn = generator.integers(0, 2, 3)
    image = image[::-1] if down else image
    image = image[:, ::-1] if across else image
    if kind == "dihedral" and turn:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)
