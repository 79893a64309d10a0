"""The context study of many scans: a curve per instance, stored; tables and figures of all.

OUT/SCAN/probability.nii.gz, instances.nii.gz, ...   as `sweep.instances` writes them
OUT/SCAN/instance-001/record.json                    the curve of an instance
OUT/context.csv                                      a row per dilation, as in the source
OUT/context-instances.csv                            a row per instance and dilation
OUT/scores.png, detections.png, manifest.json
"""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files, viz
from segcam_jax.data import nifti
from segcam_jax.data.instances import Instance
from segcam_jax.data.volume import spacing_of
from segcam_jax.engine import Execution
from segcam_jax.reports.tables import as_csv
from segcam_jax.runs.manifest import device, versions, weights_record
from segcam_jax.sweep import store
from segcam_jax.sweep.instance_plan import InstancePlan, folder_of, restored, values_of
from segcam_jax.sweep.instances import Progress, claimed, segment_all
from segcam_jax.types import InputError, SegcamError
from segcam_jax.viz.context import context_detections, context_scores
from segcam_jax.volumes import ContextCurve, context_curve, context_table
from segcam_jax.volumes.context import SAME_SPACING
from segcam_jax.volumes.scan_inputs import VolumeCase

TABLE, INSTANCES = "context.csv", "context-instances.csv"
FIGURES = ("scores.png", "detections.png")
NO_COLUMNS = ("distance_mm", "average_score", "std_dev", "n_predictions", "dilations", "reach_mm")
_COLUMNS = ("scan", "instance", "group", "voxels", "volume_mm3", "full_score", "full_detected")
_CURVE = ("dilations", "distance_mm", "reach_mm", "score", "detected")


@dataclasses.dataclass(frozen=True, eq=False)
class ContextPlan:
    """A context study that can be carried out.

    Attributes:
        base: scans and how their instances are found; its methods are not used.
        steps: dilations.
        max_voxels: larger instances are left out; None: none.
        key: digest of all that determines the curves.
    """

    base: InstancePlan
    steps: int
    max_voxels: int | None
    key: str

    def wanted(self, instance: Instance) -> bool:
        """Whether an instance is studied."""
        small = self.max_voxels is None or instance.voxels <= self.max_voxels
        return small and (not self.base.groups or instance.group in self.base.groups)


def context_plan(base: InstancePlan, *, steps: int, max_voxels: int | None) -> ContextPlan:
    """Checks the study's own options, and that all scans have voxels of one size.

    Args:
        base: scans and how their instances are found.
        steps: dilations.
        max_voxels: larger instances are left out.

    Raises:
        InputError: if a number is out of range, or distances of the scans cannot be compared.
    """
    sizes = [min(_spacing(base, case)) for case in base.cases]
    for case, size in zip(base.cases, sizes, strict=True):
        if not np.isclose(size, sizes[0], rtol=SAME_SPACING):
            raise InputError(
                f"{str(case.files.files[0])!r} has voxels of {size:.4g} mm, "
                f"{str(base.cases[0].files.files[0])!r} of {sizes[0]:.4g} mm; study scans of one "
                "voxel size at a time"
            )
    if not 1 <= steps < 1000:
        raise InputError(f"`steps` is {steps}; give 1 to 999 dilations")
    least = base.segmenting.min_voxels
    if max_voxels is not None and max_voxels < least:
        raise InputError(f"`max_voxels` is {max_voxels}, below `min_voxels`, {least}")
    key = _files.key_of([base.key, steps, max_voxels])
    return ContextPlan(dataclasses.replace(base, key=key), steps, max_voxels, key)


def _spacing(base: InstancePlan, case: VolumeCase) -> tuple[float, ...]:
    """The size of the voxels that a scan is studied on."""
    frame = base.segmenting.frame
    resampled = frame.spacing if base.segmenting.match_spacing else None
    return resampled or spacing_of(nifti.read_grid(case.files.files[0])[1])


