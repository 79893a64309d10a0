"""How time grows with the number of channels, and with the target's region."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import segcam_jax as segcam
from benchmarks import measure, timing
from benchmarks.jax_rows import EngineRow
from benchmarks.studies import CLASS, Study, study
from benchmarks.workloads import ENGINE, WORKLOADS, Size
from segcam_jax.engine import Execution

_CHANNELS = {"full": (64, 256, 512, 1024), "tiny": (2, 4)}
_SIDES = {"full": (1, 8, 16, 32, 64, 128, 256), "tiny": (1, 4)}
_TURNS = 3


def points(key: str, size: Size, pace: measure.Pace, seconds: float) -> Iterator[dict[str, Any]]:
    """The points of a curve, one after the other.

    Args:
        key: `"channels"` or `"windows"`.
        size: of P1's network.
        pace: rates so far.
        seconds: for all points.
    """
    base = study(WORKLOADS["P1"], size)
    row = EngineRow(name=ENGINE, execution=Execution())
    if key == "channels":
        for count in _CHANNELS[size]:
            yield {"channels": count, **_timed(row, base, count)}
        return
    space = base.network.image[:-1]
    sides = [side for side in _SIDES[size] if side <= min(space)]
    for side in sides:
        regional = _with_region(base, side)
        flops = row.flops_each(regional)
        count = pace.count(row, flops, regional, 0.15 * seconds / len(sides))
        yield {"side": side, **_timed(row, regional, min(count, base.total // 4))}


def _with_region(base: Study, side: int) -> Study:
    mask = np.zeros(base.network.image[:-1], bool)
    mask[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in mask.shape)] = True
    return dataclasses.replace(base, target=segcam.targets.region(CLASS, mask), regions=mask[None])


def _timed(row: EngineRow, regional: Study, count: int) -> dict[str, Any]:
    flops = row.flops_each(regional)
    ready = row.ready(regional, count)
    run: Callable[[], np.ndarray] = ready.run
    run()
    seconds = [timing.seconds(run) for _ in range(_TURNS)]
    return {"count": count, "seconds": seconds, "flops_each": flops, **ready.facts}
