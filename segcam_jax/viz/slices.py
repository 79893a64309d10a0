"""Figures of volumes: three slices through a point, an instance in a scan, marked regions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from segcam_jax.types import InputError, counted
from segcam_jax.viz.checks import AnyArray, as_map, as_point, as_region, as_volume
from segcam_jax.viz.layout import Words, finished, fit, new_figure, panels
from segcam_jax.viz.panels import (
    OUTLINE,
    OUTLINE_SHADOW,
    ZERO,
    beside,
    colour_bar,
    note,
    outline,
    picture,
)
from segcam_jax.viz.style import FAINT, SMALL, SOFT, Style, drawing, grey, wrap

_LONGEST = 2.4  # inches: the longest side of a volume
_NARROWEST = 1.0  # inches: the width of a slice with its words
_SIDE, _MARKED = 1.5, 1.9  # inches: a panel of an instance, of a marked slice
_DIMMED = 0.6  # the brightness of an image under colours, so that pale ones show


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a volume is cut, and what its voxels measure.

    Attributes:
        center: voxel (d, h, w) that all slices contain; None takes the most important one, of the
            region if given.
        spacing: voxel size along (d, h, w), any unit.
    """

    center: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def sizes(self) -> np.ndarray:
        """The spacing, checked."""
        sizes = np.asarray(self.spacing, dtype=float)
        if sizes.shape != (3,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise InputError(
                f"spacing is {self.spacing!r}, expected three positive lengths (d, h, w)"
            )
        return sizes


def _peak(values: np.ndarray, region: np.ndarray | None) -> tuple[int, ...]:
    """The most important voxel, inside the region if there is one; the middle of a zero map."""
    size = np.abs(values)
    if region is not None and region.any():
        size = np.where(region, size, -1.0)
    elif not size.any():
        return tuple(length // 2 for length in values.shape)
    return tuple(int(at) for at in np.unravel_index(np.argmax(size), values.shape))


def _crosshair(axes: Axes, row: int, column: int, shape: tuple[int, ...]) -> None:
    """Shows where the two other slices pass."""
    line = {"color": "white", "linewidth": 0.7, "linestyle": (0, (4, 4)), "alpha": 0.8}
    axes.plot((-0.5, shape[1] - 0.5), (row, row), zorder=2, **line)
    axes.plot((column, column), (-0.5, shape[0] - 0.5), zorder=2, **line)


@drawing()
def slices(
    volume: Float[AnyArray, "d h w *c"],
    heatmap: Float[AnyArray, "d h w"],
    *,
    region: Bool[AnyArray, "d h w"] | None = None,
    cut: Cut = Cut(),
    style: Style = Style(),
    title: str | None = None,
) -> Figure:
    """Draws three orthogonal slices of a volume through one voxel, the heatmap over each.

    All slices share one scale of colours, that of the whole heatmap, and one scale of length.

    Args:
        volume: (d, h, w) or (d, h, w, 1), in [0, 1].
        heatmap: finite numbers at the volume's resolution.
        region: boolean mask of the target's voxels, outlined.
        cut: where slices lie, and the size of voxels.
    """
    body = as_volume(volume)
    values = as_map(heatmap, shape=body.shape, rank=3)
    mask = None if region is None else as_region(region, body.shape)
    given = cut.center
    at = _peak(values, mask) if given is None else as_point(given, body.shape, "center")
    scale = style.scale([values])
    sizes = cut.sizes()
    lengths = sizes * body.shape * _LONGEST / (sizes * body.shape).max()
    # The axes that each slice keeps: down, across.
    kept = [(1, 2), (0, 2), (0, 1)]
    widths = [max(lengths[across], _NARROWEST) for _, across in kept]
    tallest = max(_NARROWEST, *(lengths[down] for down, _ in kept))
    figure = new_figure(sum(widths) + 0.6, tallest + 1.2)
    drawn = figure.subplots(1, 3, gridspec_kw={"width_ratios": widths})
    for axis, (axes, (down, across)) in enumerate(zip(drawn, kept, strict=True)):
        shape = (body.shape[down], body.shape[across])
        fit(axes, shape, tallest / widths[axis], tall=sizes[down] / sizes[across], top=True)
        sliced = values.take(at[axis], axis)
        base = grey(_rgb(body.take(at[axis], axis)))
        picture(axes, scale.blend(base, sliced))
        outline(axes, None if mask is None else mask.take(at[axis], axis))
        if not values.any():
            note(axes, ZERO, widths[axis], boxed=True)
        _crosshair(axes, at[down], at[across], shape)
        axes.set_title(f"{'dhw'[axis]} = {at[axis]}")
        _directions(axes, "dhw"[down], "dhw"[across], shape)
    colour_bar(list(drawn), scale, "importance", sum(widths))
    return finished(figure, Words(title))


def _directions(axes: Axes, down: str, across: str, shape: tuple[int, int]) -> None:
    """Names the axes of a slice beside it."""
    words = {"fontsize": SMALL, "color": FAINT}
    beside(axes, f"{across} →", "below", (shape[1] / 2 - 0.5, shape[0] - 0.5), **words)
    beside(axes, f"{down}\n↓", "left", (-0.5, shape[0] / 2 - 0.5), **words)


class _Plane(NamedTuple):
    """A slice of a volume whose axes run to the right, the front and the top."""

    name: str
    axis: int  # that is cut
    across: int  # the axis that runs to the right
    along: int  # the axis that runs upwards


_PLANES = (_Plane("axial", 2, 0, 1), _Plane("coronal", 1, 0, 2), _Plane("sagittal", 0, 1, 2))
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclasses.dataclass(frozen=True, eq=False)
class Portrait:
    """One instance as it is drawn; all volumes have axes to the right, the front and the top.

    Attributes:
        images: modality -> volume in [0, 1].
        probability: what the network predicts, in [0, 1].
        maps: name -> (map, the modality that it is painted over).
        remarks: name of a map -> two short lines below its column.
        center: the voxel that all slices contain.
        spacing: size of a voxel in mm along each axis.
        extent: side in mm of the cube that is shown enlarged, about: voxels are shown whole.
        sides: whether it is known which sides of the patient the axes run to; letters name them.
    """

    images: Mapping[str, Float[np.ndarray, "x y z"]]
    probability: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    maps: Mapping[str, tuple[Float[np.ndarray, "x y z"], str]]
    remarks: Mapping[str, str]
    center: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent: float
    sides: bool = True

    def sliced(self, volume: np.ndarray, plane: _Plane) -> np.ndarray:
        """A whole slice as a picture: rows from the top down, columns to the right."""
        return volume.take(self.center[plane.axis], plane.axis).T[::-1]

    def reach(self, axis: int) -> int:
        """How many voxels the enlarged part has on either side of the center."""
        return max(1, round(self.extent / 2 / self.spacing[axis]))

    def enlarged(self, volume: np.ndarray, plane: _Plane) -> np.ndarray:
        """The enlarged part of a slice; 0 beyond the volume."""
        cut = volume.take(self.center[plane.axis], plane.axis)
        kept = (plane.across, plane.along)
        reach = [self.reach(axis) for axis in kept]
        padded = np.pad(cut, [(each, each) for each in reach])
        part = tuple(
            slice(self.center[axis], self.center[axis] + 2 * each + 1)
            for axis, each in zip(kept, reach, strict=True)
        )
        return padded[part].T[::-1]


@drawing()
def instance_portrait(
    portrait: Portrait, *, limit: float, label: str = "importance", title: str | None = None
) -> Figure:
    """Draws an instance in three orthogonal slices: where it is, images, prediction, maps.

    Args:
        limit: the colour scale of the maps ends at -limit and limit, and values beyond have the
            colour of its ends; give all instances that are to be compared the same.
    """
    if not (np.isfinite(limit) and limit > 0) or not portrait.maps:
        raise InputError(
            f"limit={limit} with {counted(len(portrait.maps), 'map')}; both must be positive"
        )
    nothing = [np.zeros((1, 1))]
    scale = Style(signed=True, value_range=(-limit, limit), alpha=1.0).scale(nothing)
    chance = Style(signed=False, value_range=(0, 1)).scale(nothing)
    names = ["where", *portrait.images, "prediction", *portrait.maps]
    made = panels([(1, 1)] * len(_PLANES), len(names), _SIDE, 0.3)
    for plane, row in zip(_PLANES, made.axes, strict=True):
        columns = iter(row)
        first, *images = portrait.images.values()
        _whole(next(columns), first, plane, portrait)
        for image in (first, *images):
            _enlarged(next(columns), portrait, plane, _grey(portrait.enlarged(image, plane)))
        base = _DIMMED * _grey(portrait.enlarged(first, plane))
        predicted = chance.blend(base, portrait.enlarged(portrait.probability, plane))
        _enlarged(next(columns), portrait, plane, predicted)
        for values, under in portrait.maps.values():
            base = _DIMMED * _grey(portrait.enlarged(portrait.images[under], plane))
            painted = scale.blend(base, portrait.enlarged(values, plane))
            _enlarged(next(columns), portrait, plane, painted)
        name = plane.name if portrait.sides else f"across axis {plane.axis + 1}"
        beside(row[0], name, "left", rotation=90)
    for axes, name in zip(made.axes[0], names, strict=True):
        axes.set_title(wrap(name, _SIDE))
    maps = made.axes[-1][-len(portrait.maps) :]
    for axes, name in zip(maps, portrait.maps, strict=True):
        beside(axes, portrait.remarks.get(name, ""), "below", fontsize=SMALL, color=SOFT)
    before = made.axes[-1][len(portrait.images) + 1]
    colour_bar([before], chance, "predicted probability", _SIDE)
    colour_bar(maps, scale, label, len(maps) * _SIDE)
    shared = (
        "All figures of the run share one scale of colours; values beyond it have the colour at "
        "its end."
    )
    return finished(made.figure, Words(title, caption=shared))


def _whole(axes: Axes, volume: np.ndarray, plane: _Plane, portrait: Portrait) -> None:
    """A whole slice, a frame around what the other columns enlarge, and the patient's sides."""
    image = portrait.sliced(volume, plane)
    wide, tall = portrait.spacing[plane.across], portrait.spacing[plane.along]
    fit(axes, (image.shape[0], image.shape[1]), 1.0, tall=tall / wide)
    picture(axes, _grey(image))
    half = [portrait.reach(axis) + 0.5 for axis in (plane.across, plane.along)]
    row = image.shape[0] - 1 - portrait.center[plane.along]
    corner = (portrait.center[plane.across] - half[0], row - half[1])
    frame = Rectangle(corner, 2 * half[0], 2 * half[1], fill=False, edgecolor=OUTLINE, linewidth=1)
    axes.add_patch(frame)
    if not portrait.sides:
        return
    left, right, top, bottom = -0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5
    x, y = (left + right) / 2, (top + bottom) / 2
    marks = (
        (left, y, 2, 0, "left", "center"),
        (right, y, -2, 0, "right", "center"),
        (x, bottom, 0, 2, "center", "bottom"),
        (x, top, 0, -2, "center", "top"),
    )
    letters = (*_ENDS[plane.across], *_ENDS[plane.along])
    for (x, y, dx, dy, ha, va), letter in zip(marks, letters, strict=True):
        word = axes.annotate(
            letter, (x, y), (dx, dy), textcoords="offset points", color="white", fontsize=SMALL
        )
        # A dark rim, as letters may lie on bright tissue.
        rim = [withStroke(linewidth=2, foreground=OUTLINE_SHADOW)]
        word.set(ha=ha, va=va, path_effects=rim, in_layout=False)


def _enlarged(axes: Axes, portrait: Portrait, plane: _Plane, rgb: np.ndarray) -> None:
    """The enlarged part of a slice, to scale, and the instance's outline."""
    tall = portrait.spacing[plane.along] / portrait.spacing[plane.across]
    fit(axes, (rgb.shape[0], rgb.shape[1]), 1.0, tall=tall)
    picture(axes, rgb, smooth=False)
    outline(axes, portrait.enlarged(portrait.mask, plane))


def _rgb(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return np.repeat(values[..., None], 3, axis=-1)


def _grey(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return grey(_rgb(values))


@drawing()
def marked_slices(
    images: Mapping[str, Float[np.ndarray, "x y z"]],
    regions: Mapping[str, tuple[str, Bool[np.ndarray, "x y z"]]],
    cuts: Sequence[int],
    *,
    title: str | None = None,
) -> Figure:
    """Draws axial slices: each image as it is, and each with the outlines of regions.

    Args:
        images: name -> volume in [0, 1], axes to the right, the front and the top.
        regions: name -> (colour, where).
        cuts: the third index of each slice.
    """
    if not images or not cuts:
        raise InputError(
            f"{counted(len(images), 'image')}, {counted(len(cuts), 'slice')}; give at least one "
            "each"
        )
    across, up, _ = next(iter(images.values())).shape
    made = panels([(up, across)] * len(cuts), 2 * len(images), _MARKED)
    for row, cut in zip(made.axes, cuts, strict=True):
        for number, volume in enumerate(images.values()):
            for axes in row[2 * number : 2 * number + 2]:
                picture(axes, _rgb(volume[:, ::-1, cut].T))
            for colour, region in regions.values():
                outline(row[2 * number + 1], region[:, ::-1, cut].T, colour)
    for number, name in enumerate(images):
        made.axes[0][2 * number].set_title(name)
        made.axes[0][2 * number + 1].set_title(f"{name}, marked")
    legend = [
        Patch(facecolor=to_rgb(colour), edgecolor=FAINT, linewidth=0.6, label=name)
        for name, (colour, _) in regions.items()
    ]
    return finished(made.figure, Words(title), legend)
