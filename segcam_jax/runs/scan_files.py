"""The files of a scan as they are now: where they are, and by what a change of them is noticed."""

import os
from pathlib import Path

from segcam_jax import _files
from segcam_jax.data.scans import ScanFiles


def paths_of(files: ScanFiles) -> tuple[list[str], str | None]:
    """Where the volumes of a scan are, and its truth."""
    truth = None if files.truth is None else os.path.abspath(files.truth)
    return [os.path.abspath(path) for path in files.files], truth


def stamp_of(files: ScanFiles) -> str:
    """Size and time of each file of a scan as they are now; `-` where there is none."""
    found = []
    for path in _every(files):
        try:
            about = os.stat(path)
            found.append(f"{about.st_size}:{about.st_mtime_ns}")
        except OSError:
            found.append("-")
    return " ".join(found)


def digest_of(files: ScanFiles) -> str:
    """Of the contents of a scan's files.

    Raises:
        InputError: if one cannot be read.
    """
    return _files.key_of([_files.sha256_of(path) for path in _every(files)])


def _every(files: ScanFiles) -> tuple[Path, ...]:
    return (*files.files, *((files.truth,) if files.truth else ()))
