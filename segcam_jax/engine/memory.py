"""How many evaluations run at once: estimated, and halved where a program turns out too large."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax

from segcam_jax.engine.execution import Execution
from segcam_jax.types import InputError

# A CPU runs small chunks at the higher rate: what a chunk holds should stay in its cache.
_CPU_BYTES = 32 * 2**20
_ACCELERATOR_SHARE = 0.4
_UNKNOWN_ACCELERATOR_BYTES = 2 * 2**30
# On CPUs a gradient keeps up to so many bytes for its way back.
_CPU_KEPT = 4 * 2**30
_MOST_BLOCKS = 64


class NoSmallerChunk(Exception):
    """Halving chunks once more changes nothing: all run one evaluation at a time."""


@dataclasses.dataclass
class _Halving:
    times: int
    helps: bool = False


_HALVING: contextvars.ContextVar[_Halving | None] = contextvars.ContextVar("halving", default=None)


def free_bytes() -> int:
    """Bytes for one chunk: a cache's worth on CPU, a share of the free memory elsewhere."""
    if jax.default_backend() == "cpu":
        return _CPU_BYTES
    free = _device_bytes()
    return int(_ACCELERATOR_SHARE * free) if free else _UNKNOWN_ACCELERATOR_BYTES


def limit(execution: Execution) -> int | None:
    """Bytes that the temporaries of a compiled study may take; None where nothing says."""
    if execution.memory_limit is not None:
        return execution.memory_limit
    return None if jax.default_backend() == "cpu" else _device_bytes()


def chunk(execution: Execution, count: int, bytes_each: int, most: int | None = None) -> int:
    """The number of evaluations per chunk, from 1 to `count`: as planned, halved by `halved`.

    Args:
        bytes_each: bytes that one evaluation holds at its peak.
        most: of the evaluations of a chunk, unless `execution.chunk_size` says otherwise.

    Raises:
        InputError: if one evaluation alone exceeds `execution.memory_limit`.
    """
    if execution.chunk_size is not None:
        planned = min(execution.chunk_size, count)
    else:
        given = free_bytes() if execution.memory_limit is None else execution.memory_limit
        if execution.memory_limit is not None and given < bytes_each:
            raise InputError(
                f"memory_limit={given} bytes; one evaluation alone needs about {bytes_each}"
            )
        fitting = max(1, min(count, given // max(1, bytes_each)))
        planned = -(-count // -(-count // fitting))
        planned = planned if most is None else min(planned, most)
    halving = _HALVING.get()
    if halving is None or halving.times == 0:
        return planned
    fewer = max(1, planned >> halving.times)
    halving.helps |= fewer < max(1, planned >> (halving.times - 1))
    return -(-count // -(-count // fewer))


def blocks(execution: Execution, kept: int) -> int:
    """Into how many blocks a gradient is divided, so that what it keeps of each is small.

    Where all fits there is one. Else what is kept of a block is a quarter of the limit, or less by
    `halved`.

    Args:
        kept: bytes that the whole gradient keeps.
    """
    most = limit(execution) or _CPU_KEPT
    if kept <= most:
        return 1
    planned = min(_MOST_BLOCKS, -(-4 * kept // most))
    halving = _HALVING.get()
    if halving is None or halving.times == 0:
        return planned
    halving.helps |= planned << (halving.times - 1) < _MOST_BLOCKS
    return min(_MOST_BLOCKS, planned << halving.times)


@contextlib.contextmanager
def halved(times: int) -> Iterator[None]:
    """What is planned inside is halved so many times."""
    halving = _Halving(times)
    token = _HALVING.set(halving)
    try:
        yield
    finally:
        _HALVING.reset(token)
    if times and not halving.helps:
        raise NoSmallerChunk


def _device_bytes() -> int | None:
    """Free memory of the first device, or None where it does not say.

    Several processes must plan alike, so they take no account of what is in use in each.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    in_use = stats.get("bytes_in_use", 0) if jax.process_count() == 1 else 0
    return max(0, stats.get("bytes_limit", 0) - in_use) or None
