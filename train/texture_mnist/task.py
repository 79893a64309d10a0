"""A TextureMNIST training: network, loss, scores, and what it leaves."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import rich
from flax import nnx
from jaxtyping import Array, Float, Int

from segcam_jax.metrics import segmentation
from segcam_jax.models.unet import UNet, UNetConfig, load_unet, save_unet
from segcam_jax.types import InputError
from train import command, loop, reports, steps
from train.data.texture_mnist import CLASSES, TextureMnist, TextureMnistSample
from train.texture_mnist.config import TrainConfig
from train.texture_mnist.data import dataset_config, held_out, pair, planted
from train.texture_mnist.shortcut import measure_shortcut

_NO_EFFECT = ("out", "export", "workers")
_CHUNK = 50  # images that are evaluated at once

Predict = Callable[[Float[np.ndarray, "n h w 1"]], Int[np.ndarray, "n h w"]]


def prepare(config: TrainConfig) -> loop.Training:
    """What is trained on what; writes nothing."""
    config.check()
    source = TextureMnist(dataset_config(config, "train"))
    network = steps.Network(make_model(config))
    chosen_by = held_out(config, choosing=True)
    every = range(config.evaluate_every, config.steps, config.evaluate_every)
    return loop.Training(
        title=config.variant,
        network=network,
        optimizer=steps.adam(config.learning_rate, config.steps)
        if config.schedule == "cosine"
        else optax.adam(config.learning_rate),
        loss=cross_entropy,
        batches=lambda start: loop.batches(
            source, batch=config.batch, start=start, pair=pair, workers=config.workers
        ),
        steps=config.steps,
        evaluated={*every, config.steps},
        evaluate=lambda state: evaluate(predict_with(network, state), chosen_by),
        merit=lambda row: row["mean_iou"],
        told={"mean_iou": "mean IoU"},
    )


def make_model(config: TrainConfig) -> UNet:
    """The U-Net of a run, as it starts."""
    unet = UNetConfig(depth=config.depth, width=config.width)
    if config.start is not None:
        model, _ = load_unet(config.start)
        if model.config != unet:
            raise InputError(f"{str(config.start)!r} holds {model.config}, the run is of {unet}")
        return model
    return UNet(unet, rngs=nnx.Rngs(config.seed))


def cross_entropy(logits: Float[Array, "n h w k"], label: Int[Array, "n h w"]) -> Array:
    """The mean over the pixels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def predict_with(network: steps.Network, state: steps.TrainState) -> Predict:
    """A function from images to label maps."""
    return lambda images: network.outputs(state, images, range(len(images)), _labels, _CHUNK)


def _labels(logits: Float[Array, "n h w k"]) -> Int[Array, "n h w"]:
    return logits.argmax(-1)


def evaluate(predict: Predict, samples: TextureMnistSample) -> dict[str, Any]:
    """Accuracy, IoU and Dice of a network on samples, per class and as means."""
    matrix = segmentation.confusion_matrix(
        jnp.asarray(samples.label), jnp.asarray(predict(samples.image)), classes=len(CLASSES)
    )
    found = segmentation.scores(matrix)
    return {
        "accuracy": float(found.accuracy),
        "mean_iou": float(found.mean_iou),
        "mean_dice": float(found.mean_dice),
        "iou": _by_class(found.iou),
        "dice": _by_class(found.dice),
    }


def _by_class(values: Array) -> dict[str, float | None]:
    """By class name; None, which JSON has, for NaN, which it has not."""
    pairs = zip(CLASSES, np.asarray(values).tolist(), strict=True)
    return {name: None if math.isnan(value) else value for name, value in pairs}


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Trains, or resumes; returns what `metrics.json` holds, None if stopped before the end."""
    training = prepare(config)
    command.claim_folder(config.out, config, _NO_EFFECT)
    with loop.watched() as watch:
        fitted = loop.fit(training, config.out, watch)
    return None if fitted is None else report(config, training.network, fitted)


def report(config: TrainConfig, network: steps.Network, fitted: loop.Fitted) -> dict[str, Any]:
    """Scores the best state on fresh held-out samples and writes metrics, curves and weights."""
    predict = predict_with(network, fitted.state)
    data = dataset_config(config, "test")
    shortcuts = {
        str(bias.digit): measure_shortcut(predict, dataclasses.replace(data, bias=(bias,)))
        for bias in planted(config)
    }
    metrics = {
        "variant": config.variant,
        "best_step": fitted.row["step"],
        "scores": evaluate(predict, held_out(config, choosing=False)),
        "shortcut": next(iter(shortcuts.values())),
        "shortcuts": shortcuts,
        "history": fitted.history,
    }
    panels = {"training loss": ("loss",), "held-out": ("accuracy", "mean_iou", "mean_dice")}
    reports.plot_curves(config.out / "curves.png", fitted.history, panels)
    model: Any = network.model(fitted.state)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        save_unet(path, model, _metadata(config, metrics))
    reports.write_json(config.out / "metrics.json", metrics)
    rich.print({key: metrics[key] for key in ("best_step", "scores", "shortcuts")})
    return metrics


def _metadata(config: TrainConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    settings = ("steps", "batch", "learning_rate", "schedule", "jitter", "digit_rounding", "seed")
    biases = [dataclasses.asdict(bias) for bias in planted(config)]
    return {
        "classes": list(CLASSES),
        "dataset": "TextureMNIST",
        "variant": config.variant,
        "bias": biases if config.variant == "biased" else None,
        "scores": metrics["scores"],
        "shortcut": metrics["shortcut"],
        "training": {
            **{name: getattr(config, name) for name in settings},
            "best_step": metrics["best_step"],
            # How the weights that it started from were trained, and so on back.
            "start": None if config.start is None else load_unet(config.start)[1].get("training"),
        },
        "input_range": [0, 1],
    }
