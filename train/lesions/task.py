"""A training on planted lesions: network, loss, scores, and what it leaves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segcam_jax.data.frames import Frame
from segcam_jax.data.instances import find_instances, matched, measured
from segcam_jax.data.scans import zscore
from segcam_jax.data.volume import orientation
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNet
from train import command, loop, reports, steps
from train.data.brain_template import Template
from train.data.lesions import CLASSES, MODALITIES, LesionCases
from train.lesions.config import LesionTraining
from train.lesions.data import held_out, open_template, pair, training_cases
from train.losses import normalised_dice_focal
from train.products import as_products

_NO_EFFECT = ("out", "export", "workers")

Predict = Callable[[Float[np.ndarray, "d h w 2"]], Float[np.ndarray, "d h w"]]


def prepare(config: LesionTraining, template: Template) -> loop.Training:
    """What is trained on what; writes nothing.

    Raises:
        InputError: if the settings do not fit together.
    """
    network = steps.Network(make_model(config))
    network.check_input((*template.t1.shape, len(MODALITIES)))
    source = training_cases(config, template)
    chosen_by = held_out(config, template, choosing=True)
    every = range(config.evaluate_every, config.steps, config.evaluate_every)
    return loop.Training(
        title="lesions",
        network=network,
        optimizer=steps.adam(config.learning_rate, config.steps),
        loss=LOSSES[config.loss],
        batches=lambda start: loop.batches(
            source, batch=config.batch, start=start, pair=pair, workers=config.workers
        ),
        steps=config.steps,
        evaluated={*every, config.steps},
        evaluate=lambda state: evaluate(predict_with(network, state), chosen_by, config.threshold),
        merit=lambda row: row["mean_dice"],
        told={"mean_dice": "mean Dice"},
    )


def make_model(config: LesionTraining) -> MonaiUNet:
    """The network of a run as it starts, its convolutions in the form that is fast."""
    model = MonaiUNet(config.network(), rngs=nnx.Rngs(config.seed))
    as_products(model)
    return model


def dice_cross_entropy(
    logits: Float[Array, "n d h w 2"], label: Int[Array, "n d h w"]
) -> Float[Array, ""]:
    """One minus the soft Dice of lesions over the batch, plus the mean cross-entropy of voxels."""
    # By the margin of the two classes: a gather's gradient is slow to compile and to run.
    margin, truth = logits[..., 1] - logits[..., 0], label.astype(logits.dtype)
    entropy = jax.nn.softplus(jnp.where(label > 0, -margin, margin)).mean()
    probability = jax.nn.sigmoid(margin)
    common = 2 * (probability * truth).sum()
    return entropy + 1 - (common + 1) / (probability.sum() + truth.sum() + 1)


LOSSES: dict[str, Callable] = {
    "dice_cross_entropy": dice_cross_entropy,
    "normalised_dice_focal": normalised_dice_focal,
}


def predict_with(network: steps.Network, state: steps.TrainState) -> Predict:
    """A function from a case's image to probabilities of a lesion."""
    return lambda image: network.outputs(state, [zscore(image)], [0], _probability, 1)[0]


def _probability(logits: Float[Array, "n d h w 2"]) -> Float[Array, "n d h w"]:
    return jax.nn.softmax(logits)[..., 1]


def dice(found: Bool[np.ndarray, "*n"], truth: Bool[np.ndarray, "*n"]) -> float:
    """Twice the common voxels by the sum of both; 1 if there are none."""
    size = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / size if size else 1.0


def evaluate(predict: Predict, cases: LesionCases, threshold: float) -> dict[str, float]:
    """Dice of whole cases, and lesions found (TP), seen where none is (FP), and missed (FN)."""
    by_case, common, sizes = [], 0, 0
    groups: dict[str, int] = dict.fromkeys(("TP", "FP", "FN"), 0)
    for index in range(len(cases)):
        case = cases[index]
        predicted = find_instances(predict(case.image), threshold=threshold)
        found, truth = predicted.labels > 0, case.lesions > 0
        by_case.append(dice(found, truth))
        common += int((found & truth).sum())
        sizes += int(found.sum()) + int(truth.sum())
        for side in matched(predicted, measured(case.lesions)):
            for instance in side.instances:
                groups[instance.group] += 1
    return {
        "mean_dice": float(np.mean(by_case)),
        "least_dice": float(np.min(by_case)),
        "pooled_dice": 2 * common / max(sizes, 1),
        **groups,
    }


def train(config: LesionTraining) -> dict[str, Any] | None:
    """Runs or resumes a training.

    Returns:
        What `metrics.json` holds, or None if the run was asked to stop before its end.

    Raises:
        InputError: as `prepare`; or if the template cannot be read, or `config.out` holds a run of
            another configuration.
    """
    config.check()
    template = open_template(config)
    training = prepare(config, template)
    command.claim_folder(config.out, config, _NO_EFFECT)
    with loop.watched() as watch:
        fitted = loop.fit(training, config.out, watch)
    return None if fitted is None else report(config, template, training.network, fitted)


def report(
    config: LesionTraining, template: Template, network: steps.Network, fitted: loop.Fitted
) -> dict[str, Any]:
    """Scores the best state on fresh held-out cases and writes metrics, curves and weights."""
    cases = held_out(config, template, choosing=False)
    metrics = {
        "best_step": fitted.row["step"],
        "scores": evaluate(predict_with(network, fitted.state), cases, config.threshold),
        "cases": len(cases),
        "history": fitted.history,
    }
    panels = {"training loss": ("loss",), "held-out": ("mean_dice", "pooled_dice")}
    reports.plot_curves(config.out / "curves.png", fitted.history, panels)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        model = network.model(fitted.state)
        stored.save(path, "monai_unet", model, _metadata(config, template, metrics))
    reports.write_json(config.out / "metrics.json", metrics)
    rich.print({key: metrics[key] for key in ("best_step", "scores")})
    return metrics


def _metadata(
    config: LesionTraining, template: Template, metrics: dict[str, Any]
) -> dict[str, Any]:
    fields = ("steps", "batch", "learning_rate", "loss", "seed", "spacing")
    return {
        "classes": list(CLASSES),
        "modalities": list(MODALITIES),
        "normalisation": "z-score of non-zero voxels, each modality",
        **Frame(orientation(template.affine), (config.spacing,)).metadata,
        "threshold": config.threshold,
        "dataset": f"planted lesions, {template.name}",
        "scores": metrics["scores"],
        "training": {
            **{name: getattr(config, name) for name in fields},
            "best_step": metrics["best_step"],
        },
    }
