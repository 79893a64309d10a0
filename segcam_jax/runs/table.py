"""The table of a run: a Parquet part per shard, which also says which objects its shard has."""

import dataclasses
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars
from polars.exceptions import PanicException, PolarsError

from segcam_jax import _files

FOLDER = "items"
# Besides, two columns for each map: its largest value, and the share of it that ReLU hides.
MAX, NEGATIVE = ".max", ".negative"
COLUMNS: Mapping[str, Any] = {
    "row": polars.Int64,
    "item": polars.Int64,
    "path": polars.String,
    "size": polars.Int64,
    "mtime_ns": polars.Int64,
    "sha256": polars.String,
    "extent": polars.String,
    "padded": polars.String,
    "target": polars.String,
    "class_index": polars.Int64,
    "class": polars.String,
    "share": polars.Float64,
    "chosen": polars.String,
    "predicted": polars.String,
    "predicted_share": polars.Float64,
    "pixels": polars.Int64,
    "score": polars.Float64,
    "notes": polars.String,
    "program": polars.String,
    "error": polars.String,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The part of a shard.

    Attributes:
        table: its rows, in order.
        objects: bytes of each object of the shard, by its name in the run's folder.
        checksums: CRC-32 of each; runs of before 0.5 have none.
    """

    table: polars.DataFrame
    objects: Mapping[str, int]
    checksums: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        objects: Mapping[str, int],
        checksums: Mapping[str, int],
    ) -> "Part":
        """The part of rows that have the columns above, and numbers by any other name."""
        there = sorted((dict(row) for row in rows), key=lambda row: row["row"])
        maps = sorted({name for row in there for name in row} - COLUMNS.keys())
        schema = {**COLUMNS, **dict.fromkeys(maps, polars.Float64)}
        columns = {name: [row.get(name) for row in there] for name in schema}
        return cls(polars.DataFrame(columns, schema=schema), objects, checksums)

    def encode(self) -> bytes:
        """The part as a file: the same bytes for equal parts."""
        stream = io.BytesIO()
        about = {"objects": self.objects, "checksums": self.checksums}
        metadata = {name: json.dumps(dict(sorted(each.items()))) for name, each in about.items()}
        self.table.write_parquet(stream, metadata=metadata)
        return stream.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> "Part | None":
        """The part that a file holds; None if it was cut off."""
        try:
            metadata = polars.read_parquet_metadata(io.BytesIO(data))
            objects, checksums = metadata["objects"], metadata.get("checksums", "{}")
            table = polars.read_parquet(io.BytesIO(data))
            return cls(table, json.loads(objects), json.loads(checksums))
        except (PolarsError, PanicException, KeyError, ValueError):
            return None

    def broken(self, folder: Path, *, verify: bool = False) -> str | None:
        """The first object that is not there as it was written; None if all are.

        Args:
            folder: of the run.
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


def failure(row: Mapping[str, Any]) -> str:
    """Why a row has no results, with its image's file."""
    path, reason = str(row["path"]), str(row["error"])
    return reason if path in reason else f"{path!r}: {reason}"


def part_file(folder: Path, shard: int) -> Path:
    """The file of a shard's part in a run's folder."""
    return folder / FOLDER / f"{shard:05d}.parquet"


def read_part(path: Path) -> Part | None:
    """Reads the part of a shard; None if there is none, or it was cut off.

    Raises:
        InputError: if it may not be read.
    """
    data = _files.read_if_there(path)
    return None if data is None else Part.decode(data)
