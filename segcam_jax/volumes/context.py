"""The context study: how much of an instance's surroundings does the network need to find it?

The input outside of the instance is set to 0, then outside of the instance dilated once, twice, up
to n times. Against the distance that is left: the mean probability inside the instance, and whether
it is still detected, that is whether any of its voxels exceeds the threshold.

One compiled program evaluates all dilations, in chunks. Of the sliding windows only those that the
instance lies in are run; they are blended as in the segmentation, so that with all of the input
left the very probabilities of the segmentation result.

References:
    Spagnolo et al., Instance-level explanations in multiple sclerosis lesion segmentation, 2024.
    Deviation: their table says that dilation i of 34 reaches linspace(1, 35, 34)[i - 1] mm, which
    is i mm plus up to 1; here distances are what the voxels say.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int

from segcam_jax.data.instances import dilation_reach
from segcam_jax.engine import Execution, compiled_function, memory
from segcam_jax.engine.sliding import Windows, tiling, window_function
from segcam_jax.outputs import Meaning
from segcam_jax.targets import region
from segcam_jax.types import InputError, wide
from segcam_jax.volumes.segmentation import class_probability

SAME_SPACING = 1e-3  # as a share: headers store float32, and round


@dataclasses.dataclass(frozen=True, eq=False)
class ContextCurve:
    """One instance's detection against the context that is left.

    Attributes:
        dilations: 1 to n.
        distance: of each in mm: dilations times the smallest extent of a voxel, which is how far
            context reaches along that axis. For the source's voxels of 1 mm, dilation i is i mm.
        reach: the largest Euclidean distance in mm of a voxel that is kept from the instance:
            dilations are not spheres, and reach further along diagonals and longer voxels.
        scores: mean probability inside the instance.
        detected: whether any voxel of it is above the threshold.
        full_score: the score with all of the input.
        full_detected: likewise.
    """

    dilations: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    reach: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n"]
    detected: Bool[np.ndarray, "n"]
    full_score: float
    full_detected: bool


def context_curve(
    fn: Callable,
    params: Any,
    x: Float[np.ndarray, "*space c"],
    mask: Bool[np.ndarray, "*space"],
    *,
    class_index: int,
    steps: int = 34,
    connectivity: int | None = None,
    threshold: float = 0.5,
    spacing: Sequence[float] | None = None,
    roi: int | Sequence[int] = 96,
    overlap: float = 0.25,
    windows: Windows = "monai",
    meaning: Meaning = Meaning(),
    execution: Execution = Execution(),
) -> ContextCurve:
    """Masks the input around an instance, dilation by dilation.

    Args:
        fn: `fn(params, window) -> output`.
        params: its parameters.
        x: what the network is given, normalised: 0 is no information.
        mask: the instance.
        class_index: the class.
        steps: dilations, n.
        connectivity: of a dilation: 6, 18, 26 in 3D, 4, 8 in 2D; None takes the most.
        threshold: of the detection, as in the segmentation.
        spacing: size of a voxel in mm along each axis; None: 1 mm.
        roi: extents of the network's window.
        overlap: of neighbouring windows.
        windows: whose grid and weights, as in the segmentation.
        meaning: what the output means.
        execution: how the engine runs it; `chunk_size` and `memory_limit` say how many dilations
            run at once, which does not change the result.

    Raises:
        InputError: if the mask is empty or `steps` is below 1.
        TargetError: if there is no such class.
    """
    mask = np.asarray(mask, bool)
    if steps < 1:
        raise InputError(f"steps={steps}; at least one dilation is needed")
    reach = dilation_reach(mask, steps, connectivity=connectivity)
    sizes = np.ones(mask.ndim) if spacing is None else np.asarray(spacing, float)
    tiles = tiling(mask.shape, roi, overlap=overlap, windows=windows)
    padded = np.pad(mask, tiles.padding)
    target = region(class_index, padded)
    assert target.extent is not None
    corner = np.asarray(target.corner, np.int32)
    inside = tuple(slice(c, c + e) for c, e in zip(corner, target.extent, strict=True))
    around = _Surroundings(
        np.pad(np.asarray(x, np.float32), (*tiles.padding, (0, 0))),
        np.pad(reach, tiles.padding, constant_values=steps + 1),
        padded[inside],
        corner,
    )
    scores, highest = _curve(
        params,
        around,
        _Windows(*tiles.touching(padded), tiles.weights()),
        jnp.int32(class_index),
        fn=fn,
        steps=steps,
        meaning=meaning,
        execution=execution,
    )
    scores, detected = np.asarray(scores, np.float64), np.asarray(highest) > np.float32(threshold)
    dilations = np.arange(1, steps + 1)
    return ContextCurve(
        dilations,
        dilations * float(sizes.min()),
        _farthest(mask, reach, sizes, steps),
        scores[:-1],
        detected[:-1],
        float(scores[-1]),
        bool(detected[-1]),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Surroundings:
    """An instance in its volume, which is padded to whole windows.

    Attributes:
        reach: how many dilations it takes to reach each voxel.
        mask: the instance, in its own box.
        corner: where that begins.
    """

    volume: Float[Array | np.ndarray, "*space c"]
    reach: Int[Array | np.ndarray, "*space"]
    mask: Bool[Array | np.ndarray, "*box"]
    corner: Int[Array | np.ndarray, "rank"]

    def masked(self, start: Array, roi: tuple[int, ...], dilation: Array) -> Array:
        """The input in a window, 0 where so many dilations do not reach."""
        shape = (*roi, self.volume.shape[-1])
        cut = jax.lax.dynamic_slice(self.volume, [*start, jnp.zeros_like(start[0])], shape)
        near = jax.lax.dynamic_slice(self.reach, start, roi) <= dilation
        return jnp.where(near[..., None], cut, 0)

    def inside(self, values: Array, start: Array) -> Array:
        """What of a window's values lies in the instance's box; 0 where nothing does."""
        extent = self.mask.shape
        rest = values.ndim - len(extent)
        beyond = jnp.pad(values, [*((size, size) for size in extent), *[(0, 0)] * rest])
        at = [*(self.corner - start + jnp.asarray(extent, self.corner.dtype))]
        at += [jnp.zeros((), self.corner.dtype)] * rest
        return jax.lax.dynamic_slice(beyond, at, (*extent, *values.shape[len(extent) :]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Windows:
    """The windows that an instance lies in, their number filled up to a power of two.

    Attributes:
        starts: of each.
        own: whether it is no filling.
        weights: of a window's voxels where windows overlap.
    """

    starts: Int[Array | np.ndarray, "n rank"]
    own: Bool[Array | np.ndarray, "n"]
    weights: Float[Array | np.ndarray, "*roi"]


def _farthest(
    mask: np.ndarray, reach: np.ndarray, sizes: np.ndarray, steps: int
) -> Float[np.ndarray, "n"]:
    """The largest Euclidean distance from the instance of a voxel that each dilation keeps."""
    (place,) = scipy.ndimage.find_objects(mask.astype(np.int8))
    around = tuple(slice(max(0, along.start - steps), along.stop + steps) for along in place)
    distance = np.asarray(scipy.ndimage.distance_transform_edt(~mask[around], sampling=sizes))
    found = scipy.ndimage.maximum(distance, reach[around], np.arange(1, steps + 1))
    # A dilation that meets the volume's end adds nothing; those before it reach as far.
    return np.maximum.accumulate(np.nan_to_num(np.asarray(found, float)))


@compiled_function
def _curve(
    params: Any,
    around: _Surroundings,
    windows: _Windows,
    class_index: Array,
    *,
    fn: Callable,
    steps: int,
    meaning: Meaning,
    execution: Execution,
) -> tuple[Array, Array]:
    """Mean and highest probability of each dilation, and last those with all of the input."""
    roi, mask = windows.weights.shape, jnp.asarray(around.mask)
    window = jax.ShapeDtypeStruct((*roi, around.volume.shape[-1]), around.volume.dtype)
    forward, bytes_each, classes = window_function(fn, params, window, execution)
    count = steps + 1
    chunk = memory.chunk(execution, count, bytes_each)

    def output(dilation: Array) -> Array:
        def add(total: tuple[Array, Array], found: tuple[Array, Array]):
            start, is_own = found
            values = wide(forward(params, around.masked(start, roi, dilation)))
            weight = jnp.where(is_own, windows.weights, 0)
            return (
                total[0] + around.inside(values * weight[..., None], start),
                total[1] + around.inside(weight, start),
            ), None

        every = jnp.asarray(windows.starts), jnp.asarray(windows.own)
        zeros = (jnp.zeros((*mask.shape, classes)), jnp.zeros(mask.shape))
        (total, mass), _ = jax.lax.scan(add, zeros, every)
        return total / jnp.where(mass > 0, mass, 1)[..., None]

    def score(dilation: Array) -> tuple[Array, Array]:
        probability = class_probability(output(dilation), class_index, meaning=meaning)
        inside = jnp.where(mask, probability, 0)
        return inside.sum() / mask.sum(dtype=probability.dtype), inside.max()

    filled = -(-count // chunk) * chunk
    dilations = jnp.minimum(jnp.arange(1, filled + 1, dtype=around.reach.dtype), count)
    found = jax.lax.map(jax.vmap(score), dilations.reshape(-1, chunk))
    mean, highest = (each.reshape(-1)[:count] for each in found)
    return mean, highest


def context_table(curves: Sequence[ContextCurve]) -> list[dict[str, float]]:
    """A row per dilation: what all instances have in common.

    Columns as in the source's table, `distance_mm, average_score, std_dev, n_predictions`, then
    `dilations`, `reach_mm` (`ContextCurve.reach`, mean over instances) and `score_1`, `score_2`,
    ... of each instance. `std_dev` is over instances, with their number as divisor; `n_predictions`
    counts the instances that are detected.

    Raises:
        InputError: if the curves have different dilations or voxel sizes.
    """
    if not curves:
        return []
    first = curves[0]
    if any(
        each.distance.shape != first.distance.shape
        or not np.allclose(each.distance, first.distance, rtol=SAME_SPACING)
        for each in curves
    ):
        raise InputError(
            "the instances have voxels of different sizes, so no common distances; study scans of "
            "one voxel size at a time"
        )
    scores = np.stack([each.scores for each in curves])
    detected = np.stack([each.detected for each in curves])
    reach = np.stack([each.reach for each in curves])
    return [
        {
            "distance_mm": float(first.distance[row]),
            "average_score": float(scores[:, row].mean()),
            "std_dev": float(scores[:, row].std()),
            "n_predictions": int(detected[:, row].sum()),
            "dilations": int(first.dilations[row]),
            "reach_mm": float(reach[:, row].mean()),
            **{f"score_{k}": float(s) for k, s in enumerate(scores[:, row], 1)},
        }
        for row in range(len(first.dilations))
    ]
