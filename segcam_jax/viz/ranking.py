"""How methods compare by metrics: means with their intervals, and curves."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from segcam_jax.types import InputError

_COLUMNS = 3
# Distinct in hue and in lightness.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", ":")
_ROW, _HEAD, _WIDTH = 0.22, 0.75, 3.6  # inches
_PLAIN = {"parse_math": False}


@dataclasses.dataclass(frozen=True)
class Interval:
    """The mean of a metric for a method.

    Attributes:
        metric: what it is called.
        method: likewise.
        mean: over images.
        low: the lower end of its interval.
        high: the upper end.
    """

    metric: str
    method: str
    mean: float
    low: float
    high: float


def ranking(
    intervals: Sequence[Interval], better: Mapping[str, bool | None], *, title: str = ""
) -> Figure:
    """Draws a panel for each metric: methods below each other as given, the best first.

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
    figure, panels = _panels(len(by_metric), _HEAD + _ROW * tallest, title)
    words = {True: "higher is better", False: "lower is better", None: ""}
    for axes, (metric, rows) in zip(panels, by_metric.items(), strict=True):
        places = np.arange(len(rows))
        means = np.array([each.mean for each in rows])
        ends = np.array([[e.mean - e.low, e.high - e.mean] for e in rows]).T
        axes.errorbar(means, places, xerr=np.maximum(ends, 0), fmt="o", color=_COLOURS[1], ms=4)
        axes.set_yticks(places, [each.method for each in rows], fontsize=7, **_PLAIN)
        axes.set(ylim=(tallest - 0.5, -0.5))
        axes.set_title(f"{metric}\n{words[better[metric]]}", fontsize=8.5, loc="left", **_PLAIN)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_axisbelow(True)
    return figure


def curves(
    lines: Mapping[str, Mapping[str, Float[np.ndarray, "3 s"]]], *, title: str = ""
) -> Figure:
    """Draws a panel for each metric: the mean score of each method, with its standard error.

    Args:
        lines: by metric and method: fractions, mean and standard error, NaN where there is none.
        title: a line above all.

    Raises:
        InputError: if there are none.
    """
    if not lines:
        raise InputError("no curve was given; there is nothing to draw")
    figure, panels = _panels(len(lines), 2.8, title)
    methods = list(dict.fromkeys(method for each in lines.values() for method in each))
    for axes, (metric, by_method) in zip(panels, lines.items(), strict=True):
        for method, (fractions, mean, error) in by_method.items():
            number = methods.index(method)
            colour = _COLOURS[number % len(_COLOURS)]
            style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
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


def _panels(count: int, height: float, title: str):
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure((_WIDTH * columns, height * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", **_PLAIN)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])
