"""The figures of a run: six panels of a segmentation, input and overlay of a classification."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from segcam_jax import viz
from segcam_jax.methods import METHODS
from segcam_jax.networks.network import Background
from segcam_jax.sweep import words
from segcam_jax.sweep.display import Display, in_words, over_image
from segcam_jax.sweep.plan import Case, Plan
from segcam_jax.taps import INPUT
from segcam_jax.types import shortened
from segcam_jax.viz.draw import ZERO
from segcam_jax.viz.gallery import Row, gallery

Displays = Mapping[tuple[str, str], Display]
# The share of pixels that is not clipped in maps of single pixels.
_CLIP = 0.99


def heading(method: str) -> str:
    """A method above its maps."""
    known = METHODS[method]
    return known.title + (", clipped" if known.pixelwise else "")


def clipped(method: str, heat: np.ndarray) -> np.ndarray:
    """Maps of single pixels are clipped: a few pixels would leave all others dark."""
    if not METHODS[method].pixelwise:
        return heat
    limit = np.quantile(np.abs(heat), _CLIP)
    return np.clip(heat, -limit, limit) if limit > 0 else heat


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
    plan: Plan,
    case: Case,
    pixels: Float[np.ndarray, "h w c"],
    raw: Float[np.ndarray, "u v"],
    shown: Display,
    tap: str,
) -> Figure:
    """The figure of one map."""
    method, label = shown.method, words.short(case.about["explained"]["label"])
    how = shown.caption(label, plan.options.profile)
    background = plan.network.background
    if case.prediction is None:
        at = "" if tap == INPUT else f" at {tap}, {' x '.join(map(str, raw.shape))}"
        return gallery(
            [Row(drawable(pixels), [clipped(method, shown.heat)], notes=[shown.zero])],
            [heading(method)],
            title=_title(case),
            subtitle=f"{plan.network.title}{at}",
            caption=f"{_score(plan, case)}. {how}",
            colormap=plan.options.colormap,
        )
    return viz.six_panels(
        drawable(pixels),
        None,
        case.prediction,
        # The raw map covers the padding too.
        over_image(raw, case.extent, case.padded),
        shown.heat,
        region=case.region,
        class_names=_legend(plan.network.labels, background),
        class_index=case.class_index,
        background=None if background is None else background.index,
        ignored=None,
        colormap=plan.options.colormap,
        title=f"{_title(case)}, {METHODS[method].title} at {tap}",
        caption=f"{_score(plan, case)}. {how}",
        zero=shown.zero or ZERO,
    )


def of_all(
    plan: Plan,
    case: Case,
    pixels: Float[np.ndarray, "h w c"],
    shown: Displays,
    *,
    signed: bool,
) -> Figure:
    """The figure of all maps of a case: methods x taps, or layers x methods of a classifier."""
    how = in_words(shown.values(), chosen=plan.options.profile, signed=signed)
    if case.prediction is None:
        return _layers(plan, case, pixels, shown, how)
    names = {(METHODS[method].title, tap): each for (method, tap), each in shown.items()}
    return viz.montage(
        drawable(pixels),
        {pair: own_scale(each.heat) for pair, each in names.items()},
        rows=list(dict.fromkeys(method for method, _ in names)),
        columns=list(dict.fromkeys(tap for _, tap in names)),
        region=case.region,
        colormap=plan.options.colormap,
        title=f"{_title(case)}; each map on its own scale",
        caption=f"{_score(plan, case)}. {how}",
        notes={pair: each.note for pair, each in names.items()},
    )


def _legend(labels: Sequence[str], background: Background | None) -> list[str]:
    """Names of classes for a legend: a number alone is none."""
    names = [words.short(label) for label in labels]
    if background is not None and background.assumed:
        names[background.index] += ", taken for background"
    return names


def _score(plan: Plan, case: Case) -> str:
    """What is explained: the target, its region and its units."""
    label, options = words.short(case.about["explained"]["label"]), plan.options
    by = f"{label} by {plan.network.title}"
    of = "probabilities" if plan.network.meaning.outputs == "probabilities" else options.of
    if case.region is None or case.prediction is None:
        one = {"logits": "logit", "probabilities": "probability"}[of]
        return f"Explained: the {one} of {by}"
    count = int(case.region.sum())
    inside = int((case.prediction[case.region] == case.class_index).sum())
    kind = options.where.kind
    # A mask's words hold the folders of its file.
    region = kind if kind == "mask" else options.region
    if region == "predicted":
        where = f"over the {count} pixel(s) predicted as it"
    else:
        where = f"over {count} pixel(s) ({region}), {inside} of which are predicted as it"
    return f"Explained: the {options.reduce} of the {of} of {by} {where}"


def _layers(plan: Plan, case: Case, pixels: np.ndarray, shown: Displays, how: str) -> Figure:
    """Layers x methods; maps of the input stand in every row."""
    methods = list(dict.fromkeys(method for method, _ in shown))
    taps = list(dict.fromkeys(tap for _, tap in shown))
    layers = [tap for tap in taps if tap != INPUT] or taps
    rows = []
    for layer in layers:
        found = [shown.get((method, layer), shown.get((method, INPUT))) for method in methods]
        drawn = [None if each is None else clipped(each.method, each.heat) for each in found]
        notes = ["" if each is None else each.note for each in found]
        label = layer if len(layers) > 1 else ""
        rows.append(Row(drawable(pixels), drawn, label, notes=notes))
    at = f" at {layers[0]}" if len(layers) == 1 else ""
    return gallery(
        rows,
        [heading(method) for method in methods],
        title=_title(case),
        subtitle=f"{plan.network.title}{at}",
        caption=f"{_score(plan, case)}. {how}",
        colormap=plan.options.colormap,
    )


def _title(case: Case) -> str:
    if case.prediction is None:
        return f"{shortened(case.picture)}: {words.in_words(case.about)}"
    return f"{shortened(case.picture)}: {words.short(case.about['explained']['label'])}"
