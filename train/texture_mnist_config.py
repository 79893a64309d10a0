"""The settings of a TextureMNIST training, and the data that they determine."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from segcam_jax.extras import require
from segcam_jax.types import InputError
from train.data.texture_mnist import (
    Bias,
    Jitter,
    TextureMnist,
    TextureMnistConfig,
    TextureMnistSample,
)

PLANTED = Bias(2, background_texture="stripes_diagonal", background_probability=1.0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        variant: whether digit 2 is biased.
        out: folder of the run; a run that is there is resumed.
        export: where else to write the weights.
        steps: optimiser steps.
        batch: images a step.
        learning_rate: its peak, after a warm-up of a twentieth of the steps; cosine to zero.
        seed: of weights and data.
        depth: poolings of the U-Net.
        width: channels of its first level.
        jitter: how far training digits are rotated, scaled, sheared and shifted at random, as a
            share of `Jitter()`.
        digit_rounding: see `TextureMnistConfig`.
        start: weights to start from; None for random ones.
        evaluate_every: steps between evaluations, each with a checkpoint.
        evaluate_samples: held-out samples of these evaluations.
        score_samples: held-out samples of the final scores.
        digits: folder of digits; None for scikit-learn's.
        textures: folder of textures; None for the built-in ones.
        workers: processes that render batches; 0 renders in a thread.
    """

    variant: Literal["unbiased", "biased"] = "unbiased"
    out: Path = Path("runs/texture_mnist")
    export: Path | None = None
    steps: int = 3500
    batch: int = 20
    learning_rate: float = 3e-3
    seed: int = 0
    depth: int = 4
    width: int = 12
    jitter: float = 0.6
    digit_rounding: Literal["before", "after"] = "after"
    start: Path | None = None
    evaluate_every: int = 500
    evaluate_samples: int = 200
    score_samples: int = 1000
    digits: str | None = None
    textures: str | None = None
    workers: int = 0

    def __post_init__(self):
        for field in ("steps", "batch", "evaluate_every", "evaluate_samples", "score_samples"):
            if getattr(self, field) < 1:
                raise InputError(f"`{field}` is {getattr(self, field)}; give at least 1")
        if self.learning_rate <= 0:
            raise InputError(f"`learning_rate` is {self.learning_rate}; give more than 0")


def _jitter(share: float) -> Jitter:
    whole = dataclasses.asdict(Jitter())
    return Jitter(**{name: share * bound for name, bound in whole.items()})


def dataset_config(config: TrainConfig, split: Literal["train", "test"]) -> TextureMnistConfig:
    """The data of a run: endless new textures in training, held-out digits in test."""
    training = split == "train"
    return TextureMnistConfig(
        split=split,
        seed=config.seed,
        samples=config.steps * config.batch if training else config.score_samples,
        bias=(PLANTED,) if config.variant == "biased" else (),
        exclude_bias_textures=True,
        jitter=_jitter(config.jitter) if training and config.jitter else None,
        digit_rounding=config.digit_rounding,
        digits=config.digits,
        textures=config.textures,
    )


def batches(config: TrainConfig, *, start: int) -> Iterator[TextureMnistSample]:
    """The batches of steps `start` to the end."""
    grain = require("grain", extra="train")
    source = TextureMnist(dataset_config(config, "train"))
    steps = grain.MapDataset.source(source).batch(config.batch)[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    stream = steps.to_iter_dataset(options)
    if config.workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
    return iter(stream)
