"""The occlusion study of activation maps as figures: curves, sorted maps, what is occluded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segcam_jax.types import InputError, Outputs
from segcam_jax.viz.checks import AnyArray, as_image, as_region
from segcam_jax.viz.layout import Words, finished, new_figure, panels
from segcam_jax.viz.panels import outline, picture
from segcam_jax.viz.plots import plot
from segcam_jax.viz.style import FAINT, SMALL, drawing, grey, wrap

_READ = {"foreground": "#D55E00", "background": "#0072B2", "dice": "#009E73"}
_LINES: dict[str, Any] = {
    "foreground": {"linestyle": "-", "marker": "o", "markersize": 4},
    "background": {"linestyle": (0, (4, 2)), "marker": "s", "markersize": 3.5},
}
_MAPS = ("#332288", "#88CCEE", "#DDCC77", "#882255", "#AA4499")  # none of those above
_SIDE = 1.5  # inches: of a panel of a patch
_COVERED = np.array([0.84, 0.37, 0.0])


@dataclasses.dataclass(frozen=True, eq=False)
class OcclusionCurves:
    """What is left of a segmentation, over the share that is occluded.

    Attributes:
        shares: from 0, ascending.
        foreground: mean output of the class over the foreground, a row per place or image.
        background: of the background, likewise.
        dice: mean Dice, likewise.
    """

    shares: Float[np.ndarray, "s"]
    foreground: Float[np.ndarray, "n s"]
    background: Float[np.ndarray, "n s"]
    dice: Float[np.ndarray, "n s"]


@dataclasses.dataclass(frozen=True, eq=False)
class SortedMaps:
    """Maps by what a segmentation loses without them.

    Attributes:
        maps: their numbers, the most important first.
        foreground: how far the foreground's mean falls without each.
        background: likewise of the background.
        shares: ascending from 0.
        top: how far the foreground's falls by the share that is occluded of the first maps.
    """

    maps: Int[np.ndarray, "c"]
    foreground: Float[np.ndarray, "c"]
    background: Float[np.ndarray, "c"]
    shares: Float[np.ndarray, "s"]
    top: Float[np.ndarray, "t s"]


@drawing()
def occlusion(
    together: Mapping[str, OcclusionCurves],
    sorted_maps: SortedMaps | None = None,
    *,
    of: Outputs = "logits",
    title: str | None = None,
    subtitle: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws the curves of all maps occluded at once, and each map by itself.

    Args:
        together: by what is occluded, `"foreground"` or `"background"`: of all maps.
        sorted_maps: of an image; None draws the curves alone.
        of: what the output holds, whose means are drawn.
    """
    if not together:
        raise InputError("the study has no curve to draw")
    rows = 1 if sorted_maps is None else 2
    figure = new_figure(7.2, 2.7 * rows, "constrained")
    every = figure.subplots(rows, 2, squeeze=False)
    for axes, read in zip(every[0], (("foreground", "background"), ("dice",)), strict=True):
        _curves(axes, together, read)
    every[0, 0].set(title=f"(a) all maps occluded: {of}", ylabel=f"mean {one_of(of)}")
    every[0, 1].set(title="(b) all maps occluded: Dice", ylabel="mean Dice of the classes")
    if sorted_maps is not None:
        _sorted(every[1, 0], sorted_maps, one_of(of))
        _top(every[1, 1], sorted_maps, one_of(of))
    names = {read: f"{one_of(of)}, {read}" for read in _READ} | {"dice": "Dice"}
    legend = [
        *(Line2D([], [], color=_READ[read], label=name) for read, name in names.items()),
        *(Line2D([], [], color=FAINT, **_LINES[k], label=f"{k} occluded") for k in together),
    ]
    return finished(figure, Words(title, subtitle, caption), legend)


def _curves(axes: Axes, together: Mapping[str, OcclusionCurves], read: Sequence[str]) -> None:
    plot(axes)
    for side, curves in together.items():
        for name in read:
            values = np.asarray(getattr(curves, name), float)
            known = np.isfinite(values).any(0)
            shares, values = curves.shares[known], values[:, known]
            if not len(shares):
                continue
            look = {"color": _READ[name], **_LINES[side], "linewidth": 1.4}
            axes.plot(shares, np.nanmean(values, 0), clip_on=False, zorder=3, **look)
            if len(values) > 1:
                ends = np.nanmin(values, 0), np.nanmax(values, 0)
                axes.fill_between(shares, *ends, color=_READ[name], alpha=0.12, linewidth=0)
    axes.set(xlabel="share of the region that is occluded", xlim=(0, 1))
    if read == ("dice",):
        axes.set(ylim=(0, 1.02))


def one_of(of: Outputs) -> str:
    """One of the numbers that an output holds, in words."""
    return "logit" if of == "logits" else "probability"


def _sorted(axes: Axes, maps: SortedMaps, one: str) -> None:
    plot(axes)
    places = np.arange(1, len(maps.maps) + 1)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for name, size in (("background", 2.2), ("foreground", 2.8)):
        values = getattr(maps, name)
        axes.plot(places, values, "o", color=_READ[name], markersize=size, markeredgewidth=0)
    axes.set_title("(c) each map ablated, sorted")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="rank of the map", ylabel=f"fall of the mean {one}")


def _top(axes: Axes, maps: SortedMaps, one: str) -> None:
    plot(axes)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for colour, number, falls in zip(_MAPS, maps.maps, maps.top, strict=False):
        look = {"color": colour, **_LINES["foreground"], "linewidth": 1.2}
        axes.plot(maps.shares, falls, **look, clip_on=False, label=f"map {number}")
    axes.set_title(f"(d) one map occluded: the first {len(maps.top)} of (c)")
    axes.set(xlabel="share of the foreground that is occluded", xlim=(0, 1))
    axes.set_ylabel(f"fall of the mean {one}")
    axes.legend(fontsize=SMALL, frameon=False)


@drawing()
def occlusion_patches(
    image: Float[AnyArray, "h w *c"],
    mask: Bool[AnyArray, "h w"],
    patches: Mapping[tuple[str, str], Bool[np.ndarray, "u v"]],
    *,
    over: tuple[int, int],
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws which positions of the maps are occluded, over the image.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        mask: the foreground, outlined.
        patches: by (row, column), at the maps' resolution.
        over: extents of the image that the maps cover, with its padding.
    """
    base = grey(as_image(image))
    shape = (base.shape[0], base.shape[1])
    region = as_region(mask, shape)
    if not patches:
        raise InputError("the study has no patch to draw")
    rows, columns = (list(dict.fromkeys(key[place] for key in patches)) for place in (0, 1))
    made = panels([shape] * len(rows), len(columns), _SIDE)
    for row, line in zip(rows, made.axes, strict=True):
        for column, axes in zip(columns, line, strict=True):
            patch = patches.get((row, column))
            if patch is None:
                axes.set_axis_off()
                continue
            covered = _spread(patch, over)[: shape[0], : shape[1], None]
            picture(axes, np.where(covered, 0.4 * base + 0.6 * _COVERED, base))
            outline(axes, region)
            axes.set_title(wrap(f"{row}: {column}", made.width), fontsize=SMALL)
    return finished(made.figure, Words(title, caption=caption))


def _spread(patch: Bool[np.ndarray, "u v"], over: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Every pixel as the position that it lies in."""
    for axis, many in enumerate(over):
        few = patch.shape[axis]
        patch = np.take(patch, (2 * np.arange(many) + 1) * few // (2 * many), axis=axis)
    return patch
