"""Trains a classifier on labelled images with k-fold cross-validation: FastAblationCAM's training.

    python -m train.classifier --data POLEN23E --model densenet169 --start densenet169.safetensors
    python -m train.classifier --data polen/*.tfrecords --out runs/polen

`--data` is a folder with one sub-folder per class, or TFRecord files in the layout of POLEN23E. The
defaults are what is known of FastAblationCAM's training: DenseNet-169, images of 224 x 224, a
linear layer of 1664 before the classifier, 5 folds, 15 epochs, batches of 16, SGD at a rate of 0.02
(its file is restored with 0.005). Momentum and augmentation are not stated; Keras's SGD has no
momentum, and none of either is the default. Its code freezes all before the head unless told
otherwise: `--freeze` here. `segcam convert` makes a `--start` of torchvision's or Keras's files.

Every fold trains a network of its own and keeps the weights of the epoch with the best accuracy on
the fold's images (the lower loss decides between equals). As each image is in one fold, the folds
together predict every image once, by a network that has not been trained on it. That choice of the
epoch by the same images makes the scores slightly optimistic.

Expected result on scikit-learn's handwritten digits, 1,797 images of ten classes:

    python -m train.classifier_samples digits runs/digits
    python -m train.classifier --data runs/digits --out runs/digits-resnet18 --model resnet18 \\
        --width 16 --size 32 --channels 1 --momentum 0.9 --schedule cosine --epochs 6

    all folds    accuracy 0.982 (by fold 0.992 0.989 0.975 0.981 0.972), F1 0.982, loss 0.058
    by class     recall 1.00 of 0, 1, 2 and 4; lowest of 9 (0.95) and 8 (0.96)

Cost: a minute for all five folds on two cores.

A run can be stopped (Ctrl-C saves first) or killed at any moment; the same command resumes it from
its last checkpoint and ends with the same weights, bit for bit on the same machine. `--only 2 4`
trains these folds alone; others can be added later. In `--out`:

    metrics.json, classes.csv, confusion.csv, confusion.png    of all finished folds together
    predictions.csv                                            of each image
    weights.safetensors                                        of the best fold; `models.load`
    foldN/                              weights, metrics, predictions, curves.png, checkpoints
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from flax import nnx
from jaxtyping import Int
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segcam_jax import _files, models
from segcam_jax.metrics import segmentation
from segcam_jax.models import stored
from train import classifier_report as report, running
from train.classifier_config import (
    ClassifierConfig as ClassifierConfig,
    TrainingImages,
    batches as batches,
    steps_after as steps_after,
)
from train.classifier_run import (
    Run,
    TrainState,
    jitted_step,
    learning_rate,
    log_probabilities,
    prepare as prepare,
)
from train.data.labelled import LabelledImages

_NO_EFFECT = ("out", "export", "only", "data", "start")
_PREDICTIONS = ("image", "fold", "class", "predicted", "probability", "cross_entropy")


def train(config: ClassifierConfig) -> dict[str, Any] | None:
    """Runs or resumes a training.

    Returns:
        What `metrics.json` holds, or None if the run was asked to stop before its end.

    Raises:
        InputError: if data, model and settings do not fit together, or `config.out` holds a run
            of another configuration; nothing is written then.
    """
    run = prepare(config)
    running.claim_folder(config.out, _identity(config, run.images))
    for note in run.images.notes:
        rich.print(f"note: {note}")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with (
        running.stop_on_signal() as stop,
        Progress(*columns, TextColumn("{task.fields[note]}")) as progress,
    ):
        for fold in sorted(set(config.only)) or range(1, config.folds + 1):
            if not _is_finished(config, fold) and not _train_fold(run, fold, stop, progress):
                rich.print(f"stopped and saved; the same command resumes {config.out}")
                return None
    return _conclude(run)


def _identity(config: ClassifierConfig, images: LabelledImages) -> dict[str, Any]:
    """What a run must have in common with the one that it resumes: contents, not paths."""
    settings = dataclasses.asdict(config)
    identity = {key: settings[key] for key in settings if key not in _NO_EFFECT}
    start = None if config.start is None else _files.sha256_of(models.path_of(config.start))
    return identity | {"data": images.sha256, "start": start}


def _folder(config: ClassifierConfig, fold: int) -> Path:
    return config.out / f"fold{fold}"


def _is_finished(config: ClassifierConfig, fold: int) -> bool:
    # The last file that a fold writes.
    return (_folder(config, fold) / "metrics.json").is_file()


def _train_fold(run: Run, fold: int, stop: running.StopRequest, progress: Progress) -> bool:
    """Trains a fold from its last checkpoint on; returns whether its end was reached."""
    checkpoints = running.Checkpoints(_folder(run.config, fold) / "checkpoints")
    try:
        finished = _steps(run, fold, checkpoints, stop, progress)
        if finished:
            _finish_fold(run, fold, checkpoints)
        return finished
    finally:
        checkpoints.close()


def _steps(
    run: Run,
    fold: int,
    checkpoints: running.Checkpoints,
    stop: running.StopRequest,
    progress: Progress,
) -> bool:
    config, members = run.config, run.members(fold, held_out=False)
    epoch_at = {steps_after(config, len(members), e): e for e in range(1, config.epochs + 1)}
    steps = max(epoch_at)
    # A copy: a step gives its buffers away, and all folds start from the same.
    state, history = jax.tree.map(jnp.copy, run.start), []
    restored = checkpoints.load("last", state)
    if restored is not None:
        state, history = restored
        progress.console.print(f"resuming fold {fold} at step {int(state.step)}")
    start = int(state.step)
    task = progress.add_task(f"fold {fold}", total=steps, completed=start, note="")
    source = TrainingImages(config, run.images, members, fold)
    stream = batches(source, batch=config.batch, start=start) if start < steps else iter(())
    for step, (image, label) in enumerate(stream, start=start + 1):
        state = jitted_step(
            state,
            jnp.asarray(image),
            jnp.asarray(label),
            jnp.asarray(learning_rate(config, step - 1, steps), jnp.float32),
            jnp.asarray(config.momentum, jnp.float32),
            graph=run.graph,
            freeze=config.freeze,
        )
        jax.block_until_ready(state)
        if step in epoch_at:
            state = _evaluate_and_save(run, fold, epoch_at[step], checkpoints, state, history)
            note = f"loss {history[-1]['loss']:.4f}, accuracy {history[-1]['accuracy']:.4f}"
            progress.update(task, note=note)
            progress.console.print(f"fold {fold}, epoch {epoch_at[step]}: {note}", highlight=False)
        progress.advance(task)
        if stop.asked and step < steps:
            checkpoints.save("last", step, state, history)
            return False
    return True


def _evaluate_and_save(
    run: Run,
    fold: int,
    epoch: int,
    checkpoints: running.Checkpoints,
    state: TrainState,
    history: list[dict],
) -> TrainState:
    """Adds a row to the history and saves; returns the state with its loss sum cleared."""
    step = int(state.step)
    since = step - (history[-1]["step"] if history else 0)
    row = {"step": step, "epoch": epoch, "loss": float(state.loss_sum) / since}
    best_before = max(map(_merit, history), default=(-1.0, 0.0))
    _, _, found = _predictions(run, fold, state)
    row |= {"accuracy": found["accuracy"], "held_out_loss": found["loss"]}
    history.append(row)
    state = dataclasses.replace(state, loss_sum=jnp.zeros(()))
    if _merit(row) > best_before:
        checkpoints.save("best", step, state, history)
    checkpoints.save("last", step, state, history)
    return state


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    """By accuracy, and by the loss between equals; one that is no number comes last."""
    loss = row["held_out_loss"]
    return row["accuracy"], -math.inf if math.isnan(loss) else -loss


def _predictions(
    run: Run, fold: int, state: TrainState
) -> tuple[list[tuple], Int[np.ndarray, "k k"], dict[str, Any]]:
    """A fold's images as rows of a table, their confusion matrix, and its scores."""
    members = run.members(fold, held_out=True)
    found, labels = log_probabilities(run, state, members), run.images.labels[members]
    names, predicted = run.images.class_names, found.argmax(-1)
    entropy = -found[np.arange(len(members)), labels]
    matrix = segmentation.confusion_matrix(
        jnp.asarray(labels), jnp.asarray(predicted), classes=len(names)
    )
    rows = [
        (
            run.images.names[index],
            fold,
            names[labels[n]],
            names[predicted[n]],
            f"{np.exp(found[n, predicted[n]]):.4f}",
            f"{entropy[n]:.4f}",
        )
        for n, index in enumerate(members)
    ]
    matrix = np.asarray(matrix)
    return rows, matrix, {"loss": float(entropy.mean()), **report.scores(matrix)}


