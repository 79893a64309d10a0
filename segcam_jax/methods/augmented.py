"""The mean heatmap over an image mirrored and made darker and brighter: aug_smooth."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.heatmap import heatmap
from segcam_jax.taps import Split
from segcam_jax.targets import Difference, Target
from segcam_jax.types import Explanation, InputError

FACTORS = (0.9, 1.0, 1.1)
AUGMENTED = 2 * len(FACTORS)  # images


def aug_smooth(
    method: Callable[..., Explanation],
    split: Split,
    params: Any,
    x: Float[Array, "h w c"],
    target: Callable[[Any], Any],
    *,
    profile: str = "pytorch_grad_cam",
    **options: Any,
) -> Explanation:
    """The mean of six heatmaps: of the image and its mirror image, times 0.9, 1 and 1.1.

        H = 1/6 sum_f ( heatmap(f x) + mirror(heatmap(f mirror(x))) ),    f in 0.9, 1, 1.1

    Each heatmap is normalised by itself, as the profile has it; their mean is not, again. On the
    command line, methods that explain a layer have the option `aug_smooth=true`.

    Args:
        method: of this library; its maps are of positions of the image.
        split: the model, cut at the tap.
        x: one image, as the network is given it (normalised, as factors act on that).
        target: the score to explain, of the output for `x`. An output with positions is mirrored
            back before the target reads it, so that a region lies on the same pixels in all six.
        profile: how raw maps become heatmaps of the image's size.
        options: of the method.

    Returns:
        `map` `h w`, the mean; `score` of the unchanged image.

    Raises:
        InputError: if the input is not one image with its channels last; or the target is no
            `Target`, and no axis of the output runs along the columns of the image.

    References:
        `aug_smooth=True` of pytorch-grad-cam. Deviation: there a region is not mirrored with the
        image, so that half of the maps explain other pixels.
    """
    return mean_of_six(split, params, x, target, method=method, profile=profile, **options)


@engine.compiled
def mean_of_six(
    split: Split,
    params: Any,
    x: Float[Array, "h w c"],
    target: Callable[[Any], Any],
    *,
    method: Callable[..., Explanation],
    profile: str = "pytorch_grad_cam",
    **options: Any,
) -> Explanation:
    """`aug_smooth` in the order of a method's arguments."""
    if jax.tree.structure(split.input) != jax.tree.structure(0) or split.input.ndim != 3:
        raise InputError("aug_smooth mirrors images `h w c`, but the network's input is not one")

    def of_three(x: Any, target: Any) -> tuple[Any, Any]:
        def one(factor: Any) -> tuple[Any, Any]:
            found = method(split, params, x * factor, target, **options)
            return heatmap(found.map, x.shape[:2], profile), found.score

        heats, scores = jax.lax.map(one, jnp.array(FACTORS, x.dtype))  # One program for all three.
        return heats.mean(0), scores[FACTORS.index(1.0)]

    x = jnp.asarray(x)
    heat, score = of_three(x, target)
    other, _ = of_three(jnp.flip(x, 1), _mirrored(target, x.shape[:2]))
    return Explanation((heat + jnp.flip(other, 1)) / 2, score)


def _mirrored(target: Callable[[Any], Any], extent: tuple[int, ...]) -> Any:
    """The same score as a function of the output of the mirrored image."""
    if isinstance(target, Difference):  # Still one: methods look at its two parts.
        return Difference(*(_mirrored(each, extent) for each in (target.first, target.second)))
    if isinstance(target, Target):
        return _of_class(target)

    def back(each: Any) -> Any:
        columns = _columns(each.shape, extent)
        return each if columns is None else jnp.flip(each, columns)

    return lambda output: target(jax.tree.map(back, output))


def _columns(shape: tuple[int, ...], extent: tuple[int, ...]) -> int | None:
    """The axis of an output along the image's columns; None if it has no positions.

    Rows and columns lie side by side, and are as many as the image's, or as many at a stride.
    """
    height, width = extent
    if len(shape) < 2 or (len(shape) == 2 and shape[0] == 1 and shape != extent):
        return None  # Classes, with an axis of one image or without.
    pairs = enumerate(itertools.pairwise(shape), 1)
    apart = [(abs(h * width - w * height), h, axis) for axis, (h, w) in pairs]
    # At a stride both are rounded up; of several pairs, that which is nearest to the image's form.
    if found := [(gap / h, axis) for gap, h, axis in apart if gap < max(extent)]:
        return min(found)[1]
    raise InputError(
        f"aug_smooth cannot tell which axis of the output {shape} runs along the columns of the "
        f"image {extent}; let the model return positions as `h w k`, or use the method without it"
    )


def _of_class(target: Target) -> Target:
    if target.mask is None:
        return target
    mask = jnp.flip(jnp.asarray(target.mask), -1)
    if target.extent is None or target.corner is None:
        return dataclasses.replace(target, mask=mask)
    *others, column = target.corner
    column = mask.shape[-1] - target.extent[-1] - column
    return dataclasses.replace(target, mask=mask, corner=jnp.stack([*others, column]))
