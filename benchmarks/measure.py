"""Measures the rows of one study: each is warmed up and checked, then all are timed in turns."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from benchmarks import timing
from benchmarks.rows import Ready, Row
from benchmarks.studies import Study

# Results that are repeated in float64, by the axes of space: XLA takes seconds for one in 3D.
SAMPLE = {2: 8, 3: 4}
MOST_TURNS = 5
LEAST_TURNS = 1
# Of a row's seconds, what one turn may take: compilation and warm-up are paid as well.
_TURN_SHARE = 0.2
# From here on all results are computed: a projection would save too little.
_NEARLY_ALL = 0.6


@dataclasses.dataclass
class Pace:
    """Operations per second, learned from rows that ran, by group of rows.

    Attributes:
        rates: group -> operations per second.
        unknown: what a group is taken to do before one of its rows ran.
    """

    rates: dict[str, float]
    unknown: float = 5e10

    def count(self, row: Row, flops_each: float, study: Study, seconds: float) -> int:
        """How many results a row computes in about so many seconds, in its own batches."""
        if flops_each <= 0 or row.whole:
            return study.total
        rate = self.rates.get(row.group) or self.rates.get("jax") or self.unknown
        fitting = int(seconds * rate / flops_each)
        if fitting >= _NEARLY_ALL * study.total and row.most is None:
            return study.total
        if fitting >= row.step or row.least is None:
            fitting = max(row.step, fitting // row.step * row.step)
        fitting = max(fitting, row.least or 1)
        return fitting if row.most is None else min(fitting, row.most)


@dataclasses.dataclass
class Reference:
    """The first results of a study by brute force in float64, that all rows are compared with."""

    values: np.ndarray

    def errors(self, values: np.ndarray) -> dict[str, Any]:
        """The largest error over the results that both have, and what it is relative to.

        Returns:
            `error`, relative to the largest of the results compared; `largest` of all results that
            the row computed, in units of that one, so that `error / largest` is relative to the
            largest of the study; and how many were `compared`.
        """
        count = min(len(values), len(self.values))
        ours, exact = np.asarray(values, float), self.values[:count]
        unit = float(np.abs(exact).max()) or 1.0
        error = float(np.abs(ours[:count] - exact).max())
        largest = float(np.abs(ours).max())
        return {"error": error / unit, "largest": largest / unit, "compared": count}


def reference(study: Study, brute_force: Row) -> Reference:
    """Repeats the first results of a study in float64, by a row that saves nothing.

    Args:
        brute_force: runs all that follows the tap for each result.
    """
    with study.in_float64() as exact:
        ready = brute_force.ready(exact, min(SAMPLE[exact.x.ndim - 1], exact.total))
        return Reference(np.asarray((ready.check or ready.run)(), np.float64))


@dataclasses.dataclass
class Timed:
    """A row at work."""

    row: Row
    ready: Ready
    record: dict[str, Any]
    turns: int
    seconds: list[float]


def prepare(
    row: Row, study: Study, pace: Pace, reference: Reference, *, budget: float, full: bool
) -> Timed:
    """Compiles a row, warms it up, checks it and decides how often it is timed.

    Args:
        pace: rates so far; the row's own is added.
        reference: in float64.
        budget: seconds that the row may take in all.
        full: compute all results, whatever it takes.

    Returns:
        The row; the results of its warm-up, or of its check, are compared.
    """
    flops_each = row.flops_each(study)
    start = time.perf_counter()
    turn = _TURN_SHARE * budget
    count = study.total if full else pace.count(row, flops_each, study, turn)
    ready = row.ready(study, min(count, study.total))
    values: list[np.ndarray] = []
    if ready.memory is not None:
        ready.memory.start()
    warm_up = timing.seconds(lambda: values.append(ready.run()))
    left = budget - (time.perf_counter() - start)
    record = {
        "name": row.name,
        "group": row.group,
        "status": "measured",
        "count": ready.count,
        "total": study.total,
        "projected": ready.count < study.total,
        "warm_up_seconds": warm_up,
        "flops_each": flops_each,
        "exact": row.exact,
        **ready.facts,
    }
    if ready.memory is not None and (peak := ready.memory.peak()) is not None:
        record.update(peak_bytes=peak, peak_from=ready.memory.source)
    if ready.check is not None:
        values = [ready.check()]
    if ready.fixed is not None and record["projected"]:
        ready.fixed()
        record["fixed_seconds"] = timing.seconds(ready.fixed)
    record.update(reference.errors(values[0]))
    turns = int(np.clip(left / max(warm_up, 1e-9), LEAST_TURNS, MOST_TURNS))
    if flops_each > 0:
        pace.rates.setdefault(row.group, ready.count * flops_each / warm_up)
    return Timed(row, ready, record, turns, [])


def in_turns(rows: Sequence[Timed]) -> Iterator[Timed]:
    """Times the rows one after the other, then again, until each has had its turns.

    Yields:
        Each row after each of its turns, its record brought up to date.
    """
    for turn in range(max((timed.turns for timed in rows), default=0)):
        for timed in rows:
            if turn >= timed.turns:
                continue
            timed.seconds.append(timing.seconds(timed.ready.run))
            timed.record.update(summary(timed.record, timed.seconds))
            yield timed


def summary(record: dict[str, Any], seconds: list[float]) -> dict[str, Any]:
    """Medians and spread of a row, projected to all results where it computed some of them.

        total = fixed + (seconds - fixed) * total / count

    Where a row's fixed part is not known, it is taken to be 0: the projection is then too high.
    """
    fixed = record.get("fixed_seconds", 0.0)
    scale = record["total"] / record["count"]
    totals = [fixed + max(0.0, value - fixed) * scale for value in seconds]
    found = {
        "seconds": seconds,
        "total_seconds": timing.median(totals),
        "total_spread": [min(totals), max(totals)],
        "turns": len(seconds),
    }
    if record["flops_each"]:
        rate = record["count"] * record["flops_each"] / timing.median(seconds)
        found["flops_per_second"] = rate
    return found


def unavailable(
    row_name: str, group: str, reason: str, status: Literal["unavailable", "failed"] = "unavailable"
) -> dict[str, Any]:
    """The record of a row that cannot run here, or that raised."""
    return {"name": row_name, "group": group, "status": status, "reason": reason}


def same_program(row_name: str, group: str, other: str) -> dict[str, Any]:
    """The record of a row whose program is that of an earlier row."""
    return {"name": row_name, "group": group, "status": "same program", "same_as": other}
