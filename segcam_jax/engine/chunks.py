"""How many ablations run at once."""

import jax

from segcam_jax.types import InputError

# A CPU runs small chunks at the higher rate: what a chunk holds should stay in its cache.
_CPU_BYTES = 32 * 2**20
_ACCELERATOR_SHARE = 0.4
_UNKNOWN_ACCELERATOR_BYTES = 2 * 2**30


def chunk_for(
    count: int, bytes_each: int, *, chunk_size: int | None, memory_limit: int | None
) -> int:
    """The number of evaluations per chunk.

    Args:
        count: evaluations in all.
        bytes_each: bytes that one evaluation holds at its peak.
        chunk_size: what the caller asks for, taken as it is; None to plan.
        memory_limit: bytes that a chunk may hold; None for a cache-sized chunk on CPU and a share
            of the free memory elsewhere.

    Returns:
        From 1 to `count`, evened out so that the last chunk is not nearly empty.

    Raises:
        InputError: if a limit is not positive, or one evaluation alone exceeds `memory_limit`.
    """
    if chunk_size is not None:
        if chunk_size < 1:
            raise InputError(f"chunk_size={chunk_size}; it must be at least 1")
        return min(chunk_size, count)
    if memory_limit is not None and memory_limit < bytes_each:
        raise InputError(
            f"memory_limit={memory_limit} bytes; one evaluation alone needs about {bytes_each}"
        )
    limit = _default_limit() if memory_limit is None else memory_limit
    most = max(1, min(count, limit // max(1, bytes_each)))
    chunks = -(-count // most)
    return -(-count // chunks)


def _default_limit() -> int:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _CPU_BYTES
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return int(_ACCELERATOR_SHARE * free) if free > 0 else _UNKNOWN_ACCELERATOR_BYTES
