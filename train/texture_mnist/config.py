"""The settings of a TextureMNIST training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segcam_jax.types import InputError
from train import command

_TILE = 64  # height and width of an image
_MOST_HALVINGS = 6
_MOST_BIASED = 5
_MOST_JITTER = 5.0  # beyond, digits shrink to nothing


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        variant: train with planted biases, or without.
        biased_digits: with biases, the digits that have a texture of their own in one half of their
            background, at most five.
        out: folder of the run. The command resumes a run that is there.
        export: also write the weights into this file.
        steps: optimiser steps.
        batch: images per step.
        learning_rate: the learning rate of Adam: the peak of the cosine, or the constant rate.
        schedule: a warm-up of a twentieth of the steps and a cosine to zero, or a constant rate.
        seed: seed of weights and data.
        depth: how many poolings the U-Net has.
        width: channels of the U-Net's first level.
        jitter: how far to rotate, scale, shear and shift training digits at random, as a share of
            `Jitter()`.
        digit_rounding: see `TextureMnistConfig`.
        start: start from these weights; None starts from random weights.
        evaluate_every: steps between evaluations, each with a checkpoint.
        evaluate_samples: how many held-out samples each evaluation uses.
        score_samples: how many held-out samples the final scores use.
        digits: folder of digits; None takes scikit-learn's.
        textures: folder of textures; None takes the built-in ones.
        workers: processes that render batches; 0 renders in a thread.
    """

    variant: Literal["unbiased", "biased"] = "unbiased"
    biased_digits: tuple[int, ...] = (2,)
    out: Path = Path("runs/texture_mnist")
    export: Path | None = None
    steps: int = 3500
    batch: int = 20
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
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

    def check(self) -> None:
        """Checks the settings; not when they are made, where tyro would draw a box around it."""
        command.check_outputs(out=self.out, written=(self.export,))
        command.check_at_least(self, 1, "steps", "evaluate_every", "depth")
        counts = ("batch", "evaluate_samples", "score_samples")
        command.check_at_least(self, 1, *counts, most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "width", most=command.MOST_WIDTH)
        command.check_at_least(self, 0, "workers", most=command.MOST_WORKERS)
        command.check_positive(self, "learning_rate")
        command.check_seed(self.seed)
        digits = self.biased_digits
        if not 1 <= len(set(digits)) == len(digits) <= _MOST_BIASED or not {*digits} < {*range(10)}:
            raise InputError(
                f"`biased_digits` is {digits}; give one to {_MOST_BIASED} digits, each once"
            )
        if self.variant == "unbiased" and digits != (2,):
            raise InputError("`biased_digits` needs --variant biased")
        if self.depth > _MOST_HALVINGS:
            raise InputError(
                f"`depth` is {self.depth}; images of {_TILE} x {_TILE} are halved 1 to "
                f"{_MOST_HALVINGS} times"
            )
        if not 0 <= self.jitter <= _MOST_JITTER:
            raise InputError(f"`jitter` is {self.jitter}; give a share from 0 to {_MOST_JITTER:g}")


# What `--recipe NAME` puts in place of the defaults: the two trainings that Seg-Grad-CAM's
# repository shows, of 200 epochs of 500 steps and of 300 epochs of 5000; an epoch is 50,000 images.
_PUBLISHED = {
    "variant": "biased",
    "schedule": "constant",
    "depth": 4,
    "width": 32,
    "jitter": 0.0,
    "digit_rounding": "before",
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "published-500": {
        **_PUBLISHED,
        "biased_digits": (1, 2, 3),
        "batch": 100,
        "learning_rate": 3e-4,
        "steps": 200 * 500,
        "evaluate_every": 500,
    },
    "published-300": {
        **_PUBLISHED,
        "batch": 10,
        "learning_rate": 4e-4,
        "steps": 300 * 5000,
        "evaluate_every": 5000,
    },
}
