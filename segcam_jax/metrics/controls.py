"""Maps that know nothing: what every comparison of maps is held against."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from segcam_jax.heatmap import smooth


def mask_shaped(region: Bool[ArrayLike, "*space"]) -> Float[Array, "*space"]:
    """A map that is the region itself, higher in its middle: where the object is, not why.

    It is the mask blurred by a tenth of its extents, so that it orders positions outside too.
    """
    inside = jnp.asarray(region).astype(jnp.float32)
    return inside + smooth(inside, max(inside.shape) / 10, truncate=8.0)


def random_map(key: Array, shape: tuple[int, ...]) -> Float[Array, "*space"]:
    """A map of even noise, from 0 to 1: any order of positions is as likely as any other."""
    return jax.random.uniform(key, shape)


CONTROLS: dict[str, Callable] = {"mask_shaped": mask_shaped, "random_map": random_map}
