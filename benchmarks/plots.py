"""Plots of what was measured: time against channels, windows, FLOPs; work against devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import row_of
from benchmarks.timing import median

_INCHES = (6.4, 4.2)


def write(found: dict[str, Any], folder: Path, suite: str) -> list[Path]:
    """Writes the plots for which there are results.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    written = []
    for name, draw in _PLOTS.items():
        figure = Figure(figsize=_INCHES, layout="constrained")
        if draw(figure.add_subplot(), found):
            path = folder / f"{suite}_{name}.png"
            figure.savefig(path, dpi=120, metadata={"Software": None})
            written.append(path)
    return written


def _channels(axes: Any, found: dict[str, Any]) -> bool:
    curve, record = found["curves"].get("channels"), found["workloads"].get("P1")
    if not curve:
        return False
    points = curve["points"]
    counts = [point["channels"] for point in points]
    times = [median(point["seconds"]) for point in points]
    axes.plot(counts, times, "o-", label="segcam_jax, measured")
    for row in (record or {"rows": []})["rows"]:
        if row["group"] != "engine" and "total_seconds" in row:
            each = row["total_seconds"] / row["total"]
            said = "projected" if row["projected"] else "measured in all"
            axes.plot(counts, [each * n for n in counts], "--", label=f"{row['name']}, {said}")
    axes.set(xlabel="ablated channels", ylabel="seconds", xscale="log", yscale="log")
    axes.set_title("P1: time against channels")
    axes.legend(fontsize=7)
    return True


def _windows(axes: Any, found: dict[str, Any]) -> bool:
    curve = found["curves"].get("windows")
    if not curve:
        return False
    points = curve["points"]
    sides = [point["side"] for point in points]
    each = [median(point["seconds"]) / point["count"] for point in points]
    axes.plot(sides, [1000 * time for time in each], "o-", label="time")
    axes.set(xlabel="side of the target's region, pixels", ylabel="milliseconds per ablation")
    axes.set(xscale="log", yscale="log", title="P1: time and FLOPs against the target's region")
    work = axes.twinx()
    work.plot(sides, [point["flops_each"] / 1e9 for point in points], "s--", color="tab:orange")
    work.set(ylabel="GFLOP per ablation (dashed)", yscale="log")
    return True


def _flops(axes: Any, found: dict[str, Any]) -> bool:
    drawn = False
    for key, record in found["workloads"].items():
        rows = [row for row in record["rows"] if row.get("flops_each") and "total_seconds" in row]
        work = [row["flops_each"] * row["total"] / 1e12 for row in rows]
        if rows:
            axes.scatter(work, [row["total_seconds"] for row in rows], s=16, label=key)
            drawn = True
    axes.set(xlabel="TFLOP of all ablations", ylabel="seconds", xscale="log", yscale="log")
    axes.set_title("Time against FLOPs, every row")
    if drawn:
        axes.legend(fontsize=7)
    return drawn


def _devices(axes: Any, found: dict[str, Any]) -> bool:
    record = found["workloads"].get("P8")
    if not record or not record["rows"]:
        return False
    counts = [row["devices"] for row in record["rows"]]
    axes.plot(counts, [row["share"] for row in record["rows"]], "o-", label="work per device")
    axes.plot(counts, [1 / count for count in counts], "k:", label="1 / devices")
    axes.set(xlabel="devices", ylabel="share of one device's FLOPs", xscale="log", yscale="log")
    axes.set_title("P8: strong scaling of the work")
    axes.legend()
    return True


def _rows_in_turn(axes: Any, found: dict[str, Any]) -> bool:
    record = found["workloads"].get("P1")
    rows = [row for row in (record or {"rows": []})["rows"] if row_of(record or {}, row["name"])]
    rows = [row for row in rows if "total_seconds" in row]
    if not rows:
        return False
    axes.barh([row["name"] for row in rows][::-1], [row["total_seconds"] for row in rows][::-1])
    axes.set(xlabel="seconds for all channels", xscale="log", title="P1, row by row")
    axes.tick_params(axis="y", labelsize=7)
    return True


_PLOTS: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "channels": _channels,
    "windows": _windows,
    "flops": _flops,
    "devices": _devices,
    "rows": _rows_in_turn,
}
