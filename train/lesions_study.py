"""Holds explanations to planted truth: where does saliency lie, and which modality has it?

    python -m train.lesions_study --out benchmarks/results/lesions.json

The network of `train.lesions` segments held-out cases. Every instance of the first cases, until 50
lesions were planted, is explained by Instance SmoothGrad, mean and max: those it finds (TP) and
those it misses (FN). Of all further cases its false positives (FP) and misses are explained, too,
as there are few. Of every map the study measures, per modality:

    peaks             the largest and the smallest value, and how far from the instance they are
    shares            of the positive (negative) saliency: inside the instance, within 6 mm, beyond

What is expected since it was planted: positive saliency inside; FLAIR, which carries the
information, above T1; lower peaks where the network errs.

A run can be killed at any moment; the same command goes on with the next case. Cost: RUNTIME
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
import tyro
from jaxtyping import Bool, Float
from scipy import ndimage, stats

import segcam_jax as segcam
from segcam_jax import models
from segcam_jax.data.instances import Instance, Instances, find_instances, matched, measured
from segcam_jax.data.lesions import (
    FLAIR_ONLY,
    MODALITIES,
    T1_ONLY,
    LesionCase,
    LesionCases,
    LesionConfig,
)
from segcam_jax.data.scans import zscore
from segcam_jax.data.template import Template, mni152, read_template
from segcam_jax.data.volume import spacing_of
from segcam_jax.engine.sliding import sliding_window
from segcam_jax.sweep.peaks import measure
from segcam_jax.sweep.saliency import Cut, target_of
from segcam_jax.types import InputError
from train import running

CLASS = 1
NEAR = 6.0  # mm
PLACES = ("inside", "near", "beyond")
GROUPS = ("TP", "FP", "FN")


@dataclasses.dataclass(frozen=True)
class LesionStudy:
    """A study.

    Attributes:
        out: the JSON file; a study that is there is resumed.
        weights: of the network.
        template: a skull-stripped T1; None takes nilearn's MNI152.
        seed: of the cases and the noise.
        lesions: planted lesions of which every one is explained.
        cases: held-out cases that are segmented.
        threshold: a probability above it is a lesion.
        min_voxels: smaller instances are left out.
        mean_samples: noisy copies for the mean.
        max_samples: noisy copies for the maximum.
        sigma: noise, as a share of FLAIR's range.
    """

    out: Path = Path("benchmarks/results/lesions.json")
    weights: str = "lesions"
    template: Path | None = None
    seed: int = 0
    lesions: int = 50
    cases: int = 100
    threshold: float = 0.5
    min_voxels: int = 3
    mean_samples: int = 20
    max_samples: int = 2
    sigma: float = 0.05

    def __post_init__(self):
        for field in ("lesions", "cases", "min_voxels", "mean_samples", "max_samples"):
            if getattr(self, field) < 1:
                raise InputError(f"`{field}` is {getattr(self, field)}; give at least 1")


Explain = Callable[[Float[np.ndarray, "d h w c"], Bool[np.ndarray, "d h w"], str], np.ndarray]


def study(config: LesionStudy) -> dict[str, Any]:
    """Runs or resumes a study.

    Returns:
        What the file holds: the settings, the cases, a row per explained instance, the summary.

    Raises:
        InputError: if the file holds a study of other settings.
    """
    found = _resumed(config)
    template = mni152() if config.template is None else read_template(config.template)
    cases = LesionCases(template, LesionConfig(split="test", seed=config.seed, cases=config.cases))
    model = models.load(config.weights)
    explain = explainer(config, model)
    for index in range(len(found["cases"]), config.cases):
        before = sum(case["explained_lesions"] for case in found["cases"])
        about, rows = _case(config, model, explain, cases[index], template, config.lesions - before)
        found["cases"].append({"case": index, **about})
        found["rows"] += [{"case": index, **row} for row in rows]
        found["summary"] = summary(found)
        running.write_json(config.out, _rounded(found))
        rich.print(f"case {index}: {about}, {len(rows)} explained", flush=True)
    return found


def _resumed(config: LesionStudy) -> dict[str, Any]:
    settings = {
        field: str(value) if isinstance(value, Path) else value
        for field, value in dataclasses.asdict(config).items()
        if field != "out"
    }
    fresh = {"settings": settings, "cases": [], "rows": [], "summary": {}}
    if not config.out.is_file():
        return fresh
    found = json.loads(config.out.read_text())
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
        target = target_of(Cut(x, mask, (), ()), CLASS, "logits", tight=False)
        explanation = segcam.instance_smooth_grad(
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
        _row(x, probability, case, side.mask(each.label), each, spacing, explain)
        for side, each in chosen
    ]
    voxels, planted = predicted.labels > 0, case.lesions > 0
    about = {
        "dice": 2 * int((voxels & planted).sum()) / int(voxels.sum() + planted.sum()),
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
) -> list[tuple[Instances, Instance]]:
    """All false positives and misses; and what was found of the first `wanted` lesions."""
    chosen = []
    for each in predicted.instances:
        under = np.unique(case.lesions[predicted.mask(each.label)])
        lesions = under[under > 0]
        if not lesions.size or lesions[0] <= wanted:
            chosen.append((predicted, each))
    return chosen + [(missed, each) for each in missed.instances]


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


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Means and medians over the groups, by aggregation."""
    rows = found["rows"]
    lesions = [row for row in rows if row["group"] == "TP"]
    told: dict[str, Any] = {
        "dice": float(np.mean([case["dice"] for case in found["cases"]])),
        "lesions": sum(case["lesions"] for case in found["cases"]),
        "explained_lesions": sum(case["explained_lesions"] for case in found["cases"]),
        "groups": {group: sum(row["group"] == group for row in rows) for group in GROUPS},
        "all": {group: sum(case[group] for case in found["cases"]) for group in GROUPS},
    }
    for aggregation in ("mean", "max"):
        told[aggregation] = {
            name: {
                "positive": _means(lesions, aggregation, name, "positive"),
                "negative": _means(lesions, aggregation, name, "negative"),
                "density": _density(lesions, aggregation, name),
                "peak_inside": _peaks_inside(lesions, aggregation, name),
                "peaks": {group: _quartiles(rows, aggregation, name, group) for group in GROUPS},
                "auc": {other: _auc(rows, aggregation, name, other) for other in ("FP", "FN")},
            }
            for name in MODALITIES
        }
        told[aggregation]["flair_peak_larger"] = _larger(lesions, aggregation, _peak)
        told[aggregation]["flair_sum_larger"] = _larger(lesions, aggregation, _sum)
        told[aggregation]["flair_share"] = _flair_share(lesions, aggregation)
    return told


