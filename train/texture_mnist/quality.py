"""How well a network segments TextureMNIST: accuracy, IoU and Dice of each class.

    python -m train.quality --weights texture-mnist-biased --samples 1000

The script generates samples of held-out digits and textures, with the bias that the network was
trained with, as its file says.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich
from rich.table import Table

from segcam_jax import models
from segcam_jax.types import InputError
from train import command, reports
from train.data.texture_mnist import CLASSES, Bias, TextureMnist, TextureMnistConfig
from train.texture_mnist.task import evaluate

_CHUNK = 50  # images at once


@dataclasses.dataclass(frozen=True)
class QualityConfig:
    """What to measure.

    Attributes:
        weights: bundled weights by name, or a .safetensors file.
        samples: how many samples to generate.
        json: also write the numbers into this file.
    """

    weights: str
    samples: int = 200
    json: Path | None = None

    def check(self) -> None:
        """Raises `InputError`, naming the setting, if one is none."""
        command.check_outputs(written=(self.json,))
        command.check_at_least(self, 1, "samples", most=command.MOST_AT_ONCE)


def measure(config: QualityConfig) -> dict[str, Any]:
    """Scores a network on generated held-out samples; prints them, and writes them if asked to.

    Raises:
        InputError: if the network is of other images or classes, or its file tells of a bias in an
            unknown form.
    """
    config.check()
    model = models.load(config.weights)
    planted = model.metadata.get("bias")
    data = samples_of(model, config.weights, config.samples)
    samples = TextureMnist(data).batch(range(config.samples))
    forward = jax.jit(jax.vmap(model.fn, in_axes=(None, 0)))

    def predict(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(images, -(-len(images) // _CHUNK))
        return np.concatenate([np.asarray(forward(model.params, x)).argmax(-1) for x in parts])

    scores = evaluate(predict, samples)
    found = {"weights": config.weights, "samples": config.samples, "bias": planted, **scores}
    how = "with the planted bias" if planted else "without bias"
    title = f"{config.samples} held-out samples {how}: pixel accuracy {scores['accuracy']:.4f}"
    print(title)
    rich.print(_table(scores))
    if config.json is not None:
        reports.write_json(config.json, found)
    return found


def samples_of(model: models.LoadedModel, weights: str, count: int) -> TextureMnistConfig:
    """Held-out samples with the bias that a network was trained with, as far as its file tells.

    Raises:
        InputError: if the network is of other images or classes, or its file tells of a bias in an
            unknown form.
    """
    if (model.config.in_channels, model.config.classes) != (1, len(CLASSES)):
        raise InputError(
            f"TextureMNIST has 1 channel and {len(CLASSES)} classes; the network of "
            f"{weights!r} has {model.config.in_channels} and {model.config.classes}"
        )
    planted, training = model.metadata.get("bias"), model.metadata.get("training") or {}
    drawn = {key: training[key] for key in ("digit_rounding",) if key in training}
    biases = planted if isinstance(planted, list) else [planted] if planted else []
    try:
        return TextureMnistConfig(
            split="test",
            samples=count,
            bias=tuple(Bias(**each) for each in biases),
            exclude_bias_textures=True,
            **drawn,
        )
    except TypeError:
        raise InputError(
            f"weights {weights!r} tell of a bias or digits in an unknown form"
        ) from None


def _table(scores: Mapping[str, Any]) -> Table:
    table = Table("class", "IoU", "Dice")

    def shown(value: float | None) -> str:
        return "—" if value is None else f"{value:.4f}"

    for name in CLASSES:
        table.add_row(name, shown(scores["iou"][name]), shown(scores["dice"][name]))
    table.add_row("mean", shown(scores["mean_iou"]), shown(scores["mean_dice"]))
    return table


def main() -> None:
    """The command line."""
    command.run(measure, QualityConfig, __doc__)


if __name__ == "__main__":
    main()
