"""What a TextureMNIST training is trained on, and what it is scored on."""

import dataclasses
from typing import Literal

import numpy as np

from train.data.texture_mnist import (
    Bias,
    Jitter,
    TextureMnist,
    TextureMnistConfig,
    TextureMnistSample,
)
from train.texture_mnist.config import TrainConfig

# Of the first biased digit, of the second, ...
_TEXTURES = ("stripes_diagonal", "checks_large", "rings", "zigzag", "weave")


def planted(config: TrainConfig) -> tuple[Bias, ...]:
    """The biases that a run plants, or that the other variant of it would."""
    pairs = zip(config.biased_digits, _TEXTURES, strict=False)
    return tuple(Bias(digit, background_texture=texture) for digit, texture in pairs)


def dataset_config(config: TrainConfig, split: Literal["train", "test"]) -> TextureMnistConfig:
    """The data of a run: endless new textures in training, held-out digits in test."""
    training = split == "train"
    return TextureMnistConfig(
        split=split,
        seed=config.seed,
        samples=config.steps * config.batch if training else config.score_samples,
        bias=planted(config) if config.variant == "biased" else (),
        exclude_bias_textures=True,
        jitter=_jitter(config.jitter) if training and config.jitter else None,
        digit_rounding=config.digit_rounding,
        digits=config.digits,
        textures=config.textures,
    )


def _jitter(share: float) -> Jitter:
    whole = dataclasses.asdict(Jitter())
    return Jitter(**{name: share * bound for name, bound in whole.items()})


def pair(sample: TextureMnistSample) -> tuple[np.ndarray, np.ndarray]:
    """What a step is given of a sample."""
    return sample.image, sample.label


def held_out(config: TrainConfig, *, choosing: bool) -> TextureMnistSample:
    """Samples that are not trained on: for choosing the best state, or for its final scores."""
    samples = config.evaluate_samples if choosing else config.score_samples
    seed = config.seed + 1 if choosing else config.seed
    data = dataclasses.replace(dataset_config(config, "test"), samples=samples, seed=seed)
    return TextureMnist(data).batch(range(samples))
