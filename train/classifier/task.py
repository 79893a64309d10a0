"""A classifier's training: folds, loss, scores, and what it leaves."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import rich
from jaxtyping import Array, Float, Int

from segcam_jax import files, models
from segcam_jax.metrics import segmentation
from segcam_jax.models import stored
from train import command, loop, reports, steps
from train.classifier.config import ClassifierConfig
from train.classifier.data import TrainingImages, folds_of, read_images
from train.classifier.model import HEAD_PARAMETERS, make_model
from train.data.labelled import LabelledImages

NO_EFFECT = ("out", "export", "only", "data", "start")
_OF_FOLD = ("fold", "scores", "confusion")
_CHUNK = 32  # images that are evaluated at once


@dataclasses.dataclass(frozen=True)
class Run:
    """What the folds of a run share.

    Attributes:
        fold_of: the fold of each image, from 1.
        family: what weights files call the network.
    """

    config: ClassifierConfig
    images: LabelledImages
    fold_of: Int[np.ndarray, "n"]
    family: str
    network: steps.Network

    def members(self, fold: int, *, held_out: bool) -> Int[np.ndarray, "m"]:
        """The images of a fold, or all others."""
        return np.flatnonzero((self.fold_of == fold) == held_out)

    def folder(self, fold: int) -> Path:
        """Where the files of a fold are."""
        return self.config.out / f"fold{fold}"

    def is_finished(self, fold: int) -> bool:
        """Whether a fold has the last file that it writes."""
        return (self.folder(fold) / "metrics.json").is_file()


def prepare(config: ClassifierConfig) -> Run:
    """Reads the images and makes the network; writes nothing."""
    config.check()
    images = read_images(config)
    fold_of = folds_of(images, folds=config.folds, seed=config.seed)
    family, model = make_model(config, images.class_names)
    frozen = {"trained": HEAD_PARAMETERS, "frozen": True} if config.freeze else {}
    network = steps.Network(model, **frozen)
    network.check_input((*images.extents[0], config.channels))
    return Run(config, images, fold_of, family, network)


def training_of(run: Run, fold: int) -> loop.Training:
    """What is trained in a fold, on what."""
    config, members = run.config, run.members(fold, held_out=False)
    source = TrainingImages(config, run.images, members, fold)
    epoch_at, last = source.epochs.ends, max(source.epochs.ends)

    def evaluate(state: steps.TrainState) -> loop.Row:
        _, _, found = predictions(run, fold, state)
        scores = {"accuracy": found["accuracy"], "held_out_loss": found["loss"]}
        return {"epoch": epoch_at[int(state.step)], **scores}

    return loop.Training(
        title=f"fold {fold}",
        network=run.network,
        optimizer=steps.sgd(
            config.learning_rate, config.momentum, last if config.schedule == "cosine" else None
        ),
        loss=cross_entropy,
        batches=lambda start: loop.batches(source, batch=config.batch, start=start),
        steps=last,
        evaluated=epoch_at,
        evaluate=evaluate,
        merit=lambda row: _merit(row["accuracy"], row["held_out_loss"]),
        told={"accuracy": "accuracy"},
    )


def cross_entropy(logits: Float[Array, "n k"], label: Int[Array, "n"]) -> Array:
    """The mean over the images."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def _merit(accuracy: float, loss: float) -> tuple[float, float]:
    """By accuracy, and by the loss between equals; one that is not a number comes last."""
    return accuracy, -math.inf if math.isnan(loss) else -loss


def predictions(
    run: Run, fold: int, state: steps.TrainState
) -> tuple[pl.DataFrame, Int[np.ndarray, "k k"], dict[str, Any]]:
    """A fold's images as rows of a table, their confusion matrix, and its scores."""
    members = run.members(fold, held_out=True)
    found = run.network.outputs(state, run.images, members.tolist(), jax.nn.log_softmax, _CHUNK)
    names, labels, predicted = run.images.class_names, run.images.labels[members], found.argmax(-1)
    rows = np.arange(len(members))
    entropy = -found[rows, labels]
    matrix = np.asarray(
        segmentation.confusion_matrix(
            jnp.asarray(labels), jnp.asarray(predicted), classes=len(names)
        )
    )
    table = pl.DataFrame(
        {
            "image": [run.images.names[index] for index in members],
            "fold": [fold] * len(members),
            "class": [names[label] for label in labels],
            "predicted": [names[label] for label in predicted],
            "probability": [f"{value:.4f}" for value in np.exp(found[rows, predicted])],
            "cross_entropy": [f"{value:.4f}" for value in entropy],
        }
    )
    return table, matrix, {"loss": float(entropy.mean()), **reports.class_scores(matrix)}