def run_context(
    plan: ContextPlan,
    out: Path,
    *,
    command: Sequence[str],
    progress: Progress,
    overwrite: bool = False,
    execution: Execution = Execution(),
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Segments and studies what is not there yet, then writes tables and figures.

    Arguments and errors as `run_instances`.

    Returns:
        The rows of the table, one per dilation; none if no instance was found.
    """
    base = plan.base
    known = [file for case in base.cases for file in base.case_files(case)]
    files = [*known, TABLE, INSTANCES, *FIGURES, store.MANIFEST]
    folder = claimed(base, out, files, overwrite=overwrite)
    try:
        segmented = segment_all(base, folder, progress, execution, report)
    except SegcamError:
        folder.release()
        raise
    wanted = [(case, [each for each in found if plan.wanted(each)]) for case, found in segmented]
    records = _study_all(plan, folder, wanted, progress, execution)
    curves = [_curve(record["curve"]) for record in records]
    rows = context_table(curves)
    columns = list(rows[0]) if rows else NO_COLUMNS
    _files.write_bytes(out / TABLE, as_csv(columns, [list(row.values()) for row in rows]))
    _files.write_bytes(out / INSTANCES, as_csv((*_COLUMNS, *_CURVE), _long(records)))
    if curves:
        _draw(curves, out)
    _files.write_json(out / store.MANIFEST, _manifest(plan, folder, command))
    return rows


def _study_all(plan: ContextPlan, folder, wanted, progress: Progress, execution) -> list[dict]:
    """The records of all instances, studied where they were not yet."""
    records = []
    with progress("studying", sum(len(found) for _, found in wanted)) as advance:
        for case, found in wanted:
            read = None
            for instance in found:
                name = folder_of(case, instance)
                record = folder.finished(name)
                if record is None:
                    read = read or restored(plan.base, case, folder.path)
                    advance(0, f"{case.name}: instance {instance.label}")
                    record = _study(plan, case, read, instance, folder, execution)
                records.append(record)
                advance(1, f"{case.name}: instance {instance.label}")
    return records


def _study(plan: ContextPlan, case: VolumeCase, read, instance, folder, execution) -> dict:
    given, segmented = read
    segmenting, network = plan.base.segmenting, plan.base.network
    curve = context_curve(
        network.fn,
        network.params,
        given.x,
        segmented.mask(instance),
        class_index=plan.base.class_index,
        steps=plan.steps,
        connectivity=segmenting.connectivity,
        threshold=segmenting.threshold,
        spacing=given.scan.grid.spacing,
        roi=segmenting.window,
        overlap=segmenting.overlap,
        meaning=network.meaning,
        execution=execution,
    )
    values = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in dataclasses.asdict(curve).items()
    }
    file = f"{folder_of(case, instance)}/{store.RECORD}"
    folder.claim([file])
    about = {**values_of(instance), "scan": case.name, "instance": instance.label}
    about["volume_mm3"] = instance.volume
    # The record is the only file of an instance.
    record = {"run": plan.key, "instance": about, "curve": values, "files": [file]}
    _files.write_json(folder.path / file, record)
    return record


def _curve(values: dict[str, Any]) -> ContextCurve:
    arrays: dict[str, Any] = {
        k: np.asarray(v) if isinstance(v, list) else v for k, v in values.items()
    }
    return ContextCurve(**arrays)


def _long(records: Sequence[dict]) -> list[list[Any]]:
    """A row per instance and dilation."""
    rows = []
    for record in records:
        about = {**record["instance"], **record["curve"]}
        start = [about[column] for column in _COLUMNS]
        parts = ("dilations", "distance", "reach", "scores", "detected")
        rows += [[*start, *row] for row in zip(*(about[part] for part in parts), strict=True)]
    return rows


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


def _manifest(plan: ContextPlan, folder, command: Sequence[str]) -> dict[str, Any]:
    base = plan.base
    return {
        "context": 1,
        "key": plan.key,
        "command": list(command),
        "versions": versions(),
        "device": device(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": weights_record(base.network),
        "segmenting": dataclasses.asdict(base.segmenting),
        "steps": plan.steps,
        "max_voxels": plan.max_voxels,
        "distance_mm": "dilations times the smallest extent of a voxel",
        "reach_mm": "the largest Euclidean distance of a voxel that is kept from the instance",
        "scans": [case.name for case in base.cases],
        "files": folder.files,
    }
