"""What a map says of its instance in numbers: peaks, where they lie, the mean inside."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage


def measure(
    values: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"], spacing: Sequence[float]
) -> dict[str, float]:
    """The largest and the smallest value of a map, their distances, and the mean inside.

    Args:
        values: a map.
        mask: the instance in it.
        spacing: size of a voxel in mm along each axis.

    Returns:
        `peak_positive`, the largest value, 0 if none is positive; `peak_negative`, the smallest, 0
        if none is negative; the Euclidean distance of each in mm from the instance's nearest voxel,
        0 inside of it, NaN where there is no such peak; `mean_inside`.
    """
    distance = np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))
    told: dict[str, float] = {}
    for name, signed in (("peak_positive", values), ("peak_negative", -values)):
        at = np.unravel_index(np.argmax(signed), values.shape)
        there = bool(signed[at] > 0)
        told[name] = float(values[at]) if there else 0.0
        told[f"{name}_distance_mm"] = float(distance[at]) if there else float("nan")
    told["mean_inside"] = float(values[mask].mean())
    return told
