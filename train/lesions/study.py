"""Compares explanations with planted truth: where does saliency lie, and in which modality?

    python -m train.lesions_study --out benchmarks/results/lesions.json

The network of `train.lesions` segments held-out cases. Instance SmoothGrad, mean and max, explains
the first 50 planted lesions, found (TP) or missed (FN). As errors are few, it also explains the
false positives (FP) and misses of all further cases, each with a control: the TP of its case that
is nearest in size. For every map and modality the study measures:

    peaks             the largest and the smallest value, and how far from the instance they are
    shares            of the positive (negative) saliency: inside the instance, within 6 mm, beyond

As the lesions were planted, we expect positive saliency inside, more saliency in FLAIR, which
carries the information, than in T1, and lower peaks where the network errs.

docs/planted-lesions.md has the results. A run can be killed at any moment; the same command
resumes at the next case. Cost: seven minutes of CPU time for 200 cases.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from jaxtyping import Bool, Float
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import files, models
from segcam_jax.data.instances import Instance, Instances, find_instances, matched, measured
from segcam_jax.data.scans import zscore
from segcam_jax.data.volume import spacing_of
from segcam_jax.engine import sliding_window
from segcam_jax.types import InputError
from segcam_jax.volumes import measure, target_of
from train import command, reports
from train.data.brain_template import Template, mni152, read_template
from train.data.lesions import (
    FLAIR_ONLY,
    MODALITIES,
    T1_ONLY,
    LesionCase,
    LesionCases,
    LesionConfig,
)
from train.lesions.summary import GROUPS, summary
from train.lesions.task import dice

CLASS = 1
NEAR = 6.0  # mm


@dataclasses.dataclass(frozen=True)
class LesionStudy:
    """A study.

    Attributes:
        out: the JSON file. The command resumes a study that is there.
        weights: weights of the network.
        template: a skull-stripped T1; None takes nilearn's MNI152.
        seed: seed of the cases and the noise.
        lesions: how many planted lesions to explain, found or missed.
        cases: how many held-out cases to segment.
        threshold: voxels with a probability above this are lesion.
        min_voxels: leave out smaller instances.
        mean_samples: how many noisy copies the mean takes.
        max_samples: how many noisy copies the maximum takes.
        sigma: standard deviation of the noise, as a share of FLAIR's range.
    """

    out: Path = Path("benchmarks/results/lesions.json")
    weights: str = "lesions"
    template: Path | None = None
    seed: int = 0
    lesions: int = 50
    cases: int = 200
    threshold: float = 0.5
    min_voxels: int = 3
    mean_samples: int = 20
    max_samples: int = 2
    sigma: float = 0.05

    def check(self) -> None:
        """Raises `InputError`, naming the setting, if one is none."""
        command.check_outputs(written=(self.out,))
        counts = ("lesions", "cases", "min_voxels", "mean_samples", "max_samples")
        command.check_at_least(self, 1, *counts, most=command.MOST_AT_ONCE)
        command.check_positive(self, "sigma")
        command.check_seed(self.seed)
        if not 0 < self.threshold < 1:
            raise InputError(f"`threshold` is {self.threshold}; give a probability")


Explain = Callable[[Float[np.ndarray, "d h w c"], Bool[np.ndarray, "d h w"], str], np.ndarray]


def study(config: LesionStudy) -> dict[str, Any]:
    """Runs or resumes a study.

    Returns:
        What the file holds: the settings, the cases, a row per explained instance, the summary.
    """
    config.check()
    model = models.load(config.weights)
    found = _resumed(config, model.params)
    template = mni152() if config.template is None else read_template(config.template)
    cases = LesionCases(template, LesionConfig(split="test", seed=config.seed, cases=config.cases))
    explain = explainer(config, model)
    for index in range(len(found["cases"]), config.cases):
        before = sum(case["explained_lesions"] for case in found["cases"])
        about, rows = _case(config, model, explain, cases[index], template, config.lesions - before)
        found["cases"].append({"case": index, **about})
        found["rows"] += [{"case": index, **row} for row in rows]
        found["summary"] = summary(found)
        files.write_bytes(config.out, as_text(found).encode())
        rich.print(f"case {index}: {about}, {len(rows)} explained", flush=True)
    return found


def _resumed(config: LesionStudy, params: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    settings = {
        "parameters": digest.hexdigest(),
        **{
            field: str(value) if isinstance(value, Path) else value
            for field, value in dataclasses.asdict(config).items()
            if field != "out"
        },
    }
    fresh = {"settings": settings, "cases": [], "rows": [], "summary": {}}
    if not config.out.is_file():
        return fresh
    found = reports.read_json(config.out, *fresh)
    if found["settings"] != settings:
        raise InputError(f"{str(config.out)!r} is of another study; give another --out")
    return found


def explainer(config: LesionStudy, model: models.LoadedModel) -> Explain:
    """A function from input, instance and aggregation to the attribution."""
    samples = {"mean": config.mean_samples, "max": config.max_samples}
    splits: dict[tuple[int, ...], segcam.Split] = {}

    def explain(x: np.ndarray, mask: np.ndarray, aggregation: str) -> np.ndarray:
        if x.shape not in splits:
            splits[x.shape] = segcam.split(model.fn, "input", model.params, x)
        target = target_of(mask, CLASS, "logits", tight=False)
        explanation = segcam.methods.instance_smooth_grad(
            splits[x.shape],
            model.params,
            jnp.asarray(x),
            target,
            key=jax.random.key(config.seed),
            samples=samples[aggregation],
            sigma=config.sigma,
            channel=MODALITIES.index("flair"),
            aggregation=aggregation,  # pyright: ignore[reportArgumentType]
        )
        return np.asarray(explanation.attribution)

    return explain


def _case(
    config: LesionStudy,
    model: models.LoadedModel,
    explain: Explain,
    case: LesionCase,
    template: Template,
    wanted: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a case came to, and a row for every explained instance."""
    x = zscore(case.image)
    spacing = spacing_of(template.affine)
    logits = sliding_window(model.fn, model.params, x, roi=x.shape[:-1])
    probability = np.asarray(jax.nn.softmax(logits))[..., CLASS]
    found = find_instances(
        probability, threshold=config.threshold, min_voxels=config.min_voxels, spacing=spacing
    )
    truth = measured(case.lesions, spacing=spacing)
    predicted, missed = matched(found, truth)
    chosen = _chosen(case, predicted, missed, wanted)
    rows = [
        _row(x, probability, case, side.mask(each.label), each, spacing, explain) | {"first": first}
        for side, each, first in chosen
    ]
    voxels, planted = predicted.labels > 0, case.lesions > 0
    about = {
        "dice": dice(voxels, planted),
        "lesions": len(truth),
        "explained_lesions": min(len(truth), max(wanted, 0)),
        **{
            group: sum(
                each.group == group for side in (predicted, missed) for each in side.instances
            )
            for group in GROUPS
        },
    }
    return about, rows


