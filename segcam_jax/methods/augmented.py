"""The mean heatmap over an image mirrored and made darker and brighter: aug_smooth."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax.heatmap import Profile, heatmap
from segcam_jax.taps import Split
from segcam_jax.types import InputError

FACTORS = (0.9, 1.0, 1.1)


def aug_smooth(
    method: Callable,
    split: Split,
    params: Any,
    x: Float[Array, "h w c"],
    target: Callable[[Any], Any],
    *,
    profile: str | Profile = "pytorch_grad_cam",
    **options: Any,
) -> Float[Array, "h w"]:
    """The mean of six heatmaps: of the image and its mirror image, times 0.9, 1 and 1.1.

        H = 1/6 sum_f ( heatmap(f x) + mirror(heatmap(f mirror(x))) ),    f in 0.9, 1, 1.1

    Each heatmap is normalised by itself, as the profile has it; their mean is not, again.

    Args:
        method: of this library; its maps are of positions of the image.
        split: the model, cut at the tap.
        x: one image, as the network is given it (normalised, as factors act on that).
        target: the score to explain, of the output for `x`. An output with positions is mirrored
            back before it is asked, so that a region lies on the same pixels in all six.
        profile: how raw maps become heatmaps of the image's size.
        options: of the method.

    Raises:
        InputError: if the input is not one image with its channels last.

    References:
        `aug_smooth=True` of pytorch-grad-cam. Deviation: there a region is not mirrored with the
        image, so that half of the maps explain other pixels.
    """
    if jax.tree.structure(split.input) != jax.tree.structure(0) or split.input.ndim != 3:
        raise InputError("aug_smooth mirrors images `h w c`, but the network's input is not one")

    def mirrored(output: Any) -> Any:
        back = (jnp.flip(each, 1) if each.ndim > 2 else each for each in jax.tree.leaves(output))
        return target(jax.tree.unflatten(jax.tree.structure(output), back))

    total = jnp.zeros(x.shape[:2])
    for factor in FACTORS:
        given = jnp.asarray(x) * factor
        found = method(split, params, given, target, **options)
        total += heatmap(found.map, x.shape[:2], profile)
        found = method(split, params, jnp.flip(given, 1), mirrored, **options)
        total += jnp.flip(heatmap(found.map, x.shape[:2], profile), 1)
    return total / (2 * len(FACTORS))
