"""What the program of a model reveals about it: traced on shapes, nothing runs."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from segcam_jax._jaxpr import graph, kinds, layouts, probabilities
from segcam_jax._jaxpr.probabilities import Ending


def output_ending(fn: Callable, params: Any, x: jax.ShapeDtypeStruct) -> Ending | None:
    """What the last operations are: a softmax over the classes, a sigmoid, or neither (None)."""
    return probabilities.ending_of(fn, params, x)


def convolved_axes(fn: Callable, params: Any, x: jax.ShapeDtypeStruct) -> int | None:
    """The most axes that a convolution goes along; None without a convolution."""
    return max(kinds.convolved_axes(graph.closed(fn, params, x)[1]), default=None)


def held_values(fn: Callable, params: Any, x: jax.ShapeDtypeStruct) -> Iterator[Any]:
    """The arrays that a model holds besides its parameters."""
    return graph.held(graph.closed(fn, params, x)[0])


def is_one_example(fn: Callable) -> bool:
    """Whether the adapter was given that all axes of the input belong to one example."""
    return layouts.is_one_example(fn)


def check_numbers(fn: Callable, params: Any, x: Any) -> None:
    """Raises `InputError` for an image of integers that a model takes for floating point."""
    if any(map(layouts.is_whole, jax.tree.leaves(x))):
        layouts.check_numbers(graph.trace(fn, "", params, x)[0], x)
