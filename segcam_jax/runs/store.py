"""A run on disk: arrays that any Zarr reader opens, and a table whose parts say what is finished.

    run.zarr/                  a Zarr v3 group
      manifest.json            what made it
      items/00012.parquet      the rows of shard 12; put in place last
      64x64/                   a group per extent of images
        map.bottleneck         (row, method.bottleneck, y.bottleneck, x.bottleneck)

Item `i`, target `t` is row `i * targets + t` of every array and of the table. A shard of items is
one object of each array, written whole and once, by one process: nothing grows, and nobody waits.
Rows that have another extent, or failed, are never written and read as the fill value. A part of
the table names the objects of its shard with their sizes: one that is lost or cut off is noticed.
"""

import dataclasses
import json
import math
import os
import shutil
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from segcam_jax import _files
from segcam_jax.runs import table
from segcam_jax.runs.folder import METADATA, array_metadata, open_folder, remove_others, written
from segcam_jax.runs.items import ImageFile
from segcam_jax.runs.manifest import FILE, Finished, Manifest, read_manifest
from segcam_jax.runs.table import Part, group_of, part_file, read_part
from segcam_jax.types import InputError

_CHUNK = 4 * 2**20  # bytes of an inner chunk, before compression
_FILLS = {"f": np.nan, "i": -1, "u": 0, "b": False}


