"""The settings of a classifier's training."""

import dataclasses
from pathlib import Path
from typing import Literal

from segcam_jax.types import InputError
from train import command


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A training run.

    Attributes:
        data: a folder with one sub-folder of images per class, TFRecord files in the layout of
            POLEN23E, or a folder of such files.
        out: folder of the run. The command resumes a run that is there.
        export: also write the weights into this file.
        model: a name in `models.CLASSIFIERS`.
        size: stretch images to this height and width; None keeps their own size.
        channels: channels of the images: 3 or 1.
        scale: divide values in TFRecords by this number.
        skip_broken: leave out broken images and records; otherwise they end the run.
        hidden: units of a linear layer before a DenseNet's classifier. None follows
            FastAblationCAM: as many units as there are pooled features. 0 leaves the layer out.
        growth: channels that each layer of a DenseNet adds; None takes 32.
        width: channels of a ResNet's first stage; None takes 64.
        normalisation: how the network normalises images. None takes the normalisation of `start`,
            or else `"imagenet"` for colour and `"symmetric"` for grey.
        start: start from these weights, a `.safetensors` file or an installed name, with any number
            of classes; None starts from random weights.
        freeze: train only the head; all layers before it keep their weights and BatchNorm
            statistics.
        folds: divide the images into this many folds, the k of k-fold cross-validation.
        only: train only these folds, counted from 1; without numbers, train all.
        epochs: how many times to go through the images.
        batch: images per step.
        learning_rate: the learning rate of SGD.
        schedule: keep the rate constant, or let it fall to zero along a cosine.
        momentum: the momentum of SGD.
        augment: change training images at random: not at all, by flips of both axes, or by flips
            and quarter turns.
        seed: seed of weights, folds and data.
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
        """Checks the settings; not when they are made, where tyro would draw a box around it."""
        if not self.data:
            raise InputError("`data` is empty; give a folder of images, or TFRecord files")
        command.check_outputs(out=self.out, written=(self.export,), data=self.data)
        command.check_at_least(self, 1, "epochs", most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "batch", most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "growth", "width", "size", most=command.MOST_WIDTH)
        command.check_at_least(self, 2, "folds")
        command.check_at_least(self, 0, "hidden", most=command.MOST_WIDTH)
        command.check_positive(self, "learning_rate", "scale")
        command.check_seed(self.seed)
        if not 0 <= self.momentum < 1:
            raise InputError(f"`momentum` is {self.momentum}; give at least 0 and less than 1")
        unknown = [fold for fold in self.only if not 1 <= fold <= self.folds]
        if unknown:
            raise InputError(f"`only` names fold {unknown[0]}; folds are 1 to {self.folds}")
        if self.freeze and self.start is None:
            raise InputError("`freeze` keeps the weights before the head; give `start`, where from")
