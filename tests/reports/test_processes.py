"""Processes beside this one do what it does itself, and end when it does."""

import functools
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from segcam_jax import _files
from segcam_jax.reports import processes
from segcam_jax.reports.processes import spread
from segcam_jax.types import InputError, SegcamError


def work_in(folder: Path, how: str, number: int) -> None:
    """Writes who did a task; the first process of all waits for another to have done one."""
    mine = os.getpid() == int((folder / "parent").read_text())
    (folder / f"task{number}").write_text("here" if mine else "beside")
    print("what is printed is no answer")
    deadline = time.monotonic() + 60
    while mine and not (folder / "other").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if not mine:
        (folder / "other").touch()
    if not mine and how == "refuses":
        raise InputError(f"task {number} is refused")
    if not mine and how == "dies":
        os._exit(7)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_cores", lambda: 2)
    (tmp_path / "parent").write_text(str(os.getpid()))
    return tmp_path


def test_tasks_are_divided_among_processes(folder):
    work = functools.partial(work_in, folder, "works")
    assert sorted(spread(work, range(4), 2 * processes.FIGURES)) == [0, 1, 2, 3]
    assert {file.read_text() for file in folder.glob("task*")} == {"here", "beside"}
    assert len(list(folder.glob("task*"))) == 4


def test_few_tasks_start_no_process(folder, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    done: list[int] = []
    assert list(spread(done.append, range(4), 2 * processes.FIGURES - 1)) == done == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("how", "message"),
    [("refuses", "^task . is refused$"), ("dies", "ended early, with exit code 7; the same")],
)
def test_what_fails_beside_fails_here(folder, how, message):
    work = functools.partial(work_in, folder, how)
    with pytest.raises(SegcamError, match=message):
        list(spread(work, range(4), 2 * processes.FIGURES))


def wait_for_a_file(folder: Path) -> None:
    """Until a process beside this one is in the middle of it."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*.figure.png")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_for_ever(folder: Path, number: int) -> None:
    """Fails in the first process of all, once another is in the middle of a file."""
    if os.getpid() == int((folder / "parent").read_text()):
        wait_for_a_file(folder)
        raise InputError("enough")
    with _files.whole_file(folder / "figure.png") as temporary:
        temporary.write_bytes(b"half of it")
        time.sleep(600)


def test_nothing_is_left_of_a_file_that_another_process_was_writing(folder):
    work = functools.partial(write_for_ever, folder)
    with pytest.raises(InputError, match="^enough$"):
        list(spread(work, range(2), 2 * processes.FIGURES))
    assert [file.name for file in folder.iterdir()] == ["parent"]


def test_a_process_that_answers_nonsense_is_ended(folder, monkeypatch):
    """It would go on for ever."""
    nonsense = "import time; print('no answer', flush=True); time.sleep(600)"
    monkeypatch.setattr(processes, "_START", nonsense)
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    with pytest.raises(SegcamError, match="ended early, with exit code -9"):
        list(spread(leave_the_other, range(2), 2 * processes.FIGURES))


def leave_the_other(_: object) -> None:
    """Takes as long as the other process needs to begin a task."""
    time.sleep(0.5)


def test_a_task_that_cannot_be_pickled_fails_here(folder):
    with pytest.raises(TypeError, match="cannot pickle"):
        list(spread(leave_the_other, [threading.Lock(), threading.Lock()], 2 * processes.FIGURES))


def test_a_process_that_understands_no_task_ends_and_says_why():
    child = subprocess.Popen(
        [sys.executable, "-c", processes._START],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | processes._environment(),
    )
    with child:
        assert child.stdin is not None
        assert child.stderr is not None
        for each in (sys.path, time.sleep):
            pickle.dump(each, child.stdin)
        child.stdin.write(b"cno_such_module\nnone\n.")
        child.stdin.flush()
        assert child.wait(60) == 1
        assert b"No module named 'no_such_module'" in child.stderr.read()


def tidy_slowly(folder: Path, number: int) -> None:
    """Writes for ever; when it is told to end, it takes until it was told so again."""
    try:
        write_for_ever(folder, number)
    finally:
        (folder / "tidying").touch()
        deadline = time.monotonic() + 60
        while not (folder / "told").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (folder / "tidied").touch()


def test_a_process_ends_with_the_one_that_started_it(folder):
    """The file that it was writing goes too, though it is told to end a second time."""
    child = subprocess.Popen(
        [sys.executable, "-c", processes._START],
        stdin=subprocess.PIPE,
        env=os.environ | processes._environment(),
    )
    (folder / "parent").write_text("0")
    with child:
        assert child.stdin is not None
        for each in (sys.path, functools.partial(tidy_slowly, folder), 0):
            pickle.dump(each, child.stdin)
        child.stdin.flush()
        wait_for_a_file(folder)
        child.stdin.close()
        deadline = time.monotonic() + 60
        while not (folder / "tidying").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.terminate()
        time.sleep(0.1)
        (folder / "told").touch()
        assert child.wait(60) == 0
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["parent", "tidied", "tidying", "told"]
