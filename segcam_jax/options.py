"""Options of methods and metrics in words, NAME=VALUE: found in signatures, read by their types."""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from segcam_jax.types import InputError, nearest_first

_FROM_ZERO = ("sigma", "epsilon")
_LARGEST = 10**8  # of evaluations, positions, channels: more would take years
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: f"a whole number up to {_LARGEST:,}",
    float: "a number",
    tuple: "whole numbers such as 2x3 or 10,20,30",
    type(None): "none",
    Any: "zeros, mean, blur, or a number",  # Baselines alone are of no type.
}


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a function that words can give.

    Attributes:
        default: its value where it is not given.
        kinds: what words may mean: types, or the words themselves.
        about: what it means: the first sentence about it in the function's documentation.
    """

    name: str
    default: Any
    kinds: tuple[Any, ...]
    about: str = ""

    @property
    def choices(self) -> str:
        """What may be given, in words."""
        told = [each if isinstance(each, str) else _KINDS[each] for each in self.kinds]
        return " or ".join(dict.fromkeys(told))

    @property
    def given(self) -> str:
        """The option with its default, as a command line is given it."""
        several = isinstance(self.default, tuple)
        words = ",".join(map(str, self.default)) if several else str(self.default).lower()
        return f"{self.name}={words}" if words else self.name

    def parse(self, words: str, where: str) -> Any:
        """Reads a value.

        Args:
            words: for example `2x3` or `none`.
            where: what the option is called in a message.
        """
        plain = words.strip()
        if plain in self.kinds:
            return plain
        for kind in self.kinds:
            if not isinstance(kind, str):
                try:
                    value = _read(plain, kind)
                except ValueError:
                    continue
                if self.name in _FROM_ZERO and value < 0:
                    break
                return value
        least = " from 0" if self.name in _FROM_ZERO else ""
        raise InputError(f"--option {where} was given {words!r}; give {self.choices}{least}")


def options_of(function: Callable, without: Collection[str]) -> dict[str, Option]:
    """The keyword arguments of a function that words can give, by name."""
    parameters = inspect.signature(function).parameters
    return {
        name: Option(name, each.default, tuple(_kinds(each.annotation)), about(function, name))
        for name, each in parameters.items()
        if each.kind is each.KEYWORD_ONLY and name not in without
    }


def check_choices(known: Mapping[str, Option], given: Mapping[str, Any]) -> None:
    """Raises `InputError` for an option that takes one of few words, and has another value."""
    for name, value in given.items():
        kinds = known[name].kinds if name in known else ()
        words = [each for each in kinds if isinstance(each, str)]
        alone = len(words) == len(kinds) and not callable(value)
        if words and value not in words and (alone or isinstance(value, str)):
            *others, last = words
            raise InputError(f"{name}={value!r}; choose {', '.join(others)} or {last}")


def about(function: Callable, argument: str) -> str:
    """The first sentence about an argument in the docstring of a function."""
    found = inspect.getdoc(function) or ""
    said = re.search(rf"^    {argument}: (.*(?:\n        .*)*)", found, re.M)
    words = " ".join(said[1].split()) if said else ""
    return words.split(". ")[0].rstrip(".")


def parse_options(
    words: Sequence[str],
    known: Mapping[str, Mapping[str, Option]],
    noun: str,
    hint: Callable[[str], str] = lambda name: "",
) -> dict[str, dict[str, Any]]:
    """Options with their values, of each of several functions.

    Args:
        words: `NAME=VALUE`, of every function that has such an option, or `FUNCTION.NAME=VALUE`.
        known: the options of each function.
        noun: what the functions are.
        hint: the end of the message about an option that none of them has.

    Raises:
        InputError: if no such function has such an option, or the value is not one of its kind.
    """
    found: dict[str, dict[str, Any]] = {each: {} for each in known}
    for word in words:
        left, equals, value = word.partition("=")
        if not equals:
            form = f"NAME=VALUE or {noun.upper()}.NAME=VALUE"
            raise InputError(f"--option was given {word!r}; give {form}")
        start, dot, name = left.rpartition(".")
        if dot and start not in known:
            choices = ", ".join(nearest_first(start, known))
            raise InputError(
                f"--option {word!r}: {start!r} is not a {noun} of this run; its {noun}s are "
                f"{choices}"
            )
        asked = {each: options for each, options in known.items() if not dot or each == start}
        having = {each: options[name] for each, options in asked.items() if name in options}
        if not having:
            there = dict.fromkeys(option for options in asked.values() for option in options)
            verb = "has" if len(asked) == 1 else "have"
            raise InputError(
                f"--option {word!r}: {', '.join(asked)} {verb} no option {name!r}; there are "
                f"{', '.join(nearest_first(name, there)) or 'none'} (`segcam methods` lists them)"
                f"{hint(name)}"
            )
        for each, option in having.items():
            found[each][name] = option.parse(value, f"{each}.{name}")
    return found


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of an annotation that words can give; no array is one."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(inside)
    if origin in (types.UnionType, typing.Union):
        return [kind for each in inside for kind in _kinds(each)]
    if origin is tuple:
        return [tuple] if inside[0] is int else []
    return [annotation] if annotation is Any or annotation in _KINDS else []


def _read(words: str, kind: Any) -> Any:
    """Raises `ValueError` if the words are not of that kind."""
    if kind is bool:
        return ("false", "true").index(words.lower()) == 1
    if kind is tuple:
        return tuple(int(part) for part in words.replace(",", "x").split("x"))
    if kind is type(None):
        if words.lower() != "none":
            raise ValueError
        return None
    if kind is Any:
        try:
            return _read(words, float)
        except ValueError:
            return words
    value = kind(words)
    if not math.isfinite(value) or (kind is int and abs(value) > _LARGEST):
        raise ValueError
    return value
