"""The precision of decode: on request, its products round their operands; scores stay float32."""

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
        structs: shapes and dtypes of its arguments.
        everywhere: round the last linear piece, too, as changes can be: the error of a sum of
            changes is relative to them.

    Returns:
        A function of the same arguments, results in the dtypes of `decode`'s.
    """
    # There, float32 is what XLA computes in anyway.
    if wanted == "float32" and jax.default_backend() == "cpu":
        return decode
    trees: list[Any] = []

    def leaves(*arrays):
        flat, tree = jax.tree.flatten(decode(*arrays))
        trees.append(tree)
        return flat

    closed, _ = graph.closed(leaves, *structs)
    run = precision.with_precision(closed, wanted, everywhere=everywhere)
    return lambda *arrays: jax.tree.unflatten(trees[0], run(*arrays))
