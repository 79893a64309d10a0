"""The one registry of methods."""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeVar

from segcam_jax import engine
from segcam_jax.types import InputError, nearest_first

F = TypeVar("F", bound=Callable)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes:
        name: what it is called on the command line.
        function: `(split, params, x, target, **options) -> Explanation`.
        explains: `"activation"` where a hidden tap is the natural place, `"input"` where the tap
            `"input"` is.
        cost: what it runs, in words.
        paper: where it comes from.
    """

    name: str
    function: Callable
    explains: Literal["activation", "input"]
    cost: str
    paper: str


METHODS: dict[str, Method] = {}


def method(explains: Literal["activation", "input"], *, cost: str, paper: str):
    """Compiles a method and enters it in the registry under its function's name."""

    def register(function: F) -> F:
        compiled = engine.compiled(function)
        METHODS[function.__name__] = Method(function.__name__, compiled, explains, cost, paper)
        return compiled

    return register


def find(name: str) -> Method:
    """The method of a name, with or without underscores.

    Raises:
        InputError: if there is none; lists those there are, the nearest name first.
    """
    known = {each.replace("_", ""): each for each in METHODS}
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in known:
        choices = ", ".join(nearest_first(name, METHODS))
        raise InputError(f"unknown method {name!r}; choose from {choices}")
    return METHODS[known[plain]]
