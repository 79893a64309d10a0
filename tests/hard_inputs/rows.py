"""A row of the tables: a command line that cannot be done, and what is said of it."""

import contextlib
import os
import runpy
import shlex
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from segcam_jax import cli
from tests.hard_inputs import rights

LONGEST = 300
WITHOUT_RIGHTS = ("locked", "closed", "unlisted", "fixed")
SECONDS = 60


@dataclass(frozen=True)
class Row:
    """A command line, the words that its one line must hold, and the exit code.

    Attributes:
        line: as in a shell, in the folder of `world.build`; of `segcam`, or of `python -m` where it
            begins with a module of `train`.
        says: part of what is said.
        code: 3 of a run that went on, whose notes and files are its own.
    """

    line: str
    says: str = ""
    code: int = 2

    @property
    def name(self):
        """For the test's name."""
        plain = self.line.encode(errors="backslashreplace").decode().replace("/", "|")
        return plain if len(plain) < 90 else f"{plain[:60]}...{len(plain)}"


class Hung(BaseException):
    """A command that never ends."""


def files(folder):
    """Every file with its size and time; links are not followed, nor folders that none may list."""
    found, folders = {}, [folder]
    while folders:
        with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    found[entry.path] = about.st_size, about.st_mtime_ns
                elif entry.name != "__pycache__":
                    found[entry.path] = None
                    folders.append(entry.path)
    return found


@contextlib.contextmanager
def deadline(seconds):
    """Raises `Hung` in whatever takes longer."""

    def ring(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def done(words):
    """The exit code of a command line: of `segcam`, or of a module of `train`."""
    if not words[:1] or not words[0].startswith("train."):
        return cli.main(words)
    before, sys.argv = sys.argv, words
    try:
        runpy.run_module(words[0], run_name="__main__")
        return 0
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv = before


def check(row, capture, seen):
    """Runs a row in the current folder: exit code, one line, no traceback, no new file.

    Args:
        row: it.
        capture: of stderr.
        seen: what rows before found, kept for those after.
    """
    there = seen.pop("files", None) or files(".")
    capture.readouterr()
    with rights.held() as held, deadline(SECONDS):
        if not held and any(name in row.line for name in WITHOUT_RIGHTS):
            pytest.skip("rights count for nobody here")
        code = done(shlex.split(row.line))
    said = capture.readouterr().err
    lines = said.splitlines()
    after = files(".")
    new = sorted(path for path, about in after.items() if there.get(path, 0) != about)
    if not new:
        seen["files"] = after
    for path in new:
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else Path(path).unlink(
            missing_ok=True
        )
    assert code == row.code, (code, said)
    assert "Traceback" not in said
    assert all(len(line) <= LONGEST for line in lines), said
    if row.code == 2:
        assert len(lines) == 1, said
        assert lines[0].startswith("segcam: error: ")
        assert not new, (new, said)
        assert len(lines[0]) > len("segcam: error: ")
    assert row.says in said, (row.says, said)
