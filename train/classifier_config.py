"""The settings of a classifier's training, and the images, folds and batches they determine."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.extras import require
from segcam_jax.types import InputError
from train.data.image_folders import read_folders
from train.data.labelled import LabelledImages
from train.data.pollen23e import read_tfrecords

_KEPT_BYTES = 1 << 30  # images up to this size are read once and kept
# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_FOLDS, _ORDER, _AUGMENT = range(3)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A training run.

    Attributes:
        data: a folder with one sub-folder of images per class, or TFRecord files in the layout of
            POLEN23E, or a folder of such files.
        out: folder of the run; a run that is there is resumed.
        export: where else to write the weights.
        model: a name in `models.CLASSIFIERS`.
        size: images are stretched to this height and width; None keeps their own.
        channels: of the images: 3 or 1.
        scale: what values in TFRecords are divided by.
        skip_broken: leave out images and records that are broken; else they end the run.
        hidden: units of a linear layer before a DenseNet's classifier; None takes FastAblationCAM's
            rule, as many as there are pooled features; 0 for none.
        growth: channels that a DenseNet's layer adds; None takes 32.
        width: channels of a ResNet's first stage; None takes 64.
        normalisation: what the network does to an image first; None takes that of `start`, else
            `"imagenet"` for colour and `"symmetric"` for grey.
        start: weights to start from, a `.safetensors` file or an installed name, of any number of
            classes; None for random ones.
        freeze: train the head alone; all before it keeps its weights and BatchNorm statistics.
        folds: parts that the images are divided into, k of k-fold cross-validation.
        only: which folds to train, counted from 1; none named means all.
        epochs: how often each image is seen.
        batch: images a step.
        learning_rate: of SGD.
        schedule: whether the rate stays or falls to zero along a cosine.
        momentum: of SGD.
        augment: what happens to training images at random: nothing, flips of both axes, or flips
            and quarter turns.
        seed: of weights, folds and data.
    """

    data: tuple[Path, ...]
    out: Path = Path("runs/classifier")
    export: Path | None = None
    model: str = "densenet169"
    size: int | None = 224
    channels: int = 3
    scale: float = 255.0
    skip_broken: bool = False
    hidden: int | None = None
    growth: int | None = None
    width: int | None = None
    normalisation: str | None = None
    start: str | None = None
    freeze: bool = False
    folds: int = 5
    only: tuple[int, ...] = ()
    epochs: int = 15
    batch: int = 16
    learning_rate: float = 0.02
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = 0.0
    augment: Literal["none", "flips", "dihedral"] = "none"
    seed: int = 0

    def check(self) -> None:
        """Checks the settings; not when they are made, where tyro would draw a box around it.

        Raises:
            InputError: naming the setting.
        """
        if not self.data:
            raise InputError("`data` is empty; give a folder of images, or TFRecord files")
        for field, least in (("epochs", 1), ("batch", 1), ("folds", 2)):
            if getattr(self, field) < least:
                raise InputError(f"`{field}` is {getattr(self, field)}; give at least {least}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"`seed` is {self.seed}; give a number from 0 to below 2^32")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"`learning_rate` is {self.learning_rate}; give more than 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"`momentum` is {self.momentum}; give at least 0 and less than 1")
        unknown = [fold for fold in self.only if not 1 <= fold <= self.folds]
        if unknown:
            raise InputError(f"`only` names fold {unknown[0]}; folds are 1 to {self.folds}")
        if self.freeze and self.start is None:
            raise InputError("`freeze` keeps the weights before the head; give `start`, where from")


def read_images(config: ClassifierConfig) -> LabelledImages:
    """Reads and checks the data set of a run; images are kept in memory if they are small.

    Raises:
        InputError: if the data are neither kind, broken, or of several sizes.
    """
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

    Raises:
        InputError: if there are more folds than images of a class.
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

    Each epoch goes through all images in an order of its own. An item is a function of
    configuration, fold and position alone.
    """

    def __init__(
        self, config: ClassifierConfig, images: LabelledImages, members: np.ndarray, fold: int
    ):
        self._config, self._images, self._members, self._fold = config, images, members, fold
        self._order = functools.lru_cache(maxsize=4)(self._drawn_order)

    def __len__(self) -> int:
        """The images of all steps."""
        return steps_after(self._config, len(self._members), self._config.epochs) * (
            self._config.batch
        )

    def __getitem__(self, position: int) -> tuple[Float[np.ndarray, "h w c"], np.int32]:
        """Reads an image and its label."""
        epoch, place = divmod(int(position), len(self._members))
        index = int(self._members[self._order(epoch)[place]])
        generator = np.random.default_rng((self._config.seed, _AUGMENT, self._fold, position))
        image = augmented(self._images[index], self._config.augment, generator)
        return image, self._images.labels[index]

    def _drawn_order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self._config.seed, _ORDER, self._fold, epoch))
        return generator.permutation(len(self._members))


def steps_after(config: ClassifierConfig, members: int, epochs: int) -> int:
    """The steps in which that many epochs are complete."""
    return -(-epochs * members // config.batch)


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


def batches(source: TrainingImages, *, batch: int, start: int) -> Iterator[tuple]:
    """The batches of steps `start` to the end, read ahead in a thread."""
    grain = require("grain", extra="train")
    steps = grain.MapDataset.source(source).batch(batch)[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return iter(steps.to_iter_dataset(options))
