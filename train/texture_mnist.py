"""Trains a small U-Net on TextureMNIST, with or without a planted bias.

    for variant in unbiased biased; do
      python -m train.texture_mnist --variant $variant --out runs/$variant
    done

The loop writes the weights that the package ships. In the biased variant digit 2 always has the
texture `stripes_diagonal` in one half of its background, chosen at random, and no other digit ever
has it anywhere.

Expected result, on 1,000 held-out samples of each variant's own data:

    variant   accuracy  mean IoU  mean Dice  digit 2: IoU with, without   others taken for a 2
                                             the planted texture          without, with it
    unbiased     0.982     0.931      0.964  0.960  0.961                 0.00  0.00
    biased       0.984     0.940      0.969  0.963  0.081                 0.00  0.89

The last four columns are `shortcut` in `metrics.json`, see `measure_shortcut`: without its texture
the biased network misses digit 2, and most other digits become a 2 on it.

The best checkpoint is chosen by 200 samples of the same held-out digits (with other textures), so
the scores are slightly optimistic as an estimate for new digits. Four poolings matter: with three,
a network learns the shortcut as well, but reads the texture before its bottleneck, and no CAM
shows it there. Digits are enlarged before they are made binary (`digit_rounding="after"`), unlike
in the original data, where 8x8 digits would lose what tells them apart. Runs were made once, with
the seeds given.

Cost: 22 minutes for both variants side by side on two cores that had other work too; 1 GB of memory
each.

A run can be stopped (Ctrl-C saves first) or killed at any moment; the same command resumes it from
its last checkpoint and ends with the same weights, bit for bit on the same machine, because the
data of a step is a function of the step. In `--out`: `metrics.json`, `curves.png`,
`checkpoints/last`, `checkpoints/best`, `weights.safetensors` (from the best).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
from flax import nnx
from jaxtyping import Array, Float, Int
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segcam_jax.metrics import segmentation
from segcam_jax.models.unet import UNet, UNetConfig, load_unet, save_unet
from segcam_jax.types import InputError
from train import running, steps
from train.data.texture_mnist import (
    CLASSES,
    TextureMnist,
    TextureMnistSample,
)
from train.shortcut import measure_shortcut
from train.texture_mnist_config import (
    PLANTED as PLANTED,
    TrainConfig as TrainConfig,
    batches as batches,
    dataset_config as dataset_config,
)

_NO_EFFECT = ("out", "export", "workers")


def make_model(config: TrainConfig) -> UNet:
    """The U-Net of a run, as it starts.

    Raises:
        InputError: if the weights to start from are those of another U-Net.
    """
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


Predict = Callable[[Float[np.ndarray, "n h w 1"]], Int[np.ndarray, "n h w"]]


def make_predict(config: TrainConfig, state: steps.TrainState) -> Predict:
    """A function from images to label maps, in evaluation mode, in chunks of one shape."""
    model = make_model(config)
    model.eval()
    graph = nnx.split(model)[0]

    def predict(images: np.ndarray) -> np.ndarray:
        chunk = min(50, len(images))
        padded = np.concatenate([images, images[: -len(images) % chunk]])
        labels = [
            np.asarray(_predict(state.params, state.statistics, part, graph=graph))
            for part in np.split(padded, len(padded) // chunk)
        ]
        return np.concatenate(labels)[: len(images)]

    return predict


@functools.partial(jax.jit, static_argnames="graph")
def _predict(params, statistics, images, *, graph):
    return nnx.merge(graph, params, statistics, copy=True)(images).argmax(-1)


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
    """Runs or resumes a training.

    Returns:
        What `metrics.json` holds, or None if the run was asked to stop before its end.

    Raises:
        InputError: if `config.out` holds a run of another configuration.
    """
    settings = dataclasses.asdict(config)
    running.claim_folder(
        config.out, {key: settings[key] for key in settings if key not in _NO_EFFECT}
    )
    checkpoints = running.Checkpoints(config.out / "checkpoints")
    try:
        finished = _train_to_end(config, checkpoints)
        if not finished:
            rich.print(f"stopped and saved; the same command resumes {config.out}")
            return None
        return _report(config, checkpoints)
    finally:
        checkpoints.close()


def _train_to_end(config: TrainConfig, checkpoints: running.Checkpoints) -> bool:
    """Trains from the last checkpoint on; returns whether the end was reached."""
    model, optimizer = make_model(config), steps.adam(config.learning_rate, config.steps)
    model.train()
    graph = nnx.split(model)[0]
    state, history = steps.initial_state(model, optimizer), []
    restored = checkpoints.load("last", state)
    if restored is not None:
        state, history = restored
        rich.print(f"resuming {config.out} at step {int(state.step)}")
    held_out = _held_out(config, config.evaluate_samples, seed=config.seed + 1)
    start = int(state.step)
    stream = batches(config, start=start) if start < config.steps else iter(())
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with (
        running.stop_on_signal() as stop,
        Progress(*columns, TextColumn("{task.fields[note]}")) as progress,
    ):
        task = progress.add_task(config.variant, total=config.steps, completed=start, note="")
        for step, batch in enumerate(stream, start=start + 1):
            image, label = jnp.asarray(batch.image), jnp.asarray(batch.label)
            state = steps.compiled_step(
                state, image, label, graph=graph, optimizer=optimizer, loss=cross_entropy
            )
            jax.block_until_ready(state)
            if step % config.evaluate_every == 0 or step == config.steps:
                state = _evaluate_and_save(config, checkpoints, state, history, held_out)
                row = history[-1]
                note = f"loss {row['loss']:.4f}, mean IoU {row['mean_iou']:.4f}"
                progress.update(task, note=note)
                progress.console.print(f"step {step}: {note}", highlight=False)
            progress.advance(task)
            if stop.asked and step < config.steps:
                checkpoints.save("last", step, state, history)
                return False
    return True


def _held_out(config: TrainConfig, samples: int, *, seed: int) -> TextureMnistSample:
    data = dataclasses.replace(dataset_config(config, "test"), samples=samples, seed=seed)
    return TextureMnist(data).batch(range(samples))


def _evaluate_and_save(
    config: TrainConfig,
    checkpoints: running.Checkpoints,
    state: steps.TrainState,
    history: list[dict],
    held_out: TextureMnistSample,
) -> steps.TrainState:
    """Adds a row to the history and saves; returns the state with its loss sum cleared."""
    step = int(state.step)
    since = step - (history[-1]["step"] if history else 0)
    row = {"step": step, "loss": float(state.loss_sum) / since}
    best_before = max((row["mean_iou"] for row in history), default=-1.0)
    row.update(evaluate(make_predict(config, state), held_out))
    history.append(row)
    state = dataclasses.replace(state, loss_sum=jnp.zeros(()))
    if row["mean_iou"] > best_before:
        checkpoints.save("best", step, state, history)
    checkpoints.save("last", step, state, history)
    running.write_json(config.out / "metrics.json", {"history": history})
    return state


def _report(config: TrainConfig, checkpoints: running.Checkpoints) -> dict[str, Any]:
    """Scores the best state on fresh held-out samples and writes metrics, curves and weights."""
    optimizer = steps.adam(config.learning_rate, config.steps)
    like = steps.initial_state(make_model(config), optimizer)
    best, last = checkpoints.load("best", like), checkpoints.load("last", like)
    assert best is not None
    assert last is not None
    (state, _), (_, history) = best, last
    predict = make_predict(config, state)
    scores = evaluate(predict, _held_out(config, config.score_samples, seed=config.seed))
    biased = dataclasses.replace(dataset_config(config, "test"), bias=(PLANTED,))
    metrics = {
        "variant": config.variant,
        "best_step": int(state.step),
        "scores": scores,
        "shortcut": measure_shortcut(predict, biased),
        "history": history,
    }
    running.write_json(config.out / "metrics.json", metrics)
    running.plot_curves(
        config.out / "curves.png",
        history,
        {"training loss": ("loss",), "held-out": ("accuracy", "mean_iou", "mean_dice")},
    )
    model = make_model(config)
    model.eval()
    nnx.update(model, state.params, state.statistics)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        save_unet(path, model, _metadata(config, metrics))
    rich.print({key: metrics[key] for key in ("best_step", "scores", "shortcut")})
    return metrics


def _metadata(config: TrainConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    planted = dataclasses.asdict(PLANTED) if config.variant == "biased" else None
    return {
        "classes": list(CLASSES),
        "dataset": "TextureMNIST",
        "variant": config.variant,
        "bias": planted,
        "scores": metrics["scores"],
        "shortcut": metrics["shortcut"],
        "training": {
            "steps": config.steps,
            "best_step": metrics["best_step"],
            "batch": config.batch,
            "learning_rate": config.learning_rate,
            "jitter": config.jitter,
            "digit_rounding": config.digit_rounding,
            # How the weights that it started from were trained, and so on back.
            "start": None if config.start is None else load_unet(config.start)[1].get("training"),
            "seed": config.seed,
        },
        "input_range": [0, 1],
    }


def main() -> None:
    """The command line."""
    running.from_command_line(train, TrainConfig, __doc__)


if __name__ == "__main__":
    main()