def _peak(values: dict[str, Any]) -> float:
    return max(values["peak_positive"], -values["peak_negative"])


def _sum(values: dict[str, Any]) -> float:
    return values["positive_sum"] + values["negative_sum"]


def _larger(rows: Sequence[dict], aggregation: str, of: Callable[[dict], float]) -> int:
    """In how many rows FLAIR has the larger value."""
    return sum(of(row[aggregation]["flair"]) > of(row[aggregation]["t1"]) for row in rows)


def _flair_share(rows: Sequence[dict], aggregation: str) -> float | None:
    """FLAIR's mean share of the sum of magnitudes."""
    sums = [[_sum(row[aggregation][name]) for name in MODALITIES] for row in rows]
    return float(np.mean([flair / (flair + t1) for flair, t1 in sums])) if sums else None


def _means(rows: Sequence[dict], aggregation: str, name: str, sign: str) -> list[float] | None:
    shares = [row[aggregation][name][sign] for row in rows]
    return np.mean(shares, axis=0).tolist() if shares else None


def _density(rows: Sequence[dict], aggregation: str, name: str) -> float | None:
    """The median over rows of the positive saliency per voxel inside, over that within 6 mm."""
    ratios = []
    for row in rows:
        inside, near, _ = row[aggregation][name]["positive"]
        ratios.append(inside / row["voxels"] / (near / row["near_voxels"]) if near else np.inf)
    return float(np.median(ratios)) if ratios else None


def _peaks_inside(rows: Sequence[dict], aggregation: str, name: str) -> int:
    """In how many rows the largest value lies inside the instance."""
    return sum(row[aggregation][name]["peak_positive_distance_mm"] == 0 for row in rows)


def _quartiles(rows: Sequence[dict], aggregation: str, name: str, group: str) -> list[float] | None:
    """First quartile, median and third quartile of the positive peaks of a group."""
    peaks = _positive_peaks(rows, aggregation, name, group)
    return np.percentile(peaks, (25, 50, 75)).tolist() if peaks else None


def _positive_peaks(rows: Sequence[dict], aggregation: str, name: str, group: str) -> list[float]:
    chosen = (row for row in rows if row["group"] == group)
    return [row[aggregation][name]["peak_positive"] for row in chosen]


def _auc(rows: Sequence[dict], aggregation: str, name: str, other: str) -> dict | None:
    """How often a TP's peak is above one of another group, and the p of the rank test.

    Once for all, and once for those no larger than the largest of the other group: peaks depend on
    size, and errors are small.
    """
    largest = max((row["voxels"] for row in rows if row["group"] == other), default=0)
    small = [row for row in rows if row["voxels"] <= largest]
    told = {}
    for which, chosen in (("all", rows), ("of_size", small)):
        found, others = (_positive_peaks(chosen, aggregation, name, g) for g in ("TP", other))
        if not found or not others:
            return None
        test = stats.mannwhitneyu(found, others)
        above = float(test.statistic) / (len(found) * len(others))
        told[which] = {"found": len(found), "above": above, "p": float(test.pvalue)}
    return {"largest": largest, **told}


def _rounded(value: Any) -> Any:
    """Numbers to what was measured; None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


def main() -> None:
    """The command line: 0 done, 2 a fault in what was given."""
    try:
        found = study(tyro.cli(LesionStudy, description=__doc__))
    except (InputError, ImportError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    rich.print(found["summary"])


if __name__ == "__main__":
    main()
