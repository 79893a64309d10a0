"""How methods compare by metrics: means with intervals, curves, cards, and how metrics agree."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

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
_DOTTED = (":", (0, (1, 3)))
_ROW, _HEAD, _WIDTH = 0.22, 0.95, 3.6  # inches
_PLAIN = {"parse_math": False}
_RANKED = (
    "The best is on top. A colour is a layer. Hollow and grey: controls, maps that no method made; "
    "dotted: their values."
)
_DRAWN = (
    "A colour is a method, a style of line a layer; grey: controls, maps that no method made.\n"
)
_SPREAD = "Lines are means of {} curves, bands their standard errors."
_AGREED = (
    "Kendall's tau of the orders of methods by two metrics: 1 if both order them alike, 0 if the "
    "orders are\nunrelated, -1 if they are opposite. Controls do not count."
)
_CARDS = (
    "Place among methods and controls (darker is better), the share of images where no other "
    "method is better,\nand the image with the worst value. Red: a control is better than the "
    "method, so the metric says nothing for it."
)
_SHARES = (
    "Rows: evidence for a class, by which method at which layer. Columns: the class that is "
    "predicted where it lies.\nMeans over images. A random map tells how much of an image each "
    "class covers."
)
_FALLS = (
    "Rows: a class. Columns: the class whose predicted segment is removed from the image.\nThe "
    "share of its probability that the class of the row loses then, a mean over images; negative: "
    "it gains."
)
_BETTER = {True: "higher is better", False: "lower is better", None: ""}
_CELL = (1.5, 0.5)  # inches
_NAMES, _LEGEND = 2.1, 1.8  # inches


@dataclasses.dataclass(frozen=True)
class Interval:
    """The mean of a metric for a method at a tap.

    Attributes:
        tap: empty for a control, a map that no method made.
        low: the lower end of its interval; None if there is none, as of a single image.
        images: how many the mean is over.
    """

    metric: str
    method: str
    tap: str
    mean: float
    low: float | None
    high: float | None
    images: int


@dataclasses.dataclass(frozen=True)
class Curve:
    """The curve of a method at a tap by a metric.

    Attributes:
        method: what it is called.
        tap: likewise; empty for a control.
        line: fractions, the mean score at each, and the standard error, NaN where there is none.
        count: how many curves it is the mean of.
    """

    method: str
    tap: str
    line: Float[np.ndarray, "3 s"]
    count: int


def ranking(
    intervals: Sequence[Interval], better: Mapping[str, bool | None], *, title: str = ""
) -> Figure:
    """Draws a panel for each metric: methods below each other as given, the best first.

    A colour is a tap. Controls are hollow and grey, each with a line through the panel: what lies
    on its worse side says less than such a map does.

    Args:
        better: by metric, whether higher values are better; None for neither.
    """
    if not intervals:
        raise InputError("no interval was given; there is nothing to rank")
    by_metric: dict[str, list[Interval]] = {}
    for each in intervals:
        by_metric.setdefault(each.metric, []).append(each)
    tallest = max(map(len, by_metric.values()))
    figure, panels = _panels(len(by_metric), _HEAD + _ROW * tallest, title, _RANKED)
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
        axes.set_title(f"{metric}\n{_BETTER[better[metric]]}", fontsize=8.5, loc="left", **_PLAIN)
        of = f"mean of {rows[0].images}, with its 95 % interval"
        axes.set_xlabel(of if rows[0].images > 1 else "a single value", fontsize=7)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_axisbelow(True)
    return figure


def curves(
    lines: Mapping[str, Sequence[Curve]],
    better: Mapping[str, bool | None],
    ends: Mapping[str, tuple[str, str]],
    *,
    title: str = "",
) -> Figure:
    """Draws a panel for each metric: the mean score of each method, with its standard error.

    A colour is a method and a style of line a tap.

    Args:
        lines: of each metric.
        better: by metric, whether higher values are better.
        ends: by metric, what its axes show: across, and upwards.
    """
    if not lines:
        raise InputError("no curve was given; there is nothing to draw")
    every = [each for of_metric in lines.values() for each in of_metric]
    least, most = (end(each.count for each in every) for end in (min, max))
    counts = f"{most}" if least == most else f"{least} to {most}"
    caption = _DRAWN + (_SPREAD.format(counts) if most > 1 else "Nothing is averaged.")
    figure, panels = _panels(len(lines), 2.9, title, caption)
    beside = len(panels) < _COLUMNS
    if beside:
        figure.set_figwidth(figure.get_figwidth() + _LEGEND)
    methods = dict.fromkeys(each.method for each in every if each.tap)
    taps = dict.fromkeys(each.tap for each in every if each.tap)
    controls = dict.fromkeys(each.method for each in every if not each.tap)
    colours = dict(zip(methods, itertools.cycle(_COLOURS)))
    styles = dict(zip(taps, itertools.cycle(_STYLES)))
    dotted = dict(zip(controls, itertools.cycle(_DOTTED)))
    handles = {}
    for axes, (metric, of_metric) in zip(panels, lines.items(), strict=True):
        for each in of_metric:
            colour = colours[each.method] if each.tap else _CONTROL
            style = styles[each.tap] if each.tap else dotted[each.method]
            fractions, mean, error = each.line
            (drawn,) = axes.plot(fractions, mean, linestyle=style, color=colour, linewidth=1.2)
            handles[f"{each.method}, {each.tap}" if each.tap else each.method] = drawn
            if np.isfinite(error).all():
                axes.fill_between(
                    fractions, mean - error, mean + error, color=colour, alpha=0.12, linewidth=0
                )
        axes.set_title(f"{metric}\n{_BETTER[better[metric]]}", fontsize=8.5, loc="left", **_PLAIN)
        axes.set_xlabel(ends[metric][0], fontsize=7)
        axes.set_ylabel(ends[metric][1], fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(color="#e4e4e4", linewidth=0.7)
    legend = figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right upper" if beside else "outside lower left",
        ncols=1 if beside else 4,
        fontsize=7,
        frameon=False,
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def agreement(pairs: Sequence[tuple[str, str, float]], *, title: str = "") -> Figure:
    """Draws whether metrics order methods alike: Kendall's tau of each pair, in a square.

    Args:
        pairs: two metrics, and the tau.
        title: a line above all.

    Raises:
        InputError: if there are none.
    """
    if not pairs:
        raise InputError("no pair of metrics was given; there is nothing to compare")
    names = list(dict.fromkeys(name for first, second, _ in pairs for name in (first, second)))
    values = np.full((len(names), len(names)), np.nan)
    for first, second, tau in pairs:
        one, other = names.index(first), names.index(second)
        values[one, other] = values[other, one] = tau
    figure, axes = _table(len(names), len(names), (0.75, 0.42), title, _AGREED)
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for (row, column), tau in np.ndenumerate(values):
        colour = "white" if abs(tau) > 0.7 else "black"
        words = f"{tau:.2f}" if np.isfinite(tau) else "-"
        axes.text(column, row, words, ha="center", va="center", fontsize=8, color=colour)
    _named(axes, names, names, rotation=35)
    return figure


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a metric says of a method at a tap.

    Attributes:
        words: lines.
        place: from 0, the best, to 1, the last; NaN if there is none.
        fails: whether a control is better.
    """

    words: str
    place: float
    fails: bool = False


