"""A command that is killed at random moments and started again, until it has ended."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_PATIENCE = 60  # seconds that processes have to find out that theirs was killed


def survives(
    command: Sequence[str],
    folder: Path,
    contents: Callable[[Path], Any],
    *,
    kills: int,
    code: int = 0,
) -> None:
    """Asserts that the command ends with the same contents after `kills` kills as without one.

    No process that it started outlives it.

    Args:
        command: its last word is to be the folder that it writes, which is added.
        folder: where its folders are made.
        contents: what is to be the same of such a folder.
        code: the exit code with which the command ends.
    """
    whole, out = folder / "whole", folder / "out"
    # Programs are compiled once: kills then hit the work, not the compiler.
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(place: Path) -> subprocess.Popen:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        own_group: dict[str, Any] = {"start_new_session": True, "env": os.environ | settings}
        return subprocess.Popen([*command, str(place)], **quiet, **own_group)

    assert start(whole).wait() == code
    expected, begun = contents(whole), time.monotonic()
    shutil.rmtree(whole)
    assert start(whole).wait() == code
    seconds = time.monotonic() - begun
    assert contents(whole) == expected
    moments = np.random.default_rng(0)
    while kills:
        child = start(out)
        try:
            assert child.wait(moments.uniform(0.2, 1) * seconds) == code
            assert contents(out) == expected
            shutil.rmtree(out)
        except subprocess.TimeoutExpired:
            child.kill()
            kills -= child.wait() < 0
            _wait_for_group(child.pid)
    assert start(out).wait() == code
    assert contents(out) == expected


def _wait_for_group(group: int) -> None:
    """Waits until no process of a group is left."""
    deadline = time.monotonic() + _PATIENCE
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
        raise AssertionError("a process outlives the one that started it, which was killed")
