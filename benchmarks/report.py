"""Writes tables and plots from the registry and from `benchmarks/results/`.

python -m benchmarks.planted_bias
python -m train.lesions_study
python -m benchmarks.fast_ablation && python -m benchmarks.agreement
python -m benchmarks.sweeps
python -m benchmarks.metric_speed && python -m benchmarks.faithfulness
python -m benchmarks run --suite cpu
python -m benchmarks report
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    agreement,
    faithfulness,
    fast_ablation,
    foreign,
    lesion_detector,
    lesion_networks,
    metric_speed,
    plots,
    sweeps,
    tables,
    torch_speed,
)
from benchmarks.workloads import Suite
from segcam_jax.methods import METHODS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def methods_table() -> str:
    """One row per method."""
    lines = [(f"`{each.name}`", each.cost, each.paper) for each in METHODS.values()]
    return tables.markdown("method | cost | paper", lines)


def bias_table() -> str:
    """One row per tap and method, both networks side by side."""
    studies = {}
    for name in ("biased", "unbiased"):
        rows = json.loads((RESULTS / f"bias_{name}.json").read_text())["bias"]["rows"]
        studies[name] = {(row["tap"], row["method"]): row for row in rows}
    lines = []
    for key, row in studies["biased"].items():
        cells = [f"`{key[0]}`", f"`{key[1]}`"]
        for each in (row, studies["unbiased"][key]):
            shares = (each["biased"], each["unbiased"], each["digit"])
            cells += [", ".join(f"{share:.2f}" for share in shares), f"{each['preferred']:.0%}"]
        lines.append(cells)
    heads = [f"{name} network: stripes, other half, digit | images" for name in studies]
    return tables.markdown(" | ".join(["tap | method", *heads]), lines)


def lesions_table() -> str:
    """Where the saliency of planted lesions lies: one row per aggregation and modality."""
    found = _lesions()
    heads = (
        "aggregation | modality | positive: inside, within 6 mm, beyond | per voxel, inside over"
        " within 6 mm | peak inside | negative: inside, within 6 mm, beyond"
    )
    lines = []
    for aggregation, modality, each in _by_modality(found):
        shares = [", ".join(f"{v:.2f}" for v in each[sign]) for sign in ("positive", "negative")]
        inside = f"{each['peak_inside']} of {found['groups']['TP']}"
        density = f"{each['density']:.1f}"
        lines.append((aggregation, modality, shares[0], density, inside, shares[1]))
    return tables.markdown(heads, lines)


def lesion_peaks_table() -> str:
    """Positive peaks by group, and how often those of lesions are above those of errors."""
    found = _lesions()
    columns = [f"{group} ({count})" for group, count in found["groups"].items()]
    heads = ["aggregation | modality", *columns]
    heads += [f"TP above {group} | of like size" for group in ("FP", "FN")]
    lines = []
    for aggregation, modality, each in _by_modality(found):
        cells = [aggregation, modality]
        for group in found["groups"]:
            low, middle, high = each["peaks"][group]
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        for told in each["against"].values():
            cells += [_chance(told["above"], told["p"])]
            cells += [_chance(told["pairs_above"], told["pairs_p"])]
        lines.append(cells)
    return tables.markdown(" | ".join(heads), lines)


def _chance(share: float, p: float) -> str:
    return f"{share:.0%} (p {p:.0e})" if p < 0.01 else f"{share:.0%} (p {p:.2f})"


def _lesions() -> dict[str, Any]:
    return json.loads((RESULTS / "lesions.json").read_text())["summary"]


def _by_modality(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for aggregation in ("mean", "max"):
        for modality, name in (("flair", "FLAIR"), ("t1", "T1")):
            yield aggregation, name, found[aggregation][modality]


def summary(found: dict[str, Any]) -> str:
    """The overview of what a run has measured."""
    return tables.overview(found)


def _overview(suite: Suite) -> str:
    return tables.overview(tables.load(suite))


def _rows(suite: Suite) -> str:
    return tables.rows(tables.load(suite))


TABLES = {
    "methods": methods_table,
    "bias": bias_table,
    "lesions": lesions_table,
    "lesion_peaks": lesion_peaks_table,
    "fast_ablation": fast_ablation.table,
    "agreement": agreement.table,
    "sweeps": sweeps.table,
    "metric_speed": metric_speed.table,
    **{f"faithful_{key}": partial(faithfulness.table, key) for key in faithfulness.STUDIES},
    **{f"agreement_{key}": partial(faithfulness.agreement, key) for key in faithfulness.STUDIES},
    "foreign": foreign.table,
    "torch_speed": torch_speed.table,
    "lesion_networks": lesion_networks.table,
    "lesion_detector": lesion_detector.table,
    "first_page": lambda: tables.first_page(tables.load("cpu")),
    "benchmarks_cpu": lambda: _overview("cpu"),
    "benchmarks_gpu": lambda: _overview("gpu"),
    "rows_cpu": lambda: _rows("cpu"),
    "rows_gpu": lambda: _rows("gpu"),
}
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("docs/*.md")))


def filled(text: str) -> str:
    """A page with every `<!-- table: NAME -->` ... `<!-- end -->` made anew."""

    def table(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Rewrites the pages in place, and draws the plots."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    faithfulness.draw(ROOT / "docs" / "figures")
    for suite in ("cpu", "gpu"):
        plots.write(tables.load(suite), RESULTS, suite)


if __name__ == "__main__":
    main()
