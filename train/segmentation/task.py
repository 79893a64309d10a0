"""A segmentation network's training: loss, scores, and what it leaves."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import rich
from jaxtyping import Array, Float, Int

from segcam_jax import files, models
from segcam_jax.data.images import pad_to_multiple
from segcam_jax.metrics import segmentation
from segcam_jax.models import stored
from train import command, loop, losses, reports, steps
from train.data.segmented import UNKNOWN, Pair, SegmentedImages, kept
from train.segmentation.config import LOSSES, MERITS, SegmentationTraining
from train.segmentation.data import TrainingImages, held_out, read_images, size_of
from train.segmentation.model import make_model

_NO_EFFECT = ("out", "export", "workers", "data", "held_out", "images", "start")
_CHUNK = 8  # images that are evaluated at once
_ROUNDED = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, ready to be trained.

    Attributes:
        held_out: those that are not trained on.
        family: what weights files call the network.
    """

    config: SegmentationTraining
    images: SegmentedImages
    held_out: Int[np.ndarray, "m"]
    family: str
    training: loop.Training
    evaluate: "Evaluation"


def prepare(config: SegmentationTraining) -> Run:
    """Reads the images and makes the network; writes nothing."""
    config.check()
    images = read_images(config)
    apart = held_out(config, images)
    members = np.setdiff1d(np.arange(len(images)), apart)
    family, model = make_model(config, images.class_names)
    network = steps.Network(model)
    source = TrainingImages(config, images, members, model.config.multiple)
    network.check_input((*source.extents, config.channels))
    epoch_at, last = source.epochs.ends, max(source.epochs.ends)
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
    return Run(config, images, apart, family, training, evaluate)


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
    """One that is not a number comes last."""
    return -math.inf if math.isnan(value) else value


class Evaluation:
    """Scores of a network's states on held-out images, which keep their extents.

    Args:
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
        self._names, self._members, self._pairs = images.class_names, members, kept(images, members)

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
            images, labels = (np.stack(each) for each in zip(*part, strict=True))
            logits = self._network.outputs(state, images, range(len(part)), _same, _CHUNK)
            counts, *values = _scored(logits, labels, loss=self._loss)
            matrix += np.asarray(counts)
            rows += zip(*(np.asarray(each).tolist() for each in values), strict=True)
        found = segmentation.scores(jnp.asarray(matrix, jnp.float32))
        names = ("held_out_loss", "soft_iou", "soft_dice")
        means = zip(names, np.mean(rows, axis=0).tolist(), strict=True)
        wholes = {key: float(getattr(found, key)) for key in ("accuracy", "mean_iou", "mean_dice")}
        return {**wholes, **dict(means)}, matrix

    def _chunks(self) -> Iterator[list[Pair]]:
        """The images and their labels, in parts of equal extents."""
        waiting = collections.defaultdict(list)
        for index in self._members.tolist():
            pair = self._padded(*self._pairs[index])
            part = waiting[pair[1].shape]
            part.append(pair)
            if len(part) == _CHUNK:
                yield part
                part.clear()
        yield from filter(None, waiting.values())

    def _padded(self, image: np.ndarray, labels: np.ndarray) -> Pair:
        image = pad_to_multiple(image, self._multiple)
        missing = [(0, m - n) for m, n in zip(image.shape, labels.shape, strict=False)]
        return image, np.pad(labels, missing, constant_values=UNKNOWN)


def _same(logits: Array) -> Array:
    return logits


@functools.partial(jax.jit, static_argnames="loss")
def _scored(
    logits: Float[Array, "n h w k"], labels: Int[Array, "n h w"], *, loss: Callable
) -> tuple[Int[Array, "k k"], Float[Array, "n"], Float[Array, "n"], Float[Array, "n"]]:
    """Pixels by true and predicted class; and of each image the loss, and soft IoU and Dice.

    These are of probabilities, all classes of an image together, as Seg-Grad-CAM has them:

        IoU = (I + 1) / (U + 1),    Dice = (2 I + 1) / (S + 1)

    I = sum p g, S = sum p + sum g and U = S - I, over all labelled pixels and classes.
    """
    classes = logits.shape[-1]
    matrix = segmentation.confusion_matrix(labels, logits.argmax(-1), classes=classes)
    values = jax.vmap(lambda x, y: loss(x[None], y[None]))(logits, labels)
    common, sizes = losses.overlap(logits, labels, (1, 2, 3))
    return matrix, values, (common + 1) / (sizes - common + 1), (2 * common + 1) / (sizes + 1)


def train(config: SegmentationTraining) -> dict[str, Any] | None:
    """Trains, or resumes; returns what `metrics.json` holds, None if stopped before the end."""
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
    scores, matrix = run.evaluate(fitted.state)
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
    panels = {"loss": ("loss", "held_out_loss"), "held-out": ("mean_iou", "mean_dice", "soft_iou")}
    reports.plot_curves(config.out / "curves.png", fitted.history, panels)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        stored.save(path, run.family, model, _metadata(run, metrics))
    reports.write_json(config.out / "metrics.json", metrics)
    return metrics


def class_table(matrix: Int[np.ndarray, "k k"], names: tuple[str, ...]) -> pl.DataFrame:
    """A row for each class: its pixels, IoU and Dice, precision and recall, what it is taken for.

    Scores of a class that is nowhere are empty.
    """
    counts, hits = jnp.asarray(matrix, jnp.float32), np.diagonal(matrix)
    with np.errstate(invalid="ignore"):
        shares = {
            "iou": segmentation.iou(counts),
            "dice": segmentation.dice(counts),
            "precision": hits / matrix.sum(0),
            "recall": hits / matrix.sum(1),
        }
    table = pl.DataFrame(
        {
            "class": list(names),
            "pixels": matrix.sum(1),
            **{name: np.asarray(values, np.float64) for name, values in shares.items()},
            "mostly_taken_for": reports.mostly_taken_for(matrix, names),
        }
    )
    return table.with_columns(pl.col(*shares).round(_ROUNDED).fill_nan(None))


def _metadata(run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    settings = ("epochs", "batch", "learning_rate", "schedule", "loss", "best")
    changes = ("crop", "zoom", "flips", "colour", "seed")
    return {
        "classes": list(run.images.class_names),
        "scores": metrics["scores"],
        "input_range": [0, 1],
        "training": {
            **{name: getattr(config, name) for name in (*settings, *changes)},
            "size": size_of(config),
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
    reports.show_rows(metrics["classes"])
