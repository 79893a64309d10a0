"""How methods compare by metrics: means with their intervals, and curves."""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcam_jax.types import InputError

_COLUMNS = 3
# Distinct in hue and in lightness.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_CONTROL = "#7a7a7a"
_STYLES = ("-", "--", "-.")
_ROW, _HEAD, _WIDTH = 0.22, 0.95, 3.6  # inches
_PLAIN = {"parse_math": False}
_RANKED = (
    "A colour is a layer. Hollow and grey: controls, maps that no method made; "
    "dotted: their values."
)


@dataclasses.dataclass(frozen=True)
class Interval:
    """The mean of a metric for a method at a tap.

    Attributes:
        metric: what it is called.
        method: likewise.
        tap: likewise; empty for a control, a map that no method made.
        mean: over images.
        low: the lower end of its interval.
        high: the upper end.
    """

    metric: str
    method: str
    tap: str
    mean: float
    low: float
    high: float


def ranking(
    intervals: Sequence[Interval], better: Mapping[str, bool | None], *, title: str = ""
) -> Figure:
    """Draws a panel for each metric: methods below each other as given, the best first.

    A colour is a tap. Controls are hollow and grey, each with a line through the panel: what lies
    on its worse side says less than such a map does.

    Args:
        intervals: of all metrics.
        better: by metric, whether higher values are better; None for neither.
        title: a line above all.

    Raises:
        InputError: if there are none.
    """
    if not intervals:
        raise InputError("no interval was given; there is nothing to rank")
    by_metric: dict[str, list[Interval]] = {}
    for each in intervals:
        by_metric.setdefault(each.metric, []).append(each)
    tallest = max(map(len, by_metric.values()))
    figure, panels = _panels(len(by_metric), _HEAD + _ROW * tallest, title, _RANKED)
    words = {True: "higher is better", False: "lower is better", None: ""}
    taps = dict.fromkeys(each.tap for each in intervals if each.tap)
    colours = dict(zip(taps, itertools.cycle(_COLOURS[1:] + _COLOURS[:1])))
    for axes, (metric, rows) in zip(panels, by_metric.items(), strict=True):
        for place, row in enumerate(rows):
            _point(axes, place, row, colours.get(row.tap, _CONTROL))
        names = [f"{row.method}, {row.tap}" if row.tap else row.method for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7, **_PLAIN)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color("black" if row.tap else _CONTROL)
        axes.set(ylim=(tallest - 0.5, -0.5))
        axes.set_title(f"{metric}\n{words[better[metric]]}", fontsize=8.5, loc="left", **_PLAIN)
        axes.set_xlabel("mean over images, 95 % interval", fontsize=7)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_axisbelow(True)
    return figure


def curves(
    lines: Mapping[str, Mapping[str, Float[np.ndarray, "3 s"]]],
    *,
    controls: Collection[str] = (),
    title: str = "",
) -> Figure:
    """Draws a panel for each metric: the mean score of each method, with its standard error.

    Args:
        lines: by metric and method: fractions, mean and standard error, NaN where there is none.
        controls: methods that are none, drawn in grey.
        title: a line above all.

    Raises:
        InputError: if there are none.
    """
    if not lines:
        raise InputError("no curve was given; there is nothing to draw")
    figure, panels = _panels(len(lines), 2.8, title)
    every = dict.fromkeys(method for each in lines.values() for method in each)
    methods = [method for method in every if method not in controls]
    looks: dict[str, tuple[str, str]] = dict.fromkeys(every, (_CONTROL, ":"))
    for number, method in enumerate(methods):
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        looks[method] = _COLOURS[number % len(_COLOURS)], style
    for axes, (metric, by_method) in zip(panels, lines.items(), strict=True):
        for method, (fractions, mean, error) in by_method.items():
            colour, style = looks[method]
            axes.plot(fractions, mean, style, color=colour, linewidth=1.2, label=method)
            if np.isfinite(error).all():
                axes.fill_between(
                    fractions, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0
                )
        axes.set_title(metric, fontsize=8.5, loc="left", **_PLAIN)
        axes.set_xlabel("share of positions", fontsize=7)
        axes.set_ylabel("score", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(color="#e4e4e4", linewidth=0.7)
    handles = {}
    for axes in panels:
        drawn = zip(*axes.get_legend_handles_labels(), strict=True)
        handles |= {label: handle for handle, label in drawn}
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower left", ncols=3, fontsize=7
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _point(axes: Axes, place: int, row: Interval, colour: str) -> None:
    """A mean with its interval, and of a control a line through the panel."""
    ends = [[max(0.0, row.mean - row.low)], [max(0.0, row.high - row.mean)]]
    inside = colour if row.tap else "white"
    axes.errorbar([row.mean], [place], xerr=ends, fmt="o", color=colour, mfc=inside, ms=4)
    if not row.tap:
        axes.axvline(row.mean, color=colour, linewidth=0.8, linestyle=":", zorder=0)


def _panels(count: int, height: float, title: str, caption: str = ""):
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure((_WIDTH * columns, height * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", **_PLAIN)
    figure.supxlabel(caption, fontsize=7.5, x=0.01, ha="left", color=_CONTROL, **_PLAIN)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])
