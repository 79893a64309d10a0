"""A run as it is read: its table, maps and masks, from its folder alone.

run = open_store("run.zarr")
run.table.filter(polars.col("class") == "cat")     # one row per image and target
run.map(17, "bottleneck", "grad_cam")              # signed and raw, at the layer's resolution
"""

import collections
import functools
import itertools
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import polars
import zarr
from jaxtyping import Bool, Float, Int

from segcam_jax import _files
from segcam_jax.runs.folder import METADATA, array_metadata, array_reading
from segcam_jax.runs.items import names_of
from segcam_jax.runs.manifest import FILE, read_manifest
from segcam_jax.runs.store import node
from segcam_jax.runs.table import COLUMNS, Part, read_parts
from segcam_jax.types import InputError, nearest_first

STORE = "run.zarr"  # In a folder of `segcam explain`.
_MAP = "map"
# Figures and files of a row read the same arrays: so many are kept, of at most so many bytes.
_RECENT, _LARGEST = 32, 4 * 2**20


def open_store(path: str | os.PathLike, names: Mapping[int, str] | None = None) -> "StoredRun":
    """Opens a run that was stored, finished or not.

    Args:
        path: its folder, or that of `segcam explain`, which holds it.
        names: of all its images, by number; None: those of the table.

    Raises:
        InputError: if it is none, or another version's.
    """
    path = Path(path)
    if not path.is_dir():
        said = "is a file" if path.exists() else "does not exist"
        raise InputError(f"run {str(path)!r} {said}; give the folder of a run")
    return StoredRun(run_at(path), names)


def run_at(path: Path) -> Path:
    """The folder of the run that a folder is, or holds as `run.zarr`."""
    if (there := manifest_at(path)) is None:
        inside = (path / name for name in _files.names_in(path) if manifest_at(path / name))
        run = next(inside, None)
        hint = "" if run is None else f"; give the run in it, {str(run)!r}"
        raise InputError(f"{str(path)!r} is not a run: it holds no {FILE}{hint}")
    return there.parent


def manifest_at(path: Path) -> Path | None:
    """The manifest of that run; None if there is none."""
    return next((file for file in (path / STORE / FILE, path / FILE) if file.is_file()), None)


