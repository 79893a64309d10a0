"""Plots: shares of a planted bias, curves of context, peaks of instances."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segcam_jax.types import InputError, counted
from segcam_jax.viz.layout import Words, finished, new_figure
from segcam_jax.viz.style import FAINT, NORMAL, SMALL, drawing, number, wrap

PLACES = {"biased": "striped half", "unbiased": "other half", "digit": "digit"}
_KEYS = ("method", "tap", "weights", *PLACES)
# Distinct in hue, in lightness and, with the shapes, without any colour.
_WEIGHT_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_WEIGHT_SHAPES = "osD^vP"
# The first is larger, so that it shows behind the second where both are equal.
_WEIGHT_SIZES = (6.6, 4.6)
_DASHED: dict[str, Any] = {"linestyle": (0, (4, 2.5)), "linewidth": 1.0}
# Of networks; the first is that of one alone.
_CURVES = (_WEIGHT_COLOURS[1], _WEIGHT_COLOURS[0], *_WEIGHT_COLOURS[2:])
_FULL: dict[str, Any] = {"color": "#D55E00", "zorder": 2, **_DASHED}
_DISTANCE = "context left: dilations x smallest voxel extent (mm)"
_MANY = 40  # single curves are drawn up to this many instances
GROUP_COLOURS = {
    "TP": "#009E73",
    "WEAK": "#E69F00",
    "FP": "#D55E00",
    "IGNORED": "#8C8C8C",
    "FN": "#0072B2",
}


def plot(axes: Axes) -> None:
    """Grid lines behind all, and numbers that say where they stand."""
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for each in (axes.xaxis, axes.yaxis):
        each.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))


# ---- shares of a planted bias

Row = Mapping[str, Any] | Any
Shares = dict[tuple[str, str, str], tuple[float, ...]]


def _shares(rows: Sequence[Row]) -> Shares:
    """(method, tap, weights) -> shares on the places, checked; in the order given."""
    table: Shares = {}
    for position, row in enumerate(rows):
        fields = row if isinstance(row, Mapping) else None
        if fields is None and dataclasses.is_dataclass(row):
            fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        missing = [key for key in _KEYS if fields is None or key not in fields]
        if fields is None or missing:
            raise InputError(f"row {position} has no {missing}; a row needs {list(_KEYS)}")
        key = (str(fields["method"]), str(fields["tap"]), str(fields["weights"]))
        if key in table:
            raise InputError(f"row {position} repeats {key}; average the samples first")
        shares = tuple(float(fields[place]) for place in PLACES)
        for place, share in zip(PLACES, shares, strict=True):
            if not (np.isnan(share) or -1e-6 <= share <= 1 + 1e-6):
                raise InputError(
                    f"row {position} has {place} = {share:.4g}, expected a share in [0, 1]"
                )
        table[key] = shares
    if not table:
        raise InputError("rows is empty; give at least one")
    return table


@drawing()
def bias_table(
    rows: Sequence[Row], *, uniform: float | None = 1 / 3, title: str | None = None
) -> Figure:
    """Draws where the saliency of each method falls, for networks with and without a planted bias.

    One block per tap, one line per method of the tap, one column per place; in each, a dot per
    weight set. The line between the dots is the difference: a method that reveals the bias has a
    long one in the column "striped half".

    Args:
        rows: mappings or dataclasses with `method`, `tap`, `weights` (names; drawn in the order of
            their first appearance) and `biased`, `unbiased`, `digit`: the saliency per area on each
            place as a share of the three, in [0, 1]; NaN (a zero map has no shares) says "n/a".
        uniform: the share that a constant map would have, dashed; None draws no line.

    Raises:
        InputError: if there is no row, a row lacks a field, two rows have the same names, a share
            is outside [0, 1], or there are more than six weight sets.
    """
    table = _shares(rows)
    methods, taps, weights = (list(dict.fromkeys(key[i] for key in table)) for i in range(3))
    if len(weights) > len(_WEIGHT_SHAPES):
        raise InputError(f"rows has {len(weights)} weight sets, at most {len(_WEIGHT_SHAPES)} fit")
    # A method of the input has no line at a layer, and others none at the input.
    at = [[m for m in methods if any((m, tap, w) in table for w in weights)] for tap in taps]
    height = sum(0.24 * len(each) + 0.32 for each in at) + 0.7
    figure = new_figure(8.0, height, "constrained")
    ratios = {"height_ratios": [len(each) for each in at]}
    blocks = figure.subplots(
        len(taps), len(PLACES), squeeze=False, sharex=True, sharey="row", gridspec_kw=ratios
    )
    blocks[0, 0].set(xlim=(-0.03, 1.03))
    blocks[0, 0].set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "", "0.5", "", "1"])
    nothing = (np.nan,) * len(PLACES)
    for tap, names, block in zip(taps, at, blocks, strict=True):
        block[0].set(ylim=(len(names) - 0.5, -0.5))
        block[0].set_yticks(range(len(names)), [wrap(name, 2.2, lines=1) for name in names])
        found = [[table.get((each, tap, weight), nothing) for weight in weights] for each in names]
        for column, axes in enumerate(block):
            _dots(axes, np.array(found)[..., column], uniform)
        beside = {"xycoords": "axes fraction", "textcoords": "offset points"}
        block[0].annotate(wrap(f"tap: {tap}", 6.0, lines=1), (0, 1), (0, 4), **beside)
    for axes, place in zip(blocks[0], PLACES.values(), strict=True):
        axes.set_title(place, weight="bold", pad=16)  # Above the tap's name.
    blocks[-1][1].set_xlabel("saliency per area, as a share of the three places", fontsize=SMALL)
    legend = [
        Line2D([], [], **_dot(position), linestyle="none", label=f"weights: {name}")
        for position, name in enumerate(weights)
    ]
    if uniform is not None:
        legend.append(Line2D([], [], color=FAINT, label="a map without preference", **_DASHED))
    return finished(figure, Words(title), legend)


def _dot(position: int) -> dict[str, Any]:
    """The mark of a weight set."""
    return {
        "marker": _WEIGHT_SHAPES[position],
        "color": _WEIGHT_COLOURS[position],
        "markersize": _WEIGHT_SIZES[min(position, 1)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _dots(axes: Axes, shares: Float[np.ndarray, "methods weights"], uniform: float | None) -> None:
    """A place: a line per method, as long as the difference between the dots at its ends."""
    axes.tick_params(axis="y", length=0, labelsize=NORMAL)
    axes.grid(axis="x")
    lines, known = np.arange(len(shares)), np.isfinite(shares).any(1)
    for y in lines[1::2]:
        axes.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", zorder=-1, linewidth=0)
    if uniform is not None:
        axes.axvline(uniform, color=FAINT, zorder=1, **_DASHED)
    ends = np.nanmin(shares[known], 1), np.nanmax(shares[known], 1)
    axes.hlines(lines[known], *ends, color="#b5b5b5", linewidth=1.6, zorder=2)
    for position, each in enumerate(shares.T):
        axes.plot(each, lines, linestyle="none", clip_on=False, zorder=3, **_dot(position))
    for y in lines[~known]:
        axes.text(0.5, y, "n/a", ha="center", va="center", color=FAINT, fontsize=SMALL)


# ---- curves of context


@drawing()
def context_scores(
    distance: Float[np.ndarray, "n"],
    scores: Mapping[str, Float[np.ndarray, "instances n"]],
    *,
    full: Mapping[str, Float[np.ndarray, "instances"]] = MappingProxyType({}),
    reach: Float[np.ndarray, "all n"] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws the mean probability inside instances, ± one standard deviation, over the distance.

    Args:
        distance: dilations times the smallest extent of a voxel, in mm, ascending.
        scores: of each network, a row per instance that it finds.
        full: the score of each instance with all of the input; their mean is a dashed line.
        reach: the largest Euclidean distance in mm that each dilation reaches, of all instances;
            where it exceeds `distance`, the caption says how far the last one goes.
    """
    networks = _curves(distance, scores)
    figure, axes = _context_axes(distance, (0, 1), "mean probability inside")
    singles = False
    for colour, (name, values) in networks.items():
        mean, spread = values.mean(0), values.std(0)
        singles = len(networks) == 1 and 1 < len(values) <= _MANY
        for row in values if singles else ():
            axes.plot(distance, row, color="#9a9a9a", linewidth=0.5, alpha=0.6, zorder=1)
        band = {"color": colour, "alpha": 0.2, "linewidth": 0, "zorder": 2}
        axes.fill_between(distance, mean - spread, mean + spread, **band)
        axes.plot(distance, mean, color=colour, linewidth=1.8, zorder=3)
        if name in full:
            _full(axes, float(np.mean(full[name])), ".2f", colour if len(networks) > 1 else None)
    said = "band: ± 1 standard deviation" + ("; grey: single instances" if singles else "")
    several = any(len(values) > 1 for values in scores.values())
    key = {name: counted(len(values), "instance") for name, values in scores.items()}
    return _told(figure, title, key, (*([said] if several else ()), _reaching(distance, reach)))


