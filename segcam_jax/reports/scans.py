"""The files of a run over scans, from its store and the scans, each of which is opened once.

OUT/SCAN/probability.nii.gz, instances.nii.gz   what the network finds; the label map
OUT/SCAN/missed.nii.gz                          what it misses of a ground truth, numbered on
OUT/SCAN/network-*.nii.gz                       the same on the network's voxels, if others
OUT/SCAN/record.json                            what the files beside it are of; written last
OUT/SCAN/instance-001/...                       what the report has of an instance, its record last
OUT/manifest.json                               all files are there; written last of all

A folder is current if its record says what it would say now, and the files that it names are there.
"""

import abc
import contextlib
import dataclasses
import datetime
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.data import nifti
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.stored_run import STORE
from segcam_jax.runs.stored_scans import (
    MISSED,
    PREDICTED,
    PROBABILITY,
    ScanOfRun,
    StoredScans,
    found_in,
    open_scans,
)
from segcam_jax.runs.table import SCORES
from segcam_jax.types import InputError

RECORD, QUALITY = "record.json", "quality.csv"
Advance = Callable[[int, str], None]
Record = dict[str, Any]


class StoredScan(ScanOfRun):
    """A scan of a run, and its files."""

    def write(self, path: Path, values: np.ndarray) -> None:
        """Writes values of the network's grid as a volume on the grid of the scan's first file."""
        scan, nearest = self.given.scan, values.dtype.kind != "f"
        nifti.write_map(path, scan.restored(values, nearest=nearest), like=scan.file)

    def write_found(self, folder: Path) -> Record:
        """Writes what the network found, where it is not there; returns the record of that."""
        maps = {PROBABILITY: "probability", PREDICTED: "instances"}
        maps |= {} if self.row["truth"] is None else {MISSED: "missed"}
        own = self.options.spacing is not None
        files = [f"{self.name}/{name}.nii.gz" for name in maps.values()]
        files += [f"{self.name}/network-{name}.nii.gz" for name in maps.values() if own]
        record = {
            "run": self.run.manifest.key,
            "scan": self.name,
            "inputs": self.row["files"],
            "truth": self.row["truth"],
            "sha256": self.row["sha256"],
            "notes": self.row["notes"],
            "instances": [values_of(each) for each in found_in(self.run.table, self.item).values()],
            "files": files,
        }
        if is_current(folder, self.name, record):
            return record
        for array, name in maps.items():
            values = self.run.array(self.item, array)
            assert values is not None
            self.write(folder / self.name / f"{name}.nii.gz", values)
            if own:
                path = folder / self.name / f"network-{name}.nii.gz"
                nifti.write_map(path, values, like=self.given.scan.grid)
        _files.write_json(folder / self.name / RECORD, record)
        return record


class ScanReport(abc.ABC):
    """The files of a run over scans; a study of instances says which it has besides."""

    def __init__(self, run: StoredScans, out: Path):
        self._run, self._out = run, out

    @abc.abstractmethod
    def files(self) -> Sequence[str]:
        """Those that are not of a scan."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """How much progress `write` tells."""

    @abc.abstractmethod
    def _folders(self) -> Iterable[str]:
        """Those of instances."""

    @abc.abstractmethod
    def _write_instances(self, scan: StoredScan, advance: Advance) -> list[str]:
        """Writes what the instances of a scan have and is not current; names all of it."""

    @abc.abstractmethod
    def _write_together(self, advance: Advance) -> list[str]:
        """Writes what all instances have together; names it."""

    @abc.abstractmethod
    def _facts(self) -> Record:
        """What the manifest says of the files."""

    def write(self, advance: Advance, command: Sequence[str] = ()) -> None:
        """Writes what is not there yet, or not current.

        Args:
            advance: is called with the progress since the last call, and what is there.
            command: the command line, for the manifest.

        Raises:
            InputError: if a scan has changed, or cannot be read.
            FileError: if something cannot be written.
        """
        run, out = self._run, self._out
        whole = {row["scan"] for row in run.scans.values() if row["error"] is None}
        scans = [row["scan"] for row in run.scans.values()]
        remove_others(out, scans, whole.union(self._folders()))
        files = []
        for item, row in run.scans.items():
            if row["error"] is None:
                scan = StoredScan(run, item)
                files += [*scan.write_found(out)["files"], f"{scan.name}/{RECORD}"]
                files += self._write_instances(scan, advance)
        files = [*self._write_together(advance), *files]
        if run.manifest.finished is not None:
            write_manifest(out, run, command, {**self._facts(), "files": files})


def values_of(instance: Any) -> Record:
    """An instance as JSON holds it."""
    values = dataclasses.asdict(instance)
    overlaps = {name: values[name] for name in ("iou", "adjusted_iou")}
    return {**values, **{n: None if np.isnan(each) else each for n, each in overlaps.items()}}


def folder_of(scan: str, instance: int) -> str:
    """An instance's folder."""
    return f"{scan}/instance-{instance:03d}"


