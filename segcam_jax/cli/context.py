"""`segcam context`: how much context an instance needs."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from segcam_jax import _files
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, option_of
from segcam_jax.cli.instances import computed, exit_code, groups_of, opened
from segcam_jax.cli.volumetric import Context, chosen
from segcam_jax.engine import Execution
from segcam_jax.reports.context import FILES, OVERLAY, TABLE, ContextReport, write_overlay
from segcam_jax.runs.instance_studies import ContextStudy
from segcam_jax.runs.scans import ScanRun
from segcam_jax.runs.stored_run import STORE, manifest_at
from segcam_jax.runs.stored_scans import open_scans
from segcam_jax.types import InputError, counted


def context(command: Context, line: Sequence[str]) -> int:
    """Studies every instance; tells what came out, and returns the exit code."""
    if command.runs or "--runs" in line:
        return _overlay(command)
    execution = Execution(memory_limit=bytes_of(command.memory_limit))
    network, segmenting, cases, modalities = opened(command)
    most, groups = chosen(command, "max_voxels"), groups_of(command)
    study = ContextStudy(network, segmenting, command.steps, most, groups)
    study.check(tuple(cases))
    stored = computed(
        ScanRun(network, tuple(cases), modalities, segmenting, study, execution),
        command.out,
        FILES,
        overwrite=command.overwrite,
        stop_on_error=command.on_error == "stop",
    )
    report = ContextReport(stored, command.out)
    with console.progress("drawing", report.count) as advance:
        report.write(advance, line)
    rows = report.rows()
    if not rows:
        which = [f" of {', '.join(groups)}"] if groups else []
        which += [f" of at most {most} voxels"] if most else []
        words = f"no instance{''.join(which)} was found in {counted(len(cases), 'scan')}"
        print(f"{words}; {command.out / TABLE} is empty")
        return exit_code(stored)
    columns = ("distance_mm", "average_score", "std_dev", "n_predictions", "reach_mm")
    console.table(None, columns, [[f"{row[name]:.4g}" for name in columns] for row in rows])
    count = len(rows[0]) - len(columns) - 1
    print(
        f"{counted(count, 'instance')}, {counted(len(rows), 'dilation')}; "
        f"tables and figures are in {command.out}"
    )
    return exit_code(stored)


def _overlay(command: Context) -> int:
    """Overlays the networks of finished runs."""
    usual, own = Context(), ("runs", "out", "overwrite")
    for name in (field.name for field in dataclasses.fields(Context) if field.name not in own):
        if getattr(command, name) != getattr(usual, name):
            said = "volumes" if name == "volumes" else option_of(name)
            raise InputError(f"{said} and --runs were given; --runs takes only finished runs")
    if not command.runs:
        raise InputError("--runs names no folder; give those of finished runs of `segcam context`")
    folders = [path.parent if path.name == STORE else path for path in command.runs]
    names = _names([Path(os.path.realpath(path)) for path in folders])
    runs = {name: open_scans(path) for name, path in zip(names, folders, strict=True)}
    if manifest_at(command.out) is not None or (command.out / STORE).exists():
        raise InputError(f"output {str(command.out)!r} holds a run of its own; give another folder")
    _files.check_free(command.out, () if command.overwrite else OVERLAY)
    rows = write_overlay(runs, command.out, console.note)
    columns = ("instances", "distance_mm", "average_score", "median_score", "std_dev")
    told = [[row["network"], *(f"{row[name]:.4g}" for name in columns)] for row in rows]
    console.table(None, ("network", *columns), told)
    print(f"{counted(len(runs), 'network')}; table and figures are in {command.out}")
    return 0


def _names(folders: Sequence[Path]) -> list[str]:
    """What networks are called: as their folders, with as many folders above as tell them apart."""
    if len(set(folders)) < len(folders):
        raise InputError("--runs names one folder twice; give it once")
    names = []
    for path in folders:
        others = [each.parts for each in folders if each != path]
        own = (path.parts[-count:] for count in range(1, len(path.parts) + 1))
        ending = next(each for each in own if each not in (o[-len(each) :] for o in others))
        names.append("/".join(ending))
    return names
