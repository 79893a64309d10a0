"""Runs workloads within a budget of seconds, and keeps what is finished whatever happens."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import curves, many, measure, rates, results, scaling, timing
from benchmarks.jax_rows import LoopRow, brute_force, engine_rows
from benchmarks.peers import rows as peers
from benchmarks.rows import Row, Unavailable
from benchmarks.smooth_rows import GradientsRow, SmoothGradRow
from benchmarks.studies import Study, study
from benchmarks.workloads import BY_HAND, CURVES, SMOOTHED, WORKLOADS, Size, Suite, Workload
from segcam_jax.types import InputError

_CURVE_SHARE = 1.5
_IDLE = 0.5
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
        seconds: the budget of the whole run.
        full: no projection: every row computes all of its results.
        again: also what is finished already.
        threads: of PyTorch; None leaves it to PyTorch.
    """

    suite: Suite
    size: Size
    seconds: float
    full: bool
    again: bool
    threads: int | None
    path: Path


def run(options: Options, keys: Sequence[str]) -> dict[str, Any]:
    """Runs workloads and curves; finished ones of the same code are kept.

    Args:
        keys: of `WORKLOADS` and `CURVES`, in order.
    """
    _check_device(options.suite)
    made_from = {"code": results.code(), "size": options.size, "full": options.full}
    made_from.update(commit=results.commit(), environment=timing.environment())
    found = results.load(options.path)
    found["suite"] = options.suite
    todo = []
    with _saying() as say:
        load = made_from["environment"]["load"] or 0
        if load > _IDLE:
            say(f"the machine is busy (load {load}): times will say little, PyTorch's least")
        for key in keys:
            kept = found["workloads"].get(key) or found["curves"].get(key)
            if not options.again and results.is_finished(kept, made_from):
                say(f"{key}: finished already, by the same code; --again measures it anew")
            else:
                todo.append(key)
        shares = {key: WORKLOADS[key].share if key in WORKLOADS else _CURVE_SHARE for key in todo}
        left = Budget(options.seconds, shares)
        problems: list[Exception] = []
        for key in todo:
            place = found["workloads" if key in WORKLOADS else "curves"]
            start = time.perf_counter()
            try:
                for record in _record(key, options, left.seconds(key), say):
                    place[key] = {**made_from, **record, "seconds": time.perf_counter() - start}
                    results.save(options.path, found)
            except Exception as problem:
                # One workload must not cost the others their time.
                say(f"{key}: failed: {problem}")
                problems.append(problem)
        if problems:
            raise problems[0]
    return found


class Budget:
    """Seconds dealt to what is still to do, by shares: what one leaves, the others get."""

    def __init__(self, seconds: float, shares: dict[str, float]):
        self._end = time.perf_counter() + seconds
        self._shares = dict(shares)

    def seconds(self, key: str) -> float:
        """What `key` may take, which is dealt out by then."""
        left = max(0.0, self._end - time.perf_counter())
        total = sum(self._shares.values())
        return left * self._shares.pop(key) / total

    def set_aside(self, seconds: float) -> None:
        """What is spent later on is dealt out no more."""
        self._end -= seconds


def _record(key: str, options: Options, seconds: float, say: Say) -> Iterator[dict[str, Any]]:
    """The record of a workload or curve, again and again as it grows."""
    if key in CURVES:
        say(f"{key}: {CURVES[key]}")
        points = []
        for point in curves.points(key, options.size, measure.Pace({}), seconds):
            points.append(point)
            yield {"title": CURVES[key], "complete": False, "points": points}
        yield {"title": CURVES[key], "complete": True, "points": points}
        return
    workload = WORKLOADS[key]
    say(f"{key}: {workload.title}")
    about = {"title": workload.title}
    if key == "P8":
        try:
            yield {**about, "complete": True, **scaling.run(options.size)}
        except RuntimeError as problem:
            say(f"P8: {problem}")
            yield {**about, "complete": False, "rows": [], "reason": str(problem)}
        return
    if key == "P12":
        for record in many.run(options.size):
            yield {**about, "complete": "click_seconds" in record, **record}
        return
    for record in _workload(workload, options, seconds, say):
        yield {**about, **record}


