"""`segcam evaluate`: segmentation quality, and the planted-bias table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import segcam_jax
from segcam_jax import _files, methods as registry
from segcam_jax.cli import commands, console
from segcam_jax.cli.arguments import names_in
from segcam_jax.cli.demo import CAMS
from segcam_jax.data.samples import BUNDLED_SAMPLES, load as load_samples
from segcam_jax.data.texture_mnist import CLASSES, Bias, TextureMnist, TextureMnistConfig
from segcam_jax.engine.devices import local_mesh
from segcam_jax.heatmap import find_profile
from segcam_jax.metrics import segmentation
from segcam_jax.networks.class_queries import find_class
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec
from segcam_jax.runs.manifest import device, versions, weights_record
from segcam_jax.sweep import batch
from segcam_jax.sweep.bias import BiasRow, BiasStudy, bias_study
from segcam_jax.types import InputError, MissingExtraError, nearest_first

_DATASETS = ("texture_mnist",)
# Besides the methods of the demo: those that decompose the activation.
_OF_COMPONENTS = ("eigen_cam", "eigen_grad_cam")
_LAST_BLOCK = "decoder1"


def evaluate(command: commands.Evaluate) -> None:
    """Prints quality and bias table, and writes them as JSON if asked to."""
    _check(command)
    mesh = local_mesh(command.devices, images=command.devices)
    network = open_network(NetworkSpec.parse(command.weights))
    _check_fit(network)
    class_index = find_class(command.class_index, network.labels)
    biased = load_samples().biased
    count = command.bias_samples
    names, taps = _names_and_taps(command, network, biased.image.shape[1:])
    # Everything that can be wrong is known by now; the slow part comes last.
    quality = _quality(network, command.samples)
    if quality is not None:
        _print_quality(quality, command)
    console.note(f"explaining {count} images with {len(names)} methods at {', '.join(taps)}")
    with console.progress("planted bias", count * len(taps)) as advance:
        study = bias_study(
            network,
            _first(biased, count),
            class_index=class_index,
            methods=names,
            taps=taps,
            weights=command.weights,
            profile=command.profile,
            mesh=mesh,
            advance=lambda done: advance(done),
        )
    _print_study(study, network.labels[class_index])
    if command.json is not None:
        report = _report(command, network, quality, study, class_index)
        _files.write_json(command.json, report)
        print(f"The numbers are in {command.json}")


def _check(command: commands.Evaluate) -> None:
    if command.dataset.replace("-", "_").lower() not in _DATASETS:
        choices = ", ".join(nearest_first(command.dataset, _DATASETS))
        raise InputError(f"unknown data set {command.dataset!r}; choose from {choices}")
    for field in ("samples", "bias_samples"):
        if getattr(command, field) < 1:
            raise InputError(f"`{field}` is {getattr(command, field)}; give at least 1")
    if command.bias_samples > BUNDLED_SAMPLES:
        raise InputError(
            f"`bias_samples` is {command.bias_samples}; {BUNDLED_SAMPLES} samples are bundled"
        )
    if find_profile(command.profile).signed:
        raise InputError(
            f"profile {command.profile!r} keeps negative values, of which there is no share; "
            "choose one with a ReLU, for example segcam_jax"
        )
    if command.json is not None:
        _files.check_writable(command.json)


def _check_fit(network: Network) -> None:
    config = network.config
    if (config.in_channels, config.classes) != (1, len(CLASSES)):
        raise InputError(
            f"texture_mnist has 1 channel and {len(CLASSES)} classes; the network of "
            f"{network.spec.words!r} has {config.in_channels} and {config.classes}"
        )


def _names_and_taps(
    command: commands.Evaluate, network: Network, shape: tuple[int, ...]
) -> tuple[list[str], list[str]]:
    """Methods and taps of the table, all known to exist."""
    methods = registry.find_all(names_in(command.method) or (*CAMS, *_OF_COMPONENTS))
    for method in methods:
        if method.explains == "input":
            raise InputError(
                f"{method.name} explains the input; the bias table compares activations"
            )
    taps = list(names_in(command.tap))
    if not taps:
        there = network.list_taps(shape)
        taps = [network.bottleneck(shape), *([_LAST_BLOCK] if _LAST_BLOCK in there else [])]
    for tap in taps:
        network.split(tap, shape)
    return [method.name for method in methods], taps


def _first(samples, count: int):
    return jax.tree.map(lambda leaf: leaf[:count], samples)


def _quality(network: Network, count: int) -> dict[str, Any] | None:
    """Scores on generated held-out samples; None, and a note, without the extra."""
    planted = network.model.metadata.get("bias")
    training = network.model.metadata.get("training") or {}
    # Digits as the network was trained on, where its file tells.
    drawn = {key: training[key] for key in ("digit_rounding",) if key in training}
    try:
        config = TextureMnistConfig(
            split="test",
            samples=count,
            bias=(Bias(**planted),) if isinstance(planted, Mapping) else (),
            exclude_bias_textures=True,
            **drawn,
        )
    except TypeError:
        raise InputError(
            f"weights {network.spec.words!r} tell of a bias or digits in an unknown form"
        ) from None
    try:
        data = TextureMnist(config)
    except MissingExtraError as problem:
        console.note(f"segmentation quality is left out: {problem}")
        return None
    console.note(f"generating {count} held-out samples")
    samples = data.batch(range(count))
    model = network.model
    prediction = network.predicted_labels(
        batch.batch_logits(model.fn, model.params, np.asarray(samples.image, np.float32))
    )
    matrix = segmentation.confusion_matrix(
        jnp.asarray(samples.label), jnp.asarray(prediction), classes=len(CLASSES)
    )
    found = segmentation.scores(matrix)
    return {
        "samples": count,
        "bias": dict(planted) if isinstance(planted, Mapping) else None,
        "accuracy": _number(found.accuracy),
        "mean_iou": _number(found.mean_iou),
        "mean_dice": _number(found.mean_dice),
        "classes": {
            name: {"iou": _number(iou), "dice": _number(dice)}
            for name, iou, dice in zip(CLASSES, found.iou, found.dice, strict=True)
        },
    }


def _number(value: Any) -> float | None:
    """A number that JSON can hold; None for NaN."""
    number = float(value)
    return number if math.isfinite(number) else None


def _shown(value: float | None) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _print_quality(quality: Mapping[str, Any], command: commands.Evaluate) -> None:
    rows: list[Sequence[object]] = [
        (name, _shown(each["iou"]), _shown(each["dice"]))
        for name, each in quality["classes"].items()
    ]
    rows.append(("mean", _shown(quality["mean_iou"]), _shown(quality["mean_dice"])))
    planted = "with the planted bias" if quality["bias"] else "without bias"
    title = (
        f"Segmentation of {quality['samples']} held-out samples {planted}, {command.weights}: "
        f"pixel accuracy {_shown(quality['accuracy'])}"
    )
    console.table(title, ("class", "IoU", "Dice"), rows)


def _print_study(study: BiasStudy, name: str) -> None:
    def pair(value: float, error: float) -> str:
        return "—" if math.isnan(value) else f"{value:.3f} ± {error:.3f}"

    def masses(row: BiasRow) -> tuple[str, ...]:
        return (
            pair(row.biased_mass, row.biased_mass_error),
            pair(row.unbiased_mass, row.unbiased_mass_error),
            pair(row.digit_mass, row.digit_mass_error),
        )

    rows = [
        (
            row.method,
            row.tap,
            pair(row.biased, row.biased_error),
            pair(row.unbiased, row.unbiased_error),
            pair(row.digit, row.digit_error),
            *(masses(row) if console.is_wide() else ()),
            "—" if math.isnan(row.preferred) else f"{100 * row.preferred:.0f} %",
            row.samples,
        )
        for row in study.rows
    ]
    places = ("biased tile", "other background", "digit")
    columns = (
        "method",
        "tap",
        *(f"{place}, per area" for place in places),
        *(f"{place}, mass" for place in places if console.is_wide()),
        "biased > other",
        "samples",
    )
    title = f"Share of saliency for class {name}, mean ± standard error; even: 0.333 per area"
    console.table(title, columns, rows)
    zero = max((row.zero_maps for row in study.rows), default=0)
    print(
        f"{study.samples} samples; {study.left_out} left out because no pixel was predicted as "
        f"class {name}"
        + (f"; up to {zero} more where a heatmap is zero everywhere" if zero else "")
    )


def _report(
    command: commands.Evaluate,
    network: Network,
    quality: Mapping[str, Any] | None,
    study: BiasStudy,
    class_index: int,
) -> dict[str, Any]:
    rows = [
        {
            key: _number(value) if isinstance(value, float) else value
            for key, value in dataclasses.asdict(row).items()
        }
        for row in study.rows
    ]
    return {
        "dataset": command.dataset,
        "versions": versions(),
        "device": device(),
        "segcam_jax": segcam_jax.__version__,
        "weights": weights_record(network),
        "quality": quality,
        "bias": {
            "class_index": class_index,
            "profile": study.profile,
            "target": "sum of logits over the pixels predicted as the class",
            "samples": study.samples,
            "left_out": study.left_out,
            "rows": rows,
        },
    }
