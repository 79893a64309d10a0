"""The settings of a training on lesions, planted or of a user's scans."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segcam_jax.data.samples.lesions import MODALITIES
from segcam_jax.models.monai_unet import MonaiUNetConfig
from segcam_jax.types import InputError
from train import command

_FINEST, _COARSEST = 0.5, 16.0  # mm; finer grids take more memory, on coarser no lesion is left
Loss = Literal[
    "dice_cross_entropy",
    "dice_focal",
    "generalised_dice_focal",
    "normalised_dice_focal",
    "blob_normalised_dice",
]
PLANTED_SPACING = 2.0
_LEAST_CROP, _LARGEST_CROP = 8, 512  # voxels; larger cubes take more memory than there is


@dataclasses.dataclass(frozen=True)
class LesionTraining:
    """A training run.

    Attributes:
        data: a folder of scans in the layout DATA/PATIENT/SESSION/FILE; None plants lesions.
        prefixes: file names of the scans' modalities, or the beginnings of these names.
        truth_prefix: file name of the scans' lesion masks, or the beginning of that name.
        truth_labels: what several positive values of a mask mean, as in `segcam instances`.
        truth_classes: with classes, the values that count; without numbers, all positive values.
        truth_threshold: in a truth of probabilities, values above this are inside.
        resample: resample volumes of a scan onto the grid of its first volume; otherwise volumes
            with another grid are an error.
        held_out_share: the share of patients to hold out; their scans choose the best state, and
            score it.
        crop: edge of the cubes to cut out of scans, in voxels.
        crops: how many cubes to cut out of a scan each time that the training sees it.
        positives: how many cubes around a lesion to take for each cube around anything else.
        out: folder of the run. The command resumes a run that is there.
        export: also write the weights into this file.
        template: a skull-stripped T1, for example Colin27's; None takes nilearn's MNI152.
        spacing: resample scans to voxels of this edge, in mm. None takes 2 mm for planted lesions,
            and the voxels' own size for scans, which must then be the same in all scans.
        steps: optimiser steps.
        batch: cases per step, or crops, each of another scan; at most as many as are trained on.
        learning_rate: the peak of the learning rate, which warms up for a twentieth of the steps
            and then falls to zero along a cosine.
        loss: soft Dice plus cross-entropy; or IES's: half of Dice, generalised Dice or normalised
            Dice plus focal, or twice normalised Dice plus its mean over lesions.
        seed: seed of weights and data.
        channels: channels of each level of the network.
        strides: strides of each level but the deepest.
        evaluate_every: steps between evaluations, each with a checkpoint.
        evaluate_cases: how many held-out planted cases each evaluation uses.
        score_cases: how many other held-out planted cases the final scores use.
        threshold: voxels with a probability above this are lesion.
        workers: processes that make cases; 0 makes them in a thread.
    """

    data: Path | None = None
    prefixes: tuple[str, ...] = ()
    truth_prefix: str | None = None
    truth_labels: Literal["instances", "classes"] | None = None
    truth_classes: tuple[int, ...] = ()
    truth_threshold: float | None = None
    resample: bool = False
    held_out_share: float = 0.2
    crop: int = 96
    crops: int = 32
    positives: float = 4.0
    out: Path = Path("runs/lesions")
    export: Path | None = None
    template: Path | None = None
    spacing: float | None = None
    steps: int = 1500
    batch: int = 2
    learning_rate: float = 3e-3
    loss: Loss = "dice_cross_entropy"
    seed: int = 0
    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 2)
    evaluate_every: int = 150
    evaluate_cases: int = 8
    score_cases: int = 40
    threshold: float = 0.5
    workers: int = 0

    def network(self) -> MonaiUNetConfig:
        """The shape of the network; raises `InputError` if there is none of these channels."""
        images = len(self.prefixes) or len(MODALITIES)
        return MonaiUNetConfig(images, channels=self.channels, strides=self.strides)

    @property
    def unused(self) -> tuple[str, ...]:
        """The settings that are for planted lesions where scans are given, and the other way."""
        return _OF_SCANS if self.data is None else _OF_PLANTED

    def check(self) -> None:
        """Checks the settings; not when they are made, where tyro would draw a box around it."""
        command.check_outputs(out=self.out, written=(self.export,), data=(self.data,))
        command.check_at_least(self, 1, "steps", "evaluate_every")
        counts = ("batch", "evaluate_cases", "score_cases")
        command.check_at_least(self, 1, *counts, most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "channels", "strides", most=command.MOST_WIDTH)
        command.check_at_least(self, 0, "workers", most=command.MOST_WORKERS)
        command.check_positive(self, "learning_rate")
        self._check_scans()
        self.network()
        if self.spacing is not None and not _FINEST <= self.spacing <= _COARSEST:
            raise InputError(
                f"`spacing` is {self.spacing} mm; give a number from {_FINEST} to {_COARSEST}"
            )
        command.check_seed(self.seed)
        if not 0 < self.threshold < 1:
            raise InputError(f"`threshold` is {self.threshold}; give a probability")

    def _check_scans(self) -> None:
        command.check_at_least(self, 1, "crops", most=command.MOST_WIDTH)
        command.check_at_least(self, _LEAST_CROP, "crop", most=_LARGEST_CROP)
        command.check_positive(self, "positives")
        if not 0 < self.held_out_share < 1:
            raise InputError(f"`held_out_share` is {self.held_out_share}; give a share below 1")
        said = [name for name in self.unused if getattr(self, name) != getattr(type(self), name)]
        if self.data is None and said:
            raise InputError(f"`{said[0]}` is for scans, of which --data names the folder")
        if said:
            raise InputError(f"`{said[0]}` is for planted lesions; leave it or --data out")
        if self.data is not None and (not self.prefixes or self.truth_prefix is None):
            raise InputError("--data needs --prefixes of the modalities and --truth-prefix")


_OF_SCANS = (
    *("prefixes", "truth_prefix", "truth_labels", "truth_classes", "truth_threshold"),
    *("resample", "held_out_share", "crop", "crops", "positives"),
)
_OF_PLANTED = ("template", "evaluate_cases", "score_cases")
# What `--recipe NAME` puts in place of the defaults: how IES trains, as far as that is known.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "ies": {
        "channels": (32, 64, 128, 256, 512),
        "strides": (2, 2, 2, 2),
        "loss": "normalised_dice_focal",
        "learning_rate": 1e-5,
        "batch": 4,
    }
}
