"""How well false positives among planted lesions are told from hits, by features of instances.

python -m benchmarks.lesion_detector --features results/features.csv

The table comes from the three commands in docs/volumes.md, with 40 cases and `--threshold 0.3`; the
detectors are those of `train.lesions_detector`, of all instances and of small ones.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import files
from train.lesions.detector import Detector, detect

OUT = Path(__file__).parent / "results" / "lesion_detector.json"
SMALL = 12  # voxels


def measure(features: Path, folder: Path) -> list[dict[str, Any]]:
    """What the detectors find, of all instances and of small ones; without a row per instance."""
    found = []
    for most in (None, SMALL):
        told = detect(Detector(features, folder / "detector.json", max_voxels=most))
        del told["instances"]
        for each in told["detectors"].values():
            each["features"] = len(each["features"])
        found.append(told)
    return found


def table() -> str:
    """One row per detector and set of instances."""
    lines = [
        "| instances | hits | false positives | known | features | AUC | of the folds |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in json.loads(OUT.read_text()):
        most = each["max_voxels"]
        which = "all" if most is None else f"of at most {most} voxels"
        counts = (which, each["hits"], each["false_positives"])
        for kind, told in each["detectors"].items():
            cells = (*counts, kind, told["features"], f"{told['auc']:.3f}", _spread(told))
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            counts = ("", "", "")
    return "\n".join(lines)


def _spread(told: Mapping[str, Any]) -> str:
    areas = [area for area in told["auc_of_folds"] if area is not None]
    return f"{np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    features = parser.parse_args().features
    files.write_json(OUT, measure(features, features.parent))


if __name__ == "__main__":
    main()
