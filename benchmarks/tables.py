"""Tables of what was measured, in Markdown."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import BY_HAND, ENGINE, LIBRARIES, PGC, WORKLOADS, Suite

RESULTS = Path(__file__).parent / "results"
_NONE = "-"
_NOTHING = "Not measured yet."
_ROUNDED = tuple(f"{ENGINE}, {precision}" for precision in ("tf32", "bfloat16"))


def load(suite: Suite) -> dict[str, Any]:
    """The results of a suite; empty if it was not run."""
    path = RESULTS / f"{suite}.json"
    return json.loads(path.read_text()) if path.exists() else {"workloads": {}, "curves": {}}


def overview(found: dict[str, Any]) -> str:
    """One line per workload: the times, how much faster, the bound, the errors."""
    heads = (
        " | study | the library's loop | best by hand | segcam_jax | times faster than the library"
        " | than by hand | bound | error of the library | by hand | of segcam_jax"
    )
    lines: list[Sequence[str]] = []
    for key, record in _measured(found):
        if key == "P8":
            lines.append(_scaling_line(key, record))
            continue
        if key == "P12":
            lines += _many_lines(key, record)
            continue
        library, by_hand = _fastest(record, LIBRARIES), _fastest(record, BY_HAND)
        for name in (record["engine"], *_ROUNDED):
            engine = row_of(record, name)
            if engine is None:
                continue
            rounded = name.removeprefix(f"{ENGINE}, ") if name in _ROUNDED else None
            title = record["title"] + (f" ({rounded})" if rounded else "")
            cells = [key, title, _named(library), _named(by_hand), _time(engine)]
            cells += [_times(library, engine), _times(by_hand, engine)]
            cells.append(_bound(record, found, engine))
            lines.append([*cells, *(_error(each, record) for each in (library, by_hand, engine))])
    return markdown(heads, lines) if lines else _NOTHING


def first_page(found: dict[str, Any]) -> str:
    """The few columns of `overview` that a first page has room for, of what was timed.

    Errors are shown once every study of the table has them.
    """
    cells, errors = [], []
    for key, record in _measured(found):
        engine = row_of(record, record["engine"]) if "engine" in record else None
        if engine is None:
            continue
        library, by_hand = _fastest(record, (PGC,)), _fastest(record, BY_HAND)
        cells.append([f"{key}: {record['title']}"])
        cells[-1] += [_times(library, engine), _times(by_hand, engine)]
        errors.append([_error(by_hand, record), _error(engine, record)])
    heads = "study | times faster than pytorch-grad-cam | than the best by hand"
    if errors and not any(_NONE in pair for pair in errors):
        heads += " | error by hand | of segcam_jax"
        cells = [each + pair for each, pair in zip(cells, errors, strict=True)]
    return markdown(heads, cells)


def _measured(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in WORKLOADS:
        if key in found["workloads"]:
            yield key, found["workloads"][key]


def _fastest(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Of the rows of these names, the fastest that was measured."""
    found = [row for name in names if (row := row_of(record, name)) is not None]
    return min(found, key=lambda row: row["total_seconds"], default=None)


def _times(other: dict[str, Any] | None, engine: dict[str, Any]) -> str:
    """How many times faster the engine is."""
    if other is None:
        return _NONE
    return f"{_figure(other['total_seconds'] / engine['total_seconds'])}x"


def _named(row: dict[str, Any] | None) -> str:
    return _NONE if row is None else f"{row['name']}: {_time(row)}"


def _bound(record: dict[str, Any], found: dict[str, Any], row: dict[str, Any]) -> str:
    """Its operations at the best rate of any convolution, and which share of that it reaches.

    Ablations of what is zero already are not run, and not counted.
    """
    rounded = row["name"].rpartition(", ")[2]
    kind = f"jax {rounded}" if row["name"] in _ROUNDED else "jax"
    measured = record.get("rates") or found["workloads"].get("P2", {}).get("rates", {})
    rates = measured.get(kind)
    if rates is None or not row["flops_each"]:
        return _NONE
    seconds = row["flops_each"] * row.get("live", row["total"]) / rates["best"]
    return f"{_figure(seconds)} s ({seconds / row['total_seconds']:.0%})"


