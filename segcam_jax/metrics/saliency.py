"""Where saliency lies: its share on each of several regions, by mass and per area."""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from segcam_jax.types import InputError, wide


def region_shares(
    saliency: Float[ArrayLike, "h w"], regions: Bool[ArrayLike, "r h w"]
) -> tuple[Float[Array, "r"], Float[Array, "r"]]:
    """Share of saliency in each region.

        mass_i    = sum_{p in R_i} s[p] / sum_j sum_{p in R_j} s[p]
        density_i = (sum_{p in R_i} s[p] / |R_i|) / sum_j (sum_{p in R_j} s[p] / |R_j|)

    With the regions biased background, unbiased background and digit this is the ProportionBias of
    the Seg-Grad-CAM code. Saliency spread evenly has density 1/r in each of r regions.

    Args:
        saliency: a heatmap, not negative. Of a signed map give the parts apart, `maximum(map, 0)`
            and `maximum(-map, 0)`: shares of their difference would not be shares.
        regions: disjoint regions; an empty one has share 0.

    Returns:
        `(mass, density)`, each sums to 1, or is all 0 for a map that is 0 on every region. Where a
        value is negative and that cannot be known before the trace, all NaN.

    Raises:
        InputError: if a known value is negative.

    References:
        Vinogradova et al., Seg-Grad-CAM, AAAI 2020, and its published code.
    """
    saliency, regions = jnp.asarray(saliency), jnp.asarray(regions)
    floating = jnp.issubdtype(saliency.dtype, jnp.floating)
    saliency = wide(saliency) if floating else saliency.astype(jnp.float32)
    lowest = saliency.min()
    if not isinstance(lowest, Tracer) and lowest < 0:
        raise InputError(
            f"the map has negative values, down to {float(lowest):.4g}; give a heatmap, or both "
            "parts separately: maximum(map, 0) and maximum(-map, 0)"
        )
    saliency = jnp.where(lowest < 0, jnp.nan, saliency)
    inside = regions.astype(saliency.dtype)
    axes = tuple(range(1, inside.ndim))
    mass = (inside * saliency[None]).sum(axes)
    area = inside.sum(axes)
    density = mass / jnp.where(area > 0, area, 1)
    return _to_shares(mass), _to_shares(density)


def _to_shares(values: Array) -> Array:
    total = values.sum()
    return values / jnp.where(total == 0, 1, total)
