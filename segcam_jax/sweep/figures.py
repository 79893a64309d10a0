"""The figures of a run: six panels of a segmentation, input and overlay of a classification."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from segcam_jax import viz
from segcam_jax.methods import METHODS
from segcam_jax.sweep import aims, store
from segcam_jax.sweep.network import Background
from segcam_jax.sweep.plan import Case, Plan
from segcam_jax.taps import INPUT
from segcam_jax.viz.gallery import Row, gallery

Heats = Mapping[tuple[str, str], Float[np.ndarray, "h w"]]
# The share of pixels that is not clipped in maps of single pixels.
_CLIP = 0.99
_KNOWN_AS = {
    "hires_cam": "HiResCAM",
    "xgrad_cam": "XGrad-CAM",
    "layer_cam": "LayerCAM",
    "shapley_cam": "ShapleyCAM",
    "fast_ablation_cam": "FastAblationCAM",
    "recipro_cam": "ReciproCAM",
    "guided_grad_cam": "Guided Grad-CAM",
    "full_grad": "FullGrad",
    "fem": "FEM",
    "kpca_cam": "KPCA-CAM",
    "smooth_grad": "SmoothGrad",
    "input_x_gradient": "Input x gradient",
}


def known_as(method: str) -> str:
    """What people call a method: `grad_cam_pp` is Grad-CAM++."""
    words = method.removesuffix("_pp").split("_")
    if method in _KNOWN_AS or words[-1] != "cam":
        return _KNOWN_AS.get(method, " ".join(words).capitalize())
    name = "-".join([*(word.capitalize() for word in words[:-1]), "CAM"])
    return f"{name}++" if method.endswith("_pp") else name


def is_fine(method: str) -> bool:
    """Whether a method's maps are of single pixels."""
    return METHODS[method].explains == "input" or method == "guided_grad_cam"


def heading(method: str) -> str:
    """A method above its maps."""
    return known_as(method) + (", clipped" if is_fine(method) else "")


def clipped(method: str, heat: np.ndarray) -> np.ndarray:
    """Maps of single pixels are clipped: a few pixels would leave all others dark."""
    if not is_fine(method):
        return heat
    limit = np.quantile(np.abs(heat), _CLIP)
    return np.clip(heat, -limit, limit) if limit > 0 else heat


def drawable(pixels: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """The image with one or three channels; the mean of others."""
    return pixels if pixels.shape[-1] in (1, 3) else pixels.mean(-1, keepdims=True)


def own_scale(heat: np.ndarray) -> np.ndarray:
    """A heatmap divided by its largest magnitude, so that many can share one colour scale."""
    largest = np.abs(heat).max()
    return heat / largest if largest > 0 else heat


def of_map(
    plan: Plan,
    case: Case,
    pixels: Float[np.ndarray, "h w c"],
    raw: Float[np.ndarray, "u v"],
    heat: Float[np.ndarray, "h w"],
    method: str,
    tap: str,
) -> Figure:
    """The figure of one map."""
    background = plan.subject.background(exclusive=not plan.options.multi_label)
    if case.prediction is None:
        at = "" if tap == INPUT else f" at {tap}, {' x '.join(map(str, raw.shape))}"
        return gallery(
            [Row(drawable(pixels), [clipped(method, heat)])],
            [heading(method)],
            title=_title(case),
            subtitle=f"{plan.subject.title}{at}",
            colormap=plan.options.colormap,
        )
    # The raw map covers the padding too; the figure shows the part over the image.
    shown = tuple(
        slice(0, -(-cells * small // large))
        for cells, small, large in zip(raw.shape, case.extent, case.padded, strict=True)
    )
    return viz.six_panels(
        drawable(pixels),
        None,
        case.prediction,
        raw[shown],
        heat,
        region=case.region,
        class_names=_legend(plan.subject.labels, background),
        class_index=case.class_index,
        background=None if background is None else background.index,
        ignored=None,
        colormap=plan.options.colormap,
        title=f"{_title(case)}, {method} at {tap}",
    )


def of_all(
    plan: Plan,
    case: Case,
    pixels: Float[np.ndarray, "h w c"],
    heats: Heats,
) -> Figure:
    """The figure of all maps of a case: methods x taps, or layers x methods of a classifier."""
    if case.prediction is None:
        return _layers(plan, case, pixels, heats)
    return viz.montage(
        drawable(pixels),
        {pair: own_scale(heat) for pair, heat in heats.items()},
        rows=list(dict.fromkeys(method for method, _ in heats)),
        columns=list(dict.fromkeys(tap for _, tap in heats)),
        region=case.region,
        colormap=plan.options.colormap,
        title=f"{_title(case)}; each map on its own scale",
    )


def _legend(labels: Sequence[str], background: Background | None) -> list[str]:
    """Names of classes for a legend: a number alone is none."""
    names = [aims.short(label) for label in labels]
    if background is not None and background.assumed:
        names[background.index] += ", taken for background"
    return names


def _layers(plan: Plan, case: Case, pixels: np.ndarray, heats: Heats) -> Figure:
    """Layers x methods; maps of the input stand in every row."""
    methods = list(dict.fromkeys(method for method, _ in heats))
    taps = list(dict.fromkeys(tap for _, tap in heats))
    layers = [tap for tap in taps if tap != INPUT] or taps
    rows = []
    for layer in layers:
        found = [heats.get((method, layer), heats.get((method, INPUT))) for method in methods]
        drawn = [
            None if heat is None else clipped(method, heat)
            for method, heat in zip(methods, found, strict=True)
        ]
        rows.append(Row(drawable(pixels), drawn, layer if len(layers) > 1 else ""))
    return gallery(
        rows,
        [heading(method) for method in methods],
        title=_title(case),
        subtitle=plan.subject.title + (f" at {layers[0]}" if len(layers) == 1 else ""),
        colormap=plan.options.colormap,
    )


def _title(case: Case) -> str:
    if case.prediction is None:
        return f"{case.picture}: {aims.in_words(case.about)}"
    return f"{case.picture}: class {case.about['explained']['label']!r}"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        viz.save(figure, path)
    except OSError as error:
        raise store.cannot_write(path, error) from None