def _finish_fold(run: Run, fold: int, checkpoints: running.Checkpoints) -> None:
    """Writes weights, predictions, curves and metrics of a fold's best epoch."""
    best, last = checkpoints.load("best", run.start), checkpoints.load("last", run.start)
    assert best is not None
    assert last is not None
    (state, rows_to_best), (_, history) = best, last
    rows, matrix, scores = _predictions(run, fold, state)
    folder, epoch = _folder(run.config, fold), rows_to_best[-1]["epoch"]
    about = {"fold": fold, "best_epoch": epoch, "scores": scores}
    model = nnx.merge(run.eval_graph, state.params, state.rest)
    stored.save(folder / "weights.safetensors", run.family, model, _metadata(run, about))
    report.write_csv(folder / "predictions.csv", _PREDICTIONS, rows)
    running.plot_curves(
        folder / "curves.png",
        history,
        {"loss": ("loss", "held_out_loss"), "held-out": ("accuracy",)},
    )
    metrics = {**about, "confusion": matrix.tolist(), "history": history}
    running.write_json(folder / "metrics.json", metrics)


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


def _conclude(run: Run) -> dict[str, Any]:
    """Writes what all finished folds say together, and the weights of the best."""
    config, names = run.config, run.images.class_names
    finished = [fold for fold in range(1, config.folds + 1) if _is_finished(config, fold)]
    folders = {fold: _folder(config, fold) for fold in finished}
    folds = [json.loads((folders[fold] / "metrics.json").read_text()) for fold in finished]
    matrix = np.sum([fold["confusion"] for fold in folds], axis=0)
    best = max(folds, key=lambda fold: _merit(fold["scores"] | {"held_out_loss": _loss(fold)}))
    accuracies = [fold["scores"]["accuracy"] for fold in folds]
    metrics = {
        "model": config.model,
        "classes": list(names),
        "images": int(matrix.sum()),
        "folds": finished,
        "of_folds": config.folds,
        "scores": {
            **report.scores(matrix),
            "loss": float(np.average(list(map(_loss, folds)), weights=_sizes(folds))),
            "accuracy_by_fold": accuracies,
            "accuracy_deviation": float(np.std(accuracies)),
        },
        "confusion": matrix.tolist(),
        "best_fold": best["fold"],
    }
    report.write_tables(config.out, matrix, names)
    rows = [row for fold in finished for row in report.read_csv(folders[fold] / "predictions.csv")]
    report.write_csv(config.out / "predictions.csv", _PREDICTIONS, rows)
    weights = (folders[best["fold"]] / "weights.safetensors").read_bytes()
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        _files.write_bytes(path, weights)
    running.write_json(config.out / "metrics.json", metrics)
    return metrics


def _loss(fold: dict[str, Any]) -> float:
    return fold["scores"]["loss"]


def _sizes(folds: list[dict[str, Any]]) -> list[int]:
    return [int(np.sum(fold["confusion"])) for fold in folds]


def main() -> None:
    """The command line."""
    report.show(running.from_command_line(train, ClassifierConfig, __doc__))


if __name__ == "__main__":
    main()
