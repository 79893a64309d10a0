"""The table of a run: a Parquet part per shard, which also says which objects its shard has."""

import dataclasses
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import polars

from segcam_jax import _files
from segcam_jax.runs import parquet
from segcam_jax.types import InputError, whole_number

FOLDER = "items"
# Besides, two columns for each map: its largest value, and the share of it that ReLU hides.
MAX, NEGATIVE = ".max", ".negative"
COLUMNS: Mapping[str, Any] = {
    "row": polars.Int64,
    "item": polars.Int64,
    "name": polars.String,
    "path": polars.String,
    "size": polars.Int64,
    "mtime_ns": polars.Int64,
    "sha256": polars.String,
    "extent": polars.String,
    "padded": polars.String,
    "target": polars.String,
    "class_index": polars.Int64,
    "class": polars.String,
    "rather_than": polars.String,
    "share": polars.Float64,
    "chosen": polars.String,
    "region": polars.String,
    "predicted": polars.String,
    "predicted_share": polars.Float64,
    "pixels": polars.Int64,
    "score": polars.Float64,
    "notes": polars.String,
    "program": polars.String,
    "error": polars.String,
}

# Of the segmentation of a scan against its truth: the fields of `segcam_jax.metrics.LesionScores`.
SCORES = (
    *("dice", "normalised_dice", "voxel_tpr", "voxel_fpr", "voxel_fdr"),
    *("lesion_f1", "lesion_tpr", "lesion_fdr", "lesion_fnr", "assd", "true", "found"),
    *("weak", "lesion_adjusted_iou"),
)
# Of scans: a row for the scan, one for each instance, and some for what each step found of one.
SCAN_COLUMNS: Mapping[str, Any] = {
    "row": polars.Int64,
    "item": polars.Int64,
    "step": polars.Int64,
    "scan": polars.String,
    "path": polars.String,
    "files": polars.List(polars.String),
    "truth": polars.String,
    "stamp": polars.String,
    "sha256": polars.String,
    "notes": polars.List(polars.String),
    **dict.fromkeys(SCORES, polars.Float64),
    "error": polars.String,
    "instance": polars.Int64,
    "group": polars.String,
    "voxels": polars.Int64,
    "volume_mm3": polars.Float64,
    "box": polars.List(polars.Int64),
    "touches_border": polars.Boolean,
    "iou": polars.Float64,
    "adjusted_iou": polars.Float64,
    "mean_probability": polars.Float64,
}
INSTANCE_COLUMNS: Mapping[str, Any] = {
    **SCAN_COLUMNS,
    "method": polars.String,
    "tap": polars.String,
    "modality": polars.String,
    "crop": polars.List(polars.Int64),
    "score": polars.Float64,
    **{
        name: polars.Float64
        for peak in ("peak_positive", "peak_negative")
        for name in (peak, f"{peak}_distance_mm")
    },
    "mean_inside": polars.Float64,
}
CONTEXT_COLUMNS: Mapping[str, Any] = {
    **SCAN_COLUMNS,
    "full_score": polars.Float64,
    "full_detected": polars.Boolean,
    "dilations": polars.Int64,
    "distance_mm": polars.Float64,
    "reach_mm": polars.Float64,
    "score": polars.Float64,
    "detected": polars.Boolean,
}
# By what a run is of, as its manifest says it.
TABLES = {"images": COLUMNS, "instances": INSTANCE_COLUMNS, "context": CONTEXT_COLUMNS}


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The part of a shard.

    Attributes:
        objects: bytes of each object of the shard, by its name in the run's folder.
        checksums: CRC-32 of each; runs of before 0.5 have none.
        unfinished: whether steps of the shard are left.
    """

    table: polars.DataFrame
    objects: Mapping[str, int]
    checksums: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unfinished: bool = False

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        objects: Mapping[str, int],
        checksums: Mapping[str, int],
        known: Mapping[str, Any] = COLUMNS,
    ) -> "Part":
        """The part of rows that have the known columns, and numbers by any other name."""
        there = sorted((dict(row) for row in rows), key=lambda row: row["row"])
        maps = sorted({name for row in there for name in row} - known.keys())
        schema = {**known, **dict.fromkeys(maps, polars.Float64)}
        columns = {name: [row.get(name) for row in there] for name in schema}
        return cls(polars.DataFrame(columns, schema=schema), objects, checksums)

    def encode(self) -> bytes:
        """The part as a file: the same bytes for equal parts."""
        about = {"objects": self.objects, "checksums": self.checksums}
        metadata = {name: json.dumps(dict(sorted(each.items()))) for name, each in about.items()}
        if self.unfinished:
            metadata["unfinished"] = "1"
        return parquet.encode(self.table, metadata)

    @classmethod
    def decode(cls, data: bytes) -> "Part | None":
        """The part that a file holds; None if it was damaged or cut off."""
        found = parquet.decode(data)
        if found is None:
            return None
        table, about = found
        try:
            objects = json.loads(about["objects"])
            checksums = json.loads(about.get("checksums", "{}"))
        except (KeyError, ValueError):
            return None
        groups = table["extent"].drop_nulls() if "extent" in table.columns else ()
        if not all(map(_is_inside, (*objects, *groups))):
            return None
        return cls(table, objects, checksums, "unfinished" in about)

    @property
    def failures(self) -> int:
        """How many of its rows have an error."""
        return self.table["error"].count()

    def count(self) -> tuple[int, set[str]]:
        """How many explanations it has, and which programs made them."""
        there = self.table.filter(polars.col("error").is_null())
        if "step" in there.columns:
            return there["score"].count(), set()
        maps = sum(c.count() for c in there.iter_columns() if c.name.endswith(MAX))
        names = self.table["program"].drop_nulls()
        return maps, {program for each in names for program in each.split("; ")}

    def broken(self, folder: Path, *, verify: bool = False) -> str | None:
        """The first object that is not there as it was written; None if all are.

        Args:
            verify: read the objects and compare their checksums, not only their sizes.
        """
        for name, size in self.objects.items():
            try:
                if os.stat(folder / name).st_size != size:
                    return name
                known = self.checksums.get(name) if verify else None
                if known is not None and zlib.crc32((folder / name).read_bytes()) != known:
                    return name
            except FileNotFoundError:
                return name
        return None

    def check(self, folder: Path) -> None:
        """Raises `InputError` if an object is not there as it was written."""
        if lost := self.broken(folder):
            raise InputError(
                f"{str(folder / lost)!r} was lost or cut off; the same command computes it again"
            )


def _is_inside(name: str) -> bool:
    """Whether a name leads to a part of the folder that it stands in."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def failure(row: Mapping[str, Any]) -> str:
    """Why a row has no results, with its image's file."""
    path, reason = str(row["path"]), str(row["error"])
    return reason if path in reason else f"{path!r}: {reason}"


