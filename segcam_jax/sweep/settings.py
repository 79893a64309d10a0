"""Options of methods in words: `window=2`, or `grad_cam_pp.epsilon=0.001` for one method alone."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from segcam_jax.methods import METHODS
from segcam_jax.types import InputError, nearest_first

# What the engine and the run's seed give.
_NOT_IN_WORDS = ("execution", "key")


@dataclasses.dataclass(frozen=True)
class Setting:
    """An option of a method.

    Attributes:
        name: of the option.
        default: its value where it is not given.
        kinds: what words may mean: types, or the words themselves.
    """

    name: str
    default: Any
    kinds: tuple[Any, ...]

    @property
    def choices(self) -> str:
        """What may be given."""
        told = [each if isinstance(each, str) else _KINDS[each] for each in self.kinds]
        return " or ".join(dict.fromkeys(told))


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "whole numbers such as 2x3",
    type(None): "none",
}


def settings_of(method: str) -> dict[str, Setting]:
    """The options of a method that words can give, by name."""
    parameters = inspect.signature(METHODS[method].function).parameters.values()
    found = {}
    for parameter in parameters:
        kinds = tuple(_kinds(parameter.annotation))
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _NOT_IN_WORDS:
            found[parameter.name] = Setting(parameter.name, parameter.default, kinds)
    return found


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of an annotation that words can give; arrays are none."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(inside)
    if origin in (types.UnionType, typing.Union):
        return [kind for each in inside for kind in _kinds(each)]
    plain = tuple if origin is tuple else annotation
    return [plain] if isinstance(plain, type) and plain in _KINDS else []


def parsed(words: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads options of methods.

    Args:
        words: `NAME=VALUE`, of every method that has such an option, or `METHOD.NAME=VALUE`.
        methods: names of the methods that will run.

    Returns:
        By method: keyword -> value.

    Raises:
        InputError: if no such method has such an option, or the value is not one of its kind.
    """
    known = {method: settings_of(method) for method in methods}
    found: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for word in words:
        left, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--option was given {word!r}; give NAME=VALUE or METHOD.NAME=VALUE")
        method, dot, name = left.rpartition(".")
        if dot and method not in known:
            choices = ", ".join(nearest_first(method, known))
            raise InputError(f"--option {word!r}: {method!r} does not run here, but {choices}")
        asked = [method] if dot else list(known)
        having = [each for each in asked if name in known[each]]
        if not having:
            raise InputError(_unknown(word, name, asked, known))
        for each in having:
            found[each][name] = _value(value, known[each][name], f"{each}.{name}")
    return found


def _unknown(word: str, name: str, asked: Sequence[str], known: dict[str, Any]) -> str:
    there = dict.fromkeys(option for method in asked for option in known[method])
    choices = ", ".join(nearest_first(name, there)) or "none"
    return (
        f"--option {word!r}: {', '.join(asked)} has no option {name!r}; there are {choices} "
        "(`segcam methods` lists them)"
    )


def _value(words: str, setting: Setting, where: str) -> Any:
    plain = words.strip()
    if plain in setting.kinds:
        return plain
    for kind in setting.kinds:
        if not isinstance(kind, str):
            try:
                return _read(plain, kind)
            except ValueError:
                continue
    raise InputError(f"--option {where} was given {words!r}; give {setting.choices}")


def _read(words: str, kind: type) -> Any:
    """Raises `ValueError` if the words are not of that kind."""
    if kind is bool:
        return ("false", "true").index(words.lower()) == 1
    if kind is tuple:
        return tuple(int(part) for part in words.replace(",", "x").split("x"))
    if kind is type(None):
        if words.lower() != "none":
            raise ValueError
        return None
    if not math.isfinite(value := kind(words)):
        raise ValueError
    return value
