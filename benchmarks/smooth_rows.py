"""Rows in JAX of SmoothGrad of one instance: a loop of whole gradients, and the engine.

Rows are compared by the gradients of a few voxels without noise: what a run computes depends on how
many gradients it computes, and on a generator of noise that PyTorch does not have.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import segcam_jax as segcam
from benchmarks import cost
from benchmarks.jax_rows import EngineRow, compiled
from benchmarks.rows import Ready, Row
from benchmarks.studies import CHECKED_VOXELS, CLASS, NOISE, Study
from benchmarks.workloads import JAX_GRADIENTS
from segcam_jax.engine import Execution


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientsRow(Row):
    """A compiled gradient of the whole network, called once per voxel or noise sample."""

    name: str = JAX_GRADIENTS
    group: str = "jax"

    def flops_each(self, study: Study) -> float:
        """Operations of a forward and a backward pass."""
        return cost.flops(_gradient(study), *_arguments(study, 0))

    def ready(self, study: Study, count: int) -> Ready:
        """Compiles one gradient."""
        call, facts = compiled(_gradient(study), *_arguments(study, 0))

        def gradient(index: int, deviation: float) -> np.ndarray:
            return np.asarray(call(*_arguments(study, index, deviation)))

        def aggregated(found: list[np.ndarray]) -> np.ndarray:
            if study.workload.what == "samples":
                return np.mean(found, axis=0)[None]
            largest, smallest = np.max(found, axis=0), np.min(found, axis=0)
            return np.where(largest >= -smallest, largest, smallest)[None]

        # Of a brute force, the time is what counts: samples differ in nothing else.
        voxels = 1 if study.workload.what == "samples" else CHECKED_VOXELS
        return Ready(
            lambda: aggregated([gradient(index, NOISE) for index in range(count)]),
            count,
            facts,
            check=lambda: aggregated([gradient(index, 0.0) for index in range(voxels)]),
        )


def _gradient(study: Study) -> Callable:
    averages = study.workload.what == "samples"

    def gradient(params, x, region, voxel, deviation, key):
        noise = jax.random.normal(key, x.shape)
        x = x + deviation * (x[..., 0].max() - x[..., 0].min()) * noise

        def score(x):
            logits = study.fn(params, x)[..., CLASS]
            return (logits * region).sum() / region.sum() if averages else logits[tuple(voxel)]

        return jax.grad(score)(x)

    return gradient


def _arguments(study: Study, index: int, deviation: float = NOISE) -> tuple:
    assert study.regions is not None
    region = study.regions[0]
    voxels = np.argwhere(region).astype(np.int32)
    place, sample = index % len(voxels), index // len(voxels)
    if study.workload.what == "samples":
        place, sample = 0, index
    key = jax.random.fold_in(jax.random.key(0), sample)
    weights = region.astype(np.float32)
    return study.params, study.x, weights, voxels[place], np.float32(deviation), key


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothGradRow(EngineRow):
    """`segcam_jax.methods.instance_smooth_grad`, compiled, by the engine's settings."""

    step: int = 1
    least: int | None = None

    @property
    def whole(self) -> bool:
        """What people get is measured in full: rows before it have rates far below its own."""
        return self.execution == Execution()

    def flops_each(self, study: Study) -> float:
        """Operations that one more gradient costs."""

        def total(chunk: int) -> float:
            execution = dataclasses.replace(self.execution, chunk_size=chunk)
            row = dataclasses.replace(self, execution=execution)
            return cost.flops(*row._program(study, study.total))

        return max(0.0, total(2) - total(1))

    def ready(self, study: Study, count: int) -> Ready:
        """Compiles the study of the first voxels in all samples, or of the first samples."""
        if study.workload.what == "voxels":
            # As many in every noise sample.
            count = max(1, count // study.samples) * study.samples
        function, *arguments = self._program(study, count)
        call, facts = compiled(function, *arguments)

        def check() -> np.ndarray:
            voxels = None if study.workload.what == "samples" else CHECKED_VOXELS
            function, *arguments = self._smoothed(study, voxels, samples=1, sigma=0.0)
            return np.asarray(jax.jit(function)(*arguments))

        return Ready(lambda: np.asarray(call(*arguments)), count, facts, check=check)

    def _program(self, study: Study, count: int, *, at_once: int | None = None) -> tuple:
        if study.workload.what == "samples":
            return self._smoothed(study, None, samples=count, sigma=NOISE)
        voxels = count // study.samples
        return self._smoothed(study, voxels, samples=study.samples, sigma=NOISE)

    def _smoothed(self, study: Study, voxels: int | None, *, samples: int, sigma: float) -> tuple:
        aggregation = "mean" if study.workload.what == "samples" else "max"
        key = jax.random.key(0)

        def smoothed(params: Any, x: Any, target: Any) -> Any:
            found = segcam.methods.instance_smooth_grad(
                study.split,
                params,
                x,
                target,
                key=key,
                samples=samples,
                sigma=sigma,
                aggregation=aggregation,
                execution=self.execution,
            )
            assert found.attribution is not None
            return found.attribution[None]

        return smoothed, study.params, study.x, _first_voxels(study, voxels)


def _first_voxels(study: Study, count: int | None) -> segcam.Target:
    """The target over the first voxels of the instance; None takes all."""
    assert study.regions is not None
    region = np.zeros_like(study.regions[0])
    region[tuple(np.argwhere(study.regions[0])[:count].T)] = True
    return segcam.targets.region(CLASS, region)
