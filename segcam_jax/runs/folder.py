"""The folder of a run: whose it is, who else is at work in it, what dead processes have left.

A process that writes holds a lock (`flock`) on the folder, shared with others of the same run, that
goes when it dies. One that finds itself alone removes half-written files. Where a file system has
no locks, those stay.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

from segcam_jax import _files, schema
from segcam_jax.networks.image_inputs import SUFFIXES
from segcam_jax.runs import table
from segcam_jax.runs.manifest import FILE, Manifest, read_manifest
from segcam_jax.types import FileError, InputError

METADATA = "zarr.json"
# Whose a folder is, and what it says: of an image that `segcam occlude` studied, of an export.
RECORD, _OF_IMAGE, _OF_EXPORT = "record.json", {"key", "image", "class", "tap"}, {"run", "exported"}
# Of all images that `segcam occlude` studied, and of the networks of `segcam context --runs`.
_TOGETHER = (
    {"occlusion.csv", "occlusion.png"},
    {"context.csv", "scores.png", "detections.png"},
)
_GROUP = re.compile(r"[0-9]+(x[0-9]+)*")


def is_store(path: Path) -> bool:
    """Whether a folder is that of a run itself: a manifest, and a part of the table at least."""
    return (path / FILE).is_file() and any((path / table.FOLDER).glob("*.parquet"))


def open_folder(
    path: Path,
    manifest: Manifest,
    *,
    overwrite: bool = False,
    grows: bool = False,
    single: bool = False,
    beside: Iterable[Path] = (),
) -> tuple[int, Manifest]:
    """Makes the folder of a run, or finds out that it is that of the same run, and locks it.

    Args:
        manifest: what makes the run; written where there is none.
        overwrite: remove a run that is there, this one too; other files stay.
        grows: a run that differs in its images alone becomes this one; what it has of the same
            images, at the same places, stays.
        single: only one process at a time may write the run.
        beside: folders where the run's processes write too: half-written files go there as well.

    Returns:
        The descriptor that holds the lock, and the manifest as it stands there.

    Raises:
        InputError: if it is a file, no run, or another run, and says how that differs; nothing is
            touched then. If it is to be overwritten, or to grow, or takes one process, while a
            process writes it.
        FileError: if it cannot be written.
    """
    _files.check_folder(path)
    with written(path):
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY)
    try:
        with written(path):
            return folder, _entered(path, folder, manifest, overwrite, grows, single, beside)
    except BaseException:
        os.close(folder)
        raise


def has_record(folder: Path, *, export: bool = False) -> bool:
    """Whether a folder is of an image that `segcam occlude` studied, or of an export."""
    record = _files.read_json(folder / RECORD)
    return isinstance(record, dict) and record.keys() >= (_OF_EXPORT if export else _OF_IMAGE)


def write_export_record(folder: Path, run: Path, key: str) -> None:
    """Says, before anything is exported into a folder, which run its files are of.

    Raises:
        InputError: if no export has made the folder, and images are in it, which commands over
            images would leave out from now on.
    """
    if not has_record(folder, export=True) and (image := _first_image(folder)):
        raise InputError(
            f"output {str(folder)!r} holds the image {image!r}, and commands leave out all images "
            "in the folder of an export; give a folder without images"
        )
    _files.write_json(folder / RECORD, {"run": key, "exported": os.path.abspath(run)})


def _first_image(folder: Path) -> str | None:
    """An image file that commands find in a folder, none of results; None: there is none."""
    for place, folders, files in os.walk(folder):
        seen = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in seen if not holds_results(Path(place, name))]
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                return os.path.relpath(os.path.join(place, name), folder)
    return None


def holds_results(folder: Path) -> bool:
    """Whether a command has written a folder: a run, an export, or figures of several runs."""
    names = set(_files.names_in(folder))
    runs = (name for name in names if name.endswith(".zarr"))
    return (
        is_store(folder)
        or any((folder / name / FILE).is_file() for name in runs)
        or any(names >= each for each in _TOGETHER)
        or (RECORD in names and (has_record(folder) or has_record(folder, export=True)))
    )


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Says in one line which folder cannot be written."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise _files.not_written(path, error) from None


def _entered(
    path: Path,
    folder: int,
    manifest: Manifest,
    overwrite: bool,
    grows: bool,
    single: bool,
    beside: Iterable[Path],
) -> Manifest:
    file = path / FILE
    while (alone := _lock(folder)) is False and not file.exists():
        # Whoever was first has died before it could write it, or found a fault.
        _lock_as(folder, "LOCK_UN")
        time.sleep(0.01)
    found = read_manifest(file) if file.exists() else None
    others = [name for name in os.listdir(path) if not _files.is_temporary(name)]
    if found is None and others:
        raise InputError(
            f"output {str(path)!r} holds {min(others)!r} and is not a run; give another"
        )
    grows = grows and found is not None and found.is_of_other_images(manifest)
    other = grows and found is not None and found.difference(manifest) != ""
    if found is not None and (overwrite or other or single) and alone is False:
        raise InputError(
            f"output {str(path)!r} is being written by another process; wait until it ends, or "
            "give another folder"
        )
    if found is not None and (overwrite or other):
        if overwrite:
            _clear(path)
        found = None
    if grows and alone is not False and not overwrite:
        _resize(path, manifest)
    if found is not None and (said := found.difference(manifest)):
        raise InputError(
            f"output {str(path)!r} holds another run: {said}; give another folder, or --overwrite"
        )
    if alone:
        inside = (Path(place) for place, _, _ in os.walk(path))
        for place in itertools.chain(inside, filter(os.path.isdir, beside)):
            _files.remove_temporary(place)
    if found is None:
        _files.write_bytes(file, manifest.encode())
    if alone:
        _lock_as(folder, "LOCK_SH")
    return found or manifest


class Attributes(TypedDict, total=False):
    """What this library says of an array that holds results; of a coordinate nothing.

    Of an array by taps all three are said; `method` of one by a method, `methods` of one that has
    an axis of them, neither of others. `weighing`: those of the methods that weigh channels.
    """

    name: str
    place: int
    tap: str
    method: str
    methods: list[str]
    weighing: list[str]


class ArrayMetadata(TypedDict):
    """What is read of an array's metadata, besides by zarr."""

    shape: list[int]
    dimension_names: list[str]
    attributes: Attributes


