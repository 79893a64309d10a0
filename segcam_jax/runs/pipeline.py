"""The one loop over items: files are read ahead, a device computes, results are written behind.

    reader threads -> shard k+1: predict
                      shard k:   explain        (on the device while the host looks at k+1)
                      shard k-1: collect, write (in the writer's thread)

A shard waits for the one before it to be written: results of two are held, however many there are.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from segcam_jax.runs.items import ImageFile, Item, Items, file_now
from segcam_jax.runs.programs import ImageKernel
from segcam_jax.runs.reading import Failure, Taken, read_ahead
from segcam_jax.runs.shard import Loaded, Pending
from segcam_jax.runs.store import Store
from segcam_jax.runs.table import failure
from segcam_jax.types import InputError

# Shards until freed memory is returned: after each, a sweep of small images takes 4 % longer.
_KEEPS = 4


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
        items: done or failed in this run.
        before: items of shards that were finished before.
        failures: rows that have an error, those of shards that were finished before among them.
        busy: seconds that the device had work.
        seconds: since the start.
    """

    items: int = 0
    before: int = 0
    failures: int = 0
    busy: float = 0.0
    seconds: float = 0.0

    def and_then(self, other: "Progress", seconds: float, workers: int) -> "Progress":
        """What several processes have done so far, of which one has done something more.

        Args:
            seconds: since the start of all.
        """
        return Progress(
            self.items + other.items,
            self.before + other.before,
            self.failures + other.failures,
            self.busy + other.busy / workers,
            seconds,
        )

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds if self.seconds else 0.0

    @property
    def busy_share(self) -> float:
        """The share of the time that the device had work."""
        return min(1.0, self.busy / self.seconds) if self.seconds else 0.0


def run_shards(
    kernel: ImageKernel,
    read: Callable[[Item], Loaded | Failure],
    items: Items,
    shards: Iterable[tuple[int, range]],
    store: Store,
    *,
    ahead: int = 128,
    stop_on_error: bool = False,
    digest: Callable[[ImageFile], str] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Computes the shards that are not finished, and stores each as a whole.

    Args:
        read: reads an item; called in threads.
        shards: number and items of each shard that this process computes.
        ahead: items that are read before their turn.
        stop_on_error: stop at the first item that fails; what is finished stays.
        digest: of a file, by which finished shards are trusted; None: by path, size and time.
        report: is told after each shard, at times from another thread.

    Raises:
        SegcamError: if results cannot be written, or an item failed and that is to stop the run.
    """
    clock = _Clock()

    def todo() -> Iterator[tuple[int, Item]]:
        for number, shard in shards:
            members = [items[index] for index in shard]
            part = store.finished(number, [file_now(item) for item in members], digest=digest)
            if part is None:
                yield from ((number, item) for item in members)
            else:
                clock.progress.before += len(members)
                clock.progress.failures += part.failures
                report(clock.now())

    def store_shard(number: int, count: int, pending: Pending) -> None:
        jax.block_until_ready(pending.waits_for())
        clock.stop(number)
        blocks, rows = kernel.collect(pending)
        failed = [row for row in rows if row.get("error")]
        if failed and stop_on_error:
            raise InputError(failure(failed[0]))
        store.write(number, blocks, rows)
        clock.progress.items += count
        clock.progress.failures += len(failed)
        report(clock.now())

    entries = read_ahead(lambda entry: read(entry[1]), todo(), window=ahead)
    waiting: tuple[int, int, Pending] | None = None
    with contextlib.closing(entries), _Writer(store_shard) as writer:
        for number, group in itertools.groupby(entries, key=lambda each: each.item[0]):
            taken = [Taken(entry.item[1], entry.read) for entry in group]
            clock.start(number)
            pending = kernel.predict(taken)
            if waiting is not None:
                kernel.explain(waiting[2])
                writer.put(waiting)
            waiting = (number, len(taken), pending)
        if waiting is not None:
            kernel.explain(waiting[2])
            writer.put(waiting)
    return clock.now()


class _Clock:
    """Seconds since the start, and those in which the device had work."""

    def __init__(self):
        self.progress = Progress()
        self._start = self._idle_since = time.perf_counter()
        self._started: dict[int, float] = {}

    def start(self, shard: int) -> None:
        self._started[shard] = time.perf_counter()

    def stop(self, shard: int) -> None:
        now = time.perf_counter()
        self.progress.busy += now - max(self._started.pop(shard), self._idle_since)
        self._idle_since = now

    def now(self) -> Progress:
        self.progress.seconds = time.perf_counter() - self._start
        return dataclasses.replace(self.progress)


class _Writer:
    """A thread that stores one shard after the other; what it raises is raised where it is fed."""

    def __init__(self, work: Callable[..., None]):
        self._work = work
        self._queue: queue.Queue[tuple | None] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *about: Any) -> None:
        # What is computed is stored, whatever ended the loop.
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def put(self, entry: tuple) -> None:
        """Waits until the entry before is stored."""
        self._queue.join()
        self._check()
        self._queue.put(entry)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        for count in itertools.count(1):
            if (entry := self._queue.get()) is None:
                return
            try:
                if self._error is None:
                    self._work(*entry)
            except BaseException as error:  # Told to the thread that waits.
                self._error = error
            entry = None  # What it holds is not needed while the next is computed.
            if count % _KEEPS == 0:
                _return_memory()
            self._queue.task_done()


def _return_memory() -> None:
    """Returns freed memory to the system, where the C library has a function for it.

    glibc keeps the gaps between what is in use, which grow over many shards. After it, the memory
    of a shard is new pages, which take time.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
