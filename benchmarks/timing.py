"""Clocks, peak memory, and the machine that was measured on."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "grad-cam", "captum")


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes that waits for its own results."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Memory(Protocol):
    """Peak memory of one call.

    Attributes:
        source: where the figure comes from.
    """

    source: str

    def start(self) -> None:
        """Forgets the peak so far."""
        ...

    def peak(self) -> int | None:
        """Bytes at the peak since `start`, over what was held then."""
        ...


class ResidentMemory:
    """By how much the process's resident memory grew, from Linux's high-water mark.

    Free memory that the C library keeps is given back first, where it can be. What is measured is
    a warm-up: timed runs find their memory at hand.
    """

    source = "growth of resident memory"

    def start(self) -> None:
        """Sets the high-water mark back."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        try:
            _CLEAR.write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None

    def peak(self) -> int | None:
        """The high-water mark over what was resident; None where the system has none."""
        highest = _status("VmHWM")
        if self._before is None or highest is None:
            return None
        return max(0, highest - self._before)


class TorchMemory:
    """PyTorch's own count of what it allocated on a GPU."""

    source = "torch.cuda.max_memory_allocated"

    def __init__(self, torch: Any):
        self._cuda = torch.cuda

    def start(self) -> None:
        """Sets the peak back."""
        self._cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The peak, weights included."""
        return int(self._cuda.max_memory_allocated())


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None


def limit_threads(threads: int) -> int:
    """Keeps the process, and all that it will start, on so many cores.

    XLA and PyTorch size their pools by them; call it before either starts.

    Returns:
        How many cores it has now.
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or threads
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return len(cores)


def environment() -> dict[str, Any]:
    """The machine and the versions, without names or paths."""
    import jax

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "accelerator": None if device.platform == "cpu" else device.device_kind,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return float(statistics.median(values))