@drawing()
def context_detections(
    distance: Float[np.ndarray, "n"],
    detected: Mapping[str, Bool[np.ndarray, "instances n"]],
    *,
    full: Mapping[str, Bool[np.ndarray, "instances"]] = MappingProxyType({}),
    reach: Float[np.ndarray, "all n"] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws how many instances are detected, as steps over the distance.

    Arguments and errors as `context_scores`, with detections in place of scores.
    """
    networks = _curves(distance, detected)
    most = max(len(values) for values in detected.values())
    figure, axes = _context_axes(distance, (0, most * 1.08), "detected instances")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for colour, (name, found) in networks.items():
        # What is found at a distance is found until the next one is tried.
        axes.step(distance, found.sum(0), where="post", color=colour, linewidth=1.8, zorder=3)
        if name in full:
            _full(axes, int(np.sum(full[name])), "d", colour if len(networks) > 1 else None)
    key = {name: counted(len(values), "instance") for name, values in detected.items()}
    return _told(figure, title, key, (_reaching(distance, reach),))


def _curves(
    distance: np.ndarray, networks: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, np.ndarray]]:
    """The curves of each network by its colour, checked."""
    if not 1 <= len(networks) <= len(_CURVES):
        raise InputError(f"{len(networks)} networks were given; draw 1 to {len(_CURVES)}")
    for values in networks.values():
        if values.ndim != 2 or not len(values) or values.shape[1:] != distance.shape:
            raise InputError(
                f"values have shape {values.shape}, distances {distance.shape}; expected a row per "
                "instance, at least one, and a column per distance"
            )
    return dict(zip(_CURVES, networks.items(), strict=False))


def _told(figure: Figure, title: str | None, key: Mapping[str, str], said: Sequence[str]) -> Figure:
    """The figure with a legend of networks where there are several, and a caption."""
    if len(key) == 1:
        return finished(
            figure, Words(title, caption="; ".join(filter(None, (*key.values(), *said))))
        )
    lines = [
        Line2D([], [], color=colour, linewidth=1.8, label=f"{name}: {words}")
        for colour, (name, words) in zip(_CURVES, key.items(), strict=False)
    ]
    lines.append(Line2D([], [], color=FAINT, label="all of the input", **_DASHED))
    return finished(figure, Words(title, caption="; ".join(filter(None, said))), lines)


def _context_axes(
    distance: np.ndarray, ends: tuple[float, float], name: str
) -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 3.1, "constrained")
    axes = figure.subplots()
    plot(axes)
    axes.set(xlim=(0, float(distance[-1]) * 1.02 or 1.0), ylim=ends, xlabel=_DISTANCE, ylabel=name)
    return figure, axes


def _full(axes: Axes, level: float, form: str, colour: str | None) -> None:
    """A dashed line at what all of the input gives; without a colour it is the only one, and named
    where curves are still low.
    """
    axes.axhline(level, **{**_FULL, "color": colour or _FULL["color"]})
    if colour is not None:
        return
    low, high = axes.get_ylim()
    above = level < low + 0.92 * (high - low)
    axes.annotate(
        f"all of the input: {level:{form}}",
        (0.015, level),
        (0, 3 if above else -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="bottom" if above else "top",
        color=_FULL["color"],
        fontsize=SMALL,
    )


def _reaching(distance: np.ndarray, reach: np.ndarray | None) -> str:
    """How far the last dilation goes, if that is farther than the axis says."""
    if reach is None or (farthest := float(np.max(np.asarray(reach)[:, -1]))) <= distance[-1]:
        return ""
    near, far = (f"{mm:.3g}" for mm in (distance[-1], farthest))
    return f"the last dilation reaches {near} to {far} mm, by direction (Euclidean)"


# ---- peaks of instances


@drawing()
def peak_table(
    peaks: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    label: str = "peak of the map",
    title: str | None = None,
) -> Figure:
    """Draws the peaks of all instances, by group: a panel per modality, on one scale.

    Args:
        peaks: modality -> group -> (positive peak, negative peak) of each instance. A group is TP,
            WEAK, FP, IGNORED or FN, or any other name where nothing is known.
    """
    if not peaks:
        raise InputError("no map has a peak to draw")
    figure = new_figure(0.6 + 2.6 * len(peaks), 2.9, "constrained")
    row = figure.subplots(1, len(peaks), squeeze=False, sharey=True)[0]
    for axes, (modality, groups) in zip(row, peaks.items(), strict=True):
        plot(axes)
        axes.set_title(wrap(modality, 2.4, lines=1))
        axes.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
        names = [f"{group}\n({len(found)})" for group, found in groups.items()]
        axes.set_xticks(range(len(names)), labels=names)
        axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
        axes.xaxis.grid(visible=False)
        for place, (group, found) in enumerate(groups.items()):
            _swarm(axes, place, group, found)
    row[0].set_ylabel(label)
    row[0].margins(y=0.08)
    said = "Dots: each instance's highest and lowest value; bars: medians."
    return finished(figure, Words(title, caption=said))


def _swarm(axes: Axes, place: int, group: str, found: Sequence[tuple[float, float]]) -> None:
    """Dots side by side, and the median, of the positive and the negative peaks of a group."""
    colour = GROUP_COLOURS.get(group, "#5a5a5a")
    for side in range(2):
        values = np.sort([pair[side] for pair in found])
        if not len(values):
            continue
        # Neighbours in value lie beside each other, so that few dots hide one another.
        offset = 0.24 * (((np.arange(len(values)) * 0.618034) % 1) - 0.5)
        dots = {"color": colour, "markersize": 4, "markeredgewidth": 0, "alpha": 0.65, "zorder": 3}
        axes.plot(place + (offset if len(values) > 1 else 0.0), values, "o", **dots)
        median = float(np.median(values))
        axes.plot([place - 0.2, place + 0.2], [median] * 2, color=colour, linewidth=2, zorder=4)


def peak_words(positive: float, at: float | None, negative: float) -> str:
    """What stands below a map: its peaks."""
    where = "" if at is None else f" at {number(at)} mm"
    return f"peak {number(positive)}{where}\nlowest {number(negative)}"