def known_paths(folder: Path) -> list[str]:
    """The images that a run has rows of, in order."""
    files = _files.whole_files(folder / FOLDER, "*.parquet")
    parts = filter(None, map(read_part, files))
    return list(dict.fromkeys(path for part in parts for path in part.table["path"]))


def part_file(folder: Path, shard: int) -> Path:
    """The file of a shard's part in a run's folder."""
    return folder / FOLDER / f"{shard:05d}.parquet"


def group_of(shard: int) -> str:
    """Where the arrays are that a shard shares with no other."""
    return f"{shard:05d}"


def read_parts(folder: Path) -> dict[int, Part]:
    """The parts of a run, by their shards; raises `InputError` if one is damaged or cut off."""
    found = {}
    for file in _files.whole_files(folder / FOLDER, "*.parquet"):
        data = _files.read_if_there(file)
        if data is None:  # Its shard is being computed again.
            continue
        part, shard = Part.decode(data), whole_number(file.stem)
        if part is None or shard is None:
            raise InputError(
                f"{str(file)!r} is damaged or cut off; the same command computes it again"
            )
        found[shard] = part
    return found


def read_part(path: Path) -> Part | None:
    """Reads the part of a shard; None if there is none, or it was cut off."""
    data = _files.read_if_there(path)
    return None if data is None else Part.decode(data)
