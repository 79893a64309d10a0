"""Whether the map is a linear account of the score: of perturbations, and of all that there is."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.metrics.registry import metric
from segcam_jax.metrics.removal import At, By, scene
from segcam_jax.types import InputError


@metric(
    "network",
    title="Infidelity",
    higher_is_better=False,
    range=(0.0, math.inf),
    cost="samples + 1 evaluations",
    paper="Yeh et al., NeurIPS 2019",
    constant=True,
)
def infidelity(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "..."],
    *,
    key: Array,
    perturbation: Literal["noise", "squares"] | Callable[[Array, Array], Array] = "noise",
    deviation: float = 0.2,
    side: int = 4,
    samples: int = 100,
    normalise: bool = False,
    at: At = "input",
    by: By | None = None,
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Infidelity: how wrong the map is as a linear account of what a perturbation does.

        mean over I of (sum I map - (S(A) - S(A - I)))^2

    Args:
        split, params, x, target: see `metrics.registry`.
        map: slopes, `*space c` as `Explanation.attribution` has them (not multiplied by the input);
            a map of positions stands for the slope of every channel, one of channels for that of
            every position.
        key: of the perturbations.
        perturbation: normal noise; squares (cubes) at random places that become 0; or a function
            `(key, activation) -> I` of what is taken away.
        deviation: of the noise.
        side: of the squares.
        samples: perturbations.
        normalise: multiply the map by the factor that fits best (captum's `normalize`).
        by: as in `deletion`.

    References:
        Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, eq. 1. As
        captum's; Quantus removes one block after the other, and none comes back.
    """
    there = scene(split, params, x, map, at, execution, by)
    activation = there.activation
    slopes = there.map[..., None] if there.map.shape == there.positions else there.map

    def change(index):
        drawn = jax.random.fold_in(key, index)
        if callable(perturbation):
            return perturbation(drawn, activation)
        if perturbation == "noise":
            normal = jax.random.normal(drawn, activation.shape).astype(activation.dtype)
            return jnp.asarray(deviation, activation.dtype) * normal
        return jnp.where(_square(drawn, there.positions, side)[..., None], activation, 0)

    value = engine.score_of(there.split, there.carry, target, execution)
    scores = engine.readings(value, lambda i: activation - change(i), samples, execution)
    falls = value(activation) - scores
    sums = jax.lax.map(lambda i: (change(i) * slopes).sum(), jnp.arange(samples, dtype=jnp.int32))
    return squared_error(sums, falls, normalise=normalise)


def squared_error(
    sums: Float[Array, "m"], falls: Float[Array, "m"], *, normalise: bool
) -> Float[Array, ""]:
    """Mean of `(beta sums - falls)^2`; beta is 1, or with `normalise` what makes it least.

    >>> float(squared_error(jnp.array([2.0, 4.0]), jnp.array([1.0, 2.0]), normalise=True))
    0.0
    """
    if normalise:
        # Divided first: squares of the sums of a small map are 0 in float32.
        largest = jnp.abs(sums).max()
        sums = sums / jnp.where(largest > 0, largest, 1)
        size = (sums**2).sum()
        sums = (sums * falls).sum() / jnp.where(size > 0, size, 1) * sums
    return ((sums - falls) ** 2).mean()


@metric(
    "network",
    title="Completeness",
    higher_is_better=False,
    range=(0.0, math.inf),
    cost="2 evaluations",
    paper="Sundararajan et al., ICML 2017",
    constant=True,
)
def completeness(
    split: Any,
    params: Any,
    x: Any,
    target: Any,
    map: Float[Array, "*space"],
    *,
    baseline: Any = "zeros",
    at: At = "tap",
    execution: Execution = Execution(),
) -> Float[Array, ""]:
    """Completeness: by how much the map's sum misses the score's difference to the baseline.

        |sum map - (S(A) - S(empty))| / |S(A) - S(empty)|

    Args:
        split, params, x, target, map: see `metrics.registry`; the map at its own positions.
        at: the input or the tap.

    Returns:
        The relative error; NaN where the score does not differ.

    References:
        Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017, proposition 1.
    """
    there = scene(split, params, x, map, at, execution)
    if jnp.shape(map)[: len(there.positions)] != there.positions:
        raise InputError(
            f"the map has shape {jnp.shape(map)}; a sum needs a map of the positions "
            f"{there.positions}; give at='input' or at='tap'"
        )
    value = engine.score_of(there.split, there.carry, target, execution)
    difference = value(there.activation) - value(there.base(baseline))
    size = jnp.where(difference != 0, jnp.abs(difference), jnp.nan)
    return jnp.abs(there.map.sum() - difference) / size


def _square(key: Array, positions: tuple[int, ...], side: int) -> Array:
    """A square of this side at a random place, all of it inside."""
    inside = jnp.ones(positions, bool)
    for axis, extent in enumerate(positions):
        most = max(0, extent - side)
        start = jax.random.randint(jax.random.fold_in(key, axis), (), 0, most + 1, jnp.int32)
        place = jnp.arange(extent, dtype=jnp.int32)
        along = (place >= start) & (place < start + side)
        inside &= along.reshape([-1 if a == axis else 1 for a in range(len(positions))])
    return inside
