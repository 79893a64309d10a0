"""Figures of an explained image: six panels of a segmentation, input and overlay of a classifier.

They are drawn from values alone, so that those of a run that was stored are those that a command
draws while it runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from segcam_jax import viz
from segcam_jax.heatmap import over_image
from segcam_jax.methods import METHODS
from segcam_jax.networks.network import Background
from segcam_jax.reports import words
from segcam_jax.reports.display import AUTO, CLIP, Display, about_clipping, check, in_words
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError, counted, shortened

Displays = Mapping[tuple[str, str], Display]

_SMOOTHEST = 1000


@dataclasses.dataclass(frozen=True)
class Look:
    """How maps are drawn.

    Attributes:
        profile: how raw maps become heatmaps: a profile, or `auto`, as `display` has it.
        colormap: a matplotlib colour table; None: the library's.
        smoothing: standard deviation of a Gaussian on the heatmaps, in pixels.
        panels: of the figure of one map of a segmentation: six as in the Eurocon paper, four as in
            Seg-Grad-CAM's, or the overlay alone.
        outline: colour of the explained region's outline; None: the library's.

    Raises:
        InputError: if there is no such profile, colour table or colour, or a number is out of
            range.
    """

    profile: str = AUTO
    colormap: str | None = None
    smoothing: float = 0.0
    panels: int = 6
    outline: str | None = None

    def __post_init__(self):
        check(self.profile)
        if self.panels not in (1, 4, 6):
            raise InputError(f"--panels was given {self.panels}; give 1, 4 or 6")
        self.style.scale([np.zeros((1, 1))])
        if not 0 <= self.smoothing <= _SMOOTHEST:
            raise InputError(
                f"--smoothing was given {self.smoothing}; give pixels from 0 to {_SMOOTHEST}"
            )

    @property
    def style(self) -> viz.Style:
        """The colours of maps."""
        return viz.Style(self.colormap, outline=self.outline)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An explained image without its maps: what its figures show, and say of it.

    Attributes:
        said: what is predicted and explained, in words.
        padded: extents that the network was given.
        of: what the score is of: logits or probabilities.
        reduce: how the score is made of the region: sum or mean.
        rather_than: label of the class that it is compared with; empty: none.
        legend: names of the classes, as `legend` has them.
        background: the class drawn in neutral grey.
        region: the explained pixels; None of a classifier.
        chosen: how the region was chosen; empty where that is not known.
        prediction: predicted class of each pixel, -1 where there is none; None of a classifier.
        truth: true class of each pixel, where it is known.
    """

    name: str
    said: str
    pixels: Float[np.ndarray, "h w c"]
    padded: tuple[int, int]
    network: str
    label: str
    class_index: int
    of: str
    reduce: str = "sum"
    rather_than: str = ""
    legend: Sequence[str] = ()
    background: int | None = None
    region: Bool[np.ndarray, "h w"] | None = None
    chosen: str = ""
    prediction: Int[np.ndarray, "h w"] | None = None
    truth: Int[np.ndarray, "h w"] | None = None

    @property
    def extent(self) -> tuple[int, int]:
        """Of the image."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def title(self) -> str:
        """The image, and what is explained."""
        return f"{shortened(self.name)}: {self.said}"

    @property
    def score(self) -> str:
        """What is explained: the target, its region and its units."""
        less = f" less that of {words.short(self.rather_than)}" if self.rather_than else ""
        by = f"{words.short(self.label)}{less} by {self.network}"
        if self.region is None or self.prediction is None:
            one = {"logits": "logit", "probabilities": "probability"}[self.of]
            return f"Explained: the {one} of {by}"
        count = int(self.region.sum())
        inside = int((self.prediction[self.region] == self.class_index).sum())
        if self.chosen == "predicted":
            where = f"over the {counted(count, 'pixel')} predicted as it"
        else:
            how = f" ({self.chosen})" if self.chosen else ""
            where = f"over {counted(count, 'pixel')}{how}, {inside} of which are predicted as it"
        return f"Explained: the {self.reduce} of the {self.of} of {by} {where}"


def legend(labels: Sequence[str], background: Background | None) -> list[str]:
    """Names of classes for a legend, a number alone is none; and of what is not the only class."""
    names = [words.short(label) for label in labels]
    if len(names) == 1:
        return [*names, f"not {names[0]}"]
    if background is not None and background.assumed:
        names[background.index] += " (assumed background)"
    return names


def heading(method: str) -> str:
    """A method above its maps."""
    known = METHODS[method]
    return known.title + (", clipped" if known.pixelwise else "")


def clipped(method: str, heat: np.ndarray) -> np.ndarray:
    """Maps of single pixels are clipped: a few pixels would leave all others dark."""
    if not METHODS[method].pixelwise:
        return heat
    limit = np.quantile(np.abs(heat), CLIP)
    return np.clip(heat, -limit, limit) if limit > 0 else heat


def drawn(shown: Sequence[Display | None]) -> list[viz.Noted | None]:
    """Maps as a row of a figure shows them, each with its note; None where there is none."""
    return [
        None if each is None else viz.Noted(clipped(each.method, each.heat), each.note)
        for each in shown
    ]


def drawable(pixels: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """The image with one or three channels in [0, 1]; the mean of others, and of others' range."""
    pixels = pixels if pixels.shape[-1] in (1, 3) else pixels.mean(-1, keepdims=True)
    low, high = pixels.min(), pixels.max()
    if low >= 0 and high <= 1:
        return pixels
    return (pixels - low) / (high - low)


