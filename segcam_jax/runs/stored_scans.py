"""A run over scans as it is read: its table, what was found in each scan, maps of instances."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars
import zarr

from segcam_jax.data.instances import Instance, Instances
from segcam_jax.data.scans import ScanFiles
from segcam_jax.runs.folder import METADATA, array_reading
from segcam_jax.runs.manifest import FILE, Kind, read_manifest
from segcam_jax.runs.store import node
from segcam_jax.runs.stored_run import manifest_at, run_at
from segcam_jax.runs.table import TABLES, group_of, read_parts
from segcam_jax.types import InputError
from segcam_jax.volumes import ScanInput, ScanOptions, Segmented, read_input
from segcam_jax.volumes.crops import Box

T = TypeVar("T")
_ROWS_OF_A_SCAN = 10**6  # At most.
PROBABILITY, PREDICTED, MISSED = "probability", "instances", "missed"


def open_scans(path: str | os.PathLike) -> "StoredScans":
    """Opens a run of `segcam instances` or `segcam context`, finished or not.

    Args:
        path: its folder, or the one that holds it as `run.zarr`.

    Raises:
        InputError: if it is none, or another version's.
    """
    return StoredScans(run_at(Path(path)))


def kind_of(path: Path) -> Kind:
    """What a stored run is of; images where there is no run."""
    there = manifest_at(path)
    return "images" if there is None else read_manifest(there).kind


class StoredScans:
    """A stored run over scans, read.

    Attributes:
        path: its folder.
        manifest: what made it.
    """

    def __init__(self, path: Path):
        self.path, self.manifest = path, read_manifest(path / FILE)
        if self.manifest.kind == "images":
            raise InputError(f"{str(path)!r} is a run of images, and one of scans is expected")

    @functools.cached_property
    def table(self) -> polars.DataFrame:
        """All rows that are there, in order: `runs.table` says which columns they have."""
        parts = read_parts(self.path).values()
        for part in parts:
            part.check(self.path)
        if not parts:
            return polars.DataFrame(schema=dict(TABLES[self.manifest.kind]))
        tables = [part.table for part in parts]
        return polars.concat(tables, how="diagonal").sort("item", "row")

    @functools.cached_property
    def scans(self) -> Mapping[int, dict[str, Any]]:
        """The row of each scan, by its number."""
        return {row["item"]: row for row in scan_rows(self.table)}

    def results(self) -> Iterator[tuple[int, Instance, dict[str, Any]]]:
        """What was computed of instances: the scan's number, the instance, the row."""
        known = {item: found_in(self.table, item) for item in self.scans}
        there = self.table.filter(polars.col("score").is_not_null())
        for row in there.iter_rows(named=True):
            yield row["item"], known[row["item"]][row["instance"]], row

    def rows_of(self, item: int, instance: int) -> list[dict[str, Any]]:
        """The rows of what was computed of one instance."""
        of_instance = (polars.col("item") == item) & (polars.col("instance") == instance)
        return self.table.filter(of_instance, polars.col("score").is_not_null()).to_dicts()

    def segmented(self, item: int) -> Segmented:
        """What the network found in a scan."""
        return segmented_of(
            found_in(self.table, item).values(), lambda name: self.array(item, name)
        )

    def map(self, row: Mapping[str, Any]) -> np.ndarray:
        """The map of a row, at the voxels of its crop (`crop_of`)."""
        found = self.map_of(row["item"], row["instance"], row["method"], row["tap"])
        names = self.modalities
        return found[..., names.index(row["modality"])] if row["modality"] in names else found

    def options(self, kind: type[T]) -> T:
        """Options of a kind, a dataclass, as the manifest has them."""
        names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
        known = self.manifest.options
        return msgspec.convert({name: known[name] for name in names & known.keys()}, kind)

    def map_of(self, item: int, instance: int, method: str, tap: str) -> np.ndarray:
        """The map of an instance, of all modalities where they are kept apart."""
        return _there(self.array(item, map_name(instance, method, tap)))

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """What each instance is called, by its number: `number_of` its first row."""
        there = self.table.filter(polars.col("instance").is_not_null(), polars.col("step") == 0)
        rows = there.select("item", "row", "scan", "instance").iter_rows()
        return {
            number_of(item, row): f"{scan}: instance {instance}"
            for item, row, scan, instance in rows
        }

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the scans' volumes are called."""
        return tuple(self.manifest.options["modalities"])

    def array(self, item: int, name: str) -> np.ndarray | None:
        """An array of a scan; None if there is none."""
        key = f"{group_of(item)}/{node(name)}"
        if not (self.path / key / METADATA).is_file():
            return None
        with array_reading(self.path / key):
            return np.asarray(zarr.open_array(self.path, path=key, mode="r")[:])


