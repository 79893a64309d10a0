"""CAMs from ablation: how far the score falls when a part of the activation is taken away."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.masks import ChannelMasks, WindowMasks
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, wide


def scaled(drops: Array, score: Array, *, relative: bool) -> Array:
    """S - S_m, divided by |S| if relative; where S is 0 it is left undivided."""
    if not relative:
        return drops
    size = jnp.abs(score)
    return drops / jnp.where(size > 0, size, 1)


@method(
    "activation",
    title="Ablation-CAM",
    cost="1 encode, c + 1 decodes",
    paper="Desai and Ramaswamy, WACV 2020; for segmentation MODAL-UNINA, Eurocon 2023",
    ablates=True,
)
def ablation_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    ablation_value: float = 0.0,
    relative: bool = True,
    eigen_smooth: bool = False,
    execution: Execution = Execution(),
) -> Explanation:
    """Ablation-CAM: channels are weighted by the fall of the score without them.

        w_k = (S - S_k) / |S|,    map[p] = sum_k w_k A[p, k]

    S_k is the score with channel k multiplied by `ablation_value`. Exact: every channel is ablated,
    and the part of the model before the tap runs once.

    Args:
        split: the model, cut at the tap to explain; zero is a meaningful value after a ReLU.
        ablation_value: what an ablated channel is multiplied by.
        relative: divide by |S|; a score of exactly 0 divides by 1.
        eigen_smooth: as in `grad_cam`.

    Returns:
        `map` `*space`, `weights` `c`, `scores` `c` (S_k), `drops` `c` (S - S_k), `score`.

    References:
        Desai and Ramaswamy, Ablation-CAM, WACV 2020, eq. 2 and 3. Deviation: the paper divides by
        S, which turns every sign around where a logit is negative; |S| keeps a supporting channel
        positive. Equal for S > 0.
    """
    activation, carry = engine.encode(split, params, x, execution)
    masks = ChannelMasks(activation.shape[-1], ablation_value)
    score, drops = engine.ablation_drops(split, activation, carry, target, masks, execution)
    weights = scaled(drops, score, relative=relative)
    explanation = weighted(wide(activation), weights, score, eigen_smooth=eigen_smooth)
    return Explanation(explanation.map, score, weights, score - drops, drops)


@method(
    "activation",
    title="FastAblationCAM",
    cost="1 encode, positions + 1 decodes",
    paper="Sipila, FastAblationCAM, 2022",
    ablates=True,
)
def fast_ablation_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    window: int | tuple[int, ...] = 1,
    stride: int | tuple[int, ...] = 1,
    ablation_value: float = 0.0,
    relative: bool = False,
    execution: Execution = Execution(),
) -> Explanation:
    """FastAblationCAM: the fall of the score without one window of positions, all channels.

        drop_m = S - S_m,    map[p] = mean of drop_m over the windows m that cover p

    S_m is the score with window m multiplied by `ablation_value` in every channel. The maps of all
    classes take one study: `explain_classes(fast_ablation_cam, ...)`.

    Args:
        split: the model, cut at the tap to explain. Before a BatchNorm, as in the original, 0 is
            not nothing: an ablated position is what the BatchNorm makes of 0.
        target: the score to explain; the original has the probability of the true class,
            `whole_image(label, of="probabilities")`.
        window: extent of a window, one number or one per axis.
        stride: distance of windows, at most `window`; the last one is moved back to the border.
        ablation_value: what ablated positions are multiplied by; 0 removes them, negative values
            and values above 1 ask the counterfactual.
        relative: divide by |S|; a score of exactly 0 divides by 1.

    Returns:
        `map` `*space`, `scores` `m` (S_m, windows in row-major order), `drops` `m` (S - S_m),
        `score`.

    Raises:
        InputError: if windows do not fit the map, or would leave positions out.

    References:
        Sipila, FastAblationCAM, 2022 (github.com/ISipi/FastAblationCAM), whose windows are single
        positions and whose drop is not relative. Its code shifts maps by one cell to the left, a
        fault of its position counter that is not repeated here; for a comparison with published
        figures the heatmap profile `fast_ablation_cam_legacy` has it.
    """
    activation, carry = engine.encode(split, params, x, execution)
    shape = activation.shape[:-1]
    masks = WindowMasks(shape, _per_axis(window, shape), _per_axis(stride, shape), ablation_value)
    masks.check()
    score, drops = engine.ablation_drops(split, activation, carry, target, masks, execution)
    falls = scaled(drops, score, relative=relative)
    return Explanation(masks.spread(falls), score, scores=score - drops, drops=drops)


def _per_axis(size: int | tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (size,) * len(shape) if isinstance(size, int) else tuple(size)
