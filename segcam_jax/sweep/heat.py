"""Heatmaps of padded images: padding is cut off before anything is normalised."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segcam_jax.heatmap import Profile, find_profile, heatmap, resize, smooth
from segcam_jax.types import InputError


def cropped_heatmap(
    raw: Float[Array | np.ndarray, "*space"],
    padded: tuple[int, ...],
    extent: tuple[int, ...],
    profile: str | Profile = "segcam_jax",
    *,
    smoothing: float = 0.0,
) -> Float[Array, "*extent"]:
    """A heatmap of the image alone, from a raw map that covers the padded image.

    The profile's steps run in their order; as soon as the map has the padded extent it is cropped,
    so that a maximum in the padding does not scale the image's. Without padding this is
    `segcam_jax.heatmap`.

    Args:
        raw: the raw map, at the resolution of the activation.
        padded: extents that the network was given.
        extent: extents of the image, at the start of the padded ones.
        profile: as in `segcam_jax.heatmap`.
        smoothing: likewise, in pixels.
    """
    if any(small > large for small, large in zip(extent, padded, strict=True)):
        raise InputError(f"extent {extent} exceeds the padded extent {padded}")
    if padded == extent:
        return heatmap(raw, extent, profile, smoothing=smoothing)
    values = jnp.asarray(raw)
    if smoothing:
        values = smooth(resize(values, padded), smoothing)
    size = padded
    for step in (lambda same, _: same, *find_profile(profile).steps):
        values = step(values, size)
        if size == padded and values.shape == padded:
            size = extent
            values = values[tuple(slice(0, n) for n in extent)]
    return values


# One program for all maps of a resolution, where the steps one by one are twenty small ones.
compiled_heatmap = jax.jit(
    cropped_heatmap, static_argnames=("padded", "extent", "profile", "smoothing")
)
