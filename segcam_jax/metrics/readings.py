"""What metrics of segmentations read of an output, against the untouched one.

The target is frozen on the untouched image: its region R and class k stay. Of each output is read

    logit         mean of the output of k over R
    probability   mean of the probability of k over R
    dice          2 |P' and P| / (|P'| + |P|),    P where k is predicted: untouched, and now
    others        mean outside of R of the probability of what was predicted there, over positions
                  at which something was; NaN where nothing was
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from segcam_jax.metrics.removal import region_of
from segcam_jax.outputs import THRESHOLD, Meaning
from segcam_jax.targets import Target
from segcam_jax.types import wide

Threshold = float | tuple[float, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read of an output; see above."""

    logit: Float[Array, ""]
    probability: Float[Array, ""]
    dice: Float[Array, ""]
    others: Float[Array, ""]


def reader(
    output: Float[Array, "*space k"], target: Target, threshold: Threshold = THRESHOLD
) -> Callable[[Any], Reading]:
    """Reads outputs against the untouched one; see above.

    Args:
        output: the untouched one.
        target: has a region.
        threshold: as in `dice_deletion`.

    Raises:
        TargetError: if the target has no region, or there is another number of thresholds than of
            classes.
    """
    positions = output.shape[:-1]
    inside = region_of(target, positions)
    meaning = Meaning(target.outputs, target.exclusive)
    if isinstance(threshold, tuple):
        dataclasses.replace(meaning, threshold=threshold).checked(output.shape[-1])

    def predicted(output):
        if meaning.excludes(output.shape[-1]):
            return meaning.predicted(output)
        # A number is an input of the program.
        least = jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), output.shape)
        return meaning.probabilities(output) > least

    first, found = meaning.probabilities(output), predicted(output)
    before = _class(found, target.class_index)
    likely = jnp.where(found, first, 0)
    top, frozen = likely.argmax(-1), ~inside & (likely.max(-1) > 0)
    area = jnp.maximum(inside.sum(dtype=jnp.float32), 1)
    elsewhere = frozen.sum(dtype=jnp.float32)
    broken = jnp.isnan(output).any()

    def read(output):
        probabilities = meaning.probabilities(output)
        now = _class(predicted(output), target.class_index)
        told = ~(broken | jnp.isnan(output).any())
        size = now.sum(dtype=jnp.float32) + before.sum(dtype=jnp.float32)
        both = 2 * (now & before).sum(dtype=jnp.float32)
        other = jnp.take_along_axis(probabilities, top[..., None], -1)[..., 0]
        return Reading(
            jnp.where(inside, _class(wide(output), target.class_index), 0).sum() / area,
            jnp.where(inside, _class(probabilities, target.class_index), 0).sum() / area,
            jnp.where((size > 0) & told, both / jnp.where(size > 0, size, 1), jnp.nan),
            jnp.where(frozen, other, 0).sum() / jnp.where(elsewhere > 0, elsewhere, jnp.nan),
        )

    return read


def _class(values: Float[Array, "*space k"], index: Any) -> Array:
    return jax.lax.dynamic_index_in_dim(values, index, -1, keepdims=False)


def check_threshold(threshold: Any) -> None:
    """Raises `TargetError` for a threshold that is known and no probability."""
    if not isinstance(threshold, Tracer):
        Meaning(threshold=threshold).checked()
