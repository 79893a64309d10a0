"""Saliency of every instance of every scan: maps as NIfTI, a table, figures; resumed where it was.

    OUT/SCAN/probability.nii.gz, instances.nii.gz   what the network finds; the label map
    OUT/SCAN/missed.nii.gz                          what it misses of a ground truth, numbered on
    OUT/SCAN/record.json                            the scan is segmented
    OUT/SCAN/instance-001/METHOD.TAP.MODALITY.nii.gz   maps; METHOD.MODALITY of methods of the input
    OUT/SCAN/instance-001/record.json               the instance is explained
    OUT/SCAN/instance-001/METHOD.TAP.png            drawn when all maps are there: one colour scale
    OUT/instances.csv, peaks.METHOD.TAP.png, manifest.json

Three phases, each over all scans: segment, explain, draw. Files are put in place whole, and an
instance's record is its last file: a run that was killed goes on with the next instance.
"""

import dataclasses
import datetime
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.data import nifti
from segcam_jax.data.instances import GROUPS, Instance
from segcam_jax.engine import Execution
from segcam_jax.methods import METHODS
from segcam_jax.reports.tables import as_csv
from segcam_jax.runs.manifest import device, versions, weights_record
from segcam_jax.sweep import portraits, store
from segcam_jax.sweep.instance_plan import (
    ALL,
    COLUMNS,
    TABLE,
    InstancePlan,
    folder_of,
    instance_of,
    restored,
    rows,
    values_of,
)
from segcam_jax.types import InputError, SegcamError
from segcam_jax.volumes import (
    crop_around,
    instance_maps,
    measure,
    put_back,
    read_input,
    scale_of,
    segment,
)
from segcam_jax.volumes.scan_inputs import VolumeCase

Advance = Callable[[int, str], None]
Progress = Callable[[str, int], Any]


