"""The precision of decode: on request, its products round their operands; scores stay float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from segcam_jax._jaxpr import graph, precision


def at_precision(
    decode: Callable, wanted: str, *structs: Any, everywhere: bool = False
) -> Callable:
    """The function with its convolutions and dot products in a precision.

    Args:
        decode: of arrays; what it closes over is rounded once, where this is called.
        wanted: as `Execution.precision`.
        everywhere: round the last linear piece, too, as changes can be: the error of a sum of
            changes is relative to them.

    Returns:
        A function of the same arguments, results in the dtypes of `decode`'s.
    """
    # There, float32 is what XLA computes in anyway.
    if wanted == "float32" and jax.default_backend() == "cpu":
        return decode
    rounded = functools.partial(precision.with_precision, precision=wanted, everywhere=everywhere)
    return graph.rewritten(decode, rounded, *structs)
