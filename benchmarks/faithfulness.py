"""Which method is the most faithful, at which tap, by which metric, of networks that ship.

python -m benchmarks.faithfulness [--only biased unbiased photographs lesions] [--metrics NAME ...]
                                  [--work FOLDER]

Each study is a run as `segcam sweep` or `segcam instances` stores it, scored as `segcam score` does
it, beside a random map and, of segmentations, a mask-shaped one. A study that was killed resumes.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from benchmarks import results, timing
from benchmarks.tables import markdown
from segcam_jax import cli, files, metrics, viz
from segcam_jax.data import samples
from segcam_jax.extras import require
from segcam_jax.reports import scores as report
from segcam_jax.runs import (
    CONTROL,
    Job,
    Measure,
    Scoring,
    StoredRun,
    StoredScans,
    StudyOptions,
    open_scans,
)
from train.data.brain_template import mni152
from train.data.lesions import LesionCases, LesionConfig

OUT = Path(__file__).parent / "results" / "faithfulness.json"
WORK = Path(tempfile.gettempdir()) / "segcam-faithfulness"


def _measure(name: str, **options: Any) -> Measure:
    return Measure(metrics.find(name), tuple(sorted(options.items())))


_NOTHING = "Not measured yet."
_CASES = 7  # Of planted lesions.
_STEPS = 8  # The bottleneck of the U-Nets has 16 positions.
# By what a table calls it; each is scored by itself.
INPUT = {
    "deletion": _measure("deletion", steps=_STEPS),
    "insertion": _measure("insertion", steps=_STEPS),
    "ROAD": _measure("road", percentiles=(25, 50, 75)),
    "deletion at the tap": _measure("deletion", at="tap", steps=_STEPS),
}
CONTEXT = {"deletion of the context": _measure("deletion", where="outside", steps=_STEPS)}
RANDOMISED = {"randomisation": _measure("parameter_randomisation")}
EVERY = {**INPUT, **CONTEXT, **RANDOMISED}


Draw = Callable[[Path, int], None]
Run = StoredRun | StoredScans


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """A study.

    Attributes:
        run: computes, or resumes, the run of so many images or scans in a folder.
        randomised: the first ones, of which maps are made again with parameters at random.
    """

    title: str
    run: Callable[[Path, int], Run]
    images: int
    randomised: int
    by: Mapping[str, Measure]


def _of_images(draw: Draw, options: StudyOptions) -> Callable[[Path, int], Run]:
    """The run of images that are drawn into a folder."""

    def run(work: Path, count: int) -> Run:
        _drawn(draw, work / "images", count)
        return Job(options, (work / "images",), work / "run.zarr", devices=1).open().run()

    return run


def _of_lesions(work: Path, count: int) -> Run:
    """The run of the true lesions of so many held-out cases, found by the shipped network."""
    scans = work / f"cases-{_CASES - count}-to-{_CASES - 1}"  # Another folder is another run.
    _drawn(_scans, scans, count)
    given = ["instances", "--data", f"{scans}", "--weights", "lesions", "--roi", "32"]
    given += ["--prefixes", "flair", "t1", "--truth-prefix", "truth", "--group", "TP"]
    given += ["--truth-labels", "instances", "--min-voxels", "3", "--option", "samples=5"]
    given += ["--method", "instance_smooth_grad", "input_x_gradient", *_CAMS[:4]]
    given += ["--tap", "bottleneck", "decoder2"]
    # Of a run that is finished too: it refuses a folder that holds the run of other options.
    if code := cli.main([*given, "--out", f"{work / 'run'}"]):
        raise SystemExit(code)
    return open_scans(work / "run")


def _drawn(draw: Draw, folder: Path, count: int) -> None:
    """Draws into a folder that gets its name at the end: one that was killed is drawn again."""
    if folder.exists():
        return
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    draw(part, count)
    part.rename(folder)


def _scans(folder: Path, count: int) -> None:
    """Held-out cases of planted lesions, as NIfTI."""
    nibabel, template = require("nibabel", extra="nifti"), mni152()
    cases = LesionCases(template, LesionConfig(split="test"))
    for index in range(_CASES - count, _CASES):  # The last ones have few lesions.
        place = folder / f"case-{index:03}" / "scan"
        place.mkdir(parents=True)
        found = {"flair": cases[index].image[..., 0], "t1": cases[index].image[..., 1]}
        found["truth"] = cases[index].lesions.astype(np.int16)
        for name, values in found.items():
            image = nibabel.Nifti1Image(values, template.affine)
            nibabel.save(image, place / f"{name}.nii.gz")


def _biased_digits(folder: Path, count: int) -> None:
    """Bundled samples of the digit with stripes in one half of its background."""
    for index, image in enumerate(samples.load().biased.image[:count]):
        files.write_array(folder / f"{index:03}.npy", image)


def _photographs(folder: Path, count: int) -> None:
    """Photographs of scikit-image: the whole of each, and then squares cut out of it."""
    data = require("skimage.data", extra="train")
    names = ("chelsea", "coffee", "rocket", "astronaut", "motorcycle_left", "hubble_deep_field")
    known = [_pixels(data, name) for name in names]
    generator = np.random.default_rng(0)
    for index in range(count):
        name, whole = names[index % len(names)], known[index % len(names)]
        side, middle = min(whole.shape[:2]), index < len(names)
        if not middle:
            side = int(side * generator.uniform(0.6, 0.9))
        free = [n - side for n in whole.shape[:2]]
        corner = [n // 2 if middle else int(generator.integers(0, n + 1)) for n in free]
        cut = whole[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        image = Image.fromarray(cut).resize((224, 224), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:03}-{name}.png")


def _pixels(data: Any, name: str) -> np.ndarray:
    if name == "motorcycle_left":
        return np.asarray(Image.open(Path(data.__file__).parent / f"{name}.png").convert("RGB"))
    return getattr(data, name)()


_CAMS = ("grad_cam", "hires_cam", "layer_cam", "eigen_cam", "ablation_cam")


def _digit_study(title: str, weights: str) -> Faithfulness:
    options = StudyOptions(
        weights=weights,
        taps=("bottleneck", "decoder1"),
        methods=(*_CAMS, "input_x_gradient"),
        classes=("2",),
        shard=10,
    )
    by = {**INPUT, **CONTEXT}
    run = _of_images(_biased_digits, options)
    return Faithfulness(title, run, samples.BUNDLED_SAMPLES, 20, by)


STUDIES: dict[str, Faithfulness] = {
    "biased": _digit_study("biased U-Net", "texture-mnist-biased"),
    "unbiased": _digit_study("unbiased U-Net", "texture-mnist-unbiased"),
    "photographs": Faithfulness(
        "EfficientNet-Lite0",
        _of_images(
            _photographs,
            StudyOptions(
                weights="efficientnet-lite0-imagenet",
                taps=("middle", "last"),
                methods=("grad_cam", "hires_cam", "layer_cam", "eigen_cam", "input_x_gradient"),
                shard=1,
            ),
        ),
        18,
        6,
        INPUT,
    ),
    "lesions": Faithfulness("lesion network", _of_lesions, _CASES, 4, {**INPUT, **CONTEXT}),
}


def measured(
    study: Faithfulness,
    work: Path,
    known: Mapping[str, Any],
    names: Container[str] = frozenset(EVERY),
) -> Iterator[dict[str, Any]]:
    """Cards of each metric that is named; those known of the same code and options are kept."""
    found = dict(known)
    for count, every in ((study.images, study.by), (study.randomised, RANDOMISED)):
        by = {name: measure for name, measure in every.items() if name in names}
        made = {name: _made_from(measure, count) for name, measure in by.items()}
        missing = {name for name in by if not made[name].items() <= found.get(name, {}).items()}
        if not missing:
            continue
        run = study.run(work / f"{count}", count)
        for name, measure in by.items():
            if name not in missing:
                continue
            scoring = Scoring(run, (measure,))
            explained = sum(map(len, scoring.scored.shards.values()))
            done = scoring.compute(lambda now, name=name: print(name, now, flush=True))
            cards = report.cards(run, scoring.table())
            found[name] = {
                **made[name],
                "commit": results.commit(),
                "environment": timing.environment(),
                "seconds": done.seconds,
                "explained": explained,
                "higher_is_better": measure.metric.higher_is_better,
                "cards": [dataclasses.asdict(card) for card in cards],
            }
            yield found


def _made_from(measure: Measure, count: int) -> dict[str, Any]:
    """What a metric's cards depend on, as JSON holds it."""
    made = {"options": dict(measure.options), "images": count, "code": results.code()}
    return json.loads(json.dumps(made))


