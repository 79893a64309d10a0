"""The files and figures of a run of `segcam context`.

OUT/SCAN/instance-001/record.json   the curve of an instance
OUT/context.csv                     a row per dilation, as in the source
OUT/context-instances.csv           a row per instance and dilation
OUT/scores.png, detections.png
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
from matplotlib.figure import Figure

from segcam_jax import _files, viz
from segcam_jax.data.instances import Instance
from segcam_jax.reports.scans import (
    RECORD,
    Advance,
    Record,
    ScanReport,
    StoredScan,
    folder_of,
    is_current,
    values_of,
)
from segcam_jax.runs.stored_scans import StoredScans
from segcam_jax.types import InputError
from segcam_jax.viz.plots import context_detections, context_scores
from segcam_jax.volumes import ContextCurve, SegmentOptions, context_table
from segcam_jax.volumes.segmentation import class_of

TABLE, INSTANCES = "context.csv", "context-instances.csv"
FIGURES = ("scores.png", "detections.png")
FILES, OVERLAY = (TABLE, INSTANCES, *FIGURES), (TABLE, *FIGURES)
NO_COLUMNS = ("distance_mm", "average_score", "std_dev", "n_predictions", "dilations", "reach_mm")
_COLUMNS = ("scan", "instance", "group", "voxels", "volume_mm3", "full_score", "full_detected")
_CURVE = ("dilations", "distance_mm", "reach_mm", "score", "detected")
# How a network is run: its folder may say so, and another network may need other values.
_OF_NETWORKS = frozenset({"preparation", "roi", "overlap", "windows"})
_OF_NETWORKS |= {"normalise", "frame", "match_spacing", "threshold", "class_index"}


class ContextReport(ScanReport):
    """The files of a run."""

    def __init__(self, run: StoredScans, out: Path):
        super().__init__(run, out)
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._instances: dict[tuple[int, int], Instance] = {}
        for item, instance, row in run.results():
            self._rows.setdefault((item, instance.label), []).append(row)
            self._instances[item, instance.label] = instance

    def files(self) -> tuple[str, ...]:
        """Those that are not of a scan."""
        return FILES

    @property
    def count(self) -> int:
        """How many scans there are to write."""
        return sum(row["error"] is None for row in self._run.scans.values())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table, one per dilation; none if no instance was found."""
        return context_table(self.curves())

    def curves(self) -> list[ContextCurve]:
        """The curve of each instance."""
        return [_curve(rows) for rows in self._rows.values()]

    def _folders(self) -> Iterable[str]:
        return (folder_of(rows[0]["scan"], label) for (_, label), rows in self._rows.items())

    def _write_together(self, advance: Advance) -> list[str]:
        rows, out = self.rows(), self._out
        columns = list(rows[0]) if rows else NO_COLUMNS
        _files.write_bytes(out / TABLE, _files.as_csv(columns, [[*row.values()] for row in rows]))
        names = (*_COLUMNS, *_CURVE)
        long = [[row[name] for name in names] for each in self._rows.values() for row in each]
        _files.write_bytes(out / INSTANCES, _files.as_csv(names, long))
        if rows:
            _save(_figures({"": self.curves()}), out)
            return list(FILES)
        for name in FIGURES:
            (out / name).unlink(missing_ok=True)
        return [TABLE, INSTANCES]

    def _write_instances(self, scan: StoredScan, advance: Advance) -> list[str]:
        names = []
        for (number, label), rows in self._rows.items():
            if number != scan.item:
                continue
            first, instance = rows[0], self._instances[number, label]
            folder = folder_of(first["scan"], label)
            about = {**values_of(instance), "scan": first["scan"], "instance": label}
            curve = {name: [row[name] for row in rows] for name in _CURVE}
            full = {name: first[name] for name in ("full_score", "full_detected")}
            record = {
                "run": self._run.manifest.key,
                "instance": {**about, "volume_mm3": instance.volume},
                "curve": {**curve, **full},
                "files": [],
            }
            if not is_current(self._out, folder, record):
                _files.write_json(self._out / folder / RECORD, record)
            names.append(f"{folder}/{RECORD}")
        advance(1, scan.name)
        return names

    def _facts(self) -> Record:
        return {
            "distance_mm": "dilations times the smallest extent of a voxel",
            "reach_mm": "the largest Euclidean distance of a voxel that is kept from the instance",
            "scans": [row["scan"] for row in self._run.scans.values()],
        }


def _curve(rows: Sequence[dict[str, Any]]) -> ContextCurve:
    """The curve of an instance, of its rows."""
    parts = {name: np.array([row[name] for row in rows]) for name in _CURVE}
    return ContextCurve(
        parts["dilations"],
        parts["distance_mm"],
        parts["reach_mm"],
        parts["score"],
        parts["detected"],
        rows[0]["full_score"],
        rows[0]["full_detected"],
    )


