"""The figures of two papers: six panels (Ablation-CAM for segmentation), four (Seg-Grad-CAM)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.canvas import (
    GAP,
    LARGE,
    MARGIN,
    NORMAL,
    SMALL,
    Canvas,
    heading,
    panel_size,
    text_height,
    wrap_caption,
)
from segcam_jax.viz.checks import (
    AnyArray,
    ClassNames,
    as_image,
    as_labels,
    as_map,
    as_point,
    as_region,
    check_class,
)
from segcam_jax.viz.colour import ALPHA, Scale, grey, label_colours, scale_of
from segcam_jax.viz.draw import (
    BAR_HEIGHT,
    TITLE_HEIGHT,
    ZERO,
    blank,
    colour_bar,
    legend,
    legend_entries,
    legend_height,
    mark_pixel,
    show,
    show_map,
    show_overlay,
)

NARROWEST = 1.6  # inches: room for a panel's title


@dataclasses.dataclass(frozen=True)
class _Classes:
    """What the labels of both label maps mean."""

    names: ClassNames | None
    explained: int | None
    background: int | None
    ignored: int | None

    def __post_init__(self):
        check_class(self.explained, self.names)


class _Case:
    """One explained image, checked: what both figures show."""

    def __init__(self, image, truth, prediction, heatmap, region, classes: _Classes):
        self.picture = as_image(image)
        self.shape = self.picture.shape[:2]
        self.truth = None if truth is None else as_labels(truth, self.shape, "truth")
        self.prediction = as_labels(prediction, self.shape, "prediction")
        self.values = as_map(heatmap, shape=self.shape)
        self.region = None if region is None else as_region(region, self.shape)
        self.classes = classes
        present = [labels for labels in (self.truth, self.prediction) if labels is not None]
        self.entries = legend_entries(
            present,
            names=classes.names,
            explained=classes.explained,
            background=classes.background,
            ignored=classes.ignored,
        )

    def show_labels(self, axes: Axes, labels: np.ndarray | None) -> None:
        """Draws a label map, or says that there is none."""
        if labels is None:
            blank(axes, "no ground truth")
            return
        known = {"background": self.classes.background, "ignored": self.classes.ignored}
        show(axes, label_colours(labels, **known), smooth=False)

    def show_overlay(self, axes: Axes, scale: Scale, zero: str = ZERO) -> None:
        """Draws the heatmap over the image, the region outlined."""
        show_overlay(axes, grey(self.picture), self.values, scale, region=self.region, zero=zero)


class _Strip:
    """Where the panels of a figure lie: columns of slots, an image centred in each."""

    def __init__(self, shape: tuple[int, ...], columns: int):
        self.image = panel_size(shape)
        self.slot = max(self.image[0], NARROWEST)
        self.width = columns * self.slot + (columns - 1) * GAP + 2 * MARGIN

    def left(self, column: int) -> float:
        """The left end of a slot."""
        return MARGIN + column * (self.slot + GAP)

    def room(self, column: int) -> float:
        """The width from the left end of a slot to the right margin."""
        return self.width - MARGIN - self.left(column)

    def panel(self, canvas: Canvas, column: int, y: float, title: str) -> Axes:
        """Axes below their title; `y` is the title's top."""
        canvas.text(self.left(column) + self.slot / 2, y, title, size=NORMAL, across="center")
        x = self.left(column) + (self.slot - self.image[0]) / 2
        return canvas.axes(x, y + TITLE_HEIGHT, *self.image)


