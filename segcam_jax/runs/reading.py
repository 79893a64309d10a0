"""Reading ahead: files are opened and decoded in threads while a device computes."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from segcam_jax.runs.items import ImageFile
from segcam_jax.types import SegcamError

Given = TypeVar("Given")
Read = TypeVar("Read")
_MOST_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Failure:
    """What an item has instead of results.

    Attributes:
        file: of the item, before it was opened; None: there was none.
    """

    reason: str
    file: ImageFile | None = None

    @classmethod
    def of(cls, error: SegcamError, file: ImageFile | None = None) -> "Failure":
        """What an error says."""
        return cls(" ".join(str(error).split()), file)


@dataclasses.dataclass(frozen=True)
class Taken(Generic[Given, Read]):
    """An item and what was read of it, or why nothing was."""

    item: Given
    read: Read | Failure


def read_ahead(
    read: Callable[[Given], Read | Failure], items: Iterable[Given], *, window: int
) -> Generator[Taken[Given, Read]]:
    """Reads items in threads, up to `window` of them ahead of whoever takes them, in order.

    A fault of an item (`SegcamError`) is a value; any other error is raised where the item is due.
    """
    threads = min(_MOST_THREADS, window, 2 * (os.cpu_count() or 1))
    waiting: collections.deque[tuple[Given, Future[Read | Failure]]] = collections.deque()
    source = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        while True:
            while len(waiting) < window and (item := next(source, None)) is not None:
                waiting.append((item, pool.submit(read, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                found: Read | Failure = future.result()
            except SegcamError as error:
                found = Failure.of(error)
            yield Taken(item, found)