def _scaling_line(key: str, record: dict[str, Any]) -> Sequence[str]:
    if not record["rows"]:
        return key, record["title"], record["reason"], *[_NONE] * 8
    last = record["rows"][-1]
    share = f"{last['share'] * last['devices']:.3f} / {last['devices']} of the work"
    worst = max(row["difference"] for row in record["rows"])
    apart = f"{worst:.0e} from one device"
    return key, record["title"], *[_NONE] * 2, share, *[_NONE] * 5, apart


def rows(found: dict[str, Any]) -> str:
    """Every row of every workload."""
    parts = []
    for key, record in found["workloads"].items():
        parts.append(f"**{key}: {record['title']}** ({_about(record)})")
        if key == "P8":
            parts.append(_scaling_rows(record))
            continue
        if key == "P12":
            parts.append(_many_rows(record))
            continue
        parts.append(_workload_rows(record))
        if "rates" in record:
            parts.append(_shares(record))
    return "\n\n".join(parts) or _NOTHING


def _workload_rows(record: dict[str, Any]) -> str:
    heads = "row | all, s | spread | measured | GFLOP each | GFLOP/s | compile, s | peak MB | error"
    return markdown(heads, (_row_cells(row, record) for row in record["rows"]))


def _row_cells(row: dict[str, Any], record: dict[str, Any]) -> tuple[str, ...]:
    if row["status"] in ("unavailable", "failed"):
        return row["name"], row["reason"], *[""] * 7
    if row["status"] == "same program":
        return row["name"], f"the same program as “{row['same_as']}”", *[""] * 7
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
        _error(row, record),
    )


def _many_lines(key: str, record: dict[str, Any]) -> Iterator[Sequence[str]]:
    for row in record["rows"]:
        faster = f"{_figure(row['singles_seconds'] / row['together_seconds'])}x single studies"
        cells = [_NONE, faster, f"~{_figure(row['together_seconds'])} s", *[_NONE] * 5]
        yield key, f"{record['title']}: {row['name']}", *cells, f"{row['difference']:.0e}"


def _many_rows(record: dict[str, Any]) -> str:
    lines = []
    for row in record["rows"]:
        times = [row["singles_seconds"], row["together_seconds"]]
        cells = [f"~{_figure(each)} ({row['count']} of {row['total']} channels)" for each in times]
        faster, apart = _figure(times[0] / times[1]), f"{row['difference']:.0e}"
        lines.append((row["name"], *cells, f"{faster}x", apart))
    heads = "targets | single studies, s | together, s | times faster | maps differ"
    told = markdown(heads, lines)
    if "click_seconds" in record:
        clicks = (f"{name} {1e3 * each:.3g} ms" for name, each in record["click_seconds"].items())
        size = f"{record['atlas_bytes'] / 2**20:.0f} MiB, float16, blocks of 2x2"
        told += f"\n\nA click on an atlas of all channels ({size}): {', '.join(clicks)}."
    return told


def _scaling_rows(record: dict[str, Any]) -> str:
    if not record["rows"]:
        return record["reason"]
    lines = []
    for row in record["rows"]:
        work, share = _figure(row["flops_per_device"] / 1e9), f"{row['share']:.4f}"
        lines.append((str(row["devices"]), work, share, f"{row['difference']:.0e}"))
    return markdown("devices | GFLOP per device | share of one device's | maps differ", lines)


def _shares(record: dict[str, Any]) -> str:
    rates, parts = record["rates"], []
    kinds = ("jax", "jax tf32", "jax bfloat16")
    for name, kind in zip((record["engine"], *_ROUNDED), kinds, strict=True):
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


def _error(row: dict[str, Any] | None, record: dict[str, Any]) -> str:
    """Against float64, relative to the largest result that the engine found in the study."""
    if row is None or "error" not in row:
        return _NONE
    engine = row_of(record, record["engine"]) or {}
    return f"{row['error'] / max(1.0, engine.get('largest', 1.0)):.0e}"


def _figure(value: float) -> str:
    """Three digits."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(heads: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; its heads stand between bars."""
    columns = heads.split(" | ")
    lines = [columns, *rows]
    drawn = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([drawn[0].replace("|  |", "| |"), "|" + "---|" * len(columns), *drawn[1:]])
