"""A folder that grows: whole files, each with the key of what it shows, finished ones skipped.

    OUT/.segcam-ledger.json      file -> key; an entry is written before its file

A file that is there under its key is finished, since files are put in place whole. A file that is
there under another key, or under none, is somebody else's.
"""

from collections.abc import Mapping
from pathlib import Path

from segcam_jax import _files
from segcam_jax.types import InputError

LEDGER = ".segcam-ledger.json"


class Ledger:
    """The files that a command is about to write into a folder, and those it finds there.

    Args:
        folder: made if it is not there.
        wanted: file, relative to the folder -> digest of all that determines it.
        overwrite: write every file anew, whatever is there.

    Raises:
        InputError: if the folder is a file or cannot be written, or holds a file of one of these
            names that shows something else.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, str], *, overwrite: bool = False):
        self.folder, self._wanted = folder, dict(wanted)
        _files.check_folder(folder)
        known = _files.read_json(folder / LEDGER)
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        there = {file for file in wanted if (folder / file).exists()}
        self._finished = {file for file in there if self._known.get(file) == wanted[file]}
        others = sorted(there - self._finished)
        if overwrite:
            self._finished = set()
        elif others:
            raise InputError(
                f"output {str(folder)!r} already holds {others[0]!r}, which shows something else, "
                "or is of another version of segcam_jax; give another folder, or --overwrite"
            )
        _files.check_writable(folder / LEDGER)
        self._note({file: key for file, key in wanted.items() if file not in there})

    def finished(self, file: str) -> bool:
        """Whether a wanted file is there."""
        return file in self._finished

    def pending(self) -> list[str]:
        """The wanted files that are not there."""
        return [file for file in self._wanted if file not in self._finished]

    def written(self, file: str) -> None:
        """Takes note that a wanted file is in place."""
        self._finished.add(file)
        if self._known.get(file) != self._wanted[file]:
            self._note({file: self._wanted[file]})

    def _note(self, entries: Mapping[str, str]) -> None:
        if entries:
            self._known = {**self._known, **entries}
            _files.write_json(self.folder / LEDGER, self._known)
