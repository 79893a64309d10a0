"""A run's folder: whole files or none, a claim on the folder, records that say what is finished.

    OUT/.segcam-run.json      the claim: which run of which version this folder is of; written first
    OUT/NAME/record.json      one image is finished: what was explained, its files; its last file
    OUT/manifest.json         the run is finished; written last of all

The claim names every file that the run will write; nothing else is ever removed.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segcam_jax
from segcam_jax import _files
from segcam_jax.types import InputError

CLAIM = ".segcam-run.json"
RECORD = "record.json"
MANIFEST = "manifest.json"


class RunFolder:
    """The folder of one run, claimed.

    Args:
        path: the folder; made if it is not there.
        key: digest of all that determines the run.
        files: all that the run will write, relative to the folder.
        overwrite: take the folder even if it holds another run or files of these names; what a
            run's claim names is removed first.

    Raises:
        InputError: if the path is a file, cannot be written, or holds another run.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        files: Sequence[str],
        *,
        overwrite: bool = False,
    ):
        self.path, self.key = path, key
        _files.check_folder(path)
        # Looked for before the claim is read: another process claims first and then writes.
        there = [file for file in files if os.path.lexists(path / file)]
        claim = _files.read_json(path / CLAIM) or _files.read_json(path / MANIFEST)
        mine = isinstance(claim, dict) and claim.get("key") == key
        if overwrite:
            self._remove(_files_of(claim))
        elif not mine:
            self._check_empty(there, claim)
        # What a start before this one claimed on the way stays claimed.
        kept = _files_of(claim) if mine and not overwrite else []
        self._files = list(dict.fromkeys([*files, *kept]))
        self._write_claim()
        # A manifest says that the run is finished; it is not, until it is written again.
        (path / MANIFEST).unlink(missing_ok=True)

    @property
    def files(self) -> list[str]:
        """All that the run has claimed, relative to the folder."""
        return list(self._files)

    def claim(self, files: Sequence[str]) -> None:
        """Claims further files, whose names became known on the way, before they are written.

        Raises:
            InputError: if one of them is there and is somebody else's.
        """
        known = set(self._files)
        new = [file for file in files if file not in known]
        self._check_empty([file for file in new if os.path.lexists(self.path / file)], None)
        if new:
            self._files += new
            self._write_claim()

    def release(self) -> None:
        """Gives the folder back, claim and all, if nothing of the run is in it."""
        if not any(os.path.lexists(self.path / file) for file in self._files):
            (self.path / CLAIM).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def finished(self, name: str) -> dict[str, Any] | None:
        """The record of an image that this run has finished, if all its files are there."""
        record = _files.read_json(self.path / name / RECORD)
        if not isinstance(record, dict) or record.get("run") != self.key:
            return None
        files = _files_of(record)
        return record if files and all(map(_is_whole, (self.path / f for f in files))) else None

    def _write_claim(self) -> None:
        claim = {"key": self.key, "version": segcam_jax.__version__, "files": self._files}
        _files.write_json(self.path / CLAIM, claim)

    def _check_empty(self, there: Sequence[str], claim: Any) -> None:
        if claim is not None or (self.path / MANIFEST).exists():
            raise InputError(
                f"output {str(self.path)!r} holds another run{_of_version(claim)}; give another "
                "folder, or --overwrite"
            )
        if there:
            raise InputError(
                f"output {str(self.path)!r} already holds {there[0]!r}; give another folder, or "
                "--overwrite"
            )

    def _remove(self, files: Sequence[str]) -> None:
        """Removes a run's own files, and its folders where nobody else's files keep them."""
        inside = self.path.resolve()
        for file in files:
            target = self.path / file
            if target.parent.resolve().is_relative_to(inside) and not target.is_dir():
                target.unlink(missing_ok=True)
        for folder in {(self.path / file).parent for file in files} - {self.path}:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _of_version(claim: Any) -> str:
    """Which other version of the library a claim or manifest is of, in words."""
    if not isinstance(claim, dict):
        return ""
    versions = claim.get("versions", {})
    version = claim.get("version", versions.get("segcam-jax", "0.1.0"))
    if version == segcam_jax.__version__:
        return ""
    return f" by segcam_jax {version}, and {segcam_jax.__version__} does not go on with it"


def _files_of(record: Any) -> list[str]:
    """The files that a claim, record or manifest names, relative to the run's folder."""
    files = record.get("files") if isinstance(record, dict) else None
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


def _is_whole(path: Path) -> bool:
    """Whether a file is there and holds anything: all are put in place whole, none is empty."""
    return path.is_file() and path.stat().st_size > 0
