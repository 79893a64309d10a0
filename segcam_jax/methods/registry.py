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
        ablates: runs many evaluations of one image, as many at once as memory allows; several
            images are then run in turn, not at once.
        needs_key: takes a `key` of `jax.random`.
        approximates: the exact method whose result it estimates; None for a method of its own.
        uses_target: whether the map depends on the target; if not, only `score` does.
    """

    name: str
    function: Callable
    explains: Literal["activation", "input"]
    cost: str
    paper: str
    ablates: bool = False
    needs_key: bool = False
    approximates: str | None = None
    uses_target: bool = True

    @property
    def notes(self) -> str:
        """What to know before choosing it: what it estimates, what its map does not depend on."""
        estimate = "" if self.approximates is None else f"approximates {self.approximates}"
        blind = "" if self.uses_target else "the map does not depend on the target"
        return "; ".join(filter(None, (estimate, blind)))


METHODS: dict[str, Method] = {}

# Further names that methods are known by, as `_plain` writes them.
_ALIASES = {
    "seggradcam": "grad_cam",
    "seghirescam": "hires_cam",
    "seghiresgradcam": "hires_cam",
    "gradcamplusplus": "grad_cam_pp",
    "fullgradient": "full_grad",
    "ig": "integrated_gradients",
    "saliency": "gradient",
    "vanillagradient": "gradient",
    "gradientxinput": "input_x_gradient",
    "inputtimesgradient": "input_x_gradient",
    "guidedbackpropagation": "guided_backprop",
}


def method(
    explains: Literal["activation", "input"],
    *,
    cost: str,
    paper: str,
    ablates: bool = False,
    needs_key: bool = False,
    approximates: str | None = None,
    uses_target: bool = True,
):
    """Compiles a method and enters it in the registry under its function's name.

    Arguments as the attributes of `Method`.
    """

    def register(function: F) -> F:
        compiled = engine.compiled(function)
        METHODS[function.__name__] = Method(
            function.__name__,
            compiled,
            explains,
            cost,
            paper,
            ablates=ablates,
            needs_key=needs_key,
            approximates=approximates,
            uses_target=uses_target,
        )
        return compiled

    return register


def find(name: str) -> Method:
    """The method of a name that it is known by; case, underscores and hyphens do not matter.

    Raises:
        InputError: if there is none; lists those there are, the nearest name first.
    """
    known = {**_ALIASES, **{_plain(each): each for each in METHODS}}
    plain = _plain(name)
    if plain not in known:
        choices = ", ".join(nearest_first(name, METHODS))
        raise InputError(f"unknown method {name!r}; choose from {choices}")
    return METHODS[known[plain]]


def _plain(name: str) -> str:
    """A name without case and separators; `+` as `p`, so that Grad-CAM++ is `grad_cam_pp`."""
    kept = name.casefold().replace("+", "p").replace("*", "x")
    return "".join(letter for letter in kept if letter.isalnum())
