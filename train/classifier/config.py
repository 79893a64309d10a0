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
        command.check_outputs(out=self.out, written=(self.export,))
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