class StoredRun:
    """A stored run, read.

    Attributes:
        path: its folder.
        manifest: what made it.
    """

    def __init__(self, path: Path, names: Mapping[int, str] | None = None):
        self.path, self.manifest = path, read_manifest(path / FILE)
        if self.manifest.kind != "images":
            raise InputError(f"{str(path)!r} is a run of scans, and one of images is expected")
        self._names = names
        self._arrays: dict[str, zarr.Array | None] = {}
        self._recent: collections.OrderedDict[tuple, np.ndarray] = collections.OrderedDict()
        self._whole: set[int] = set()

    def __reduce__(self):
        # Another process opens it for itself.
        return StoredRun, (self.path, self._names)

    @functools.cached_property
    def _parts(self) -> Mapping[int, Part]:
        return read_parts(self.path)

    @functools.cached_property
    def table(self) -> polars.DataFrame:
        """All rows that are there, in order: `table.COLUMNS`, and two numbers for each map."""
        every = polars.DataFrame(schema=dict(COLUMNS))  # Of an earlier version, some are missing.
        tables = [part.table for part in self._parts.values()]
        return polars.concat([every, *tables], how="diagonal").sort("row")

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """A name for each image, by its number."""
        if self._names is not None:
            return self._names
        seen = self.table.unique("item", keep="first", maintain_order=True)
        # Runs of before 0.13 do not say them.
        names = names_of(seen["path"]) if seen["name"].null_count() else seen["name"]
        return dict(zip(seen["item"], names, strict=True))

    def row(self, number: int) -> dict[str, Any]:
        """A row of the table.

        Raises:
            InputError: if it is not there.
        """
        if number not in self._numbers:
            rows = self.manifest.source.items * self.manifest.targets
            said = "is not computed yet" if 0 <= number < rows else f"is none of 0 to {rows - 1}"
            raise InputError(f"{str(self.path)!r}: row {number} {said}")
        return self.table.row(self._numbers[number], named=True)

    @functools.cached_property
    def _numbers(self) -> Mapping[int, int]:
        """Where each row stands in the table."""
        return {number: place for place, number in enumerate(self.table["row"])}

    @functools.cached_property
    def _arrays_of_taps(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """What the arrays of each extent that are of a tap say, as they follow each other."""
        found = {}
        for group in self.table["extent"].drop_nulls().unique(maintain_order=True):
            names = _files.names_in(self.path / group)
            files = [self.path / group / name / METADATA for name in names]
            every = [array_metadata(file)["attributes"] for file in files]
            found[group] = sorted((a for a in every if "tap" in a), key=lambda a: a["place"])
        return found

    @functools.cached_property
    def _places(self) -> Mapping[tuple[str, str, str], Mapping[str, tuple[str, tuple[int, ...]]]]:
        """Which array of each extent holds what, and where along its axis.

        By kind (`"map"`, ...), tap and method, as they follow each other in the run. A network may
        have other layers for images of other extents.
        """
        places: dict[tuple[str, str, str], dict[str, tuple[str, tuple[int, ...]]]] = {}
        for group, arrays in self._arrays_of_taps.items():
            for each in arrays:
                for method, index in _along(each):
                    key = each["name"].partition(".")[0], each["tap"], method
                    places.setdefault(key, {})[group] = each["name"], index
        return places

    @functools.cached_property
    def _weighing(self) -> Set[tuple[str, str]]:
        """Which methods weigh the channels of which taps, of some rows at least."""
        every = itertools.chain.from_iterable(self._arrays_of_taps.values())
        return {(each["tap"], method) for each in every for method in each.get("weighing", ())}

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that maps are of, as they follow each other in the run."""
        return tuple(dict.fromkeys(tap for kind, tap, _ in self._places if kind == _MAP))

    def methods(self, tap: str) -> tuple[str, ...]:
        """The methods whose maps of a layer there are, of some rows at least.

        Raises:
            InputError: if there are none of that layer.
        """
        found = tuple(name for kind, at, name in self._places if (kind, at) == (_MAP, tap))
        if not found:
            near = ", ".join(nearest_first(tap, self.taps)) or "none at all"
            raise InputError(f"{str(self.path)!r} has no maps at {tap!r}; it has {near}")
        return found

    def has_map(self, row: int, tap: str, method: str) -> bool:
        """Whether a row has this map: images of other extents may have other layers.

        Raises:
            InputError: if the row is not there.
        """
        about = self.row(row)
        groups = self._places.get((_MAP, tap, method), ())
        return about["error"] is None and about["extent"] in groups

    def map(self, row: int, tap: str, method: str) -> Float[np.ndarray, "u v"]:
        """The raw map of a row, which covers the padding too.

        Raises:
            InputError: if there is none, or its file was lost.
        """
        found = self._of_method(row, _MAP, tap, method)
        if found is None:  # Maps that are not finite are errors of their rows.
            raise InputError(f"{str(self.path)!r}: the map of row {row} was changed by hand")
        return found

    def attribution(self, row: int, tap: str, method: str) -> Float[np.ndarray, "u v c"] | None:
        """A map by channel, of methods that have one; raises as `map`."""
        return self._of_method(row, "attribution", tap, method)

    def weights(self, row: int, tap: str, method: str) -> Float[np.ndarray, "c"] | None:
        """The weights of the channels, of methods that have them; raises as `map`."""
        return self._of_method(row, "weight", tap, method)

    def has_attribution(self, tap: str, method: str) -> bool:
        """Whether there are maps by channel, of some rows at least."""
        return ("attribution", tap, method) in self._places

    def has_weights(self, tap: str, method: str) -> bool:
        """Whether a method weighs the channels of a layer, of some rows at least."""
        return (tap, method) in self._weighing

    def drops(self, row: int, tap: str, method: str) -> Float[np.ndarray, "c"] | None:
        """How far the score falls without each channel, of methods that ask; raises as `map`."""
        return self._of_method(row, "drop", tap, method)

    def region(self, row: int) -> Bool[np.ndarray, "h w"] | None:
        """The explained pixels; None of a classifier."""
        return self.values(row, "region")

    def prediction(self, row: int) -> Int[np.ndarray, "h w"] | None:
        """The predicted class of each pixel, -1 where there is none; None of a classifier."""
        return self.values(row, "prediction")

    def truth(self, row: int) -> Int[np.ndarray, "h w"] | None:
        """The true class of each pixel; None where there is no truth.

        It is -1 where it is unknown, and 1 outside of a network's only class, 0.
        """
        return self.values(row, "truth")

    def values(self, row: int, name: str) -> np.ndarray | None:
        """Values of a row in an array that is by row; None where the run has no such array."""
        return self._at(row, self._explained(row), name)

    def tap_of(self, row: int, name: str) -> str | None:
        """The layer that an array of a row is of; None where the run has no such array."""
        arrays = self._arrays_of_taps[self._explained(row)["extent"]]
        return next((each["tap"] for each in arrays if each["name"] == name), None)

    def image(self, item: int) -> Float[np.ndarray, "h w c"] | None:
        """The image as it was explained, without padding; None where images are not stored."""
        first = item * self.manifest.targets
        numbers = range(first, first + self.manifest.targets)
        rows = (self.row(number) for number in numbers if number in self._numbers)
        about = next((row for row in rows if row["extent"] is not None), None)
        return None if about is None else self._at(item, about, "image")

    def of_items(self, name: str) -> dict[int, np.ndarray]:
        """Values of an array that is by item, of all items that have results.

        Args:
            name: of the variable.

        Raises:
            InputError: if a file was lost.
        """
        found: dict[int, np.ndarray] = {}
        there = self.table.filter(polars.col("error").is_null())
        for (group,), rows in there.group_by("extent", maintain_order=True):
            array = self._array(str(group), node(name))
            if array is None:
                continue
            for shard in (rows["item"] // self.manifest.items_per_shard).unique():
                self._check_whole(shard)
            values = np.asarray(array[:])
            found |= {item: values[item] for item in rows["item"]}
        return dict(sorted(found.items()))

    def _check_whole(self, shard: int) -> None:
        if shard not in self._whole:
            self._parts[shard].check(self.path)
        self._whole.add(shard)

    def _of_method(self, row: int, kind: str, tap: str, method: str) -> np.ndarray | None:
        names = self.methods(tap)
        if method not in names:
            near = ", ".join(nearest_first(method, names))
            raise InputError(f"{str(self.path)!r} has no {method!r} at {tap}; it has {near}")
        about = self._explained(row)
        if not self.has_map(row, tap, method):
            there = [key[1:] for key, groups in self._places.items() if about["extent"] in groups]
            other = ", ".join(dict.fromkeys(f"{name} at {layer}" for layer, name in there))
            raise InputError(
                f"row {row} ({about['path']}, {about['extent']}) has no map by {method} at {tap}; "
                f"it has {other}"
            )
        groups = self._places.get((kind, tap, method), {})
        if about["extent"] not in groups:
            return None
        name, index = groups[about["extent"]]
        values = self._at(row, about, name, *index)
        return None if values is None or np.isnan(values).all() else values

    def _explained(self, row: int) -> dict[str, Any]:
        """A row that has results."""
        about = self.row(row)
        if about["error"] is not None:
            raise InputError(f"row {row} ({about['path']}) has no results: {about['error']}")
        return about

    def _at(self, place: int, about: Mapping[str, Any], name: str, *index: int) -> Any:
        array = self._array(about["extent"], node(name))
        if array is None:
            return None
        self._check_whole(about["item"] // self.manifest.items_per_shard)
        with array_reading(self.path / about["extent"] / node(name)):
            if array.nbytes // max(array.shape[0], 1) > _LARGEST:
                return np.asarray(array[(place, *index)])
            key = (about["extent"], name, place)
            if key not in self._recent:
                # A chunk holds all methods of the place: it is decoded once for all of them.
                self._recent[key] = np.asarray(array[(place,)])
                if len(self._recent) > _RECENT:
                    self._recent.popitem(last=False)
            return np.array(self._recent[key][index])

    def _array(self, group: str, name: str) -> zarr.Array | None:
        key = f"{group}/{name}"
        if key not in self._arrays:
            there = (self.path / key / METADATA).is_file()
            with array_reading(self.path / key):
                found = zarr.open_array(self.path, path=key, mode="r") if there else None
            self._arrays[key] = found
        return self._arrays[key]


def _along(attributes: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """The methods of an array, and where each lies along its second axis, if it has one of them."""
    if "method" in attributes:
        return [(attributes["method"], ())]
    return [(name, (index,)) for index, name in enumerate(attributes.get("methods", ()))]