def write_overlay(
    runs: Mapping[str, StoredScans], out: Path, report: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Writes one table and figures of several networks that were studied on the same scans.

    Args:
        runs: of `segcam context`, by the names of their networks.
        report: is told where networks have other classes or thresholds, and what failed.

    Returns:
        The rows of the table, one per network and dilation: those of `context_table` without the
        single instances, with the `network`, the number of `instances` and the `median_score`.

    Raises:
        InputError: if a run is of something else, not finished or without instances, if the runs
            differ in their scans, distances, or in which instances they study, or if there are more
            than six; nothing is written then.
    """
    found = {name: _curves_of(name, run) for name, run in runs.items()}
    (first, run), *others = runs.items()
    for name, other in others:
        for said, one, two in _differences(run, other):
            raise InputError(
                f"{name!r} has {said} {two}, {first!r} {one}; compare networks in the same study"
            )
    context_table([each for curves in found.values() for each in curves])  # One set of distances.
    figures = _figures(found)
    _tell(runs, report)
    rows = [
        {
            "network": name,
            "instances": len(curves),
            "median_score": float(np.median([each.scores[number] for each in curves])),
            **{column: row[column] for column in NO_COLUMNS},
        }
        for name, curves in found.items()
        for number, row in enumerate(context_table(curves))
    ]
    _files.write_bytes(out / TABLE, _files.as_csv([*rows[0]], [[*row.values()] for row in rows]))
    _save(figures, out)
    return rows


def _curves_of(name: str, run: StoredScans) -> list[ContextCurve]:
    """The curves of a run that is to be compared."""
    if run.manifest.kind != "context":
        fault = f"is of {run.manifest.kind}"
    elif run.manifest.finished is None:
        fault = "is not finished"
    elif curves := ContextReport(run, run.path.parent).curves():
        return curves
    else:
        fault = "has no instance"
    raise InputError(f"run {name!r} {fault}; give finished runs of `segcam context`")


def _differences(run: StoredScans, other: StoredScans) -> Iterator[tuple[str, Any, Any]]:
    """In what two runs cannot be compared: what it is, and what each has."""
    one, two = (_chosen(each) for each in (run, other))
    yield from ((f"the {name}", one[name], two[name]) for name in one if one[name] != two[name])
    one, two = (
        {row["scan"]: row["sha256"] for row in each.scans.values()} for each in (run, other)
    )
    for scan in sorted(one.keys() | two.keys()):
        found = [each.get(scan, "none") for each in (one, two)]
        if found[0] != found[1]:
            words = ["that failed" if each is None else each[:8] for each in found]
            yield f"of the scan {scan!r} the files", words[0], words[1]


def _chosen(run: StoredScans) -> dict[str, Any]:
    """What says which instances a run studies, by the names of its options."""
    found = dataclasses.asdict(run.options(SegmentOptions))
    truth = {f"truth_{name}": value for name, value in found.pop("truth").items()}
    own = {name: run.manifest.options[name] for name in ("groups", "max_voxels", "steps")}
    return {k: v for k, v in {**found, **truth, **own}.items() if k not in _OF_NETWORKS}


def _tell(runs: Mapping[str, StoredScans], report: Callable[[str], None]) -> None:
    """Says what networks may have of their own, where it differs, and what has failed."""
    about = {}
    for name, run in runs.items():
        options, labels = run.options(SegmentOptions), run.manifest.network.labels
        about[name] = f"{labels[class_of(options, labels)]!r} above {options.threshold:g}"
    if len({*about.values()}) > 1:
        report("; ".join(f"{name!r} studies {words}" for name, words in about.items()))
    for name, run in runs.items():
        failed = run.table.filter(polars.col("error").is_not_null())
        for scan, number in failed.select("scan", "instance").unique(maintain_order=True).rows():
            what = "" if number is None else f"instance {number} of "
            report(f"{name!r} is without {what}the scan {scan!r}, which failed")


def _figures(networks: Mapping[str, Sequence[ContextCurve]]) -> tuple[Figure, Figure]:
    """Scores and detections, as `FIGURES` names them."""
    every = [each for curves in networks.values() for each in curves]
    distance, reach = every[0].distance, np.stack([each.reach for each in every])

    def stacked(column: str) -> dict[str, np.ndarray]:
        return {
            name: np.stack([getattr(each, column) for each in curves])
            for name, curves in networks.items()
        }

    return (
        context_scores(
            distance,
            stacked("scores"),
            full=stacked("full_score"),
            reach=reach,
            title="Probability inside instances against their context",
        ),
        context_detections(
            distance,
            stacked("detected"),
            full=stacked("full_detected"),
            reach=reach,
            title="Detected instances against their context",
        ),
    )


def _save(figures: tuple[Figure, Figure], out: Path) -> None:
    for figure, name in zip(figures, FIGURES, strict=True):
        viz.save(figure, out / name)
