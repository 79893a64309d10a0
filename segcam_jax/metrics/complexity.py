"""How concentrated a map is, whatever it shows."""

import functools
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax.metrics.registry import metric

_COST = "none: the map alone"
_of_map = functools.partial(metric, cost=_COST, constant=True)


@_of_map(
    title="Sparseness", higher_is_better=True, range=(0.0, 1.0), paper="Chalasani et al., ICML 2020"
)
def sparseness(map: Float[Array, "..."]) -> Float[Array, ""]:
    """Sparseness: Gini's coefficient of the magnitudes, 0 for a constant, 1 - 1/n for one value.

        sum_i (2 i - n - 1) |a|_(i) / (n sum |a|),    ascending, i from 1

    >>> float(sparseness(jnp.array([0.0, 0.0, 0.0, 1.0])))
    0.75
    """
    values = jnp.sort(jnp.abs(map).ravel())
    share = values / jnp.where(values[-1] > 0, values[-1], 1)
    weights = (2 * jnp.arange(1, values.size + 1) - values.size - 1) / values.size
    return (weights.astype(share.dtype) * share).sum() / share.sum()


@_of_map(
    title="Complexity (entropy)",
    higher_is_better=False,
    range=(0.0, math.inf),
    paper="Bhatt et al., IJCAI 2020",
)
def entropy(map: Float[Array, "..."], *, relative: bool = False) -> Float[Array, ""]:
    """Entropy of the magnitudes in nats, from 0 (one value) to ln n (a constant).

        - sum p ln p,    p = |a| / sum |a|

    Args:
        map: of any shape.
        relative: divide by ln n, so that maps of other sizes compare.
    """
    share = jnp.abs(map) / jnp.abs(map).sum()
    told = jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0)
    return -told.sum() / (math.log(map.size) if relative else 1.0)


@_of_map(
    title="Effective complexity",
    higher_is_better=False,
    range=(0.0, math.inf),
    paper="Nguyen and Martinez, 2020",
)
def effective_complexity(map: Float[Array, "..."], *, threshold: float = 1e-5) -> Float[Array, ""]:
    """Effective complexity: how many values are larger than a share of the largest magnitude.

    Args:
        map: of any shape.
        threshold: that share; Quantus counts what is above a number, by default of maps that are
            divided by the largest magnitude of their batch.
    """
    size = jnp.abs(map)
    return (size > threshold * size.max()).sum(dtype=jnp.float32)
