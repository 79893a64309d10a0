"""What the engine is about to do, told to whoever asks while a method is traced."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from jaxtyping import Array, Bool

from segcam_jax.engine.fall import Falls
from segcam_jax.engine.score import Scoring
from segcam_jax.masks import Masks


@dataclasses.dataclass(frozen=True)
class Study:
    """Evaluations of one score.

    Attributes:
        kind: what is evaluated: the score under ablations, or its gradient.
        count: evaluations, that of the unchanged activation among them.
        flops: operations of the convolutions and products of one.
        how: how the score is computed.
        chunk: evaluations at once, on one device.
        masks: of ablations; None for gradients.
        live: which of the masks are run.
        closed_form: whether one gradient stands for all ablations.
        by_change: how changes are propagated, where ablations are evaluated so.
    """

    kind: Literal["ablations", "gradients"]
    count: int
    flops: int
    how: Scoring
    chunk: int = 1
    masks: Masks | None = None
    live: Bool[Array, "m"] | None = None
    closed_form: bool = False
    by_change: Falls | None = None


_STUDIES: contextvars.ContextVar[list[Study] | None] = contextvars.ContextVar(
    "studies", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[list[Study]]:
    """Collects the studies of methods that are traced inside."""
    studies: list[Study] = []
    token = _STUDIES.set(studies)
    try:
        yield studies
    finally:
        _STUDIES.reset(token)


def is_recording() -> bool:
    """Whether somebody listens."""
    return _STUDIES.get() is not None


def study(describe: Callable[[], Study]) -> None:
    """Tells of a study; `describe` is called only where somebody listens."""
    studies = _STUDIES.get()
    if studies is not None:
        studies.append(describe())
