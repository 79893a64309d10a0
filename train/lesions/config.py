"""The settings of a training on planted lesions."""

import dataclasses
from pathlib import Path
from typing import Literal

from segcam_jax.models.monai_unet import MonaiUNetConfig
from segcam_jax.types import InputError
from train import command

_FINEST, _COARSEST = 0.5, 16.0  # mm; finer grids take more memory, on coarser no lesion is left
Loss = Literal["dice_cross_entropy", "normalised_dice_focal"]


@dataclasses.dataclass(frozen=True)
class LesionTraining:
    """A training run.

    Attributes:
        out: folder of the run; a run that is there is resumed.
        export: where else to write the weights.
        template: a skull-stripped T1, for example Colin27's; None takes nilearn's MNI152.
        spacing: edge of a voxel, mm.
        steps: optimiser steps.
        batch: cases a step.
        learning_rate: its peak, after a warm-up of a twentieth of the steps; cosine to zero.
        loss: soft Dice plus cross-entropy, or normalised Dice plus focal, as IES.
        seed: of weights and data.
        channels: of each level of the network.
        strides: of each level but the deepest.
        evaluate_every: steps between evaluations, each with a checkpoint.
        evaluate_cases: held-out cases of these evaluations.
        score_cases: held-out cases of the final scores, others than those of the evaluations.
        threshold: a probability above it is a lesion.
        workers: processes that make cases; 0 makes them in a thread.
    """

    out: Path = Path("runs/lesions")
    export: Path | None = None
    template: Path | None = None
    spacing: float = 2.0
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
        return MonaiUNetConfig(channels=self.channels, strides=self.strides)

    def check(self) -> None:
        """Checks the settings; not when they are made, where tyro would draw a box around it.

        Raises:
            InputError: naming the setting.
        """
        command.check_outputs(out=self.out, written=(self.export,))
        command.check_at_least(self, 1, "steps", "evaluate_every")
        counts = ("batch", "evaluate_cases", "score_cases")
        command.check_at_least(self, 1, *counts, most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "channels", "strides", most=command.MOST_WIDTH)
        command.check_at_least(self, 0, "workers", most=command.MOST_WORKERS)
        command.check_positive(self, "learning_rate")
        self.network()
        if not _FINEST <= self.spacing <= _COARSEST:
            raise InputError(
                f"`spacing` is {self.spacing} mm; give a number from {_FINEST} to {_COARSEST}"
            )
        command.check_seed(self.seed)
        if not 0 < self.threshold < 1:
            raise InputError(f"`threshold` is {self.threshold}; give a probability")