def own_scale(heat: np.ndarray) -> np.ndarray:
    """A heatmap divided by its largest magnitude, so that many can share one colour scale."""
    largest = np.abs(heat).max()
    return heat / largest if largest > 0 else heat


def of_map(
    subject: Subject, raw: Float[np.ndarray, "u v"], shown: Display, tap: str, look: Look
) -> Figure:
    """The figure of one map."""
    method = shown.method
    caption = f"{subject.score}. {shown.caption(words.short(subject.label), look.profile)}"
    if subject.prediction is None:
        at = "" if tap == INPUT else f" at {tap}, {' x '.join(map(str, raw.shape))}"
        heat = viz.Noted(clipped(method, shown.heat), shown.zero)
        return viz.gallery(
            [viz.Row(drawable(subject.pixels), [heat])],
            [heading(method)],
            style=look.style,
            title=subject.title,
            subtitle=f"{subject.network}{at}",
            caption=caption + about_clipping([method]),
        )
    classes = viz.Classes(subject.legend, subject.class_index, subject.background, ignored=None)
    pixels = drawable(subject.pixels)
    segmented = viz.Segmented(pixels, subject.prediction, subject.truth, subject.region, classes)
    heat = viz.Noted(shown.heat, shown.zero)
    title = f"{subject.title}, {METHODS[method].title} at {tap}"
    if look.panels == 1:
        region = subject.region
        return viz.overlay(pixels, heat, region=region, style=look.style, title=title)
    if look.panels == 4:
        return viz.four_panels(segmented, heat, style=look.style, title=title, caption=caption)
    # The raw map covers the padding too.
    whole = over_image(raw, subject.extent, subject.padded)
    return viz.six_panels(segmented, whole, heat, style=look.style, title=title, caption=caption)


def of_all(subject: Subject, shown: Displays, look: Look, *, signed: bool) -> Figure:
    """The figure of all maps of an image: methods x taps, or layers x methods of a classifier."""
    how = in_words(shown.values(), chosen=look.profile, signed=signed)
    if subject.prediction is None:
        return _layers(subject, shown, look, how)
    return viz.montage(
        drawable(subject.pixels),
        {
            (heading(method), tap): viz.Noted(own_scale(clipped(method, each.heat)), each.note)
            for (method, tap), each in shown.items()
        },
        region=subject.region,
        style=look.style,
        title=f"{subject.title} by {subject.network}; each map on its own scale",
        caption=f"{subject.score}. {how}",
    )


def _layers(subject: Subject, shown: Displays, look: Look, how: str) -> Figure:
    """Layers x methods; maps of the input stand in every row."""
    methods = list(dict.fromkeys(method for method, _ in shown))
    taps = list(dict.fromkeys(tap for _, tap in shown))
    layers = [tap for tap in taps if tap != INPUT] or taps
    rows = []
    for layer in layers:
        found = [shown.get((method, layer), shown.get((method, INPUT))) for method in methods]
        label = layer if len(layers) > 1 else ""
        rows.append(viz.Row(drawable(subject.pixels), drawn(found), label))
    at = f" at {layers[0]}" if len(layers) == 1 else ""
    return viz.gallery(
        rows,
        [heading(method) for method in methods],
        style=look.style,
        title=subject.title,
        subtitle=f"{subject.network}{at}",
        caption=f"{subject.score}. {how}",
    )
