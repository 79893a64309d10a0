"""Where saliency falls when a bias was planted: two networks side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    FAINT,
    INK,
    LARGE,
    LINE,
    MARGIN,
    NORMAL,
    PLAIN,
    POINTS,
    SMALL,
    Canvas,
    flow,
    font,
    heading,
    text_width,
    wrap,
)

PLACES = {"biased": "striped half", "unbiased": "other half", "digit": "digit"}
KEYS = ("method", "tap", "weights", *PLACES)
# Distinct in hue, in lightness and, with the shapes, without any colour.
WEIGHT_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
WEIGHT_SHAPES = "osD^vP"
# The first is larger, so that it shows behind the second where both are equal.
WEIGHT_SIZES = (6.6, 4.6)
FACET = 2.1
ROW = 0.235
BETWEEN = 0.12
LOW, HIGH = -0.03, 1.03  # ends of the axis: shares with room for half a dot
HEADING_HEIGHT = 0.12
TAP_HEIGHT = 0.3
SIGN = 0.3
UNIFORM = {"color": FAINT, "linewidth": 0.9, "linestyle": (0, (4, 2.5)), "marker": "", "zorder": 1}

Row = Mapping[str, Any] | Any
Shares = dict[tuple[str, str, str], tuple[float, ...]]


def _shares(rows: Sequence[Row]) -> Shares:
    """(method, tap, weights) -> shares on the places, checked; in the order given."""
    table: Shares = {}
    for number, row in enumerate(rows):
        fields = row if isinstance(row, Mapping) else None
        if fields is None and dataclasses.is_dataclass(row):
            fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        missing = [key for key in KEYS if fields is None or key not in fields]
        if fields is None or missing:
            raise InputError(f"row {number} has no {missing}; a row needs {list(KEYS)}")
        key = (str(fields["method"]), str(fields["tap"]), str(fields["weights"]))
        if key in table:
            raise InputError(f"row {number} repeats {key}; average the samples first")
        shares = tuple(float(fields[place]) for place in PLACES)
        for place, share in zip(PLACES, shares, strict=True):
            if not (np.isnan(share) or -1e-6 <= share <= 1 + 1e-6):
                raise InputError(
                    f"row {number} has {place} = {share:.4g}, expected a share in [0, 1]"
                )
        table[key] = shares
    if not table:
        raise InputError("rows is empty; give at least one")
    return table


def _frame(axes: Axes, count: int, uniform: float | None) -> None:
    """Scale, grid and the line that a map without preference would reach."""
    axes.set(xlim=(LOW, HIGH), ylim=(count - 0.5, -0.5))
    for x in (0, 0.25, 0.5, 0.75, 1):
        axes.axvline(x, color="#e6e6e6", linewidth=0.6, linestyle="-", zorder=0)
    for y in range(1, count, 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", zorder=-1, linewidth=0)
    if uniform is not None:
        axes.axvline(uniform, **UNIFORM)


def _dot(axes: Axes, x: float, y: float, number: int) -> None:
    """The mark of a weight set."""
    axes.plot(
        x,
        y,
        WEIGHT_SHAPES[number],
        color=WEIGHT_COLOURS[number],
        markersize=WEIGHT_SIZES[min(number, 1)],
        markeredgecolor="white",
        markeredgewidth=0.6,
        clip_on=False,
        zorder=3,
    )


def _dots(axes: Axes, y: float, shares: list[float]) -> None:
    """One method: a dot per weight set, joined by a line as long as their difference."""
    known = [share for share in shares if np.isfinite(share)]
    if not known:
        small = font(SMALL)
        axes.text(
            0.5, y, "n/a", ha="center", va="center", color=FAINT, fontproperties=small, **PLAIN
        )
        return
    axes.plot(
        [min(known), max(known)],
        [y, y],
        color="#b5b5b5",
        linewidth=1.6,
        linestyle="-",
        marker="",
        zorder=2,
    )
    for number, share in enumerate(shares):
        if np.isfinite(share):
            _dot(axes, share, y, number)


class _Key:
    """The names of the weight sets and of the dashed line, in as many lines as they need."""

    def __init__(self, weights: list[str], uniform: float | None, width: float):
        names = [wrap(f"weights: {name}", 2.6, NORMAL, lines=1) for name in weights]
        self.count = len(names)
        self.names = names if uniform is None else [*names, "a map without preference"]
        self.width = width
        lengths = [SIGN + text_width(name, NORMAL) for name in self.names]
        self.places = flow(lengths, width, gap=0.25)
        self.lines = 1 + max(line for _, line in self.places)
        self.height = self.lines * LINE * NORMAL / POINTS

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        """Draws it with its top left corner at (x, y)."""
        axes = canvas.axes(x, y, self.width, self.height)
        axes.set(xlim=(0, self.width), ylim=(self.lines, 0))
        axes.set_axis_off()
        for number, (name, (left, line)) in enumerate(zip(self.names, self.places, strict=True)):
            if number < self.count:
                _dot(axes, left + SIGN / 2, line + 0.5, number)
            else:
                axes.plot([left, left + SIGN - 0.07], [line + 0.5] * 2, **UNIFORM)
            axes.text(
                left + SIGN,
                line + 0.5,
                name,
                fontproperties=font(NORMAL),
                color=INK,
                va="center_baseline",
                **PLAIN,
            )


def bias_table(
    rows: Sequence[Row], *, uniform: float | None = 1 / 3, title: str | None = None
) -> Figure:
    """Draws where the saliency of each method falls, for networks with and without a planted bias.

    One block per tap, one line per method, one column per place; in each, a dot per weight set. The
    line between the dots is the difference: a method that reveals the bias has a long one in the
    column "striped half".

    Args:
        rows: mappings or dataclasses with `method`, `tap`, `weights` (names; drawn in the order of
            their first appearance) and `biased`, `unbiased`, `digit`: the saliency per area on each
            place as a share of the three, in [0, 1]; NaN (a zero map has no shares) says "n/a".
        uniform: the share that a constant map would have, dashed; None draws no line.
        title: a line above the table.

    Raises:
        InputError: if there is no row, a row lacks a field, two rows have the same names, a share
            is outside [0, 1], or there are more than six weight sets.
    """
    table = _shares(rows)
    methods, taps, weights = (list(dict.fromkeys(key[i] for key in table)) for i in range(3))
    if len(weights) > len(WEIGHT_SHAPES):
        raise InputError(f"rows has {len(weights)} weight sets, at most {len(WEIGHT_SHAPES)} fit")

    names = {method: wrap(method, 2.2, NORMAL, lines=1) for method in methods}
    left = MARGIN + max(text_width(name, NORMAL) for name in names.values()) + 0.12
    across = len(PLACES) * (FACET + BETWEEN) - BETWEEN
    key = _Key(weights, uniform, across)
    words, above = heading(title, left + across - MARGIN)
    top = MARGIN / 2 + above + key.height + 0.1
    block = TAP_HEIGHT + len(methods) * ROW
    bottom = top + HEADING_HEIGHT + len(taps) * block
    canvas = Canvas(left + across + MARGIN, bottom + 0.42)
    canvas.text(MARGIN, MARGIN / 2, words, size=LARGE)
    key.draw(canvas, left, top - 0.1 - key.height)
    for column, place in enumerate(PLACES.values()):
        x = left + column * (FACET + BETWEEN) + FACET / 2
        canvas.text(x, top, place, bold=True, across="center")
        for share in (0, 0.5, 1):
            at = x + FACET * ((share - LOW) / (HIGH - LOW) - 0.5)
            canvas.text(at, bottom + 0.03, f"{share:g}", size=SMALL, across="center")
    nothing = (np.nan,) * len(PLACES)
    for number, tap in enumerate(taps):
        y = top + HEADING_HEIGHT + number * block + TAP_HEIGHT
        canvas.text(left, y - 0.03, wrap(f"tap: {tap}", across, NORMAL, lines=1), along="bottom")
        for line, method in enumerate(methods):
            middle = y + (line + 0.5) * ROW
            canvas.text(left - 0.08, middle, names[method], across="right", along="center")
        for column in range(len(PLACES)):
            x = left + column * (FACET + BETWEEN)
            axes = canvas.axes(x, y, FACET, block - TAP_HEIGHT)
            _frame(axes, len(methods), uniform)
            for line, method in enumerate(methods):
                found = [table.get((method, tap, weight), nothing) for weight in weights]
                _dots(axes, line, [shares[column] for shares in found])
    axis_name = "saliency per area, as a share of the three places"
    canvas.text(left + across / 2, bottom + 0.21, axis_name, size=SMALL, across="center")
    return canvas.figure
