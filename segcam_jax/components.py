"""Connected components of a region, and the window that holds it, found on the host."""

import operator
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import scipy
from jax.core import Tracer
from jaxtyping import ArrayLike, Bool, Int

from segcam_jax.types import TargetError

Which = Literal["largest", "smallest"] | int


def component_mask(
    mask: Bool[ArrayLike, "*space"],
    which: Which = "largest",
    *,
    at: Sequence[int] | None = None,
    connectivity: int | None = None,
) -> Bool[np.ndarray, "*space"]:
    """One connected component of a region. Runs on the host, on concrete values.

    Args:
        mask: the region.
        which: `"largest"`, `"smallest"`, or k for the k-th largest from 0. Components of one size
            are ordered by their first position.
        at: instead of `which`, the component at this position.
        connectivity: how many axes neighbours may differ in, 1 (4 neighbours in 2D, 6 in 3D) up to
            the number of dimensions (8 and 26), which is the default; 2 in 3D is 18 neighbours.

    Raises:
        TargetError: if the region is empty, or there is no such component.
    """
    if isinstance(mask, Tracer):
        raise TargetError(
            "connected components are found on the host; make the target outside of jit and "
            "vmap, and pass it in (`stack` makes a batch)"
        )
    mask = np.asarray(mask, bool)
    connectivity = mask.ndim if connectivity is None else connectivity
    if not 1 <= connectivity <= mask.ndim:
        raise TargetError(f"connectivity={connectivity}; expected 1 to {mask.ndim}")

    structure = scipy.ndimage.generate_binary_structure(mask.ndim, connectivity)
    labels, count = cast(tuple[np.ndarray, int], scipy.ndimage.label(mask, structure))
    if count == 0:
        raise TargetError("the region is empty; it has no connected component")
    if at is not None:
        check_position(at, mask.shape)
        label = labels[tuple(at)]
        if label == 0:
            raise TargetError(f"position {tuple(at)} is not in the region; it has no component")
        return labels == label
    sizes = np.bincount(labels.ravel())[1:]
    ordered = np.argsort(-sizes, kind="stable")
    rank: Any = {"largest": 0, "smallest": count - 1}.get(cast(str, which), which)
    if not isinstance(rank, int) or not 0 <= rank < count:
        raise TargetError(
            f"component {which!r}; the region has {count}: choose 'largest', 'smallest', or an "
            f"index from 0 to {count - 1}"
        )
    return labels == ordered[rank] + 1


def check_position(position: Sequence[int], shape: Sequence[int]) -> None:
    """Raises `TargetError` if a position has fractions, or lies outside of positions of a shape."""
    try:
        position = [*map(operator.index, position)]
    except TypeError:
        raise TargetError(
            f"position {tuple(position)}; give whole numbers, one for each axis of {tuple(shape)}: "
            "row before column"
        ) from None
    inside = len(position) == len(shape) and all(
        0 <= index < extent for index, extent in zip(position, shape, strict=True)
    )
    if not inside:
        raise TargetError(f"position {tuple(position)} lies outside of the image {tuple(shape)}")


def check_region(mask: ArrayLike, class_index: Any) -> None:
    """Checks a region whose values are known: booleans, 0 and 1, or weights."""
    mask = np.asarray(mask)
    if not np.isfinite(mask.astype(float)).all():
        raise TargetError(f"the region for class {class_index} holds NaN or infinite weights")
    if not mask.any():
        raise TargetError(
            f"the region for class {class_index} is empty, out of {mask.size} positions; "
            "choose another region or class"
        )
    if np.issubdtype(mask.dtype, np.integer) and not np.isin(mask, (0, 1)).all():
        raise TargetError(
            f"the region for class {class_index} holds whole numbers from {mask.min()} to "
            f"{mask.max()}; give `mask > 0` or `labels == k`, or weights in floating point"
        )


def check_labels(labels: ArrayLike) -> np.ndarray:
    """A label map, checked to be of whole numbers: 0 outside, k in instance k."""
    labels = np.asarray(labels)
    if not np.equal(np.round(labels), labels).all():
        raise TargetError(
            "the label map holds fractions; expected 0 outside and k in instance k (threshold a "
            "map of probabilities and find its components first)"
        )
    return labels


def region_window(
    mask: Bool[np.ndarray, "*space"], extent: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], Int[np.ndarray, "rank"]]:
    """A window that holds a region: its extents, and the corner where it starts.

    Args:
        extent: the window's extents; None: the least that hold the region, of a few sizes only.
    """
    low, sizes = [], []
    for axis, length in enumerate(mask.shape):
        along = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        first, last = (along[0], along[-1]) if along.size else (0, 0)
        size = _size_class(int(last - first) + 1, length) if extent is None else extent[axis]
        low.append(min(int(first), length - size))
        sizes.append(size)
    return (*sizes,), np.array(low, np.int32)


def _size_class(size: int, most: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: at most half as large again."""
    power = 1
    while power < size:
        if power + power // 2 >= size and power > 1:
            return min(power + power // 2, most)
        power *= 2
    return min(power, most)