def train(config: ClassifierConfig) -> dict[str, Any] | None:
    """Trains, or resumes; returns what `metrics.json` holds, None if stopped before the end."""
    run = prepare(config)
    # Contents, not paths.
    start = None if config.start is None else files.sha256_of(models.path_of(config.start))
    command.claim_folder(config.out, config, NO_EFFECT, data=run.images.sha256, start=start)
    for note in run.images.notes:
        rich.print(f"note: {note}")
    with loop.watched() as watch:
        for fold in sorted(set(config.only)) or range(1, config.folds + 1):
            if run.is_finished(fold):
                continue
            fitted = loop.fit(training_of(run, fold), run.folder(fold), watch)
            if fitted is None:
                return None
            report_fold(run, fold, fitted)
    return report(run)


def report_fold(run: Run, fold: int, fitted: loop.Fitted) -> None:
    """Writes weights, predictions, curves and metrics of a fold's best epoch."""
    table, matrix, scores = predictions(run, fold, fitted.state)
    about = {"fold": fold, "best_epoch": fitted.row["epoch"], "scores": scores}
    folder, model = run.folder(fold), run.network.model(fitted.state)
    stored.save(folder / "weights.safetensors", run.family, model, _metadata(run, about))
    reports.write_table(folder / "predictions.csv", table)
    panels = {"loss": ("loss", "held_out_loss"), "held-out": ("accuracy",)}
    reports.plot_curves(folder / "curves.png", fitted.history, panels)
    metrics = {**about, "confusion": matrix.tolist(), "history": fitted.history}
    reports.write_json(folder / "metrics.json", metrics)


def _metadata(run: Run, about: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    settings = ("folds", "epochs", "batch", "learning_rate", "schedule", "momentum", "augment")
    return {
        "classes": list(run.images.class_names),
        **about,
        "extents": list(run.images.extents[0]),
        "input_range": [0, 1],
        "training": {
            **{name: getattr(config, name) for name in (*settings, "freeze", "seed")},
            "start": None if config.start is None else Path(config.start).name,
            "data_sha256": run.images.sha256,
        },
    }


def report(run: Run) -> dict[str, Any]:
    """Writes what all finished folds say together, and the weights of the best."""
    config, names = run.config, run.images.class_names
    folders = [run.folder(n) for n in range(1, config.folds + 1) if run.is_finished(n)]
    folds = [reports.read_json(folder / "metrics.json", *_OF_FOLD) for folder in folders]
    scores = [fold["scores"] for fold in folds]
    sizes = [int(np.sum(fold["confusion"])) for fold in folds]
    matrix = np.sum([fold["confusion"] for fold in folds], axis=0)
    merits = [_merit(each["accuracy"], each["loss"]) for each in scores]
    best = merits.index(max(merits))
    accuracies = [each["accuracy"] for each in scores]
    metrics = {
        "model": config.model,
        "classes": list(names),
        "images": sum(sizes),
        "folds": [fold["fold"] for fold in folds],
        "of_folds": config.folds,
        "scores": {
            **reports.class_scores(matrix),
            "loss": float(np.average([each["loss"] for each in scores], weights=sizes)),
            "accuracy_by_fold": accuracies,
            "accuracy_deviation": float(np.std(accuracies)),
        },
        "confusion": matrix.tolist(),
        "best_fold": folds[best]["fold"],
    }
    reports.write_classes(config.out, matrix, names)
    tables = [reports.read_table(folder / "predictions.csv") for folder in folders]
    reports.write_table(config.out / "predictions.csv", pl.concat(tables))
    weights = (folders[best] / "weights.safetensors").read_bytes()
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        files.write_bytes(path, weights)
    reports.write_json(config.out / "metrics.json", metrics)
    return metrics


def show(metrics: dict[str, Any]) -> None:
    """Prints the scores of a run, and its table of classes."""
    found = metrics["scores"]
    done = f"{len(metrics['folds'])} of {metrics['of_folds']} folds"
    rich.print(
        f"{metrics['model']}, {done}, {metrics['images']} images: accuracy "
        f"{found['accuracy']:.4f} (deviation between folds {found['accuracy_deviation']:.4f}), "
        f"loss {found['loss']:.4f}, precision {found['precision']:.4f}, recall "
        f"{found['recall']:.4f}, F1 {found['f1']:.4f}"
    )
    table = reports.class_table(np.asarray(metrics["confusion"]), metrics["classes"])
    reports.show_rows(table.to_dicts())