def table(key: str) -> str:
    """A line for each method at a tap: means, and the place among all of them and the controls."""
    found = _known(key)
    if not found:
        return _NOTHING
    cards = {name: {(c.method, c.tap): c for c in each} for name, each in _cards(found).items()}
    arrows = {True: "↑", False: "↓"}
    heads = [f"{name} {arrows[found[name]['higher_is_better']]}" for name in cards]
    lines = []
    places = dict.fromkeys(place for each in cards.values() for place in sorted(each))
    for method, tap in sorted(places, key=lambda place: (place[1] == CONTROL, place[1])):
        cells = [_cell(each.get((method, tap))) for each in cards.values()]
        names = [method, "-"] if tap == CONTROL else [f"`{method}`", f"`{tap}`"]
        lines.append([*names, *cells])
    return markdown(" | ".join(["method | tap", *heads]), lines)


def agreement(key: str) -> str:
    """Kendall's tau of the orders by each pair of metrics, controls left out."""
    found = {name: each for name, each in _known(key).items() if name not in RANDOMISED}
    if not found:
        return _NOTHING
    values = {
        name: {
            (card.method, card.tap): card.mean * (1 if found[name]["higher_is_better"] else -1)
            for card in cards
            if card.mean is not None and card.tap != CONTROL
        }
        for name, cards in _cards(found).items()
    }
    lines = [
        [name, *(_tau(one, other) if other is not one else "" for other in values.values())]
        for name, one in values.items()
    ]
    return markdown(" | ".join(["", *values]), lines)


