"""Importance vectors: a weight for each channel of a layer, as files.

importance.csv    channel,weight      a row for each channel, from 0
importance.npy    c numbers
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segcam_jax import _files
from segcam_jax.types import InputError

_COLUMNS = ("channel", "weight")


def importance_csv(weights: Sequence[float] | np.ndarray) -> bytes:
    """A vector as a table; every digit of float32 is kept."""
    return _files.as_csv(_COLUMNS, enumerate(f"{value:.9g}" for value in weights))


def read_importance(path: str | Path) -> tuple[float, ...]:
    """The weights in a file: a table as `importance_csv` writes it, or a `.npy` array of one axis.

    Raises:
        InputError: if it cannot be read, a channel is missing or stands twice, or a weight is no
            finite number.
    """
    name, data = str(path), _files.read_bytes(path)
    if Path(path).suffix.lower() == ".npy":
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as error:  # Headers are Python's literals, which fail in many ways.
            said = " ".join(str(error).split())
            raise InputError(f"{name!r} is not a readable .npy array: {said}") from None
        if array.ndim != 1 or array.dtype.kind not in "iuf":
            raise InputError(
                f"{name!r} has shape {array.shape}; expected a number for each channel"
            )
        found = array.astype(float).tolist()
    else:
        found = _of_table(data, name)
    broken = [channel for channel, weight in enumerate(found) if not math.isfinite(weight)]
    if broken or not found:
        said = f"channel {broken[0]} has no finite weight" if broken else "it is empty"
        raise InputError(f"{name!r} is not an importance vector: {said}")
    return tuple(found)


def _of_table(data: bytes, name: str) -> list[float]:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        weights = {int(row["channel"]): float(row["weight"]) for row in rows}
    except (ValueError, TypeError, KeyError, csv.Error):
        raise InputError(
            f"{name!r} is not an importance vector; expected a table with the columns channel and "
            "weight, a number in each, or a .npy array"
        ) from None
    if sorted(weights) != list(range(len(rows))):
        raise InputError(
            f"{name!r} has {len(rows)} rows; expected one for each channel, 0 to {len(rows) - 1}"
        )
    return [weights[channel] for channel in range(len(rows))]
