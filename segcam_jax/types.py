"""Shared types: the result of a method, the errors, the dimension letters.

Dimension letters in every annotation: `n` batch, `d h w` space, `c` channels of an activation,
`k` classes, `m` ablations, `t` targets. Arrays are channels last.
"""

import dataclasses
import difflib
import functools
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segcam_jax import _print

_MOST_DIGITS = 18
Outputs = Literal["logits", "probabilities"]
UNKNOWN = -1  # The label of positions of which no class is known.


class SegcamError(ValueError):
    """A fault in what was given; the message is one line: given, expected, what to do."""


class TapError(SegcamError):
    """A tap that is unknown, named twice, or in a place where a model cannot be split."""


class TargetError(SegcamError):
    """A target that explains nothing: an empty region, a pixel outside, an unknown class."""


class InputError(SegcamError):
    """An input (image, weights, option) that does not have the expected form."""


class FileError(InputError, OSError):
    """A file that cannot be written; the message says why."""


class MissingExtraError(SegcamError, ImportError):
    """An optional dependency that is not installed; the message names the extra that brings it."""


def whole_number(words: str) -> int | None:
    """The number that decimal digits say, from 0; None for other words, and beyond 18 digits."""
    few = words.isascii() and words.isdigit() and len(words) <= _MOST_DIGITS
    return int(words) if few else None


def nearest_first(name: str, choices: Iterable[str]) -> list[str]:
    """The choices, those that look most like `name` first."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=max(1, len(choices)), cutoff=0.4)
    return near + [choice for choice in choices if choice not in near]


def none_of(said: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not one of the choices, which are listed.

    Args:
        said: what is wrong, for example `"unknown model 'resnet19'"`.
    """
    return InputError(f"{said}; choose from {', '.join(nearest_first(str(name), choices))}")


def near(name: str, choices: Iterable[str], most: int = 3) -> str:
    """The end of a message about an unknown name: the choices that look like it, if any does."""
    choices = list(choices)
    alike = difflib.get_close_matches(name, choices, most, cutoff=0.6)
    longer = sorted((each for each in choices if name and name in each), key=len)
    found = list(dict.fromkeys([*alike, *longer]))[:most]
    return f"; the nearest are {', '.join(found)}" if found else ""


def wide(x: Array) -> Array:
    """At least float32: activations may be bfloat16, results are not."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["map", "score", "weights", "scores", "drops", "attribution", "exact"],
    meta_fields=[],
    drop_fields=["method", "tap", "target"],
)
@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a method returns: the raw, signed result at the resolution of the tapped activation.

    Where the score is NaN or infinite, as of an image that holds NaN, all else is NaN.

    A method also notes its own title, the tap and the target, for titles of figures. These three
    are not part of the pytree: what `jax.jit`, `jax.vmap` or `jax.tree.map` return has None there,
    because it may be something else, such as the mean of two explanations.

    Attributes:
        map: importance of each position, float32, signed, not normalised. Positive values support
            the target.
        score: the target's value for the unchanged input.
        weights: importance of each channel, for methods that weight channels; else None.
        scores: the target's value under each ablation, for methods that ablate; else None.
        drops: how far the target's value falls under each ablation, S - S_m, for methods that
            weight by it; else None. Computed by itself and exact to the last digits of float32,
            where `score - scores` cancels.
        attribution: importance of each element of the activation (or input), for methods that
            resolve channels; `map` is its sum over channels. Else None.
        exact: which of `weights` are exact, for methods that estimate the others; else None.
        method: the method's title, such as `"Grad-CAM"`; or None.
        tap: the name of the tap; or None.
        target: a `segcam_jax.targets.Target` or `Difference`, or words for another function; or
            None.
    """

    map: Float[Array, "*space"]
    score: Float[Array, ""]
    weights: Float[Array, "c"] | None = None
    scores: Float[Array, "m"] | None = None
    drops: Float[Array, "m"] | None = None
    attribution: Float[Array, "*space c"] | None = None
    exact: Bool[Array, "c"] | None = None
    method: str | None = None
    tap: str | None = None
    target: Any = None

    @property
    def title(self) -> str:
        """Method, tap and target in a line, as far as they are known."""
        parts = (("", self.method), ("at ", self.tap), ("for ", self.target))
        return " ".join(word + _print.subject(part) for word, part in parts if part is not None)

    def __repr__(self) -> str:
        """Method, tap, target and score; shapes and ranges of all else; in at most six lines."""
        return _print.fields(*self._fields())

    def _repr_html_(self) -> str:
        return _print.html_fields(*self._fields())

    def _fields(self) -> tuple[str, dict[str, Any]]:
        shown = ["map", "weights", "attribution", "exact"]
        shown.insert(2, "scores" if self.drops is None else "drops")
        made = f" by {self.title}" if self.title else ""
        title = f"Explanation{made}, score {_print.described(self.score)}"
        return title, {name: getattr(self, name) for name in shown}


def counted(number: int, noun: str) -> str:
    """So many of a thing, as `1 map`, `2 maps` and `2 classes`."""
    end = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number} {noun}{end}"


def shortened(name: str, most: int = 40) -> str:
    """A name for a table or a title: of a long one, the middle is left out."""
    if len(name) <= most:
        return name
    end = (most - 1) // 3
    return f"{name[: most - 1 - end]}…{name[-end:]}"
