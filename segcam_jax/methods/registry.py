"""The one registry of methods: what each is called, what it runs, and which options it takes."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import jax

from segcam_jax import engine
from segcam_jax.methods.augmented import mean_of_six
from segcam_jax.options import Option, check_choices, options_of, parse_options
from segcam_jax.taps import Split
from segcam_jax.targets import Difference, Target
from segcam_jax.types import Explanation, InputError, none_of

F = TypeVar("F", bound=Callable)
# What the engine, the run's seed and files give.
_NOT_IN_WORDS = ("execution", "key", "weights")
_AUGMENTED = "the mean heatmap of six changed images, as in pytorch-grad-cam"
AUG_SMOOTH = Option("aug_smooth", False, (bool,), _AUGMENTED)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes:
        name: what it is called on the command line.
        function: `(split, params, x, target, **options) -> Explanation`.
        explains: `"activation"` where a hidden tap is the natural place, `"input"` where the tap
            `"input"` is.
        title: what people call it.
        cost: what it runs, in words.
        paper: where it comes from.
        aliases: further names that people know it by.
        ablates: runs many evaluations of one image, as many at once as memory allows; several
            images are then run in turn, not at once.
        approximates: the exact method whose result it estimates; None for a method of its own.
        uses_target: whether the map depends on the target; if not, only `score` does.
        contrasts: compares the target's class with others by itself, so it needs a single class.
        signed: whether negative gradients count too; if not, a map is zero where none is positive.
        slope: whether values are slopes of the score, in its units per unit of what is explained.
        pixelwise: whether the values of neighbouring pixels have little in common, so that a few of
            them may be far larger than all others.
        per_channel: whether it explains each channel of the input by itself.
        coloured: whether its attribution of a colour image is looked at in colours.
    """

    name: str
    function: Callable
    explains: Literal["activation", "input"]
    title: str
    cost: str
    paper: str
    aliases: tuple[str, ...] = ()
    ablates: bool = False
    approximates: str | None = None
    uses_target: bool = True
    contrasts: bool = False
    signed: bool = True
    slope: bool = False
    pixelwise: bool = False
    per_channel: bool = False
    coloured: bool = False

    @property
    def notes(self) -> str:
        """What to know before choosing it: what it estimates, what its map does not depend on."""
        estimate = "" if self.approximates is None else f"approximates {self.approximates}"
        blind = "" if self.uses_target else "the map does not depend on the target"
        return "; ".join(filter(None, (estimate, blind)))

    def takes(self, option: str) -> bool:
        """Whether the function has an option of this name."""
        return option in self._keywords

    @property
    def needs_key(self) -> bool:
        """Whether it takes a `key` of `jax.random`."""
        return self.takes("key")

    @functools.cached_property
    def options(self) -> Mapping[str, Option]:
        """The options that words can give, by name."""
        of_layer = self.explains == "activation" and not self.pixelwise
        own = options_of(self.function, _NOT_IN_WORDS)
        return own | {AUG_SMOOTH.name: AUG_SMOOTH} if of_layer else own

    @functools.cached_property
    def smoothed(self) -> Callable:
        """The function as `aug_smooth` runs it."""
        return functools.partial(mean_of_six, method=self.function)

    @functools.cached_property
    def _keywords(self) -> Mapping[str, inspect.Parameter]:
        parameters = inspect.signature(self.function).parameters
        return {name: each for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}


@dataclasses.dataclass(frozen=True)
class MethodCall:
    """A method with the options that it is called with.

    Attributes:
        method: the method.
        options: name and value of each, in the order of the names.
        aug_smooth: whether its map is that of `aug_smooth`.
    """

    method: Method
    options: tuple[tuple[str, Any], ...] = ()
    aug_smooth: bool = False

    @property
    def function(self) -> Callable:
        """What is called, `(split, params, x, target, **options) -> Explanation`."""
        return self.method.smoothed if self.aug_smooth else self.method.function

    def arguments(self, seed: int = 0) -> dict[str, Any]:
        """The keyword arguments of the call, with the key of a seed where the method needs one."""
        key = {"key": jax.random.key(seed)} if self.method.needs_key else {}
        return {**dict(self.options), **key}


METHODS: dict[str, Method] = {}
# If no method is given.
DEFAULT = "grad_cam"


def method(explains: Literal["activation", "input"], **fields: Any) -> Callable[[F], F]:
    """Compiles a method and enters it in the registry under its function's name.

    Args:
        explains: as in `Method`.
        fields: likewise; `pixelwise` and `per_channel` are what methods of the input are, where
            nothing else is given.
    """
    of_input = explains == "input"

    def register(function: F) -> F:
        name = function.__name__
        named = _named(engine.compiled(function), name, fields["title"])
        given = {"pixelwise": of_input, "per_channel": of_input, **fields}
        METHODS[name] = Method(name, named, explains, **given)
        return named

    return register


def _named(compiled: F, name: str, title: str) -> F:
    """The method, whose explanations say by which method, where and of what they are."""

    @functools.wraps(compiled)
    def call(
        split: Split, params: Any, x: Any, target: Any, *more: Any, **options: Any
    ) -> Explanation:
        check_choices(METHODS[name].options, options)
        found = compiled(split, params, x, target, *more, **options)
        if not isinstance(target, Target | Difference):
            called = getattr(target, "__name__", type(target).__name__)
            target = "a function of the output" if called == "<lambda>" else f"the target {called}"
        return dataclasses.replace(found, method=title, tap=split.tap, target=target)

    return cast(F, call)


def find(name: str) -> Method:
    """The method of a name that it is known by; case, underscores and hyphens do not matter.

    Raises:
        InputError: if there is none; the message lists all methods, the nearest name first.
    """
    plain = _plain(name)
    for known in METHODS.values():
        if plain in map(_plain, (known.name, known.title, *known.aliases)):
            return known
    raise none_of(f"unknown method {name!r}", name, METHODS)


def find_all(names: Sequence[str]) -> tuple[Method, ...]:
    """The methods of names, each once; raises as `find`, and if there is no name."""
    if not names:
        raise InputError("no method was given; `segcam methods` lists them")
    return tuple({known.name: known for known in map(find, names)}.values())


def parse_calls(methods: Sequence[Method], words: Sequence[str]) -> tuple[MethodCall, ...]:
    """Methods with their options, as words give them.

    Args:
        methods: those that will run.
        words: `NAME=VALUE`, of every method that has such an option, or `METHOD.NAME=VALUE`.

    Raises:
        InputError: if no such method has such an option, or the value is not one of its kind.
    """
    found = parse_options(words, {each.name: each.options for each in methods}, "method")
    return tuple(
        MethodCall(
            each,
            aug_smooth=found[each.name].pop(AUG_SMOOTH.name, False),
            options=tuple(sorted(found[each.name].items())),
        )
        for each in methods
    )


def _plain(name: str) -> str:
    """A name without case and separators; `+` as `p`, so that Grad-CAM++ is `grad_cam_pp`."""
    kept = name.casefold().replace("+", "p").replace("*", "x")
    return "".join(letter for letter in kept if letter.isalnum())