def _chosen(
    case: LesionCase, predicted: Instances, missed: Instances, wanted: int
) -> list[tuple[Instances, Instance, bool]]:
    """What is found and missed of the first `wanted` lesions, which is marked; all other errors,
    each with the found instance nearest in size.
    """
    chosen: dict[tuple[str, int], tuple[Instances, Instance, bool]] = {}
    found = [each for each in predicted.instances if each.group == "TP"]
    every = [(part, each) for part in (predicted, missed) for each in part.instances]
    for side, each in every:
        under = case.lesions[side.mask(each.label)]
        first = bool((under > 0).any()) and int(under[under > 0].min()) <= wanted
        error = each.group != "TP"
        if first or error:
            chosen[each.group, each.label] = side, each, first
        if error and found:
            control = min(found, key=lambda other: abs(np.log(other.voxels / each.voxels)))
            chosen.setdefault(("TP", control.label), (predicted, control, False))
    return list(chosen.values())


def _row(
    x: Float[np.ndarray, "d h w c"],
    probability: Float[np.ndarray, "d h w"],
    case: LesionCase,
    mask: Bool[np.ndarray, "d h w"],
    instance: Instance,
    spacing: Sequence[float],
    explain: Explain,
) -> dict[str, Any]:
    """What is known of an instance, and what its maps say."""
    distance = np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))
    places = (mask, (distance > 0) & (distance <= NEAR), distance > NEAR)
    beneath = [int((case.kind[mask] == kind).sum()) for kind in (T1_ONLY, FLAIR_ONLY)]
    lesions = np.unique(case.lesions[mask])
    row = {
        "group": instance.group,
        "voxels": instance.voxels,
        "near_voxels": int(places[1].sum()),
        "iou": instance.iou,
        "probability": float(probability[mask].mean()),
        "lesions": [int(number) for number in lesions[lesions > 0]],
        "t1_only_voxels": beneath[0],
        "flair_only_voxels": beneath[1],
    }
    for aggregation in ("mean", "max"):
        attribution = explain(x, mask, aggregation)
        row[aggregation] = {
            name: measure(attribution[..., n], mask, spacing) | _shares(attribution[..., n], places)
            for n, name in enumerate(MODALITIES)
        }
    return row


def _shares(
    values: Float[np.ndarray, "d h w"], places: Sequence[Bool[np.ndarray, "d h w"]]
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, part in (("positive", np.maximum(values, 0)), ("negative", np.maximum(-values, 0))):
        total = float(part.sum(dtype=np.float64))
        told[name] = [
            float(part[place].sum(dtype=np.float64)) / total if total else 0.0 for place in places
        ]
        told[f"{name}_sum"] = total
    return told


def as_text(found: dict[str, Any]) -> str:
    """The file's text: JSON with a line for every case and row."""
    parts = []
    for key, value in _rounded(found).items():
        if isinstance(value, list):
            lines = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(value: Any) -> Any:
    """Numbers to what was measured; None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def main() -> None:
    """The command line."""
    rich.print(command.run(study, LesionStudy, __doc__)["summary"])


if __name__ == "__main__":
    main()