def is_current(folder: Path, name: str, record: Record, *, but: Sequence[str] = ()) -> bool:
    """Whether the files of a record are there as it says, whatever it says under some words."""
    there, now = _files.read_json(folder / name / RECORD), json.loads(json.dumps(record))
    if not isinstance(there, dict) or _without(there, but) != _without(now, but):
        return False
    # All files are put in place whole, none is empty.
    paths = [folder / file for file in record["files"]]
    return all(path.is_file() and path.stat().st_size > 0 for path in paths)


def _without(record: Record, words: Sequence[str]) -> Record:
    return {word: value for word, value in record.items() if word not in words}


def check_free(
    out: Path, scans: Iterable[str], files: Sequence[str], *, overwrite: bool
) -> list[str]:
    """Checks that nobody else's files are in the way, where no run is there yet.

    Args:
        files: that are written beside their folders.
        overwrite: take the folder of another run, and write over other files.

    Returns:
        The files of the run that is to be replaced.
    """
    _files.check_folder(out)
    if overwrite:
        with contextlib.suppress(InputError):
            names = [row["scan"] for row in open_scans(out).scans.values()]
            return [file for files in _records(out, names).values() for file in files]
        return []
    if (out / STORE / FILE).exists():
        return []
    names = (f"{scan}/{name}" for scan in scans for name in ("probability.nii.gz", RECORD))
    _files.check_free(out, (*files, FILE, *names))
    return []


def _records(out: Path, scans: Iterable[str]) -> dict[str, list[str]]:
    """The files that records name, and the records themselves, by their folders."""
    found = {}
    for scan in scans:
        for path in [*(out / scan).glob("instance-*/" + RECORD), out / scan / RECORD]:
            name, there = path.parent.relative_to(out).as_posix(), _files.read_json(path)
            if isinstance(there, dict):
                found[name] = [*_named(there), f"{name}/{RECORD}"]
    return found


def _named(record: Mapping[str, Any]) -> list[str]:
    """The files that a record names; none, if it was changed by hand to something else."""
    files = record.get("files")
    return [each for each in files if isinstance(each, str)] if isinstance(files, list) else []


def remove_others(out: Path, scans: Iterable[str], kept: Container[str]) -> None:
    """Removes the files of the records of some scans, but for those in the folders to keep."""
    for name, files in _records(out, scans).items():
        if name not in kept:
            _files.remove(out, files)


def write_manifest(
    out: Path, run: StoredScans, command: Sequence[str], more: Mapping[str, Any]
) -> None:
    """Says that all files are there, and what made them."""
    manifest = run.manifest
    values = {
        manifest.kind: 1,
        "key": manifest.key,
        "version": manifest.version,
        "command": list(command),
        "versions": dict(manifest.versions),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": manifest.network.weights,
        "options": dict(manifest.options),
        **more,
    }
    _files.write_json(out / FILE, values)


def write_quality(scans: Iterable[Mapping[str, Any]], out: Path) -> bool:
    """Writes scores of every scan that has a truth, their means and deviations; none is no file."""
    rows = [[row["scan"], *map(row.get, SCORES)] for row in scans if row.get("true") is not None]
    if not rows:
        (out / QUALITY).unlink(missing_ok=True)
        return False
    scores = np.array([row[1:] for row in rows], float)
    known = [column[~np.isnan(column)] for column in scores.T]
    rows.append(["mean", *(each.mean() if len(each) else np.nan for each in known)])
    spread = (each.std(ddof=1) if len(each) > 1 else np.nan for each in known)
    rows.append(["standard deviation", *spread])
    _files.write_bytes(out / QUALITY, _files.as_csv(["scan", *SCORES], rows))
    return True
