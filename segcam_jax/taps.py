"""Taps: named activations inside a model."""

from typing import TypeVar

from jax.ad_checkpoint import checkpoint_name

T = TypeVar("T")
PREFIX = "segcam:"


def tap(x: T, name: str) -> T:
    """Names an activation; the value passes through unchanged.

    Args:
        x: the activation, an array of any shape.
        name: unique within one forward pass, for example `"encoder4"`.

    Returns:
        `x`, marked in the traced program so that `split` can cut there.
    """
    return checkpoint_name(x, PREFIX + name)