@dataclasses.dataclass(frozen=True, eq=False)
class Variable:
    """Values of an array for some rows or items.

    Attributes:
        name: of the array, for example `map.bottleneck`.
        dims: names of its axes; the first is `"row"` or `"item"`, and those of one name are equally
            long in all arrays of a group.
        values: the first axis is that of the block's `rows`.
        attributes: of the array, as JSON holds them. What a method computed has `tap`, the layer,
            and `method`, or `methods`: what lies along the second axis.
        fill: what rows that are not written read as; None: NaN, -1, 0 (unsigned) or False.
    """

    name: str
    dims: tuple[str, ...]
    values: np.ndarray
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fill: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """What was computed of some rows (or items) of one extent.

    Attributes:
        group: the extent, for example `64x64`.
        rows: their places along the arrays' first axis.
        variables: the values; in all blocks of a group the same ones, in the same order.
    """

    group: str
    rows: np.ndarray
    variables: tuple[Variable, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    """Values of an array for some rows, and the variable's place in its block."""

    place: int
    rows: np.ndarray
    variable: Variable


class Store:
    """A run that is being written, by one thread of a process.

    Attributes:
        manifest: what makes it, as it stands in the folder.
    """

    def __init__(self, path: Path, manifest: Manifest, folder: int):
        self.path, self.manifest, self._folder = path, manifest, folder
        # Zarr encodes into memory: files are written whole by `_files`, and Zarr does not read an
        # object, broken or not, in order to keep what is not written of it.
        self._objects: dict[str, Any] = {}
        self._memory = MemoryStore(self._objects)
        self._arrays: dict[str, zarr.Array] = {}
        self._lengths: dict[tuple[str, str], int] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        manifest: Manifest,
        *,
        overwrite: bool = False,
        grows: bool = False,
        single: bool = False,
        beside: Iterable[Path] = (),
    ) -> "Store":
        """Makes the folder of a run, or opens that of the same run, which resumes.

        Arguments and errors are those of `folder.open_folder`.
        """
        folder, found = open_folder(
            Path(path), manifest, overwrite=overwrite, grows=grows, single=single, beside=beside
        )
        return cls(Path(path), found, folder)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.manifest.source.items // self.manifest.items_per_shard)

    def finished(
        self,
        shard: int,
        files: Sequence[ImageFile],
        *,
        digest: Callable[[ImageFile], str] | None = None,
    ) -> Part | None:
        """The part of a shard there as it was written, of the files as they are now; else None.

        Args:
            files: of its items, in order.
            digest: reads the SHA-256 of a file, which is compared too, as are the checksums of what
                is stored; None trusts path, size and time, and the sizes of what is stored.
        """
        part = read_part(part_file(self.path, shard))
        if part is None or part.broken(self.path, verify=digest is not None) is not None:
            return None
        rows = {row["item"]: row for row in part.table.iter_rows(named=True)}
        for item, file in enumerate(files, shard * self.manifest.items_per_shard):
            row, facts = rows.get(item), (file.path, file.size, file.mtime_ns)
            if row is None or (row["path"], row["size"], row["mtime_ns"]) != facts:
                return None
            if digest is not None and row["sha256"] and row["sha256"] != digest(file):
                return None
        return part if len(rows) == len(files) else None  # A run that grows has fewer before.

    def write(self, shard: int, blocks: Sequence[Block], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a shard: its arrays, and last its part of the table.

        One that another process has finished meanwhile, of the same files, stays as it is. Of an
        earlier version of it nothing is left.

        Args:
            blocks: all that was computed of it, in any order.
            rows: of the table (`table.COLUMNS`), one for every target of every item, in any order.

        Raises:
            FileError: if something cannot be written; the shard is then not finished.
        """
        rows = sorted(rows, key=lambda row: row["row"])
        if self._has(shard, rows):
            return
        pieces: dict[str, list[_Piece]] = {}
        for block in blocks:
            for place, each in enumerate(block.variables):
                name = f"{block.group}/{node(each.name)}"
                pieces.setdefault(name, []).append(_Piece(place, block.rows, each))
        file = part_file(self.path, shard)
        sizes: dict[str, int] = {}
        checksums: dict[str, int] = {}
        with written(self.path):
            # Another process may have finished the run since this one opened it.
            self.manifest = read_manifest(self.path / FILE)
            if self.manifest.finished is not None:
                self._write_manifest(None)
            file.unlink(missing_ok=True)
            for name in sorted(pieces):
                self._encode(shard, name, pieces[name])
                for key, size, checksum in self._flush():
                    # Coordinates are written besides, with the first shard of a process.
                    if key.startswith(f"{name}/"):
                        sizes[key], checksums[key] = size, checksum
            self._remove_others(shard, sizes)
            _files.write_bytes(file, Part.of(rows, sizes, checksums).encode())

    def part(self, shard: int) -> Part | None:
        """What there is of a shard that is computed in steps; None if nothing, or it is broken."""
        part = read_part(part_file(self.path, shard))
        return None if part is None or part.broken(self.path) is not None else part

    def add(
        self,
        shard: int,
        part: Part | None,
        variables: Sequence[Variable],
        rows: Iterable[Mapping[str, Any]],
        *,
        last: bool,
    ) -> Part:
        """Adds a step to a shard: arrays of its own, and rows to its part of the table.

        Steps that are added one by one, by processes that die in between, leave the same bytes.

        Args:
            part: what is there of it; None: it is begun anew.
            variables: arrays, each written whole: they have no axis that other shards share.
            rows: of the table, which are numbered on.
            last: whether no step is left.

        Raises:
            FileError: if something cannot be written; the step is then not there.
        """
        group, file = group_of(shard), part_file(self.path, shard)
        sizes = {} if part is None else dict(part.objects)
        checksums = {} if part is None else dict(part.checksums)
        known = [] if part is None else part.table.to_dicts()
        added = [{**row, "row": number} for number, row in enumerate(rows, len(known))]
        with written(self.path):
            if self.manifest.finished is not None:
                self._write_manifest(None)
            if part is None:
                file.unlink(missing_ok=True)
                if (self.path / group).exists():
                    shutil.rmtree(self.path / group)
                self._lengths = {key: n for key, n in self._lengths.items() if key[0] != group}
            for each in variables:
                count = len(each.values)
                piece = _Piece(0, np.arange(count), each)
                name = f"{group}/{node(each.name)}"
                self._made(name, piece, count, count)[:] = each.values
                for key, size, checksum in self._flush():
                    sizes[key], checksums[key] = size, checksum
            columns = table.TABLES[self.manifest.kind]
            made = Part.of([*known, *added], sizes, checksums, columns)
            made = dataclasses.replace(made, unfinished=not last)
            _files.write_bytes(file, made.encode())
        return made

    def _has(self, shard: int, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a shard is finished, of the files that these rows are of."""
        items = {row["item"]: row for row in rows}.values()
        files = [ImageFile(row["path"], row["size"], row["mtime_ns"]) for row in items]
        digests = {row["path"]: row.get("sha256") or "" for row in items}
        return self.finished(shard, files, digest=lambda file: digests[file.path]) is not None

    def _remove_others(self, shard: int, objects: Iterable[str]) -> None:
        """Removes the objects that a shard has on disk, except for these."""
        arrays = {name.partition("/c/")[0] for name in objects}
        for path in self.path.glob(f"*/*/c/{shard}"):
            array = path.parents[1]
            if array.relative_to(self.path).as_posix() in arrays:
                continue
            # A coordinate, or no array of ours.
            if "place" not in array_metadata(array / METADATA)["attributes"]:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _encode(self, shard: int, name: str, pieces: Sequence[_Piece]) -> None:
        """Encodes a shard of an array in memory; Zarr makes no object of fill values alone."""
        targets = {"row": self.manifest.targets, "item": 1}[pieces[0].variable.dims[0]]
        size = self.manifest.items_per_shard * targets
        total, start = self.manifest.source.items * targets, shard * size
        if name not in self._arrays:
            self._arrays[name] = self._made(name, pieces[0], total, size)
        array = self._arrays[name]
        count = min(size, total - start)
        rows = np.concatenate([piece.rows for piece in pieces]) - start
        assert ((rows >= 0) & (rows < count)).all(), f"{name}: rows of another shard"
        if len(pieces) == 1 and np.array_equal(rows, np.arange(count)):
            values = pieces[0].variable.values
        else:
            values = np.full((count, *array.shape[1:]), array.fill_value, array.dtype)
            values[rows] = np.concatenate([piece.variable.values for piece in pieces])
        array[start : start + count] = values

    def _made(self, name: str, piece: _Piece, total: int, size: int) -> zarr.Array:
        """An array of `total` rows, `size` of them in a shard, and the coordinate of methods."""
        some, group = piece.variable, name.partition("/")[0]
        shape, dims = some.values.shape[1:], [node(dim) for dim in some.dims]
        for dim, length in zip(dims[1:], shape, strict=True):
            known = self._lengths.setdefault((group, dim), length)
            assert known == length, f"{name}: axis {dim!r} has {length} places, elsewhere {known}"
        most = _CHUNK // max(1, math.prod(shape) * some.values.dtype.itemsize)
        chunk = max(n for n in range(1, size + 1) if size % n == 0 and n <= max(1, most))
        if methods := some.attributes.get("methods"):
            axis = zarr.create_array(
                self._memory,
                name=f"{group}/{dims[1]}",
                shape=(len(methods),),
                dtype=str,
                dimension_names=dims[1:2],
                overwrite=True,
            )
            axis[:] = np.array(methods, np.dtypes.StringDType())
        return zarr.create_array(
            self._memory,
            name=name,
            shape=(total, *shape),
            dtype=some.values.dtype,
            chunks=(chunk, *shape),
            shards=(size, *shape),
            fill_value=_FILLS[some.values.dtype.kind] if some.fill is None else some.fill,
            # Higher levels take twice the time for a few per cent; looking for chunks of fill
            # values alone takes as long.
            compressors=ZstdCodec(level=-1),
            config={"write_empty_chunks": True},
            dimension_names=dims,
            attributes={"name": some.name, "place": piece.place, **some.attributes},
        )

    def _flush(self) -> list[tuple[str, int, int]]:
        """Writes what Zarr has encoded; returns name, size and CRC-32 of objects with values.

        Raises:
            InputError: if an array of that name is there, and is another one.
        """
        found = []
        for name in list(self._objects):
            data, path = self._objects[name].as_numpy_array().data, self.path / name
            there = _files.read_json(path) if path.name == METADATA else None
            if there is None:
                _files.write_bytes(path, data)
            elif there != json.loads(bytes(data)):
                raise InputError(
                    f"{str(path)!r} describes another array than this run's, or another version of "
                    "zarr wrote it; give another folder, or --overwrite"
                )
            if path.name != METADATA:
                found.append((name, len(data), zlib.crc32(data)))
            del self._objects[name]
        return found

    def finish(self) -> Manifest | None:
        """Writes the manifest again, with what the run has come to, if all its shards are there.

        Arrays of an extent that no image has any more are removed, unless others write the run.

        Returns:
            The manifest; None if shards are missing.
        """
        maps = failures = 0
        programs: set[str] = set()
        groups: set[str] = set()
        for shard in range(self.shards):
            part = read_part(part_file(self.path, shard))
            if part is None or part.unfinished:
                return None
            groups |= {name.partition("/")[0] for name in part.objects}
            count, names = part.count()
            maps, programs = maps + count, programs | names
            failures += part.failures
        found = Finished(
            items=self.manifest.source.items,
            explanations=maps,
            failures=failures,
            programs=len(programs),
        )
        with written(self.path):
            self._write_manifest(found)
            self._arrays.clear()
            remove_others(self.path, self._folder, groups)
        return self.manifest

    def _write_manifest(self, finished: Finished | None) -> None:
        self.manifest = dataclasses.replace(self.manifest, finished=finished)
        _files.write_bytes(self.path / FILE, self.manifest.encode())

    def close(self) -> None:
        """Gives the folder back."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def node(name: str) -> str:
    """A variable's name as that of a Zarr array, where a slash would open a group."""
    return _files.file_name(urllib.parse.quote(name, safe=""))
