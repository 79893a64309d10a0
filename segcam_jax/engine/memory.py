"""How much memory a chunk may take where nobody says."""

import jax

# A CPU runs small chunks at the higher rate: what a chunk holds should stay in its cache.
_CPU_BYTES = 32 * 2**20
_ACCELERATOR_SHARE = 0.4
_UNKNOWN_ACCELERATOR_BYTES = 2 * 2**30


def free_bytes() -> int:
    """Bytes for one chunk: a cache's worth on CPU, a share of the free memory elsewhere."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _CPU_BYTES
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return int(_ACCELERATOR_SHARE * free) if free > 0 else _UNKNOWN_ACCELERATOR_BYTES