class ScanOfRun:
    """A scan of a run, with what was found in it, read when it is asked for."""

    def __init__(self, run: StoredScans, item: int):
        self.run, self.item, self.row = run, item, run.scans[item]
        self.name = self.row["scan"]

    @functools.cached_property
    def given(self) -> ScanInput:
        """Its volumes; raises `InputError` if they cannot be read, or have changed since."""
        files = ScanFiles(self.name, tuple(map(Path, self.row["files"])), None)
        truth = None if self.row["truth"] is None else Path(self.row["truth"])
        every = dataclasses.replace(files, truth=truth)
        if every.stamp() != self.row["stamp"] and every.digest() != self.row["sha256"]:
            raise InputError(f"the files of scan {self.name!r} have changed since it was explained")
        return read_input(files, self.options, self.run.modalities)

    @functools.cached_property
    def options(self) -> ScanOptions:
        """How its volumes were read."""
        return self.run.options(ScanOptions)

    @functools.cached_property
    def found(self) -> Segmented:
        """What the network found in it."""
        return self.run.segmented(self.item)


def segmented_of(
    instances: Iterable[Instance], array: Callable[[str], np.ndarray | None]
) -> Segmented:
    """What was found in a scan, of its instances and its arrays by their names."""
    sides: dict[bool, list[Instance]] = {True: [], False: []}
    for each in instances:
        sides[each.group == "FN"].append(each)
    missed = array(MISSED)
    return Segmented(
        _there(array(PROBABILITY)),
        Instances(_there(array(PREDICTED)), tuple(sides[False])),
        None if missed is None else Instances(missed, tuple(sides[True])),
    )


def map_name(instance: int, method: str, tap: str) -> str:
    """The name of an array of maps."""
    return f"map.{instance:03d}.{method}.{tap}"


def number_of(item: int, row: int) -> int:
    """A number for a row that no other row of the run has: rows are numbered in each scan.

    It stays as it is while other scans are computed.
    """
    return item * _ROWS_OF_A_SCAN + row


def scan_rows(table: polars.DataFrame) -> list[dict[str, Any]]:
    """The rows that tell of scans as a whole."""
    return table.filter(polars.col("instance").is_null()).to_dicts()


def found_in(table: polars.DataFrame, item: int) -> dict[int, Instance]:
    """The instances of a scan by their labels, from the rows that tell of one as a whole."""
    rows = table.filter(
        polars.col("item") == item, polars.col("instance").is_not_null(), polars.col("step") == 0
    )
    return {row["instance"]: instance_of(row) for row in rows.iter_rows(named=True)}


def instance_of(row: Mapping[str, Any]) -> Instance:
    """The instance of a row."""
    # Runs of before 0.8 have no adjusted one.
    iou, adjusted = (
        float("nan") if row.get(name) is None else row[name] for name in ("iou", "adjusted_iou")
    )
    return Instance(
        row["instance"],
        row["group"],
        row["voxels"],
        row["volume_mm3"],
        box_of(row["box"]),
        row["touches_border"],
        iou,
        adjusted,
    )


def box_of(ends: list[int]) -> Box:
    """A box of the ends that a row has of it."""
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def _there(found: np.ndarray | None) -> np.ndarray:
    assert found is not None  # The table names all objects of a scan, and they are there.
    return found