def six_panels(
    image: Float[AnyArray, "h w *c"],
    truth: Int[AnyArray, "h w"] | None,
    prediction: Int[AnyArray, "h w"],
    raw_map: Float[AnyArray, "u v"],
    heatmap: Float[AnyArray, "h w"],
    *,
    region: Bool[AnyArray, "h w"] | None = None,
    class_names: ClassNames | None = None,
    class_index: int | None = None,
    background: int | None = 0,
    ignored: int | None = 255,
    colormap: str | Colormap | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    title: str | None = None,
    caption: str | None = None,
    zero: str = ZERO,
) -> Figure:
    """Draws an explanation from input to overlay, in the six panels of the Eurocon paper.

    (a) input, (b) ground truth, (c) prediction, (d) raw map, (e) heatmap, (f) overlay.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        truth: class of each pixel; None if there is no ground truth.
        prediction: class of each pixel.
        raw_map: the map at the resolution (u, v) of the activation, drawn as it is, pixel by pixel;
            in diverging colours if it has negative values.
        heatmap: the map at image resolution, resized and smoothed.
        region: boolean mask of the target's pixels, outlined in (f).
        class_names: names by class index; a sequence or a mapping.
        class_index: the explained class; its name is bold in the legend.
        background: the class drawn in neutral grey; None if there is none.
        ignored: the label of pixels that do not count, drawn white, as are negative ones.
        colormap: as in `overlay`, for (d), (e) and (f).
        alpha: as in `overlay`.
        fade: as in `overlay`.
        title: a line above the panels.
        caption: words below the panels.
        zero: what is said of a map that is zero.

    Raises:
        InputError: if an input does not have the form above.

    References:
        Panels: "Ablation studies in activation maps for explainable semantic segmentation in
        Industry 4.0", IEEE Eurocon 2023.
    """
    classes = _Classes(class_names, class_index, background, ignored)
    case = _Case(image, truth, prediction, heatmap, region, classes)
    raw = as_map(raw_map, "raw_map")
    raw_scale = scale_of([raw], colormap=colormap)
    scale = scale_of([case.values], colormap=colormap, alpha=alpha, fade=fade)

    strip = _Strip(case.shape, 3)
    words, above = heading(title, strip.room(0))
    first = MARGIN / 2 + above
    key = first + TITLE_HEIGHT + strip.image[1] + 0.06
    second = key + legend_height(case.entries, strip.room(1)) + 0.08
    bars = second + TITLE_HEIGHT + strip.image[1] + 0.08
    told = wrap_caption(caption, strip.room(0))
    beneath = bars + BAR_HEIGHT + 0.02
    canvas = Canvas(strip.width, beneath + text_height(told, SMALL) + MARGIN / 2)
    canvas.text(strip.left(0), beneath, told, size=SMALL)
    canvas.text(canvas.width / 2, MARGIN / 2, words, size=LARGE, across="center")

    show(strip.panel(canvas, 0, first, "(a) input"), case.picture)
    case.show_labels(strip.panel(canvas, 1, first, "(b) ground truth"), case.truth)
    case.show_labels(strip.panel(canvas, 2, first, "(c) prediction"), case.prediction)
    legend(canvas, strip.left(1), key, strip.room(1), case.entries)
    size = f"{raw.shape[0]} by {raw.shape[1]}"
    raw_axes = strip.panel(canvas, 0, second, f"(d) raw map, {size}")
    show_map(raw_axes, raw, raw_scale, smooth=False, zero=zero)
    heat_axes = strip.panel(canvas, 1, second, "(e) heatmap")
    show_map(heat_axes, case.values, scale, smooth=True, zero=zero)
    outlined = "" if case.region is None else ", region outlined"
    case.show_overlay(strip.panel(canvas, 2, second, f"(f) overlay{outlined}"), scale, zero)
    against = "; negative: against it" if scale.signed else ""
    colour_bar(canvas, strip.left(0), bars, strip.slot, raw_scale, "raw value", opaque=True)
    colour_bar(canvas, strip.left(1), bars, strip.slot, scale, "heatmap" + against, opaque=True)
    colour_bar(canvas, strip.left(2), bars, strip.slot, scale, "importance" + against)
    return canvas.figure


def four_panels(
    image: Float[AnyArray, "h w *c"],
    truth: Int[AnyArray, "h w"] | None,
    prediction: Int[AnyArray, "h w"],
    heatmap: Float[AnyArray, "h w"],
    *,
    region: Bool[AnyArray, "h w"] | None = None,
    pixel: tuple[int, int] | None = None,
    class_names: ClassNames | None = None,
    class_index: int | None = None,
    background: int | None = 0,
    ignored: int | None = 255,
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws the four panels of Seg-Grad-CAM: input, overlay, ground truth, prediction.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        truth: class of each pixel; None if there is no ground truth.
        prediction: class of each pixel.
        heatmap: finite numbers at image resolution.
        region: boolean mask of the region of interest, outlined in the overlay.
        pixel: (row, column) of the explained pixel, ringed in the overlay; instead of or beside
            `region`, one of which is needed.
        class_names: names by class index; a sequence or a mapping.
        class_index: the explained class; its name is bold in the legend.
        background: the class drawn in neutral grey; None if there is none.
        ignored: the label of pixels that do not count, drawn white, as are negative ones.
        colormap: as in `overlay`.
        signed: as in `overlay`.
        alpha: as in `overlay`.
        fade: as in `overlay`.
        value_range: as in `overlay`.
        title: a line above the panels.

    Raises:
        InputError: if an input does not have the form above.

    References:
        Panels: Vinogradova, Dibrov, Myers, "Towards interpretable semantic segmentation via
        gradient-weighted class activation mapping", AAAI 2020.
    """
    if region is None and pixel is None:
        raise InputError("four_panels was given neither region nor pixel; give what is explained")
    classes = _Classes(class_names, class_index, background, ignored)
    case = _Case(image, truth, prediction, heatmap, region, classes)
    point = None if pixel is None else as_point(pixel, case.shape)
    scale = scale_of(
        [case.values],
        colormap=colormap,
        signed=signed,
        value_range=value_range,
        alpha=alpha,
        fade=fade,
    )

    strip = _Strip(case.shape, 4)
    words, above = heading(title, strip.room(0))
    top = MARGIN / 2 + above
    below = top + TITLE_HEIGHT + strip.image[1] + 0.08
    beneath = max(BAR_HEIGHT, legend_height(case.entries, strip.room(2)))
    canvas = Canvas(strip.width, below + beneath + MARGIN / 2)
    canvas.text(canvas.width / 2, MARGIN / 2, words, size=LARGE, across="center")

    show(strip.panel(canvas, 0, top, "(a) input"), case.picture)
    marked = "region outlined" if point is None else f"pixel {point}"
    over = strip.panel(canvas, 1, top, f"(b) overlay, {marked}")
    case.show_overlay(over, scale)
    if point is not None:
        mark_pixel(over, point)
    case.show_labels(strip.panel(canvas, 2, top, "(c) ground truth"), case.truth)
    case.show_labels(strip.panel(canvas, 3, top, "(d) prediction"), case.prediction)
    colour_bar(canvas, strip.left(1), below, strip.slot, scale, "importance")
    legend(canvas, strip.left(2), below - 0.02, strip.room(2), case.entries)
    return canvas.figure
