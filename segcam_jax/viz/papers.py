"""The figures of two papers: six panels (Ablation-CAM for segmentation), four (Seg-Grad-CAM)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcam_jax.types import InputError
from segcam_jax.viz.checks import AnyArray, as_image, as_labels, as_map, as_point, as_region
from segcam_jax.viz.layout import Words, finished, panels
from segcam_jax.viz.panels import (
    ZERO,
    AnyMap,
    Classes,
    blank,
    colour_bar,
    entitle,
    importance,
    mark_pixel,
    note,
    noted,
    overlaid,
    picture,
)
from segcam_jax.viz.style import Style, drawing

_SIDE, _IN_FOUR = 2.4, 2.0  # inches: of a square panel, of one of four


@dataclasses.dataclass(frozen=True, eq=False)
class Segmented:
    """An image, what a network predicts for it, and what is explained.

    Attributes:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        prediction: class of each pixel.
        truth: class of each pixel; None if there is no ground truth.
        region: boolean mask of the target's pixels, outlined in the overlay.
        classes: what the numbers of classes mean.
        pixel: (row, column) of the explained pixel, ringed in the overlay; instead of or beside
            `region`.
    """

    image: Float[AnyArray, "h w *c"]
    prediction: Int[AnyArray, "h w"]
    truth: Int[AnyArray, "h w"] | None = None
    region: Bool[AnyArray, "h w"] | None = None
    classes: Classes = Classes()
    pixel: tuple[int, int] | None = None


class _Case:
    """An image with what is explained of it, checked, and how its parts are drawn."""

    def __init__(self, given: Segmented, heatmap: AnyMap, style: Style):
        self.image = as_image(given.image)
        self.shape = (self.image.shape[0], self.image.shape[1])
        self.prediction = as_labels(given.prediction, self.shape, "prediction")
        self.truth = None if given.truth is None else as_labels(given.truth, self.shape, "truth")
        self.region = None if given.region is None else as_region(given.region, self.shape)
        self.pixel = None if given.pixel is None else as_point(given.pixel, self.shape)
        self.classes = given.classes
        self.heatmap = noted(heatmap, "heatmap", self.shape)
        self.scale = style.scale([self.heatmap.values])

    @property
    def legend(self):
        """The classes of both maps."""
        return self.classes.legend(self.prediction, self.truth)

    def draw_classes(self, axes: Axes, labels: np.ndarray | None, width: float) -> None:
        """Draws a class map, or says that there is none."""
        if labels is None:
            blank(axes, "no ground truth", width)
        else:
            picture(axes, self.classes.colours(labels), smooth=False)

    def draw_overlay(self, axes: Axes, width: float) -> None:
        """Draws the heatmap over the image, the region outlined, the pixel ringed."""
        overlaid(axes, self.image, self.heatmap, self.scale, self.region, width)
        if self.pixel is not None:
            mark_pixel(axes, self.pixel)


def _lettered(panels: Sequence[Axes], titles: Sequence[str], width: float) -> None:
    """Names panels (a), (b), ..."""
    for number, (axes, words) in enumerate(zip(panels, titles, strict=True)):
        entitle(axes, f"({chr(ord('a') + number)}) {words}", width)


@drawing()
def six_panels(
    segmented: Segmented,
    raw_map: Float[AnyArray, "u v"],
    heatmap: AnyMap,
    *,
    style: Style = Style(),
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws an explanation from input to overlay, in the six panels of the Eurocon paper.

    (a) input, (b) ground truth, (c) prediction, (d) raw map, (e) heatmap, (f) overlay.

    Args:
        segmented: the image, its classes, and what is explained.
        raw_map: the map at the resolution (u, v) of the activation, drawn as it is, pixel by pixel;
            in diverging colours if it has negative values.
        heatmap: the map at image resolution, resized and smoothed; its note is said of a map that
            is zero.
        caption: words below the panels.

    References:
        Panels: "Ablation studies in activation maps for explainable semantic segmentation in
        Industry 4.0", IEEE Eurocon 2023.
    """
    case = _Case(segmented, heatmap, style)
    raw = as_map(raw_map, "raw_map")
    own = Style(style.colormap).scale([raw])
    titles = ("input", "ground truth", "prediction", f"raw map, {raw.shape[0]} by {raw.shape[1]}")
    titles += ("heatmap", "overlay" if case.region is None else "overlay, region outlined")
    against = "; negative: against it" if case.scale.signed else ""
    # Titles of one length have as many lines.
    words = ("six", str(len(titles[3])), titles[5], against)
    made = panels([case.shape, case.shape], 3, _SIDE, words=words)
    (first, truth, prediction), (low, high, over) = made.axes
    width = made.width
    zero = case.heatmap.note or ZERO
    picture(first, case.image)
    case.draw_classes(truth, case.truth, width)
    case.draw_classes(prediction, case.prediction, width)
    for axes, values, scale in ((low, raw, own), (high, case.heatmap.values, case.scale)):
        picture(axes, scale.colours(values), smooth=axes is high, over=case.shape)
        if not values.any():
            note(axes, zero, width, boxed=True)
    case.draw_overlay(over, width)
    _lettered([*made.axes[0], *made.axes[1]], titles, width)
    colour_bar([low], own, "raw value", width, opaque=True)
    colour_bar([high], case.scale, f"heatmap{against}", width, opaque=True)
    colour_bar([over], case.scale, f"importance{against}", width)
    return finished(made.figure, Words(title, caption=caption), case.legend)


@drawing()
def four_panels(
    segmented: Segmented,
    heatmap: AnyMap,
    *,
    style: Style = Style(),
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws the four panels of Seg-Grad-CAM: input, overlay, ground truth, prediction.

    Args:
        segmented: the image, its classes, and what is explained: a region, a pixel, or both.
        heatmap: finite numbers at image resolution.
        caption: words below the panels.

    References:
        Panels: Vinogradova, Dibrov, Myers, "Towards interpretable semantic segmentation via
        gradient-weighted class activation mapping", AAAI 2020.
    """
    if segmented.region is None and segmented.pixel is None:
        raise InputError(
            "four_panels was given neither region nor pixel; give the one that is explained"
        )
    case = _Case(segmented, heatmap, style)
    made = panels([case.shape], 4, _IN_FOUR)
    (first, over, truth, prediction), width = made.axes[0], made.width
    picture(first, case.image)
    case.draw_overlay(over, width)
    case.draw_classes(truth, case.truth, width)
    case.draw_classes(prediction, case.prediction, width)
    marked = "region outlined" if case.pixel is None else f"pixel {case.pixel}"
    titles = ("input", f"overlay, {marked}", "ground truth", "prediction")
    _lettered(made.axes[0], titles, width)
    colour_bar([over], case.scale, importance(case.scale), width)
    return finished(made.figure, Words(title, caption=caption), case.legend)
