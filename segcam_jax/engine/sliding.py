"""Sliding-window inference: a volume of any extents through a network of one window's size.

Windows lie on a regular grid, the last of an axis flush with its end. Where they overlap, their
outputs are averaged with Gaussian weights, which trust a window's middle. Grid, weights and padding
are those of MONAI's `SlidingWindowInferer(mode="gaussian")`, or of nnU-Net v2's predictor.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from segcam_jax._jaxpr import cost, graph, lowering
from segcam_jax.engine import memory
from segcam_jax.engine.compiled import compiled_function
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.score import lowers
from segcam_jax.types import InputError, wide

# MONAI's: no weight is below, so that corners of windows are never divided by nearly nothing.
_LEAST_WEIGHT = 1e-3
# nnU-Net's: of a window's middle, before weights are rounded to half precision.
_LARGEST_WEIGHT = 10
# Whose grid and weights windows have.
Windows = Literal["monai", "constant", "nnunet"]
# Of a window: more would take gigabytes a channel.
_MOST_VOXELS = 2**28
_MOST_WINDOWS = 2**24  # of a volume: their starts alone would take gigabytes


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How windows cover a volume.

    Attributes:
        overlap: of neighbouring windows, as a share of a window, in [0, 1).
        sigma: standard deviation of the weights, as a share of a window.
        windows: `"monai"`: all but the last of an axis have the overlap, and weights are Gaussians
            around a window's middle. `"constant"`: likewise, and all weights are 1. `"nnunet"`: all
            of an axis overlap alike, at least as much, and weights are its rounded ones around the
            voxel behind the middle.
    """

    extents: tuple[int, ...]
    roi: tuple[int, ...]
    overlap: float = 0.25
    sigma: float = 0.125
    windows: Windows = "monai"

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after each axis of a volume that is smaller than a window."""
        missing = [max(0, r - e) for e, r in zip(self.extents, self.roi, strict=True)]
        return tuple((each // 2, each - each // 2) for each in missing)

    @property
    def padded(self) -> tuple[int, ...]:
        """Extents of the padded volume."""
        return tuple(map(max, self.extents, self.roi))

    @property
    def steps(self) -> tuple[int, ...]:
        """From a window to the next, along each axis, at most."""
        return tuple(max(1, int(size * (1 - self.overlap))) for size in self.roi)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many windows there are along each axis."""
        steps: Sequence[float] = self.steps
        if self.windows == "nnunet":
            steps = [size * (1 - self.overlap) for size in self.roi]
        along = zip(self.padded, self.roi, steps, strict=True)
        return tuple(1 + math.ceil((extent - size) / step) for extent, size, step in along)

    def along(self) -> list[Int[np.ndarray, "windows"]]:
        """Where windows start along each axis of the padded volume."""
        found = []
        axes = zip(self.padded, self.roi, self.steps, self.counts, strict=True)
        for extent, size, step, count in axes:
            numbers, last = np.arange(count), extent - size
            if self.windows == "nnunet":
                found.append(np.rint(numbers * (last / max(1, count - 1))).astype(int))
            else:
                found.append(np.minimum(numbers * step, last))
        return found

    def starts(self) -> Int[np.ndarray, "windows axes"]:
        """Where windows start in the padded volume."""
        return np.array(list(itertools.product(*self.along())), np.int32)

    def in_the_middle(self) -> int:
        """How many windows the voxel in the volume's middle lies in."""
        axes = zip(self.along(), self.padded, self.roi, strict=True)
        return math.prod(
            int(((starts <= extent // 2) & (extent // 2 < starts + size)).sum())
            for starts, extent, size in axes
        )

    def weights(self) -> Float[np.ndarray, "*roi"]:
        """The weight of each position of a window: a Gaussian, bounded below, or 1."""
        if self.windows == "constant":
            return np.ones(self.roi, np.float32)
        gaussian, out = _cut_gaussian if self.windows == "nnunet" else _gaussian, np.ones(())
        for size in self.roi:
            out = out[..., None] * gaussian(size, self.sigma)
        if self.windows == "monai":
            return np.maximum(out, max(_LEAST_WEIGHT, out.min())).astype(np.float32)
        half = (out / out.max() * _LARGEST_WEIGHT).astype(np.float16).astype(np.float32)
        return np.where(half == 0, half[half > 0].min(), half)

    def mass(self) -> Float[np.ndarray, "*padded"]:
        """The weights of all windows at each position of the padded volume, added up."""
        weights, mass = self.weights(), np.zeros(self.padded, np.float32)
        for start in self.starts():
            mass[self.at(start)] += weights
        return mass

    def at(self, start: Sequence[int]) -> tuple[slice, ...]:
        """Where the window that starts there lies in the padded volume."""
        return tuple(slice(s, s + r) for s, r in zip(start, self.roi, strict=True))

    def touching(
        self, mask: Bool[np.ndarray, "*padded"]
    ) -> tuple[Int[np.ndarray, "n axes"], Bool[np.ndarray, "n"]]:
        """Where the windows start that a region lies in, filled up to a power of two.

        Args:
            mask: the region, in the padded volume.

        Returns:
            `(starts, own)`: a start that fills up is none of its own.
        """
        place = np.argwhere(mask)
        low, high = place.min(0), place.max(0)
        starts = self.starts()
        found = starts[((starts <= high) & (starts + np.array(self.roi) > low)).all(1)]
        count = 1 << (len(found) - 1).bit_length()
        return found[np.minimum(np.arange(count), len(found) - 1)], np.arange(count) < len(found)


def _gaussian(size: int, sigma: float) -> Float[np.ndarray, "size"]:
    offsets = (np.arange(size) - (size - 1) / 2) / (sigma * size)
    return np.exp(-(offsets**2) / 2)


def _cut_gaussian(size: int, sigma: float) -> Float[np.ndarray, "size"]:
    """A Gaussian that ends at four standard deviations, as SciPy's filter has it."""
    one = (np.arange(size) == size // 2).astype(float)
    return scipy.ndimage.gaussian_filter1d(one, sigma * size, mode="constant")


def tiling(
    extents: Sequence[int],
    roi: int | Sequence[int] = 96,
    *,
    overlap: float = 0.25,
    sigma: float = 0.125,
    windows: Windows = "monai",
) -> Tiling:
    """Checks and makes a tiling; one number for `roi` serves all axes."""
    sizes = (roi,) * len(extents) if isinstance(roi, int) else tuple(int(size) for size in roi)
    if len(sizes) != len(extents) or min(sizes) < 1:
        raise InputError(
            f"roi={roi!r}; expected one positive extent, or one for each of {len(extents)} axes"
        )
    if math.prod(sizes) > _MOST_VOXELS:
        raise InputError(
            f"roi={roi!r} is a window of {math.prod(sizes):.3g} voxels; expected at most "
            f"{_MOST_VOXELS:.3g}"
        )
    if not 0 <= overlap < 1:
        raise InputError(f"overlap={overlap}; expected a share of a window, from 0 to below 1")
    if not sigma > 0:
        raise InputError(f"sigma={sigma}; expected a positive share of a window")
    tiles = Tiling(tuple(extents), sizes, float(overlap), float(sigma), windows)
    if (count := math.prod(tiles.counts)) > _MOST_WINDOWS:
        raise InputError(
            f"overlap={overlap} makes {count:.3g} windows of {' x '.join(map(str, sizes))} of a "
            f"volume {' x '.join(map(str, extents))}; expected at most {_MOST_WINDOWS:.3g}"
        )
    return tiles


def sliding_window(
    fn: Callable,
    params: Any,
    volume: Float[ArrayLike, "*space c"],
    *,
    roi: int | Sequence[int] = 96,
    overlap: float = 0.25,
    sigma: float = 0.125,
    windows: Windows = "monai",
    execution: Execution = Execution(),
) -> Float[Array, "*space k"]:
    """The output of a network over a volume, window by window, in one compiled program.

        y[p] = sum_w g[p - s_w] f(x[window w])[p - s_w] / sum_w g[p - s_w]

    s_w is the start of window w, g the Gaussian weights.

    Args:
        fn: `fn(params, window) -> output`, whose positions are the window's.
        params: its parameters.
        volume: one example, 2D or 3D. Where it is smaller than a window it is padded with zeros.
        roi: extents of a window, a number for all axes or one each.
        overlap: of neighbouring windows, as a share of a window.
        sigma: standard deviation of the weights, as a share of a window.
        windows: whose grid and weights, as `Tiling` tells.
        execution: how the engine runs it; `chunk_size` and `memory_limit` say how many windows run
            at once, which does not change the result.

    Raises:
        InputError: if a number is out of range, or the network's output has other positions.
    """
    volume = jnp.asarray(volume)
    tiles = tiling(volume.shape[:-1], roi, overlap=overlap, sigma=sigma, windows=windows)
    given = (params, volume, tiles.starts(), tiles.weights(), tiles.mass())
    return _blended(*given, fn=fn, tiles=tiles, execution=execution)


@compiled_function
def _blended(params, volume, starts, weights, mass, *, fn, tiles: Tiling, execution: Execution):
    window = jax.ShapeDtypeStruct((*tiles.roi, volume.shape[-1]), volume.dtype)
    forward, bytes_each, classes = window_function(fn, params, window, execution)
    volume = jnp.pad(volume, (*tiles.padding, (0, 0)))
    chunk = memory.chunk(execution, len(starts), bytes_each)
    filling = -len(starts) % chunk
    starts = jnp.concatenate([starts, jnp.repeat(starts[-1:], filling, axis=0)])
    own = jnp.arange(len(starts)) < len(starts) - filling

    def at(start):
        return [*start, jnp.zeros((), start.dtype)]

    def add(total, found):
        start, output, is_own = found
        output = jnp.where(is_own, output * weights[..., None], 0)
        before = jax.lax.dynamic_slice(total, at(start), output.shape)
        return jax.lax.dynamic_update_slice(total, before + output, at(start)), None

    def step(total, chunk):
        start, is_own = chunk
        cut = jax.vmap(lambda s: jax.lax.dynamic_slice(volume, at(s), window.shape))(start)
        outputs = wide(jax.vmap(forward, in_axes=(None, 0))(params, cut))
        return jax.lax.scan(add, total, (start, outputs, is_own))[0], None

    total = jnp.zeros((*tiles.padded, classes), jnp.float32)
    chunks = (starts.reshape(-1, chunk, starts.shape[-1]), own.reshape(-1, chunk))
    total = jax.lax.scan(step, total, chunks)[0] / mass[..., None]
    inside = [
        slice(before, before + extent)
        for (before, _), extent in zip(tiles.padding, tiles.extents, strict=True)
    ]
    return total[tuple(inside)]


def window_function(
    fn: Callable, params: Any, window: jax.ShapeDtypeStruct, execution: Execution
) -> tuple[Callable, int, int]:
    """The network on one window, its slow equations rewritten where `execution` says so.

    Returns:
        `(function, bytes that a call holds at its peak, channels of the output)`.
    """
    output = jax.eval_shape(fn, params, window)
    found = getattr(output, "shape", "several arrays")
    if len(found) != len(window.shape) or found[:-1] != window.shape[:-1]:
        raise InputError(
            f"the network returns {found} for a window of shape {window.shape}; its output must "
            "have the window's positions"
        )
    # The window comes first: what else goes in is not counted to a call.
    closed, jaxpr = graph.closed(lambda x, params: fn(params, x), window, params)
    if not lowers(execution):
        return fn, cost.live_bytes(jaxpr), output.shape[-1]
    fast = lowering.lowered(closed)

    def forward(params, window):
        return fast(*jax.tree.leaves((window, params)))[0]

    return forward, cost.live_bytes(jaxpr), output.shape[-1]
