"""Figures on all cores: matplotlib keeps one busy for a quarter of a second, and holds the lock.

A process beside this one reads tasks from its stdin and answers each on its stdout. It ends as soon
as its stdin is closed, however this process ended, or at SIGTERM, and takes with it the file that
it was writing; Ctrl-C is this process's alone.
"""

import collections
import contextlib
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NoReturn, TypeVar

import jax

from segcam_jax import viz
from segcam_jax.types import SegcamError

Task = TypeVar("Task")
# A process is worth its start, which takes as long as about so many figures.
FIGURES = 20
_MOST = 8  # processes: each takes about 300 MB
_PATIENCE = 2.0  # seconds, for a process to end by itself
_END = object()  # In place of a task.
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    f"from {__name__} import serve; serve()"
)


def spread(work: Callable[[Task], object], tasks: Sequence[Task], figures: int) -> Iterator[Task]:
    """Does tasks in this process and, where they are many, in others beside it.

    Args:
        work: does a task: writes files; pickled, as tasks are.
        tasks: in the order in which they are begun.
        figures: that they draw in all.

    Yields:
        Each task when it is done.

    Raises:
        SegcamError: what a task raises; if a process ends before its work does.
        Exception: what pickling a task raises.
    """
    left, done = collections.deque(tasks), queue.SimpleQueue[Task | BaseException]()
    count = min(_cores(), _MOST, figures // FIGURES) - 1
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_Helper(work, left, done))
        for _ in tasks:
            if done.empty() and (taken := _take(left)):
                work(taken[0])
                yield taken[0]
            else:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield found


def _take(left: collections.deque) -> list[Any]:
    """The next task; none if another thread was faster."""
    try:
        return [left.popleft()]
    except IndexError:
        return []


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Helper:
    """A process, and the thread that hands it one task after the other.

    Args:
        left: tasks that nobody has begun.
        done: those that are done, or why not.
    """

    def __init__(self, work: Callable[[Any], object], left: collections.deque, done: Any):
        self._work, self._left, self._done = work, left, done
        self._thread = threading.Thread(target=self._run, name="draw", daemon=True)

    def __enter__(self) -> "_Helper":
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _environment(),
            start_new_session=True,  # A terminal's Ctrl-C is not for it.
        )
        self._thread.start()
        return self

    def __exit__(self, *about: Any) -> None:
        self._left.clear()
        self._process.terminate()
        self._ended()
        self._thread.join()
        with self._process:  # Waits, and closes what was open.
            pass

    def _run(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            _send(stdin, sys.path)
            _send(stdin, self._work)
            while taken := _take(self._left):
                _send(stdin, taken[0])
                error = pickle.load(stdout)
                self._done.put(taken[0] if error is None else error)
        except (OSError, EOFError, pickle.UnpicklingError):
            what = f"a process that drew figures ended early, with exit code {self._ended()}"
            self._done.put(SegcamError(f"{what}; the same command resumes"))
        except BaseException as error:  # Or else `spread` would wait for it for ever.
            self._done.put(error)

    def _ended(self) -> int:
        """The exit code of the process, which is killed if it does not end by itself."""
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _environment() -> dict[str, str]:
    """What a helper's modules look at when they are imported; the accelerator is not its own."""
    found = {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    if folder := getattr(jax.config, "jax_compilation_cache_dir", None):
        found |= {"JAX_COMPILATION_CACHE_DIR": folder}
        found |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        found |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return found


def _send(stream: IO[bytes], value: object) -> None:
    pickle.dump(value, stream)
    stream.flush()


def serve() -> None:
    """Does the tasks that stdin brings, until it is closed; what is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    work = pickle.load(sys.stdin.buffer)
    tasks = queue.SimpleQueue[Any]()
    with contextlib.suppress(_Left, BrokenPipeError), viz.reused():
        signal.signal(signal.SIGTERM, _leave)
        threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
        gc.freeze()  # Modules are not garbage; to look at them took a fifth of a figure's time.
        while (task := tasks.get()) is not _END:
            try:
                work(task)
            except SegcamError as error:
                _send(answers, error)
            else:
                _send(answers, None)
    os._exit(0)  # The other thread is at stdin, which Python would close.


class _Left(BaseException):
    """Nobody waits for a task any more."""


def _leave(*_: object) -> NoReturn:
    """Ends the task in hand, once: a file that is being written is removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Left


def _listen(tasks: "queue.SimpleQueue[Any]") -> None:
    """Takes tasks in; ends the one in hand, and the process, when the other side is gone."""
    while True:
        try:
            tasks.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os.kill(os.getpid(), signal.SIGTERM)
            tasks.put(_END)  # If it came where Python can raise nothing, as in a destructor.
            return
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
