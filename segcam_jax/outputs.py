"""What an output means: logits or probabilities, of classes that exclude each other or not.

Classes that exclude each other have probabilities that sum to 1 (softmax), and the predicted one is
the most probable. Others, the sigmoid heads of a multi-label network, have a probability each
(sigmoid), and each is predicted where that lies above a threshold. One channel alone is never
exclusive.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from segcam_jax.types import InputError, Outputs, TargetError, counted, wide

CHOICES: tuple[str, ...] = get_args(Outputs)
THRESHOLD = 0.5
# Of sums over windows and of resized maps; narrower types round more.
_ROUNDING = 1e-4
_SUMS_TO_ONE = 1e-3
_SUMS_NEAR_ONE = 0.05


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What an output means.

    Attributes:
        outputs: `"logits"` or `"probabilities"`; None: not said, and taken for logits.
        exclusive: whether a position is of one class only.
        threshold: where classes do not exclude each other, probabilities strictly above it are
            predicted; one number, or one per class.
    """

    outputs: Outputs | None = None
    exclusive: bool = True
    threshold: float | tuple[float, ...] = THRESHOLD

    def excludes(self, classes: int) -> bool:
        """Whether so many classes exclude each other."""
        return self.exclusive and classes > 1

    def probabilities(self, output: Float[ArrayLike, "*space k"]) -> Float[Array, "*space k"]:
        """The probability of each class, at least float32."""
        output = jnp.asarray(output)
        floating = jnp.issubdtype(output.dtype, jnp.floating)
        output = wide(output) if floating else output.astype(jnp.float32)
        if self.outputs == "probabilities":
            return output
        if self.excludes(output.shape[-1]):
            return jax.nn.softmax(output, axis=-1)
        return jax.nn.sigmoid(output)

    def predicted(self, output: Float[ArrayLike, "*space k"]) -> Bool[Array, "*space k"]:
        """Where each class is predicted."""
        output = jnp.asarray(output)
        classes = output.shape[-1]
        self.checked(classes)
        if self.excludes(classes):
            return jax.nn.one_hot(jnp.argmax(output, axis=-1), classes, dtype=bool)
        threshold = jnp.asarray(self.threshold, jnp.float32)
        return self.probabilities(output) > jnp.broadcast_to(threshold, output.shape)

    def checked(self, classes: int | None = None) -> "Meaning":
        """Returns itself.

        Raises:
            TargetError: if `outputs` is unknown, a threshold is out of range, or thresholds are not
                as many as classes.
        """
        if self.outputs is not None and self.outputs not in CHOICES:
            raise TargetError(f"outputs={self.outputs!r}; choose 'logits' or 'probabilities'")
        given = np.ravel(np.asarray(self.threshold, float))
        if not ((given >= 0) & (given < 1)).all():
            raise TargetError(f"threshold {self.threshold}; give a probability, 0 to below 1")
        if np.ndim(self.threshold) and classes not in (None, given.size):
            raise TargetError(
                f"{given.size} thresholds for {counted(classes, 'class')}; give one for each"
            )
        return self

    def to_json(self, classes: int) -> dict[str, Any]:
        """What records hold of an output of so many classes; thresholds where they are used."""
        exclusive = self.excludes(classes)
        return {
            "holds": self.outputs or "logits",
            "exclusive": exclusive,
            "threshold": None if exclusive else self.threshold,
        }

    def check_values(self, output: Float[ArrayLike, "*space k"]) -> None:
        """Checks known values against their declaration.

        Raises:
            TargetError: if they are declared probabilities but are not, or if nothing is declared
                and they may be either, with different predictions.
        """
        if isinstance(output, Tracer) or self.outputs == "logits" or not np.size(output):
            return
        values = np.asarray(output)
        floating = jnp.issubdtype(values.dtype, jnp.floating)
        slack = max(_ROUNDING, 4 * float(jnp.finfo(values.dtype).eps) if floating else 0)
        values = values.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        inside = low >= -slack and high <= 1 + slack
        if self.outputs == "probabilities" and not inside:
            raise TargetError(
                f"the output was declared to be probabilities, but has values from {low:.4g} to "
                f"{high:.4g}; give outputs='logits' (--outputs logits) if these are logits"
            )
        if self.outputs is None and inside and self._doubtful(values):
            raise TargetError(
                f"the output has values from {low:.4g} to {high:.4g}, which may be probabilities "
                "or logits, and the prediction depends on it; give outputs='probabilities' or "
                "outputs='logits' (--outputs on the command line)"
            )

    def check_exclusive(self, output: Float[ArrayLike, "*space k"]) -> None:
        """Checks that known probabilities of classes that exclude each other sum to 1.

        Raises:
            TargetError: if values lie in [0, 1], are not said to be logits, and do not.
        """
        values = output if isinstance(output, Tracer) else np.asarray(output, np.float32)
        excludes = self.excludes(values.shape[-1])
        if isinstance(values, Tracer) or self.outputs == "logits" or not excludes:
            return
        if not ((values >= 0) & (values <= 1)).all():
            return
        # Zeros and ones are no probabilities that a network returns.
        between = ((values > 0) & (values < 1)).any()
        sums = values.sum(-1)
        if between and np.abs(sums - 1).max() > _SUMS_NEAR_ONE:
            raise TargetError(
                f"the values lie in [0, 1], and those of the classes sum to {sums.min():.3g} to "
                f"{sums.max():.3g}: give exclusive=False (--multi-label) if they are "
                "probabilities of classes that do not exclude each other, or outputs='logits' "
                "(--outputs logits) if they are logits"
            )

    def _doubtful(self, values: np.ndarray) -> bool:
        """Whether values in [0, 1] are probabilities by their sum, or predict different things."""
        if self.excludes(values.shape[-1]):
            return bool((np.abs(values.sum(-1) - 1) < _SUMS_TO_ONE).all())
        either = (dataclasses.replace(self, outputs=each) for each in CHOICES)
        first, second = (np.asarray(each.predicted(values)) for each in either)
        return bool((first != second).any())


