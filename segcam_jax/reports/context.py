"""The files and figures of a run of `segcam context`.

OUT/SCAN/instance-001/record.json   the curve of an instance
OUT/context.csv                     a row per dilation, as in the source
OUT/context-instances.csv           a row per instance and dilation
OUT/scores.png, detections.png
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
from segcam_jax.viz.plots import context_detections, context_scores
from segcam_jax.volumes import ContextCurve, context_table

TABLE, INSTANCES = "context.csv", "context-instances.csv"
FIGURES = ("scores.png", "detections.png")
FILES = (TABLE, INSTANCES, *FIGURES)
NO_COLUMNS = ("distance_mm", "average_score", "std_dev", "n_predictions", "dilations", "reach_mm")
_COLUMNS = ("scan", "instance", "group", "voxels", "volume_mm3", "full_score", "full_detected")
_CURVE = ("dilations", "distance_mm", "reach_mm", "score", "detected")


class ContextReport(ScanReport):
    """The files of a run.

    Args:
        run: of `segcam context`.
        out: their folder.
    """

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
        return context_table([_curve(rows) for rows in self._rows.values()])

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
            _draw([_curve(rows) for rows in self._rows.values()], out)
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


def _draw(curves: Sequence[ContextCurve], out: Path) -> None:
    distance, reach = curves[0].distance, np.stack([each.reach for each in curves])
    figures = (
        context_scores(
            distance,
            np.stack([each.scores for each in curves]),
            full=np.array([each.full_score for each in curves]),
            reach=reach,
            title="Probability inside instances against their context",
        ),
        context_detections(
            distance,
            np.stack([each.detected for each in curves]),
            full=np.array([each.full_detected for each in curves]),
            reach=reach,
            title="Detected instances against their context",
        ),
    )
    for figure, name in zip(figures, FIGURES, strict=True):
        viz.save(figure, out / name)