def run_instances(
    plan: InstancePlan,
    out: Path,
    *,
    command: Sequence[str],
    progress: Progress,
    overwrite: bool = False,
    execution: Execution = Execution(),
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Segments, explains and draws what is not there yet.

    Args:
        plan: what to do.
        out: the run's folder.
        command: the command line, for the manifest.
        progress: `progress(what, total)`, a context that yields `advance(count, text)`.
        overwrite: take a folder that holds another run.
        execution: how the engine runs; does not change the maps but for rounding.
        report: is told what was converted, and where nothing was found.

    Returns:
        The records of all explained instances.

    Raises:
        InputError: if a volume is broken, or a file cannot be written; what is finished stays.
    """
    folder = claimed(plan, out, plan.files(), overwrite=overwrite)
    try:
        segmented = segment_all(plan, folder, progress, execution, report)
    except SegcamError:
        folder.release()
        raise
    wanted = [
        (case, [each for each in found if not plan.groups or each.group in plan.groups])
        for case, found in segmented
    ]
    _explain_all(plan, folder, wanted, progress, execution)
    records = [record for _, _, record in _records(plan, folder, wanted)]
    table = as_csv(COLUMNS, rows(records))
    _files.write_bytes(out / TABLE, table)
    with progress("drawing", len(records) * len(plan.pairs) + len(plan.pairs)) as advance:
        portraits.draw_all(plan, out, list(_records(plan, folder, wanted)), advance)
    _files.write_json(out / store.MANIFEST, _manifest(plan, folder, wanted, command))
    return records


def segment_all(
    plan: Any,
    folder: store.RunFolder,
    progress: Progress,
    execution: Execution,
    report: Callable[[str], None],
) -> list[tuple[VolumeCase, list[Instance]]]:
    """The instances of every scan, found where they were not yet."""
    found = []
    with progress("segmenting", len(plan.cases)) as advance:
        for case in plan.cases:
            record = folder.finished(case.name)
            if record is not None and record["digests"] != list(case.digests):
                report(f"{case.name}: its files have changed; it is done again")
                record = None
            if record is None:
                advance(0, case.name)
                record = _segment(plan, case, folder, execution)
                for note in record["notes"]:
                    report(note)
            instances = [instance_of(values) for values in record["instances"]]
            counts = _counted(instances)
            advance(1, f"{case.name}: {counts}")
            found.append((case, instances))
    return found


def _paths(case: VolumeCase) -> dict[str, Any]:
    """Where the files of a scan are."""
    inputs, truth = case.files.files, case.files.truth
    return {
        "inputs": [os.path.abspath(path) for path in inputs],
        "truth": None if truth is None else os.path.abspath(truth),
    }


def claimed(plan: Any, out: Path, files: Sequence[str], *, overwrite: bool) -> store.RunFolder:
    """The run's folder, claimed.

    Raises:
        InputError: if it holds another run, or of this one another scan of the same name, which
            would be lost: other contents are taken for mended in the same files only.
    """
    for case in plan.cases if not overwrite else ():
        record = _files.read_json(out / case.name / store.RECORD)
        if not isinstance(record, dict) or record.get("run") != plan.key:
            continue
        moved = [name for name, paths in _paths(case).items() if record.get(name) != paths]
        if moved and record.get("digests") != list(case.digests):
            other = f"another scan {case.name!r}, of {record['inputs'][0]!r}"
            if moved == ["truth"]:
                other = f"scan {case.name!r} with another truth, {record['truth']!r}"
            raise InputError(
                f"output {str(out)!r} holds {other}; give another folder, or --overwrite"
            )
    return store.RunFolder(out, plan.key, files, overwrite=overwrite)


def _counted(instances: Sequence[Instance]) -> str:
    if not instances:
        return "no instance was found"
    counts = {group: sum(each.group == group for each in instances) for group in GROUPS}
    # The two that only some runs know are told where there are any.
    groups = [f"{n} {group}" for group, n in counts.items() if n or group in ("TP", "FP", "FN")]
    known = f" ({', '.join(groups)})" if instances[0].group else ""
    return f"{len(instances)} instance(s){known}"


def _segment(
    plan: Any, case: VolumeCase, folder: store.RunFolder, execution: Execution
) -> dict[str, Any]:
    """Writes what the network finds in a scan; returns its record."""
    given = read_input(case.files, plan.segmenting, plan.modalities)
    segmented = segment(plan.network, given, plan.segmenting, execution)
    files = plan.case_files(case)
    # What was found before; and all figures, for their scale of colours is that of all instances.
    for file in folder.files:
        if file.startswith(f"{case.name}/") or file.endswith(".png"):
            (folder.path / file).unlink(missing_ok=True)
    scan, out = given.scan, folder.path / case.name
    maps = [segmented.probability, segmented.predicted.labels]
    maps += [] if segmented.missed is None else [segmented.missed.labels]
    names = zip(plan.volume_files(case), plan.network_files(case), strict=True)
    for values, (name, own) in zip(maps, names, strict=True):
        nearest = values.dtype.kind != "f"
        nifti.write_map(out / name, scan.restored(values, nearest=nearest), like=scan.file)
        if own != name:
            nifti.write_map(out / own, values, like=scan.grid)
    record = {
        "run": plan.key,
        "scan": case.name,
        **_paths(case),
        "digests": list(case.digests),
        "notes": [*given.notes, *segmented.notes],
        "instances": [values_of(each) for each in segmented.instances()],
        "files": files[:-1],
    }
    _files.write_json(folder.path / files[-1], record)
    return record


def _explain_all(plan, folder, wanted, progress: Progress, execution: Execution) -> None:
    left = [
        (case, [each for each in found if folder.finished(folder_of(case, each)) is None])
        for case, found in wanted
    ]
    steps = sum(instance_maps.passes(method, plan.explaining) for method, _ in plan.pairs)
    if any(found for _, found in left):
        # Figures share a scale of colours, which is not known any more.
        for file in folder.files:
            if file.endswith(".png"):
                (folder.path / file).unlink(missing_ok=True)
    with progress("explaining", steps * sum(len(found) for _, found in left)) as advance:
        for case, found in left:
            if not found:
                continue
            advance(0, f"{case.name}: reading")
            scan = restored(plan, case, folder.path)
            for instance in found:
                _explain(plan, case, scan, instance, folder, execution, advance)


def _explain(plan, case, read, instance, folder, execution, advance: Advance) -> None:
    """Writes the maps of an instance, and then its record."""
    files = plan.map_files(case, instance)
    record_file = f"{folder_of(case, instance)}/{store.RECORD}"
    folder.claim([*files.values(), record_file, *plan.figure_files(case, instance).values()])
    where = f"{case.name}: instance {instance.label}"
    given, segmented = read
    crop = crop_around(
        given.x,
        segmented.mask(instance),
        instance.box,
        window=plan.segmenting.window,
        multiples=plan.network.multiples,
        field=plan.explaining.field,
    )
    maps, begun = [], itertools.count()
    for method, tap in plan.pairs:

        def tell(sample: int, samples: int, method: str = method) -> None:
            # The pass before this one is done; the last one is with the record.
            advance(min(1, next(begun)), "")
            number = f", sample {sample + 1} of {samples}" if samples > 1 else ""
            advance(0, f"{where}, {method}{number}")

        found = instance_maps.explain_instance(
            plan.network.split(tap, crop.x.shape),
            plan.network.params,
            crop,
            method,
            plan.explaining,
            class_index=plan.class_index,
            scale=scale_of(given.x, plan.explaining),
            instances=len(segmented.predicted),
            meaning=plan.network.meaning,
            execution=execution,
            advance=tell,
        )
        maps.append(_written(found, method, tap, files, crop, given.scan, folder.path))
    about = {**values_of(instance), "scan": case.name, "instance": instance.label}
    about |= {"volume_mm3": instance.volume}
    about |= {"mean_probability": float(segmented.probability[segmented.mask(instance)].mean())}
    record = {"run": plan.key, "instance": about, "maps": maps, "files": list(files.values())}
    _files.write_json(folder.path / record_file, record)
    advance(1, f"{where}, {instance.group or 'found'}: {instance.voxels} voxels")


def _written(found, method, tap, files, crop, scan, out: Path) -> dict[str, Any]:
    """Writes the maps of one method; returns what the record says of them."""
    # Distances are found in the window alone: a map is 0 outside of it.
    values, mask = crop.inside(found.values), crop.inside(crop.mask)
    named = {ALL: values}
    if METHODS[method].per_channel:
        named = dict(zip(scan.modalities, np.moveaxis(values, -1, 0), strict=True))
    modalities = []
    for modality, each in named.items():
        whole = scan.restored(put_back(each, crop.box, scan.grid.shape))
        nifti.write_map(out / files[method, tap, modality], whole, like=scan.file)
        numbers = measure(each, mask, scan.grid.spacing)
        plain = {key: None if np.isnan(value) else value for key, value in numbers.items()}
        modalities.append({"modality": modality, **plain})
    return {
        "method": method,
        "tap": tap,
        "score": found.score,
        "window": crop.box,
        "modalities": modalities,
    }


def _records(plan, folder, wanted) -> Iterator[tuple[VolumeCase, Instance, dict[str, Any]]]:
    """All explained instances with their records."""
    for case, found in wanted:
        for instance in found:
            record = folder.finished(folder_of(case, instance))
            if record is not None:
                yield case, instance, record


def _manifest(plan: InstancePlan, folder, wanted, command: Sequence[str]) -> dict[str, Any]:
    return {
        "instances": 1,
        "key": plan.key,
        "command": list(command),
        "versions": versions(),
        "device": device(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": weights_record(plan.network),
        "segmenting": dataclasses.asdict(plan.segmenting),
        "explaining": dataclasses.asdict(plan.explaining),
        "modalities": list(plan.modalities),
        "class": plan.network.labels[plan.class_index],
        "about_maps": (
            "float32, signed, not normalised, in the file order and on the grid of each scan's "
            "first volume; 0 outside of the window that the network was given"
        ),
        "about_boxes": "boxes and windows of records count voxels along the network's axes",
        "scans": [
            {"name": case.name, **_paths(case), "instances": [each.label for each in found]}
            for case, found in wanted
        ],
        "files": folder.files,
    }
