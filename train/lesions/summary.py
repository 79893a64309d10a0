"""What the rows of a study on planted lesions come to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from train.data.lesions import MODALITIES

GROUPS = ("TP", "FP", "FN")


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Means and medians over the groups, by aggregation."""
    rows = found["rows"]
    lesions = _first(rows)
    told: dict[str, Any] = {
        "dice": float(np.mean([case["dice"] for case in found["cases"]])),
        "lesions": sum(case["lesions"] for case in found["cases"]),
        "explained_lesions": sum(case["explained_lesions"] for case in found["cases"]),
        "groups": {
            "TP": len(lesions),
            **{group: sum(row["group"] == group for row in rows) for group in ("FP", "FN")},
        },
        "false_positives_on": {
            kind: sum(row["group"] == "FP" and row[f"{kind}_voxels"] > 0 for row in rows)
            for kind in ("t1_only", "flair_only")
        },
        "missed": sum(row["group"] == "FN" and row["first"] for row in rows),
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
                "against": {g: _compared(rows, aggregation, name, g) for g in ("FP", "FN")},
            }
            for name in MODALITIES
        }
        told[aggregation]["flair_peak_larger"] = _larger(lesions, aggregation, _peak)
        told[aggregation]["flair_sum_larger"] = _larger(lesions, aggregation, _sum)
        told[aggregation]["flair_share"] = _flair_share(lesions, aggregation)
        told[aggregation]["size_correlation"] = _size_correlation(lesions, aggregation)
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


def _size_correlation(rows: Sequence[dict], aggregation: str) -> float | None:
    """The rank correlation of FLAIR's positive peaks with the number of voxels."""
    if len(rows) < 3:
        return None
    peaks = [_positive(row, aggregation, "flair") for row in rows]
    return float(np.asarray(stats.spearmanr([row["voxels"] for row in rows], peaks))[0])


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
    """Quartiles of the positive peaks of a group, the found ones of the first lesions alone."""
    chosen = _first(rows) if group == "TP" else [row for row in rows if row["group"] == group]
    peaks = [_positive(row, aggregation, name) for row in chosen]
    return np.percentile(peaks, (25, 50, 75)).tolist() if peaks else None


def _first(rows: Sequence[dict]) -> list[dict]:
    """What was found of the first lesions."""
    return [row for row in rows if row["group"] == "TP" and row["first"]]


def _positive(row: dict, aggregation: str, name: str) -> float:
    return row[aggregation][name]["peak_positive"]


def _compared(rows: Sequence[dict], aggregation: str, name: str, other: str) -> dict | None:
    """How often the peak of a TP is above that of an error, and the p of the rank test.

    Once for the first lesions against all errors; and once by pairs of an error and the TP nearest
    in size, each in one pair: peaks depend on size, and errors are small.
    """
    errors = [row for row in rows if row["group"] == other]
    first = [_positive(row, aggregation, name) for row in _first(rows)]
    if not errors or not first:
        return None
    peaks = [_positive(row, aggregation, name) for row in errors]
    test = stats.mannwhitneyu(first, peaks)
    pairs = _pairs([row for row in rows if row["group"] == "TP"], errors)
    both = [[_positive(row, aggregation, name) for row in pair] for pair in pairs]
    lead = [one - other for one, other in both]
    sizes = np.median([[row["voxels"] for row in pair] for pair in pairs], axis=0)
    return {
        "above": float(test.statistic) / (len(first) * len(peaks)),
        "p": float(test.pvalue),
        "pairs": len(pairs),
        "pair_voxels": sizes.tolist(),
        "pairs_above": float(np.mean(np.greater(lead, 0))),
        "pairs_p": float(np.asarray(stats.wilcoxon(lead))[1]) if np.any(lead) else 1.0,
    }


def _pairs(found: Sequence[dict], errors: Sequence[dict]) -> list[tuple[dict, dict]]:
    """(TP, error), nearest in the logarithm of size first; none in two pairs."""
    distances = sorted(
        (abs(np.log(one["voxels"] / other["voxels"])), i, j)
        for i, one in enumerate(found)
        for j, other in enumerate(errors)
    )
    used: tuple[set[int], set[int]] = set(), set()
    pairs = []
    for _, i, j in distances:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((found[i], errors[j]))
    return pairs
