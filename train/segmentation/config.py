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
        out: folder of the run. The command resumes a run that is there.
        export: also write the weights into this file.
        held_out: held-out images, given as `data` is. None takes the held-out images of Cityscapes,
            or a share of `data`.
        held_out_share: the share of images to hold out if the data do not say which.
        images: the sub-folder of images, or the folder of COCO's images. None takes `images`, or
            the folder where COCO puts them.
        masks: the sub-folder of masks.
        mask_threshold: values of masks above this are the foreground.
        ignore_label: the value of masks that means unknown.
        class_names: names of the values of masks, in the order of the values.
        channels: channels of the images: 3 or 1.
        size: stretch images to this height and width. None keeps their own size, and for
            Cityscapes takes a quarter of their height and width.
        crop: cut a window of this height and width out of training images at random; None uses
            whole images.
        zoom: enlarge or shrink training images at random, at most by 1 + zoom.
        flips: flip training images at random: not at all, left to right, or upside down as well.
        colour: change the contrast of training images at random (by 1 - colour to 1 + colour), and
            their brightness (by half of it, each channel by itself).
        network: the U-Net of `models.unet`, or the U-Net of `models.vgg_unet`.
        depth: how many times a plain U-Net halves images; a VGG-16 halves them five times.
        width: channels of the first level; None takes 16 for a plain U-Net, and VGG-16's 64.
        start: start from these weights of the same network. The head starts anew unless the weights
            name the same classes.
        loss: the loss, see `train.losses`.
        epochs: how many times to go through the images.
        batch: images per step.
        learning_rate: the learning rate of Adam: the highest rate of the cosine, the first rate of
            the other schedules.
        schedule: a warm-up and a cosine to zero, a constant rate, or a rate that is divided by ten
            when the held-out loss has not fallen for ten evaluations.
        best: keep the state with the highest mean IoU, or with the lowest loss, on held-out images.
        evaluate_every: epochs between evaluations, each with a checkpoint.
        seed: seed of weights, the held-out share and data.
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
        """Checks the settings; not when they are made, where tyro would draw a box around it."""
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