def _workload(
    workload: Workload, options: Options, seconds: float, say: Say
) -> Iterator[dict[str, Any]]:
    base = study(workload, options.size)
    record: dict[str, Any] = {"complete": False, "total": base.total, "rows": []}
    say(f"{workload.key}: convolution rates")
    record["rates"] = rates.convolution_rates(options.size, options.threads)
    pace = measure.Pace({})
    lines = _lines(base, options.threads, pace)
    record["engine"] = _defaults(lines)
    records = {line["name"]: line for line in lines if isinstance(line, dict)}
    names = [line["name"] if isinstance(line, dict) else line.name for line in lines]
    rows = [line for line in lines if not isinstance(line, dict)]
    end = time.perf_counter() + seconds
    say(f"{workload.key}: brute force in float64")
    smooths = workload.what in SMOOTHED
    reference = measure.reference(base, GradientsRow() if smooths else brute_force())
    at_work: list[measure.Timed] = []
    left = Budget(end - time.perf_counter(), {row.name: row.weight for row in rows})
    in_3d = base.x.ndim == 4
    for row in sorted(rows, key=lambda row: _rank(row, record["engine"], in_3d)):
        budget = left.seconds(row.name)
        if budget == 0:
            records[row.name] = measure.unavailable(row.name, row.group, "the budget ended before")
            continue
        say(f"{workload.key}: {row.name}: compiling, warming up")
        try:
            timed = measure.prepare(row, base, pace, reference, budget=budget, full=options.full)
        except Unavailable as reason:
            records[row.name] = measure.unavailable(row.name, row.group, str(reason))
            continue
        except Exception as problem:
            # One row must not cost the others their half hour; the table shows what happened.
            say(f"{workload.key}: {row.name}: failed: {problem}")
            reason = " ".join(f"{type(problem).__name__}: {problem}".split())
            records[row.name] = measure.unavailable(row.name, row.group, reason, "failed")
            continue
        at_work.append(timed)
        left.set_aside(timed.turns * timed.record["warm_up_seconds"])
        records[row.name] = timed.record
        # What a warm-up took is a first figure, in case that the run ends here.
        timed.record.update(measure.summary(timed.record, [timed.record["warm_up_seconds"]]))
        yield {**record, "rows": [records[name] for name in names if name in records]}
    for timed in measure.in_turns(at_work):
        took = timed.record["total_seconds"]
        say(f"{workload.key}: {timed.row.name}: turn {len(timed.seconds)}, {took:.3g} s in all")
        yield {**record, "rows": [records[name] for name in names]}
    yield {**record, "complete": True, "rows": [records[name] for name in names]}


def _rank(row: Row, engine: str, in_3d: bool) -> int:
    """What says most comes first: all that is written by hand, the engine as it is, the libraries.

    The naive map among the former tells the rate that the engine may reach. In 3D one decode of it
    may take the whole budget, and on an accelerator its compilation: the engine comes before it.
    """
    if row.name == engine:
        return 0 if in_3d or jax.default_backend() != "cpu" else 2
    return 1 if row.name in BY_HAND else 3 if row.group == "peer" else 4


def _lines(base: Study, threads: int | None, pace: measure.Pace) -> list[Row | dict[str, Any]]:
    """The lines of the table in order: rows to measure, and records of those that are not."""
    lines: list[Row | dict[str, Any]] = []
    try:
        layout = peers.layout(base, threads)
        pace.rates["peer"] = layout.rate
        for row in peers.peer_rows(base, layout):
            reason = peers.missing(row.name)
            missing = None if reason is None else measure.unavailable(row.name, "peer", reason)
            lines.append(missing or row)
    except Unavailable as reason:
        lines.append(measure.unavailable("PyTorch rows", "peer", str(reason)))
    smooths = base.workload.what in SMOOTHED
    # XLA's CPU backend takes seconds for a transposed convolution in 3D.
    most = 2 if base.x.ndim == 4 and jax.default_backend() == "cpu" else None
    lines.append(GradientsRow(most=most) if smooths else LoopRow(most=most))
    for row, other in engine_rows(base, SmoothGradRow) if smooths else engine_rows(base):
        lines.append(row if other is None else measure.same_program(row.name, row.group, other))
    return lines


def _defaults(lines: Sequence[Row | dict[str, Any]]) -> str:
    """The name of the row that ran the engine with its defaults."""
    exact = [line for line in lines if isinstance(line, dict) or line.exact]
    last = exact[-1]
    return last["same_as"] if isinstance(last, dict) else last.name


def _check_device(suite: Suite) -> None:
    said = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
    try:
        platform = jax.default_backend()
    except (RuntimeError, AssertionError):  # The second where no platform has a plugin.
        raise InputError(
            f"suite {suite!r}, but JAX finds no device for {said}; install its extra, or set "
            "another platform"
        ) from None
    if suite == "gpu" and platform == "cpu":
        raise InputError("suite 'gpu', but JAX finds no accelerator; install an extra for one")
    if suite == "gpu":
        try:
            jax.local_devices(backend="cpu")
        except RuntimeError:
            raise InputError(
                f"suite 'gpu' counts operations on the CPU, which {said} leaves out; set "
                "JAX_PLATFORMS=cuda,cpu"
            ) from None
        # Or the prefix, which engine rows run as the model is written, would be rounded.
        jax.config.update("jax_default_matmul_precision", "highest")
    if suite == "cpu" and platform != "cpu":
        raise InputError(f"suite 'cpu', but JAX runs on {platform}; set JAX_PLATFORMS=cpu")


@contextlib.contextmanager
def _saying() -> Iterator[Say]:
    """Shows what is being done: a moving line on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda line: bar.update(task, description=line)