def cards(
    cells: Mapping[str, Mapping[str, Cell]], columns: Sequence[str], *, title: str = ""
) -> Figure:
    """Draws a row for each method, its card: what each metric says of it.

    Args:
        cells: by method and metric.
        columns: the metrics.
        title: a line above all.
    """
    figure, axes = _table(len(cells), len(columns), _CELL, title, _CARDS)
    places = np.array([[row[name].place for name in columns] for row in cells.values()])
    axes.imshow(1 - places, cmap="Blues", vmin=0, vmax=2.2, aspect="auto")
    for number, row in enumerate(cells.values()):
        for column, name in enumerate(columns):
            colour = "#b00000" if row[name].fails else "black"
            words = axes.text(column, number, row[name].words, fontsize=6.5, color=colour)
            words.set(ha="center", va="center", **_PLAIN)
    _named(axes, list(cells), columns)
    return figure


def segments(
    panels: Mapping[str, Float[np.ndarray, "rows columns"]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    falls: bool = False,
    title: str = "",
) -> Figure:
    """Draws what the predicted segments of images have to do with each class: numbers on colours.

    Args:
        panels: values by what they are called, panels from left to right; NaN where there is none.
        rows: names of what is explained.
        columns: names of the classes of the segments.
        falls: what the values are: of a class without a segment, else shares of its evidence.
        title: a line above all.
    """
    cell = (0.5 * len(panels), 0.24)
    caption = _FALLS if falls else _SHARES
    figure, every = _table(len(rows), len(columns), cell, title, caption, len(panels))
    colours = {"cmap": "RdBu_r", "vmin": -1} if falls else {"cmap": "Blues", "vmin": 0}
    for axes, (name, values) in zip(np.ravel(every), panels.items(), strict=True):
        axes.imshow(values, vmax=1, aspect="auto", **colours)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 0.7 else "black"
            words = f"{value:z.2f}" if np.isfinite(value) else "-"
            axes.text(column, row, words, ha="center", va="center", fontsize=6.5, color=colour)
        first = axes is np.ravel(every)[0]
        _named(axes, rows if first else [""] * len(rows), columns, rotation=35)
        axes.set_title(name, fontsize=8.5, loc="left", **_PLAIN)
    return figure


def _table(
    rows: int, columns: int, cell: tuple[float, float], title: str, caption: str, panels: int = 1
):
    """A figure of cells, with room for names and a caption: its axes, or those of each panel."""
    size = (max(_NAMES + cell[0] * columns, 6.6), 1.5 + cell[1] * rows)
    figure = Figure(size, layout="constrained")
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", **_PLAIN)
    figure.supxlabel(caption, fontsize=7.5, x=0.01, ha="left", color=_CONTROL, **_PLAIN)
    return figure, figure.subplots(1, panels)


def _named(axes: Axes, rows: Sequence[str], columns: Sequence[str], rotation: int = 0) -> None:
    axes.set_yticks(range(len(rows)), rows, fontsize=7.5, **_PLAIN)
    ends = {"rotation": rotation, "ha": "left" if rotation else "center"}
    axes.set_xticks(range(len(columns)), columns, fontsize=7.5, **ends, **_PLAIN)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _point(axes: Axes, place: int, row: Interval, colour: str) -> None:
    """A mean with its interval, and of a control a line through the panel."""
    ends = None
    if row.low is not None and row.high is not None:
        ends = [[max(0.0, row.mean - row.low)], [max(0.0, row.high - row.mean)]]
    inside = colour if row.tap else "white"
    axes.errorbar([row.mean], [place], xerr=ends, fmt="o", color=colour, mfc=inside, ms=4)
    if not row.tap:
        axes.axvline(row.mean, color=colour, linewidth=0.8, linestyle=":", zorder=0)


def _panels(count: int, height: float, title: str, caption: str):
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure((_WIDTH * columns, height * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", **_PLAIN)
    figure.supxlabel(caption, fontsize=7.5, x=0.01, ha="left", color=_CONTROL, **_PLAIN)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])
