"""A segmentation network's training: loss, scores, and what it leaves."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import rich
from jaxtyping import Array, Float, Int
from rich.markup import escape
from rich.table import Table

from segcam_jax import files, models
from segcam_jax.data.images import pad_to_multiple
from segcam_jax.metrics import segmentation
from segcam_jax.models import stored
from train import command, loop, reports, steps
from train.data.segmented import UNKNOWN, SegmentedImages
from train.segmentation.config import LOSSES, MERITS, SegmentationTraining
from train.segmentation.data import TrainingImages, held_out, kept, read_images, steps_after
from train.segmentation.model import make_model

_NO_EFFECT = ("out", "export", "workers", "data", "held_out", "images", "start")
_CHUNK = 8  # images that are evaluated at once
_ROUNDED = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, ready to be trained.

    Attributes:
        config: its settings.
        images: all of them.
        held_out: those that are not trained on.
        family: what weights files call the network.
        training: what is trained, on what.
    """

    config: SegmentationTraining
    images: SegmentedImages
    held_out: Int[np.ndarray, "m"]
    family: str
    training: loop.Training


def prepare(config: SegmentationTraining) -> Run:
    """Reads the images and makes the network; writes nothing.

    Raises:
        InputError: if data, network and settings do not fit together.
    """
    config.check()
    images = read_images(config)
    apart = held_out(config, images)
    members = np.setdiff1d(np.arange(len(images)), apart)
    family, model = make_model(config, len(images.class_names))
    network = steps.Network(model)
    source = TrainingImages(config, images, members, model.config.multiple)
    network.check_input((*source.extents, config.channels))
    epoch_at = {steps_after(config, len(members), e): e for e in range(1, config.epochs + 1)}
    last = max(epoch_at)
    evaluate = Evaluation(network, images, apart, LOSSES[config.loss], model.config.multiple)

    def scored(state: steps.TrainState) -> loop.Row:
        scores, _ = evaluate(state)
        return {"epoch": epoch_at[int(state.step)], **scores}

    training = loop.Training(
        title=config.network,
        network=network,
        optimizer=_optimizer(config, last),
        loss=LOSSES[config.loss],
        batches=lambda start: loop.batches(
            source, batch=config.batch, start=start, workers=config.workers
        ),
        steps=last,
        evaluated={s for s, e in epoch_at.items() if e % config.evaluate_every == 0} | {last},
        evaluate=scored,
        merit=lambda row: _merit(MERITS[config.best] * row[config.best]),
        told={"mean_iou": "mean IoU"},
        adjusted=functools.partial(_on_plateau, config) if config.schedule == "plateau" else None,
    )
    return Run(config, images, apart, family, training)


def _optimizer(config: SegmentationTraining, last: int) -> Any:
    if config.schedule == "cosine":
        return steps.adam(config.learning_rate, last)
    return steps.steady_adam(config.learning_rate)


def _on_plateau(
    config: SegmentationTraining, state: steps.TrainState, history: list[loop.Row]
) -> steps.TrainState:
    losses = [row["held_out_loss"] for row in history]
    return steps.with_rate(state, steps.rate_on_plateau(losses, config.learning_rate))


def _merit(value: float) -> float:
    """One that is no number comes last."""
    return -math.inf if math.isnan(value) else value


