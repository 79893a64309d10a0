"""The settings of a training on planted lesions, and the data that they determine."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.data.scans import zscore
from segcam_jax.extras import require
from segcam_jax.models.monai_unet import MonaiUNetConfig
from segcam_jax.types import InputError
from train.data.brain_template import Template, mni152, read_template
from train.data.lesions import LesionCases, LesionConfig

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

    def __post_init__(self):
        for field in ("steps", "batch", "evaluate_every", "evaluate_cases", "score_cases"):
            if getattr(self, field) < 1:
                raise InputError(f"`{field}` is {getattr(self, field)}; give at least 1")
        for field in ("learning_rate", "spacing"):
            if getattr(self, field) <= 0:
                raise InputError(f"`{field}` is {getattr(self, field)}; give more than 0")
        if not 0 < self.threshold < 1:
            raise InputError(f"`threshold` is {self.threshold}; give a probability")


def network_config(config: LesionTraining) -> MonaiUNetConfig:
    """The network of a run."""
    return MonaiUNetConfig(channels=config.channels, strides=config.strides)


def open_template(config: LesionTraining) -> Template:
    """The brain that a run's cases are made of."""
    if config.template is None:
        return mni152(spacing=config.spacing)
    return read_template(config.template, spacing=config.spacing)


def held_out(config: LesionTraining, template: Template, *, choosing: bool) -> LesionCases:
    """Cases that are not trained on: for choosing the best state, or for its final scores."""
    cases = config.evaluate_cases if choosing else config.score_cases
    seed = config.seed + 1 if choosing else config.seed
    return LesionCases(template, LesionConfig(split="test", seed=seed, cases=cases))


class TrainingCases:
    """What the network is trained on, by index: a volume and its labels.

    Args:
        cases: where they come from.
    """

    def __init__(self, cases: LesionCases):
        self._cases = cases

    def __len__(self) -> int:
        """The number of cases."""
        return len(self._cases)

    def __repr__(self) -> str:
        """Names the cases: `grain` compares it."""
        return f"TrainingCases({self._cases!r})"

    def __getitem__(
        self, index: int
    ) -> tuple[Float[np.ndarray, "d h w 2"], Int[np.ndarray, "d h w"]]:
        """Returns modalities with mean 0 and deviation 1 in the brain, and 1 where a lesion is."""
        case = self._cases[index]
        return zscore(case.image), (case.lesions > 0).astype(np.int32)


def batches(
    config: LesionTraining, template: Template, *, start: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches of steps `start` to the end; no case comes twice."""
    grain = require("grain", extra="train")
    data = LesionConfig(split="train", seed=config.seed, cases=config.steps * config.batch)
    source = TrainingCases(LesionCases(template, data))
    steps = grain.MapDataset.source(source).batch(config.batch)[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    stream = steps.to_iter_dataset(options)
    if config.workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
    return iter(stream)
