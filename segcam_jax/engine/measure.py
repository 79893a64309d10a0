"""What a study takes and how exact it is, from a few of its evaluations."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from segcam_jax.engine import ablation, gradients
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.score import encode
from segcam_jax.masks import LocalMasks, Masks, around
from segcam_jax.taps import Split

_REPEATS = 2
_SAMPLE = 64


@dataclasses.dataclass(frozen=True)
class PrecisionError:
    """How far results in the precision asked for are from those in float32.

    Attributes:
        largest: the largest difference, as a share of the largest magnitude in float32.
        rank: Spearman's rank correlation with float32; NaN where there is no order.
        sample: how many values were compared: falls of the score S - S_m, or positions of the map.
    """

    largest: float
    rank: float
    sample: int


@dataclasses.dataclass(frozen=True)
class Some:
    """The masks of some indices of a family."""

    masks: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __call__(self, index):
        """The mask of the index at this place."""
        return self.masks(jnp.asarray(self.indices)[index])

    def removed(self, values):
        """For each mask, the sum of (around - mask) values."""
        return self.masks.removed(values)[jnp.asarray(self.indices)]

    @property
    def around(self) -> float:
        """That of the family."""
        return around(self.masks)


class SomeLocal(Some):
    """The same for masks that multiply one window each."""

    def windows(self, ndim: int) -> Any:
        """The windows of the whole family."""
        return self.masks.windows(ndim)

    def places(self, index, ndim: int) -> Any:
        """Where the window of the index at this place starts."""
        return self.masks.places(jnp.asarray(self.indices)[index], ndim)


def some(masks: Masks, indices: np.ndarray) -> Masks:
    """The masks of some indices of a family."""
    return (SomeLocal if isinstance(masks, LocalMasks) else Some)(masks, indices)


@dataclasses.dataclass(frozen=True)
class Ablations:
    """A study of ablations of which any part can be run."""

    split: Split
    params: Any
    x: Any
    target: Any
    masks: Masks
    live: np.ndarray
    execution: Execution

    def drops(self, indices: np.ndarray, execution: Execution) -> Callable[[], Any]:
        """What runs some of the ablations, compiled, and returns how far the score falls."""
        masks = some(self.masks, indices)

        @jax.jit
        def kernel(params, x, target):
            activation, carry = encode(self.split, params, x, execution)
            given = (activation, carry, target, masks, execution)
            return ablation.ablation_drops(self.split, *given)[1]

        return lambda: kernel(self.params, self.x, self.target)

    def seconds(self, chunk: int, devices: int) -> float:
        """Seconds of the study: one and two chunks are timed, the others taken to be like them."""
        execution = dataclasses.replace(self.execution, chunk_size=chunk, mesh=None)
        rows = math.ceil(len(self.live) / devices)
        if not len(self.live):
            return seconds(self._unchanged())
        few, more = min(rows, chunk), min(rows, 2 * chunk)
        first = seconds(self.drops(self.live[:few], execution))
        if few == more:
            return first
        each = seconds(self.drops(self.live[:more], execution)) - first
        return first + max(0.0, each) * (rows - few) / (more - few)

    def _unchanged(self) -> Callable[[], Any]:
        @jax.jit
        def kernel(params, x, target):
            return ablation.baseline(self.split, params, x, target, _alone(self.execution))[-1]

        return lambda: kernel(self.params, self.x, self.target)

    def precision_error(self) -> PrecisionError | None:
        """The error of falls of the score, for a sample spread evenly over the ablations.

        None where there are none that change anything.
        """
        if not len(self.live):
            return None
        places = np.linspace(0, len(self.live) - 1, min(_SAMPLE, len(self.live)))
        indices = self.live[places.round().astype(int)]
        exact, rounded = (
            np.asarray(self.drops(indices, execution)())
            for execution in (_exact(self.execution), _alone(self.execution))
        )
        return compared(exact, rounded)


def _alone(execution: Execution) -> Execution:
    return dataclasses.replace(execution, mesh=None)


def _exact(execution: Execution) -> Execution:
    return dataclasses.replace(execution, mesh=None, precision="float32")


def gradient_seconds(
    split: Split, params: Any, x: Any, target: Any, execution: Execution, count: int
) -> float:
    """Seconds of so many gradients, from one: the part before the tap runs once for all."""
    alone = _alone(execution)

    @jax.jit
    def encode(params, x):
        return split.encode(params, x)

    @jax.jit
    def gradient(params, x, target):
        activation, carry = split.encode(params, x)
        return gradients.value_and_gradient(split, activation, carry, target, alone)

    once = seconds(lambda: encode(params, x))
    return once + count * max(0.0, seconds(lambda: gradient(params, x, target)) - once)


def map_error(method: Callable, execution: Execution) -> PrecisionError:
    """The error of the map of `method(execution=...)`."""
    exact, rounded = (
        np.asarray(method(execution=each).map) for each in (_exact(execution), execution)
    )
    return compared(exact.ravel(), rounded.ravel())


def compared(exact: np.ndarray, rounded: np.ndarray) -> PrecisionError:
    """The error of values against exact ones."""
    if not exact.size:
        return PrecisionError(0.0, math.nan, 0)
    scale = np.abs(exact).max()
    largest = np.abs(rounded - exact).max() / (scale or 1.0)
    ordered = min(np.ptp(exact), np.ptp(rounded)) > 0
    ranks = [scipy.stats.rankdata(values) for values in (exact, rounded)]
    rank = np.corrcoef(*ranks)[0, 1] if ordered else math.nan
    return PrecisionError(float(largest), float(rank), exact.size)


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call, the faster of two after a first that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return min(taken)