class Evaluation:
    """Scores of a network's states on held-out images, which keep their extents.

    Args:
        network: the network.
        images: all of them.
        members: those that are scored.
        loss: of logits and labels.
        multiple: of what extents must be; images are mirrored up to it, which is not scored.
    """

    def __init__(
        self,
        network: steps.Network,
        images: SegmentedImages,
        members: Int[np.ndarray, "m"],
        loss: Callable[[Array, Array], Array],
        multiple: int,
    ):
        self._network, self._loss, self._multiple = network, loss, multiple
        self._names, self._members, self._read = images.class_names, members, kept(images, members)

    def __call__(self, state: steps.TrainState) -> tuple[dict[str, float], Int[np.ndarray, "k k"]]:
        """Scores a state.

        Returns:
            `(scores, matrix)`: accuracy and mean IoU and Dice of all pixels together; the mean over
            images of the loss (`held_out_loss`), and of IoU and Dice of probabilities (`soft_iou`,
            `soft_dice`); and the pixels by true class (row) and predicted class (column).
        """
        classes, rows = len(self._names), []
        matrix = np.zeros((classes, classes), np.int64)
        for part in self._chunks():
            images, labels = (np.stack(each) for each in zip(*map(self._padded, part), strict=True))
            logits = self._network.outputs(state, images, range(len(part)), _same, _CHUNK)
            counts, *values = _scored(logits, labels, loss=self._loss)
            matrix += np.asarray(counts)
            rows += zip(*(np.asarray(each).tolist() for each in values), strict=True)
        found = segmentation.scores(jnp.asarray(matrix))
        names = ("held_out_loss", "soft_iou", "soft_dice")
        means = zip(names, np.mean(rows, axis=0).tolist(), strict=True)
        wholes = {key: float(getattr(found, key)) for key in ("accuracy", "mean_iou", "mean_dice")}
        return {**wholes, **dict(means)}, matrix

    def _chunks(self):
        """The images in parts of equal extents."""
        by_extents = collections.defaultdict(list)
        for index in self._members.tolist():
            by_extents[self._read(index)[1].shape].append(index)
        for group in by_extents.values():
            yield from (group[n : n + _CHUNK] for n in range(0, len(group), _CHUNK))

    def _padded(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._read(index)
        image = pad_to_multiple(image, self._multiple)
        missing = [(0, m - n) for m, n in zip(image.shape, labels.shape, strict=False)]
        return image, np.pad(labels, missing, constant_values=UNKNOWN)

    def prediction(self, state: steps.TrainState, index: int) -> Int[np.ndarray, "h w"]:
        """The classes that a state sees in an image."""
        image, _ = self._padded(index)
        height, width = self._read(index)[1].shape
        logits = self._network.outputs(state, image[None], [0], _same, 1)[0]
        return logits.argmax(-1)[:height, :width]


def _same(logits: Array) -> Array:
    return logits


@functools.partial(jax.jit, static_argnames="loss")
def _scored(
    logits: Float[Array, "n h w k"], labels: Int[Array, "n h w"], *, loss: Callable
) -> tuple[Int[Array, "k k"], Float[Array, "n"], Float[Array, "n"], Float[Array, "n"]]:
    """Pixels by true and predicted class; and of each image the loss, and soft IoU and Dice."""
    classes = logits.shape[-1]
    matrix = segmentation.confusion_matrix(labels, logits.argmax(-1), classes=classes)
    losses = jax.vmap(lambda x, y: loss(x[None], y[None]))(logits, labels)
    return matrix, losses, *soft_overlaps(logits, labels)


def soft_overlaps(
    logits: Float[Array, "n h w k"], labels: Int[Array, "n h w"]
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """IoU and Dice of probabilities, all classes of an image together, as Seg-Grad-CAM has them.

        IoU = (I + 1) / (U + 1),    Dice = (2 I + 1) / (S + 1)

    I = sum p g, S = sum p + sum g and U = S - I, over all labelled pixels and classes.
    """
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    probability = jax.nn.softmax(logits) * truth.sum(-1, keepdims=True)
    common = (probability * truth).sum((1, 2, 3))
    sizes = probability.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return (common + 1) / (sizes - common + 1), (2 * common + 1) / (sizes + 1)


def train(config: SegmentationTraining) -> dict[str, Any] | None:
    """Runs or resumes a training.

    Returns:
        What `metrics.json` holds, or None if the run was asked to stop before its end.

    Raises:
        InputError: as `prepare`, or if `config.out` holds a run of another configuration.
    """
    run = prepare(config)
    # Contents, not paths.
    start = None if config.start is None else files.sha256_of(models.path_of(config.start))
    command.claim_folder(config.out, config, _NO_EFFECT, data=run.images.sha256, start=start)
    with loop.watched() as watch:
        fitted = loop.fit(run.training, config.out, watch)
    return None if fitted is None else report(run, fitted)


def report(run: Run, fitted: loop.Fitted) -> dict[str, Any]:
    """Writes weights, table of classes, curves and metrics of the best state."""
    config, names, network = run.config, run.images.class_names, run.training.network
    model: Any = network.model(fitted.state)
    evaluation = Evaluation(
        network, run.images, run.held_out, LOSSES[config.loss], model.config.multiple
    )
    scores, matrix = evaluation(fitted.state)
    table = class_table(matrix, names)
    metrics = {
        "network": config.network,
        "best_epoch": fitted.row["epoch"],
        "images": {"trained_on": len(run.images) - len(run.held_out), "scored": len(run.held_out)},
        "scores": scores,
        "classes": table.to_dicts(),
        "held_out": [run.images.names[index] for index in run.held_out],
        "history": fitted.history,
    }
    reports.write_table(config.out / "classes.csv", table)
    panels = {
        "loss": ("loss", "held_out_loss"),
        "held-out": ("mean_iou", "mean_dice", "soft_iou"),
    }
    reports.plot_curves(config.out / "curves.png", fitted.history, panels)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        stored.save(path, run.family, model, _metadata(run, metrics))
    reports.write_json(config.out / "metrics.json", metrics)
    return metrics


def class_table(matrix: Int[np.ndarray, "k k"], names: tuple[str, ...]) -> pl.DataFrame:
    """A row for each class: its pixels, IoU and Dice, precision and recall, what it is taken for.

    Scores of a class that is nowhere are empty.
    """
    true, predicted, hits = matrix.sum(1), matrix.sum(0), np.diagonal(matrix)

    def shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
        pairs = zip(part.tolist(), whole.tolist(), strict=True)
        return [round(n / m, _ROUNDED) if m else None for n, m in pairs]

    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    return pl.DataFrame(
        {
            "class": list(names),
            "pixels": true,
            "iou": shares(hits, true + predicted - hits),
            "dice": shares(2 * hits, true + predicted),
            "precision": shares(hits, predicted),
            "recall": shares(hits, true),
            "mostly_taken_for": [names[row.argmax()] if row.any() else None for row in errors],
        },
        schema_overrides={
            **dict.fromkeys(("iou", "dice", "precision", "recall"), pl.Float64),
            "mostly_taken_for": pl.String,
        },
    )


def _metadata(run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    settings = ("epochs", "batch", "learning_rate", "schedule", "loss", "best")
    changes = ("size", "crop", "zoom", "flips", "colour", "seed")
    return {
        "classes": list(run.images.class_names),
        "scores": metrics["scores"],
        "input_range": [0, 1],
        "training": {
            **{name: getattr(config, name) for name in (*settings, *changes)},
            "best_epoch": metrics["best_epoch"],
            "start": None if config.start is None else config.start.name,
            "data_sha256": run.images.sha256,
        },
    }


def show(metrics: dict[str, Any]) -> None:
    """Prints the scores of a run, and its table of classes."""
    found, counts = metrics["scores"], metrics["images"]
    rich.print(
        f"{metrics['network']}, epoch {metrics['best_epoch']}, trained on {counts['trained_on']} "
        f"images, {counts['scored']} held out: mean IoU {found['mean_iou']:.4f}, mean Dice "
        f"{found['mean_dice']:.4f}, pixel accuracy {found['accuracy']:.4f}"
    )
    rows = metrics["classes"]
    table = Table(*(column.replace("_", " ") for column in rows[0]))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    rich.print(table)