def array_metadata(file: Path) -> dict[str, Any]:
    """What an array's metadata say of it; no attributes where they are being written."""
    about = _files.read_json(file)
    if about is None:
        return {"attributes": {}}
    origin = f"{str(file)!r} was changed by hand"
    schema.check(about, ArrayMetadata, origin)
    if "tap" in (told := about["attributes"]) and not {"name", "place"} <= told.keys():
        raise InputError(f"{origin}: it gives no name and place beside its tap")
    return about


@contextlib.contextmanager
def array_reading(path: Path) -> Iterator[None]:
    """Says in one line that an array cannot be read."""
    try:
        yield
    except Exception as error:  # Of metadata that were changed by hand zarr raises anything.
        raise InputError(
            f"array {str(path)!r} cannot be read: it was changed by hand, or damaged ({error})"
        ) from None


def _resize(path: Path, manifest: Manifest) -> None:
    """Makes a run's arrays as long as a manifest says, and removes parts that are beyond."""
    lengths = {"row": manifest.source.items * manifest.targets, "item": manifest.source.items}
    shards = -(-manifest.source.items // manifest.items_per_shard)
    for part in (path / table.FOLDER).glob("*.parquet"):
        if part.stem.isdigit() and int(part.stem) >= shards:
            part.unlink()
    for file in path.glob(f"*/*/{METADATA}"):
        about = array_metadata(file)
        if "place" not in about["attributes"]:  # A coordinate.
            continue
        length = lengths[about["dimension_names"][0]]
        if about["shape"][0] != length:
            about["shape"][0] = length
            _files.write_bytes(file, json.dumps(about, indent=2).encode())
        for place in (file.parent / "c").glob("*"):
            if place.name.isdigit() and int(place.name) >= shards:
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def _clear(path: Path) -> None:
    """Removes a run; what is not of a run stays. The manifest goes last, so that it can resume."""
    _remove_groups(path, keep=())
    for part in (path / table.FOLDER).glob("*.parquet"):
        part.unlink()
    (path / METADATA).unlink(missing_ok=True)
    (path / FILE).unlink()


def remove_others(path: Path, folder: int, keep: Collection[str]) -> None:
    """Removes the arrays of extents but those to keep, if no other process writes the run.

    The lock may be lost for a moment: whoever calls this has nothing more to write.

    Args:
        folder: the descriptor that holds the lock.
        keep: names of groups.
    """
    if _lock(folder):
        _remove_groups(path, keep)
        _lock_as(folder, "LOCK_SH")


def _remove_groups(path: Path, keep: Collection[str]) -> None:
    for name in os.listdir(path):
        if _GROUP.fullmatch(name) and name not in keep and (path / name / METADATA).exists():
            shutil.rmtree(path / name)


def _lock(folder: int) -> bool | None:
    """Locks a folder: True: for this process alone; False: with others; None: there are no locks.

    Whoever is not alone waits here while another is.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        _lock_as(folder, "LOCK_SH")
        return False
    except OSError:
        return None


def _lock_as(folder: int, name: str) -> None:
    import fcntl

    fcntl.flock(folder, getattr(fcntl, name))
