"""Tables of what was measured, in Markdown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, Suite

RESULTS = Path(__file__).parent / "results"
_NONE = "-"
_BFLOAT16 = "segcam_jax, bfloat16"


def load(suite: Suite) -> dict[str, Any]:
    """The results of a suite; empty if it was not run."""
    path = RESULTS / f"{suite}.json"
    return json.loads(path.read_text()) if path.exists() else {"workloads": {}, "curves": {}}


def overview(found: dict[str, Any], suite: Suite) -> str:
    """One line per workload: the baseline, the engine, how much faster, the goal."""
    lines = [
        "| | workload | baseline | | segcam_jax | times faster | goal | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, workload in WORKLOADS.items():
        record = found["workloads"].get(key)
        if record is None:
            cells = [_NONE] * 5
            cells[3] = _goal(workload.goals, suite)
            lines.append(_line(key, workload.title, workload.baseline, *cells))
        elif key == "P8":
            lines.append(_scaling_line(key, record))
        else:
            lines += [_line(*cells) for cells in _overview_cells(key, record, suite)]
    return "\n".join(lines)


def first_page(found: dict[str, Any]) -> str:
    """The few columns of `overview` that a first page has room for, of what was timed."""
    lines = ["| study | beside | times faster | difference |", "|---|---|---|---|"]
    for key, workload in WORKLOADS.items():
        record = found["workloads"].get(key, {})
        engine = row_of(record, record["engine"]) if "engine" in record else None
        faster = None if engine is None else speedup(record, record["engine"])
        if faster is not None and engine is not None:
            title = f"{key}: {workload.title}"
            cells = title, record["baseline"], f"{_figure(faster)}x", _difference(engine)
            lines.append(_line(*cells))
    return "\n".join(lines)


def _overview_cells(key: str, record: dict[str, Any], suite: Suite) -> Iterator[tuple]:
    baseline = row_of(record, record["baseline"])
    engines = [(record["engine"], suite)]
    if f"{suite} bf16" in record["goals"]:
        engines.append((_BFLOAT16, f"{suite} bf16"))
    for name, goal in engines:
        engine = row_of(record, name)
        faster = speedup(record, name)
        yield (
            key,
            record["title"] + (" (bfloat16)" if name == _BFLOAT16 else ""),
            record["baseline"],
            _time(baseline),
            _time(engine),
            _NONE if faster is None else f"{_figure(faster)}x",
            _goal(record["goals"], goal),
            _NONE if engine is None else _difference(engine),
        )


def _scaling_line(key: str, record: dict[str, Any]) -> str:
    if not record["rows"]:
        return _line(key, record["title"], "one device", record["reason"], *["-"] * 4)
    last = record["rows"][-1]
    worst = max(row["difference"] for row in record["rows"])
    share = f"{last['share'] * last['devices']:.3f} / {last['devices']} of the work"
    return _line(
        key, record["title"], "one device", _NONE, share, _NONE, "1.05 / 8", f"{worst:.0e}"
    )


def rows(found: dict[str, Any]) -> str:
    """Every row of every workload."""
    parts = []
    for key, record in found["workloads"].items():
        parts.append(f"**{key}: {record['title']}** ({_about(record)})")
        if key == "P8":
            parts.append(_scaling_rows(record))
            continue
        parts.append(_workload_rows(record))
        if "rates" in record:
            parts.append(_shares(record))
    return "\n\n".join(parts) or "Not measured yet."


def _workload_rows(record: dict[str, Any]) -> str:
    lines = [
        "| row | all, s | spread | measured | GFLOP each | GFLOP/s | compile, s | peak MB |"
        " difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        if row["status"] in ("unavailable", "failed"):
            lines.append(_line(row["name"], row["reason"], *[""] * 7))
        elif row["status"] == "same program":
            lines.append(_line(row["name"], f"the same program as “{row['same_as']}”", *[""] * 7))
        else:
            lines.append(_line(*_row_cells(row)))
    return "\n".join(lines)


def _row_cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["total_spread"]
    name = row["name"] + (f" ({row['setting']})" if "setting" in row else "")
    measured = f"{row['count']} of {row['total']}" + (", projected" if row["projected"] else "")
    compiled = row.get("compile_seconds")
    rate = row.get("flops_per_second")
    return (
        name,
        _time(row),
        f"{_figure(low)} to {_figure(high)}",
        measured,
        _figure(row["flops_each"] / 1e9),
        _NONE if rate is None else _figure(rate / 1e9),
        _NONE if compiled is None else _figure(compiled),
        _figure(row["peak_bytes"] / 1e6) if "peak_bytes" in row else _NONE,
        _difference(row),
    )


def _scaling_rows(record: dict[str, Any]) -> str:
    lines = ["| devices | GFLOP per device | share of one device's | maps differ |"]
    lines.append("|---|---|---|---|")
    if not record["rows"]:
        return record["reason"]
    for row in record["rows"]:
        work, share = _figure(row["flops_per_device"] / 1e9), f"{row['share']:.4f}"
        lines.append(_line(str(row["devices"]), work, share, f"{row['difference']:.0e}"))
    return "\n".join(lines)


def _shares(record: dict[str, Any]) -> str:
    rates, parts = record["rates"], []
    for name, kind in ((record["engine"], "jax"), (_BFLOAT16, "jax bfloat16")):
        row = row_of(record, name)
        if row is None or kind not in rates or "flops_per_second" not in row:
            continue
        best, rate = rates[kind]["best"], row["flops_per_second"]
        said = f"{name}: {_figure(rate / 1e9)} GFLOP/s, {rate / best:.0%} of the best"
        parts.append(f"{said} convolution of XLA ({_figure(best / 1e9)})")
    if "torch" in rates:
        parts.append(f"best convolution of PyTorch: {_figure(rates['torch']['best'] / 1e9)}")
    return "; ".join(parts) + "."


def row_of(record: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A measured row by its name; the row that ran the same program, if it did not run itself."""
    rows = {row["name"]: row for row in record["rows"]}
    row = rows.get(name)
    if row is not None and row["status"] == "same program":
        row = rows.get(row["same_as"])
    return row if row is not None and "total_seconds" in row else None


def speedup(record: dict[str, Any], name: str) -> float | None:
    """How many times faster a row is than the baseline; None if either was not measured."""
    baseline, row = row_of(record, record["baseline"]), row_of(record, name)
    if baseline is None or row is None:
        return None
    return baseline["total_seconds"] / row["total_seconds"]


def _about(record: dict[str, Any]) -> str:
    where = record["environment"]
    versions = where["versions"]
    shown = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    machine = where["accelerator"] or where["processor"]
    state = "" if record["complete"] else "; not finished"
    return f"{machine}, {where['cores']} cores, {shown}, commit {record['commit']}{state}"


def _time(row: dict[str, Any] | None) -> str:
    if row is None:
        return _NONE
    total = _figure(row["total_seconds"])
    return f"~{total} s ({row['count']} of {row['total']})" if row["projected"] else f"{total} s"


def _difference(row: dict[str, Any]) -> str:
    return f"{row['difference']:.0e}" if "difference" in row else _NONE


def _goal(goals: dict[str, float] | Any, key: str) -> str:
    return f"{goals[key]:g}x" if key in goals else _NONE


def _figure(value: float) -> str:
    """Three digits."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
