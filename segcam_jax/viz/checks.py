"""What a figure may be given: one check per kind of input, each error one line."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.types import InputError, counted

Shape = tuple[int, ...]
AnyArray = np.ndarray | jax.Array  # what figures take; they compute with numpy
ClassNames = Sequence[str] | Mapping[int, str]

# Bicubic resizing overshoots a little; a picture in 0..255 is beyond any doubt.
OVERSHOOT = 1e-2


def _numbers(value, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufV":  # V: bfloat16 and its kin
        raise InputError(f"{name} has dtype {array.dtype}; give an array of real numbers")
    array = array.astype(np.float64)
    if array.size == 0:
        raise InputError(f"{name} is empty, with shape {array.shape}")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InputError(
            f"{name} is NaN or infinite in {counted(count, 'value')}; all must be finite"
        )
    return array


def _unit_range(array: np.ndarray, name: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        hint = "; divide by 255" if low >= 0 and 2 < high <= 255 else ""
        raise InputError(f"{name} has values in [{low:.4g}, {high:.4g}], expected [0, 1]{hint}")
    return np.clip(array, 0, 1)


def as_image(image, name: str = "image") -> Float[np.ndarray, "h w 3"]:
    """Checks an image of shape (h, w), (h, w, 1) or (h, w, 3) in [0, 1]; returns it as RGB."""
    array = _numbers(image, name)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise InputError(
            f"{name} has shape {np.shape(image)}, expected (h, w), (h, w, 1) or (h, w, 3)"
        )
    return np.broadcast_to(_unit_range(array, name), (*array.shape[:2], 3))


def as_volume(volume, name: str = "volume") -> Float[np.ndarray, "d h w"]:
    """Checks a volume of shape (d, h, w) or (d, h, w, 1) in [0, 1]; returns it as (d, h, w)."""
    array = _numbers(volume, name)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        hint = "; pick one channel" if array.ndim == 4 else ""
        raise InputError(
            f"{name} has shape {np.shape(volume)}, expected (d, h, w) or (d, h, w, 1){hint}"
        )
    return _unit_range(array, name)


def as_map(
    values, name: str = "heatmap", *, shape: Shape | None = None, rank: int = 2
) -> Float[np.ndarray, "*space"]:
    """Checks a map of finite numbers, of the given rank and, if told, the image's shape."""
    array = _numbers(values, name)
    if array.ndim != rank:
        hint = "; draw a volume with slices(...)" if (array.ndim, rank) == (3, 2) else ""
        expected = "(h, w)" if rank == 2 else "(d, h, w)"
        raise InputError(f"{name} has shape {array.shape}, expected {expected}{hint}")
    if shape is not None and array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, the image {shape}; resize it first")
    return array


def as_region(region, shape: Shape, name: str = "region") -> Bool[np.ndarray, "*space"]:
    """Checks a mask of the image's shape that is boolean, or holds only 0 and 1."""
    array = np.asarray(region)
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, the image {shape}")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise InputError(f"{name} has values other than 0 and 1; give a boolean mask")
    return array.astype(bool)


def as_labels(labels, shape: Shape, name: str) -> Int[np.ndarray, "h w"]:
    """Checks a map of class indices of the image's shape."""
    array = np.asarray(labels)
    if array.shape != shape:
        hint = "; take the argmax over classes" if array.ndim == len(shape) + 1 else ""
        raise InputError(f"{name} has shape {array.shape}, the image {shape}{hint}")
    if array.dtype.kind not in "biu":
        raise InputError(f"{name} has dtype {array.dtype}; give class indices, integers")
    return array.astype(np.int64)


def as_point(point, shape: Shape, name: str = "pixel") -> tuple[int, ...]:
    """Checks a position, in array order, inside an image or volume."""
    axes = "(row, column)" if len(shape) == 2 else "(d, h, w)"
    array = np.asarray(point)
    if array.shape != (len(shape),) or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {point!r}, expected {axes} as integers")
    if not all(0 <= at < size for at, size in zip(array, shape, strict=True)):
        raise InputError(f"{name} {tuple(array.tolist())} is outside the image of shape {shape}")
    return tuple(array.tolist())


def class_name(index: int, names: ClassNames | None) -> str:
    """The name of a class; "class 7" where none was given."""
    if isinstance(names, Mapping):
        return str(names.get(index, f"class {index}"))
    if names is not None and 0 <= index < len(names):
        return str(names[index])
    return f"class {index}"


def check_class(index: int | None, names: ClassNames | None) -> None:
    """Checks that the explained class is one of the named ones."""
    if index is None:
        return
    if index < 0:
        raise InputError(f"class_index is {index}, expected 0 or more")
    if names is not None and not isinstance(names, Mapping) and index >= len(names):
        raise InputError(f"class_index is {index}, class_names holds {counted(len(names), 'name')}")


def check_share(value: float, name: str) -> float:
    """Checks a number in [0, 1], such as an opacity."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}, expected a number in [0, 1]")
    return float(value)
