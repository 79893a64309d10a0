"""The settings of a segmentation network's training."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from segcam_jax.types import InputError
from train import command, losses

LOSSES: dict[str, Callable] = {
    "cross_entropy": losses.cross_entropy,
    "dice_cross_entropy": losses.dice_cross_entropy,
    "dice_focal": losses.dice_focal,
}
# score -> 1 if more of it is better, -1 if less is
MERITS = {"mean_iou": 1, "held_out_loss": -1}


@dataclasses.dataclass(frozen=True)
class SegmentationTraining:
    """A training run.

    Attributes:
        data: a folder with sub-folders of images and masks, a folder with Cityscapes' leftImg8bit
            and gtFine, or a JSON file of COCO's panoptic annotations.
        out: folder of the run; a run that is there is resumed.
        export: where else to write the weights.
        held_out: held-out images, as `data`; None takes Cityscapes' own, or a share of `data`.
        held_out_share: of images that are held out, where the data do not say which.
        images: the sub-folder of images; of COCO's their folder. None: images, or COCO's place.
        masks: the sub-folder of masks.
        mask_threshold: values of masks above it are the foreground.
        ignore_label: the value of masks that means unknown.
        class_names: of the values of masks, in their order.
        channels: of the images: 3 or 1.
        size: images are stretched to this height and width; None keeps their own, for Cityscapes
            a quarter.
        crop: height and width of what is cut out of training images at random; None: all of them.
        zoom: training images are enlarged or shrunk at random, at most by 1 + zoom.
        flips: of training images at random: none, left to right, or upside down as well.
        colour: training images change in contrast (by 1 - colour to 1 + colour) and brightness (by
            half of it, each channel by itself).
        network: the U-Net of `models.unet`, or that of `models.vgg_unet`.
        depth: how often a plain U-Net halves images; a VGG-16 does it five times.
        width: channels of its first level; None takes 16 of a plain U-Net, VGG-16's 64.
        start: weights to start from, of the same network; its head is made anew unless they name
            the same classes.
        loss: see `train.losses`.
        epochs: how often each image is seen.
        batch: images a step.
        learning_rate: of Adam: the highest of the cosine, the first of the other schedules.
        schedule: a warm-up and a cosine to zero, a constant rate, or one that is divided by ten
            when the held-out loss has not fallen for ten evaluations.
        best: the state that is kept: that of the highest mean IoU, or of the lowest loss, of
            held-out images.
        evaluate_every: epochs between evaluations, each with a checkpoint.
        seed: of weights, the held-out share and data.
        workers: processes that make batches; 0 makes them in a thread.
    """

    data: Path
    out: Path = Path("runs/segmentation")
    export: Path | None = None
    held_out: Path | None = None
    held_out_share: float = 0.2
    images: Path | None = None
    masks: str = "masks"
    mask_threshold: float | None = None
    ignore_label: int | None = None
    class_names: tuple[str, ...] = ()
    channels: int = 3
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    zoom: float = 0.2
    flips: Literal["none", "horizontal", "both"] = "horizontal"
    colour: float = 0.2
    network: Literal["unet", "unet-vgg16"] = "unet"
    depth: int = 4
    width: int | None = None
    start: Path | None = None
    loss: Literal["cross_entropy", "dice_cross_entropy", "dice_focal"] = "dice_cross_entropy"
    epochs: int = 40
    batch: int = 8
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    best: Literal["mean_iou", "held_out_loss"] = "mean_iou"
    evaluate_every: int = 1
    seed: int = 0
    workers: int = 0

    def check(self) -> None:
        """Checks the settings; not when they are made, where tyro would draw a box around it.

        Raises:
            InputError: naming the setting.
        """
        command.check_outputs(out=self.out, written=(self.export,))
        counts = ("epochs", "batch", "evaluate_every")
        command.check_at_least(self, 1, *counts, most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "depth", "width", "size", "crop", most=command.MOST_WIDTH)
        command.check_at_least(self, 0, "workers", most=command.MOST_WORKERS)
        command.check_at_least(self, 0, "zoom", "colour")
        command.check_positive(self, "learning_rate")
        command.check_seed(self.seed)
        if self.channels not in (1, 3):
            raise InputError(f"`channels` is {self.channels}; choose 1 or 3")
        if not 0 < self.held_out_share < 1:
            raise InputError(
                f"`held_out_share` is {self.held_out_share}; give a share between 0 and 1"
            )
        for field, most in (("colour", 1.0), ("zoom", 10.0)):
            if not getattr(self, field) <= most:
                raise InputError(f"`{field}` is {getattr(self, field)}; give at most {most:g}")


# What `--recipe NAME` puts in place of the defaults: how Seg-Grad-CAM's networks were trained on
# Cityscapes, as far as that is known.
_PUBLISHED = {"size": (256, 512), "batch": 4, "zoom": 0.0, "colour": 0.0}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "seg-grad-cam": {
        **_PUBLISHED,
        "depth": 4,
        "width": 32,
        "loss": "cross_entropy",
        "learning_rate": 3e-4,
        "schedule": "constant",
        "best": "held_out_loss",
        "epochs": 70,
    },
    "seg-grad-cam-vgg16": {
        **_PUBLISHED,
        "network": "unet-vgg16",
        "loss": "dice_focal",
        "learning_rate": 4.5e-4,
        "schedule": "plateau",
        "best": "held_out_loss",
        "epochs": 70,
    },
}
