"""The best rate that a 3x3 convolution reaches here: what a sweep's rate is a share of."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import cost, peers, timing
from benchmarks.workloads import Size
from segcam_jax.types import MissingExtraError

# Extents and channels of the U-Net's own levels.
_SHAPES = {
    "full": ((256, 64), (128, 128), (64, 256), (32, 512), (16, 1024)),
    "tiny": ((16, 4), (8, 8)),
}
_BATCHES = {"cpu": (1, 2, 8), "other": (64,)}
_REPEATS = 3


@functools.cache
def convolution_rates(size: Size, threads: int | None) -> dict[str, Any]:
    """Sweeps shapes and batches, once in a process.

    Returns:
        Under `"jax"`, `"jax tf32"` and `"jax bfloat16"` (not on a CPU) and `"torch"` (where it is
        installed), the best rate in operations per second and all rates by shape.
    """
    found = {"jax": _best(_jax_rates(size, jnp.float32, lax.Precision.HIGHEST))}
    if jax.default_backend() != "cpu":
        found["jax tf32"] = _best(_jax_rates(size, jnp.float32, lax.Precision.HIGH))
        found["jax bfloat16"] = _best(_jax_rates(size, jnp.bfloat16, lax.Precision.DEFAULT))
    try:
        torch = peers.torch(threads)
    except MissingExtraError:
        return found
    if jax.default_backend() != "gpu" or torch.cuda.is_available():
        found["torch"] = _best(_torch_rates(size, torch))
    return found


def _best(rates: Iterator[tuple[str, float]]) -> dict[str, Any]:
    by_shape = dict(rates)
    return {"best": max(by_shape.values()), "by_shape": by_shape}


def _cases(size: Size) -> Iterator[tuple[str, int, int, int]]:
    batches = _BATCHES.get(jax.default_backend(), _BATCHES["other"])
    for extent, channels in _SHAPES[size]:
        for batch in batches if size == "full" else batches[:1]:
            yield f"{batch} x {extent}x{extent}x{channels}", extent, channels, batch


def _convolve(x: Any, kernel: Any, precision: Any = None) -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision=precision
    )


def _shapes(extent: int, channels: int, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (batch, extent, extent, channels), (3, 3, channels, channels)


def _flops(extent: int, channels: int, batch: int) -> float:
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in _shapes(extent, channels, batch)]
    return cost.flops(_convolve, *given)


def _jax_rates(size: Size, dtype: Any, precision: lax.Precision) -> Iterator[tuple[str, float]]:
    call = jax.jit(functools.partial(_convolve, precision=precision))
    for name, extent, channels, batch in _cases(size):
        given = [jnp.ones(shape, dtype) for shape in _shapes(extent, channels, batch)]
        call(*given).block_until_ready()
        times = [timing.seconds(lambda g=given: call(*g).block_until_ready()) for _ in _turns()]
        yield name, _flops(extent, channels, batch) / timing.median(times)


def _torch_rates(size: Size, torch: Any) -> Iterator[tuple[str, float]]:
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    for name, extent, channels, batch in _cases(size):
        for last in (False, True):
            module = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device)
            x = torch.from_numpy(np.ones((batch, channels, extent, extent), np.float32)).to(device)
            if last:
                module = module.to(memory_format=torch.channels_last)
                x = x.to(memory_format=torch.channels_last)

            _convolved(torch, module, x)
            times = [
                timing.seconds(lambda m=module, x=x: _convolved(torch, m, x)) for _ in _turns()
            ]
            rate = _flops(extent, channels, batch) / timing.median(times)
            yield f"{name}, channels {'last' if last else 'first'}", rate


def _convolved(torch: Any, module: Any, x: Any) -> float:
    """Reads one value of the result, which waits for a GPU."""
    with torch.no_grad():
        return float(module(x)[0, 0, 0, 0])


def _turns() -> range:
    return range(_REPEATS)
