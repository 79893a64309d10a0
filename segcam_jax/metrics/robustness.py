"""How far the map moves when the input moves a little: each explains `samples` noisy inputs again.

All have the arguments of `max_sensitivity`. Targets stay as they are, also where the prediction of
a noisy input is another.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.metrics.registry import metric
from segcam_jax.taps import Split
from segcam_jax.types import wide

_LEAST = 1e-6
Draw = Callable[[Array, Any], Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """An explanation and those of noisy inputs, all of the same target.

    Attributes:
        noise: of each noisy input.
        map: of the input.
        moved: of each noisy input.
    """

    split: Split
    params: Any
    x: Array
    noise: Float[Array, "m ..."]
    map: Float[Array, "*space"]
    moved: Float[Array, "m *space"]
    execution: Execution

    @property
    def distances(self) -> Float[Array, "m"]:
        """Of the maps, in the Euclidean norm."""
        return _norm(self.moved - self.map[None])

    @property
    def sensitivities(self) -> Float[Array, "m"]:
        """The same as shares of the map's norm; NaN for a map of zeros (captum divides by 1)."""
        size = _norm(self.map[None])[0]
        return self.distances / jnp.where(size > 0, size, jnp.nan)

    def stability(self, change: Float[Array, "m"]) -> Float[Array, ""]:
        """The largest relative change of the map over a change of something else."""
        return (_relative(self.moved, self.map) / jnp.maximum(change, _LEAST)).max()

    def read(self, of: Callable[[Array, Any], Array]) -> tuple[Array, Array]:
        """What is read of activation and carry, of each noisy input and of the input."""

        def one(image):
            return of(*engine.encode(self.split, self.params, image, self.execution))

        moved = jax.lax.map(lambda drawn: one(self.x + drawn), self.noise)
        return moved, one(self.x)


def _even(key: Array, x: Array) -> Float[Array, "..."]:
    return jax.random.uniform(key, x.shape, minval=-1.0)


def _normal(key: Array, x: Array) -> Float[Array, "..."]:
    return jax.random.normal(key, x.shape)


def _robustness(
    title: str, paper: str, *, draw: Draw = _even, size: float = 0.02, cost: str = ""
) -> Callable[[Callable[[Neighbours], Array]], Callable[..., Array]]:
    """Makes a metric of what is read of the neighbours."""

    def register(read: Callable[[Neighbours], Array]) -> Callable[..., Array]:
        def run(
            split: Split,
            params: Any,
            x: Array,
            target: Any,
            method: Callable,
            *,
            key: Array,
            samples: int = 10,
            radius: float = size,
            added: Draw | None = None,
            options: tuple[tuple[str, Any], ...] = (),
            execution: Execution = Execution(),
        ) -> Float[Array, ""]:
            x = jnp.asarray(x)

            def explained(image):
                return wide(method(split, params, image, target, **dict(options)).map)

            def one(index):
                own = jax.random.fold_in(key, index)
                drawn = radius * draw(own, x) if added is None else added(own, x)
                drawn = drawn.astype(x.dtype)
                return drawn, explained(x + drawn)

            drawn, moved = jax.lax.map(one, jnp.arange(samples, dtype=jnp.int32))
            return read(Neighbours(split, params, x, drawn, explained(x), moved, execution))

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(run, name, getattr(read, name))
        return metric(
            "network",
            "method",
            title=title,
            higher_is_better=False,
            range=(0.0, math.inf),
            cost=f"samples + 1 explanations{cost}",
            paper=paper,
        )(run)

    return register


@_robustness("Max-sensitivity", "Yeh et al., NeurIPS 2019")
def max_sensitivity(found: Neighbours) -> Float[Array, ""]:
    """Max-sensitivity: the largest relative change of the map in a small cube around the input.

        max over k of ||E(x + u_k) - E(x)|| / ||E(x)||,    u_k even from -radius to radius

    Args:
        split, params, x, target, method: see `metrics.registry`.
        key: of the noise.
        samples: noisy inputs.
        radius: of the noise, in units of the input.
        added: `(key, x) -> u`, in place of noise of this radius.
        options: of the method, as pairs of name and value.
        execution: of what the metric runs besides; the method has its own, an option.

    References:
        Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, definition 3;
        defaults of captum's `sensitivity_max`.
    """
    return found.sensitivities.max()


@_robustness("Average sensitivity", "Yeh et al., NeurIPS 2019")
def average_sensitivity(found: Neighbours) -> Float[Array, ""]:
    """Average sensitivity: as `max_sensitivity`, the mean over samples in place of the largest."""
    return found.sensitivities.mean()


@_robustness("Local Lipschitz estimate", "Alvarez-Melis and Jaakkola, 2018", draw=_normal, size=0.1)
def local_lipschitz(found: Neighbours) -> Float[Array, ""]:
    """Local Lipschitz estimate: `max_k ||E(x + u_k) - E(x)|| / ||u_k||`, u_k normal.

    `radius` is the standard deviation. Maps are raw: methods compare where theirs are of one scale.
    """
    return (found.distances / jnp.maximum(_norm(found.noise), 1e-10)).max()


@_robustness("Relative input stability", "Agarwal et al., 2022")
def relative_input_stability(found: Neighbours) -> Float[Array, ""]:
    """Relative input stability: the map's relative change over the input's, the largest.

        max over k of ||(E(x_k) - E(x)) / E(x)|| / max(||(x_k - x) / x||, 1e-6)

    Quotients are of each value; values of 0 are left out.

    References:
        Agarwal et al., Rethinking stability for attribution-based explanations, 2022, eq. 2. The
        noise is even around 0; that of Quantus is from 0.02 to 0.2.
    """
    return found.stability(_relative(found.x[None] + found.noise, found.x))


@_robustness("Relative output stability", "Agarwal et al., 2022", cost=" and outputs")
def relative_output_stability(found: Neighbours) -> Float[Array, ""]:
    """Relative output stability: the map's relative change over the output's, the largest.

        max over k of ||(E(x_k) - E(x)) / E(x)|| / max(||f(x_k) - f(x)||, 1e-6),    f the output

    References:
        Agarwal et al., 2022, eq. 5.
    """
    moved, whole = found.read(found.split.decode)
    return found.stability(_norm(moved - whole[None]))


@_robustness("Relative representation stability", "Agarwal et al., 2022", cost=" and encodes")
def relative_representation_stability(found: Neighbours) -> Float[Array, ""]:
    """Relative representation stability: the map's relative change over the activation's.

        max over k of ||(E(x_k) - E(x)) / E(x)|| / max(||(A(x_k) - A(x)) / A(x)||, 1e-6)

    A is the activation at the split's tap.

    References:
        Agarwal et al., 2022, eq. 3.
    """
    return found.stability(_relative(*found.read(lambda activation, carry: activation)))


def _norm(values: Float[Array, "m ..."]) -> Float[Array, "m"]:
    flat = wide(values).reshape(len(values), -1)
    # Divided first: squares of small maps are 0 in float32.
    largest = jnp.abs(flat).max(1)
    flat = flat / jnp.where(largest > 0, largest, 1)[:, None]
    return largest * jnp.sqrt((flat**2).sum(1))


def _relative(moved: Float[Array, "m ..."], whole: Float[Array, "..."]) -> Float[Array, "m"]:
    moved, whole = wide(moved), wide(whole)
    return _norm((moved - whole[None]) / jnp.where(whole == 0, jnp.inf, whole)[None])