def _tau(one: Mapping[Any, float], other: Mapping[Any, float]) -> str:
    both = [place for place in one if place in other]
    tau, _ = stats.kendalltau([one[place] for place in both], [other[place] for place in both])
    return f"{tau:.2f}"


def draw(folder: Path) -> None:
    """A figure for each study: means with their intervals, controls beside."""
    for key in STUDIES:
        found = _known(key)
        if not found:
            continue
        better = {name: each["higher_is_better"] for name, each in found.items()}
        explained = next(iter(found.values()))["explained"]
        title = f"{STUDIES[key].title}, {explained} explained"
        viz.save(
            report.ranked(_cards(found), better, title=title), folder / f"faithfulness_{key}.png"
        )


def _known(key: str) -> dict[str, Any]:
    """What was measured, but for metrics that have a value of less than half of the images."""
    found = (files.read_json(OUT) or {}).get(key, {}).get("metrics", {})
    found = {name: found[name] for name in EVERY if name in found}
    return {
        name: each
        for name, each in found.items()
        if 2 * max(card["compared"] for card in each["cards"]) >= each["explained"]
    }


def _cards(found: Mapping[str, Any]) -> dict[str, list[report.Card]]:
    return {name: [report.Card(**card) for card in each["cards"]] for name, each in found.items()}


def _cell(card: report.Card | None) -> str:
    if card is None or card.mean is None:
        return "-"
    place = "" if card.place is None else f" ({card.place})"
    return f"{card.mean:.3g}{place}"


def main() -> None:
    """Computes, and writes the JSON after each metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--metrics", nargs="+", choices=list(EVERY), default=list(EVERY))
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    for key in given.only:
        study = STUDIES[key]
        everything = files.read_json(given.out) or {}
        known = everything.get(key, {}).get("metrics", {})
        for found in measured(study, given.work / key, known, given.metrics):
            everything[key] = {
                "title": study.title,
                "images": study.images,
                "randomised": study.randomised,
                "metrics": found,
            }
            files.write_json(given.out, everything)


if __name__ == "__main__":
    main()
