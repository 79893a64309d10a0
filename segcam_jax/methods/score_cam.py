"""CAMs without gradients: the score is read while parts are shown, not taken away."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.masks import ActivationMasks, KeepMasks
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.methods.registry import method
from segcam_jax.taps import Split
from segcam_jax.targets import Difference, Target
from segcam_jax.types import Explanation, InputError, wide


@method(
    "activation",
    title="Score-CAM",
    cost="c + 1 forwards of the whole network",
    paper="Wang et al., CVPR workshop 2020",
    ablates=True,
)
def score_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    masks: Literal["torchcam", "pytorch_grad_cam"] = "torchcam",
    per_position: bool = True,
    temperature: float = 1.0,
    execution: Execution = Execution(),
) -> Explanation:
    """Score-CAM: channels are weighted by the score of the input that each lets through.

        M_k = A_k at the extents of the input, in [0, 1];    S_k = S(x M_k)
        w = softmax_k(S_k / (|region| temperature)),    map[p] = sum_k w_k A[p, k]

    The masks are on the input: nothing before the tap can be shared, and every channel costs a
    forward pass of the whole network, as many at once as fit in memory. The masks are made one by
    one, never all together.

    Args:
        x: one example, an image or a volume.
        masks: scaled to [0, 1] before they are resized on half-pixel centres (`"torchcam"`), or
            after they are resized with aligned corners (`"pytorch_grad_cam"`).
        per_position: divide the scores by the size of the target's region: the mean score, however
            the target reduces. The softmax of a sum over many pixels gives nearly all weight to
            one channel. Of a difference, the larger of its two regions divides. False: the scores
            as they are, as both libraries take them. Makes no difference for a classifier. The
            scores of a function of your own are taken as they are: let it give a mean.
        temperature: divides the scores, too; above 1 spreads the weights.

    Returns:
        `map` `*space`, `weights` `c` (positive, they sum to 1), `scores` `c` (S_k as the target
        reduces it), `score`.

    Raises:
        InputError: if the input is not one array of as many dimensions as the activation.

    References:
        Wang et al., Score-CAM, CVPR workshop 2020. The paper takes the score of a
        baseline away, which the softmax cancels.
    """
    if len(jax.tree.leaves(split.input)) != 1:
        raise InputError("score_cam masks the input, which must be one array")
    activation, _ = engine.encode(split, params, x, execution)
    activation = wide(activation)
    whole = split.at_input
    image, carry = whole.encode(params, x)
    if image.ndim != activation.ndim or image.ndim < 2:
        raise InputError(
            f"score_cam masks the input {image.shape} by the channels of the activation "
            f"{activation.shape} at tap {split.tap!r}; both need positions, and the same number "
            "of dimensions"
        )
    by_corners = masks == "pytorch_grad_cam"
    family = ActivationMasks(activation, image.shape[:-1], by_corners, by_corners)
    score, scores = engine.ablation_scores(whole, image, carry, target, family, execution)
    area = _region_size(target, whole) if per_position else 1
    weights = jax.nn.softmax(scores / (area * jnp.asarray(temperature, scores.dtype)))
    found = weighted(activation, weights.astype(activation.dtype), score)
    return Explanation(found.map, score, found.weights, scores)


def _region_size(target: Any, split: Split) -> Any:
    """What the score of a target is a sum over; 1 where it is a mean or of an unknown kind."""
    if isinstance(target, Difference):
        both = (_region_size(each, split) for each in (target.first, target.second))
        return jnp.maximum(*both)
    if not isinstance(target, Target) or target.reduce == "mean":
        return 1
    if target.mask is None:
        return math.prod(split.output.shape[:-1])
    size = jnp.abs(jnp.asarray(target.mask, jnp.float32)).sum()
    return jnp.where(size > 0, size, 1)


@method(
    "activation",
    title="ReciproCAM",
    cost="1 encode, positions + 2 decodes",
    paper="Byun and Lee, CVPR workshop 2024",
    ablates=True,
)
def recipro_cam(
    split: Split,
    params: Any,
    x: Array,
    target: Any,
    *,
    soft: bool = True,
    execution: Execution = Execution(),
) -> Explanation:
    """Recipro-CAM: what one position of the activation does for the score all alone.

        map[p] = S(A M_p) - S(0)

    M_p is 1 at position p and 0 elsewhere, or with `soft` 1/4, 1/2, 1/4 along each axis around p.
    The complement of FastAblationCAM, which takes positions away.

    Args:
        soft: keep a small Gaussian around the position, as the paper's default.

    Returns:
        `map` `*space`, `scores` `m` (S(A M_p), positions in row-major order), `drops` `m`
        (S - S(A M_p)), `score`.

    References:
        Byun and Lee, ReciproCAM, CVPR workshop 2024. Deviation: the score of an empty
        activation is taken away, so that 0 means no effect; the paper's min-max cancels it.
    """
    activation, carry, score = engine.baseline(split, params, x, target, execution)
    shape = activation.shape[:-1]
    if not shape:
        raise InputError(f"recipro_cam needs positions, but tap {split.tap!r} has only channels")
    masks = KeepMasks(shape, soft)
    nothing, falls = engine.ablation_drops(split, activation, carry, target, masks, execution)
    drops = score - nothing + falls
    return Explanation(-falls.reshape(shape), score, scores=nothing - falls, drops=drops)
