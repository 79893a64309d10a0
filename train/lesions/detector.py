"""Tells false positives from hits by features of their images and maps, cross-validated.

    segcam instances --data cohort --prefixes flair t1 --truth-prefix mask --weights lesions \
        --features --out results
    python -m train.lesions_detector --features results/features.csv --out detector.json

A logistic regression says how likely it is that an instance is no hit: by its features in the
image, by those in the map, by both, and by its number of voxels alone, since false positives are
often small and features depend on size. Folds hold whole scans apart; features are scaled by the
mean and the deviation of the training folds alone, and what is unknown is their median. In `--out`:
the area under the ROC curve of each fold and of all held-out instances, and each instance's
probabilities.

Cost: seconds.
"""

import csv
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import rich
from jaxtyping import Bool, Float, Int

from segcam_jax import files
from segcam_jax.extras import require
from segcam_jax.types import InputError, counted
from train import command

_ABOUT = ("scan", "instance", "group", "voxels", "method", "tap", "modality")
_MOST_FOLDS = 1000
_LARGEST = 1e100  # The squares of larger numbers, of which deviations are made, overflow.
# What a detector knows of an instance.
KINDS = ("voxels", "image", "map", "image and map")


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector.

    Attributes:
        features: the table that `segcam instances --features` writes, of scans with a truth.
        out: the JSON file to write.
        max_voxels: leave out larger instances, so that size alone tells less. None takes all.
        folds: how many.
        seed: of the folds.
    """

    features: Path
    out: Path = Path("runs/detector.json")
    max_voxels: int | None = None
    folds: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raises `InputError`, naming the setting, if one is none."""
        command.check_outputs(written=(self.out,))
        command.check_at_least(self, 2, "folds", most=_MOST_FOLDS)
        command.check_at_least(self, 1, "max_voxels")
        command.check_seed(self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Instances with their features.

    Attributes:
        numbers: of each in its scan.
        voxels: how large each is.
        wrong: whether it is a false positive.
        values: of them; NaN where one is unknown.
    """

    scans: list[str]
    numbers: list[str]
    voxels: Int[np.ndarray, "n"]
    wrong: Bool[np.ndarray, "n"]
    names: list[str]
    values: Float[np.ndarray, "n f"]

    def of(self, kind: str) -> "Table":
        """The table of what a detector of one of `KINDS` knows."""
        if kind == "voxels":
            return dataclasses.replace(self, names=["voxels"], values=self.voxels[:, None] * 1.0)
        chosen = [n for n, name in enumerate(self.names) if _kind(name) in kind]
        names = [self.names[n] for n in chosen]
        return dataclasses.replace(self, names=names, values=self.values[:, chosen])


def _kind(name: str) -> str:
    return "image" if name.startswith("image.") else "map"


def read_features(path: Path, max_voxels: int | None = None) -> Table:
    """The hits and the false positives of a table of features.

    Raises:
        InputError: if it is none, or has no hits or no false positives of at most so many voxels.
    """
    lines = csv.reader(files.read_bytes(path).decode(errors="replace").splitlines())
    try:
        header = next(lines, [])
        rows = [dict(itertools.zip_longest(header, line)) for line in lines if line]
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is not a table: {error}") from None
    if len(set(header)) < len(header):
        raise InputError(f"{str(path)!r} has two columns of one name; give features.csv")
    if not rows or any(None in row or None in row.values() for row in rows):
        raise InputError(f"{str(path)!r} holds no features of `segcam instances --features`")
    missing = [name for name in _ABOUT if name not in rows[0]]
    if missing:
        raise InputError(f"{str(path)!r} has no column {missing[0]!r}; give features.csv")
    found: dict[tuple[str, str], dict[str, float]] = {}
    about: dict[tuple[str, str], tuple[str, int]] = {}
    for row in rows:
        size = row["voxels"]
        if not size.isdecimal():
            raise InputError(f"{str(path)!r} has voxels {size!r}; expected a whole number")
        if row["group"] not in ("TP", "FP") or int(size) > (max_voxels or np.inf):
            continue
        if not row["instance"].isdecimal():
            raise InputError(f"{str(path)!r} has instance {row['instance']!r}; expected its number")
        one = (row["scan"], row["instance"])
        about[one] = row["group"], int(size)
        found.setdefault(one, {})
        where = ".".join(filter(None, (row["method"], row["tap"], row["modality"])))
        for name in row.keys() - set(_ABOUT):
            try:
                value = float(row[name] or "nan")
            except ValueError:
                raise InputError(f"{str(path)!r} has {name} {row[name]!r}, no number") from None
            if abs(value) > _LARGEST:  # NaN is not.
                raise InputError(
                    f"{str(path)!r} has {name} {value:g}; give numbers of at most {_LARGEST:g}"
                )
            found[one][f"{where}.{name}"] = value
    names = sorted({name for each in found.values() for name in each})
    values = [[each.get(name, np.nan) for name in names] for each in found.values()]
    wrong = np.array([about[one][0] == "FP" for one in found], bool)
    if not found or wrong.all() or not wrong.any():
        there = counted(int(wrong.sum()), "false positive"), counted(int((~wrong).sum()), "hit")
        raise InputError(
            f"{str(path)!r} has {' and '.join(there)}; both are needed (give `segcam instances` a "
            "truth, and a larger --max-voxels)"
        )
    if np.isnan(values).all():
        raise InputError(f"{str(path)!r} has no value of any feature; give features.csv")
    scans, numbers = (list(each) for each in zip(*found, strict=True))
    voxels = np.array([about[one][1] for one in found])
    return Table(scans, numbers, voxels, wrong, names, np.array(values))


def detect(config: Detector) -> dict[str, Any]:
    """Cross-validates a detector of each kind; returns what the file holds."""
    config.check()
    table = read_features(config.features, config.max_voxels)
    roc = require("sklearn.metrics", extra="embed").roc_auc_score
    detectors: dict[str, Any] = {}
    probabilities = {}
    for kind in KINDS:
        known = table.of(kind)
        if known.names:
            probability, areas = cross_validated(known, config.folds, config.seed)
            probabilities[kind] = probability.tolist()
            area = float(roc(table.wrong, probability))
            detectors[kind] = {"auc": area, "auc_of_folds": areas, "features": known.names}
    instances = zip(table.scans, table.numbers, table.voxels.tolist(), table.wrong, strict=True)
    found = {
        "hits": int((~table.wrong).sum()),
        "false_positives": int(table.wrong.sum()),
        "scans": len(set(table.scans)),
        "max_voxels": config.max_voxels,
        "detectors": detectors,
        "instances": [
            {
                "scan": scan,
                "instance": int(number),
                "voxels": voxels,
                "false_positive": bool(wrong),
                "probability": {kind: each[n] for kind, each in probabilities.items()},
            }
            for n, (scan, number, voxels, wrong) in enumerate(instances)
        ],
    }
    files.write_json(config.out, found)
    told = {kind: (each["auc"], each["auc_of_folds"]) for kind, each in detectors.items()}
    rich.print({name: found[name] for name in ("hits", "false_positives")} | told)
    return found


def cross_validated(
    table: Table, folds: int, seed: int = 0
) -> tuple[Float[np.ndarray, "n"], list[float | None]]:
    """The probability of each instance to be wrong, by a detector that has not seen its scan.

    Args:
        folds: how many; no scan lies in two.

    Returns:
        The probabilities, and the area under the ROC curve of each fold; None where a fold has
        hits alone, or false positives alone.
    """
    counts = {"scan": len(set(table.scans)), "hit": int((~table.wrong).sum())}
    counts["false positive"] = int(table.wrong.sum())
    if min(counts.values()) < folds:
        there = ", ".join(counted(count, name) for name, count in counts.items())
        raise InputError(
            f"{folds} folds need at least {folds} scans, hits and false positives, and there are "
            f"{there}; give fewer --folds, or more scans"
        )
    sklearn = {
        name: require(f"sklearn.{name}", extra="embed")
        for name in ("impute", "linear_model", "metrics", "model_selection", "pipeline")
    }
    scaler = require("sklearn.preprocessing", extra="embed").StandardScaler
    splits = sklearn["model_selection"].StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    found, areas = np.full(len(table.wrong), np.nan), []
    for training, held_out in splits.split(table.values, table.wrong, table.scans):
        if len(set(table.wrong[training])) < 2:
            kind = "hits" if table.wrong[training].all() else "false positives"
            raise InputError(
                f"{folds} folds: one of them holds all {kind}, and nothing is left to learn them "
                "from; give more scans that have some, or another --seed"
            )
        detector = sklearn["pipeline"].make_pipeline(
            sklearn["impute"].SimpleImputer(strategy="median", keep_empty_features=True),
            scaler(),
            sklearn["linear_model"].LogisticRegression(class_weight="balanced", max_iter=1000),
        )
        detector.fit(table.values[training], table.wrong[training])
        found[held_out] = detector.predict_proba(table.values[held_out])[:, 1]
        both = len(set(table.wrong[held_out])) == 2
        area = sklearn["metrics"].roc_auc_score
        areas.append(float(area(table.wrong[held_out], found[held_out])) if both else None)
    return found, areas


def main() -> None:
    """The command line."""
    command.run(detect, Detector, __doc__)


if __name__ == "__main__":
    main()