def declared(fn: Callable, outputs: Outputs | None = None) -> Outputs | None:
    """What is declared of a model's output: what is given here, else what its adapter was given."""
    if outputs is not None and outputs not in CHOICES:
        raise InputError(f"outputs={outputs!r}; choose 'logits' or 'probabilities'")
    told = getattr(fn, "outputs", None) if outputs is None else outputs
    return cast(Outputs, told) if isinstance(told, str) and told in CHOICES else None


def meaning(
    outputs: Outputs | None = None,
    exclusive: bool = True,
    threshold: float | Sequence[float] | None = None,
) -> Meaning:
    """What an output means, from what was given; see `Meaning`."""
    plain: Any = THRESHOLD if threshold is None else threshold
    plain = tuple(map(float, plain)) if np.ndim(plain) else float(plain)
    return Meaning(outputs, exclusive, plain).checked()


def predicted_mask(
    output: Float[ArrayLike, "*space k"],
    class_index: int,
    *,
    min_probability: float | None = None,
    outputs: Outputs | None = None,
    exclusive: bool = True,
    threshold: float | Sequence[float] | None = None,
) -> Bool[Array, "*space"]:
    """Where the output predicts the class.

    Of classes that exclude each other, where it is the most probable one; else where its own
    probability lies above a threshold.

    Args:
        output: what the model returned.
        class_index: the class.
        min_probability: also require a probability above this; 0.5 is Seg-Grad-CAM's ClassRoI
            (Vinogradova et al., 2020).
        outputs: what `output` holds, `"logits"` or `"probabilities"`; `Split.outputs` tells. None:
            logits, unless the values leave a doubt.
        exclusive: whether classes exclude each other; one alone (k = 1) never does.
        threshold: where they do not, the probability that is exceeded, one number or one per class.
            None: `min_probability`, or 0.5.

    Raises:
        TargetError: if values are known, and are not the probabilities that `outputs` says; or if
            nothing says what they are, they lie in [0, 1], and what is predicted depends on it; or
            if they lie there and those of exclusive classes do not sum to 1.
    """
    output = jnp.asarray(output)
    classes = output.shape[-1]
    check_class(class_index, classes)
    said = meaning(outputs, exclusive, threshold)
    if not said.excludes(classes):
        if threshold is not None and min_probability is not None:
            raise TargetError("give one of `threshold` and `min_probability`, not both")
        if threshold is None and min_probability is not None:
            said = meaning(outputs, exclusive, min_probability)
    elif threshold is not None:
        raise TargetError(
            "`threshold` is for classes that do not exclude each other (exclusive=False); for "
            "others give `min_probability`"
        )
    least = min_probability if said.excludes(classes) else None
    # The largest logit is the largest probability: which of them it is, is no matter there.
    if outputs is not None or least is not None or not said.excludes(classes):
        said.check_values(output)
    said.check_exclusive(output)
    mask = jnp.take(said.predicted(output), class_index, axis=-1)
    if least is not None:
        mask &= jnp.take(said.probabilities(output), class_index, axis=-1) > least
    return mask


def check_index(class_index: Any) -> None:
    """Raises `TargetError` for the name of a class."""
    if isinstance(class_index, str):
        raise TargetError(f"class {class_index!r} is a name; give its index, counted from 0")


def check_class(class_index: Any, classes: int) -> None:
    """Raises `TargetError` if a known class is not below the number of classes."""
    if isinstance(class_index, Tracer):
        return
    indices = np.asarray(class_index)
    if indices.dtype.kind not in "iu" or ((indices < 0) | (indices >= classes)).any():
        raise TargetError(
            f"class {class_index} is not a class of the model; it has {classes}, 0 to {classes - 1}"
        )
