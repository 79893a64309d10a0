"""A training on lesions: network, loss, scores, and what it leaves."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from rich.markup import escape

from segcam_jax.data.instances import find_instances, matched, measured
from segcam_jax.data.samples.lesions import CLASSES
from segcam_jax.data.scans import zscore
from segcam_jax.engine import sliding_window
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNet
from train import command, loop, losses, reports, steps
from train.lesions.config import LesionTraining
from train.lesions.data import Cases, LesionData, open_data
from train.products import as_products

_NO_EFFECT = ("out", "export", "workers", "data")

Predict = Callable[[Float[np.ndarray, "d h w 2"]], Float[np.ndarray, "d h w"]]


def prepare(config: LesionTraining, data: LesionData) -> loop.Training:
    """What is trained on what; writes nothing."""
    network = steps.Network(make_model(config))
    network.check_input(data.shape)
    predict = predictor(network, data.roi)
    every = range(config.evaluate_every, config.steps, config.evaluate_every)
    return loop.Training(
        title="lesions",
        network=network,
        optimizer=steps.adam(config.learning_rate, config.steps),
        loss=LOSSES[config.loss],
        batches=lambda start: loop.batches(
            data.source, batch=config.batch, start=start, pair=data.pair, workers=config.workers
        ),
        steps=config.steps,
        evaluated={*every, config.steps},
        evaluate=lambda state: evaluate(
            predict(state), data.choosing, config.threshold, data.connectivity
        ),
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


def _of_masks(loss: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """A loss that is given the numbers of lesions, and needs only where some are."""
    return lambda logits, lesions: loss(logits, jnp.minimum(lesions, 1))


LOSSES: dict[str, Callable] = {
    "dice_cross_entropy": _of_masks(dice_cross_entropy),
    "dice_focal": _of_masks(losses.plus_focal(losses.foreground_dice)),
    "generalised_dice_focal": _of_masks(losses.plus_focal(losses.generalised_dice)),
    "normalised_dice_focal": _of_masks(losses.plus_focal(losses.normalised_dice)),
    "blob_normalised_dice": losses.blob_normalised_dice,
}


def predictor(network: steps.Network, roi: int | None) -> Callable[[steps.TrainState], Predict]:
    """For a state, a function from a case's image to probabilities of a lesion."""

    def windowed(params: Any, x: Float[Array, "d h w c"]) -> Float[Array, "d h w 2"]:
        return nnx.merge(network.eval_graph, *params, copy=True)(x[None])[0]

    def of(state: steps.TrainState, image: np.ndarray) -> np.ndarray:
        if roi is None:
            return network.outputs(state, [zscore(image)], [0], _probability, 1)[0]
        logits = sliding_window(windowed, (state.params, state.rest), image, roi=roi)
        return np.asarray(_probability(logits))

    return lambda state: functools.partial(of, state)


def _probability(logits: Float[Array, "n d h w 2"]) -> Float[Array, "n d h w"]:
    return jax.nn.softmax(logits)[..., 1]


def dice(found: Bool[np.ndarray, "*n"], truth: Bool[np.ndarray, "*n"]) -> float:
    """Twice the common voxels by the sum of both; 1 if there are none."""
    size = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / size if size else 1.0


def evaluate(
    predict: Predict, cases: Cases, threshold: float, connectivity: int | None = None
) -> dict[str, float]:
    """Dice of whole cases, and lesions found (TP), seen where none is (FP), and missed (FN)."""
    by_case, common, sizes = [], 0, 0
    groups: dict[str, int] = dict.fromkeys(("TP", "FP", "FN"), 0)
    for index in range(len(cases)):
        case = cases[index]
        predicted = find_instances(
            predict(case.image), threshold=threshold, connectivity=connectivity
        )
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
    """Trains, or resumes; returns what `metrics.json` holds, None if stopped before the end."""
    config.check()
    data = open_data(config)
    training = prepare(config, data)
    command.claim_folder(config.out, config, (*_NO_EFFECT, *config.unused), **data.key)
    for note in data.notes:
        rich.print(escape(note))
    with loop.watched() as watch:
        fitted = loop.fit(training, config.out, watch)
    return None if fitted is None else report(config, data, training.network, fitted)


def report(
    config: LesionTraining, data: LesionData, network: steps.Network, fitted: loop.Fitted
) -> dict[str, Any]:
    """Scores the best state on held-out cases and writes metrics, curves and weights."""
    predict = predictor(network, data.roi)(fitted.state)
    metrics = {
        "best_step": fitted.row["step"],
        "scores": evaluate(predict, data.scoring, config.threshold, data.connectivity),
        "cases": len(data.scoring),
        **({"held_out": [*data.held_out]} if data.held_out else {}),
        "history": fitted.history,
    }
    panels = {"training loss": ("loss",), "held-out": ("mean_dice", "pooled_dice")}
    reports.plot_curves(config.out / "curves.png", fitted.history, panels)
    for path in filter(None, (config.out / "weights.safetensors", config.export)):
        model = network.model(fitted.state)
        stored.save(path, "monai_unet", model, _metadata(config, data, metrics))
    reports.write_json(config.out / "metrics.json", metrics)
    rich.print({key: metrics[key] for key in ("best_step", "scores")})
    return metrics


def _metadata(config: LesionTraining, data: LesionData, metrics: dict[str, Any]) -> dict[str, Any]:
    fields = ("steps", "batch", "learning_rate", "loss", "seed")
    return {
        "classes": list(CLASSES),
        "modalities": list(data.modalities),
        "normalisation": "z-score of non-zero voxels, each modality",
        **data.frame.metadata,
        "threshold": config.threshold,
        "dataset": data.name,
        "scores": metrics["scores"],
        "training": {
            **{name: getattr(config, name) for name in fields},
            "best_step": metrics["best_step"],
        },
    }
