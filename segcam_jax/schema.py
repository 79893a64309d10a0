"""Values of a file, held to the dataclass that they are read into: all faults in words."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union

import msgspec

from segcam_jax.types import InputError, near, shortened

T = TypeVar("T")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "words"}


def read(
    values: Mapping[str, Any], kind: type[T], origin: str, *, words: Mapping[str, str] | None = None
) -> T:
    """Makes a dataclass of values that JSON or TOML holds.

    Args:
        values: by key; tables in it for fields that are dataclasses.
        origin: what holds the values, in messages.
        words: where keys are words of the command line, those of fields of another name.

    Raises:
        InputError: with every key that is unknown or missing, and every value of another type; or
            what the dataclass says of its values.
    """
    if faults := list(_faults(values, kind, "", words)):
        raise InputError(f"{origin} {'; it '.join(faults)}")
    keys, hints = _keys(kind, words or {}), typing.get_type_hints(kind)
    try:
        given = {keys[key].name: value for key, value in values.items()}
        return kind(**{name: msgspec.convert(each, hints[name]) for name, each in given.items()})
    except (InputError, msgspec.ValidationError) as error:
        raise InputError(f"{origin}: {error.__cause__ or error}") from None


def check(values: Any, kind: Any, origin: str) -> None:
    """Checks that values of another program's file are of a type; keys that it lacks are let be.

    Args:
        kind: a `TypedDict`, or what else `msgspec` knows.
    """
    try:
        msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: {error}") from None


def _faults(
    values: Mapping[str, Any], kind: Any, start: str, words: Mapping[str, str] | None = None
) -> Iterator[str]:
    """What is wrong with a table, as `has ...` and `lacks ...`; its own keys begin with `start`."""
    keys, hints = _keys(kind, words or {}), typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in keys:
            yield f"has the unknown key {start + key!r}{near(key, keys)}"
            continue
        hint = hints[keys[key].name]
        table = [each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)]
        if table and isinstance(value, Mapping):
            yield from _faults(value, table[0], f"{start}{key}.")
            continue
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            name = repr(start + key) if words is None else f"--{key.replace('_', '-')}"
            yield f"has {shortened(repr(value))} for {name}, which takes {_expected(hint)}"
    for key, field in keys.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and key not in values:
            yield f"lacks the key {start + key!r}"


def _keys(kind: Any, words: Mapping[str, str]) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass by their keys."""
    return {words.get(field.name, field.name): field for field in dataclasses.fields(kind)}


def _expected(hint: Any) -> str:
    """What a type takes, in words."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, inside))
    if origin in (Union, UnionType):
        return " or ".join(_expected(each) for each in inside if each is not NoneType)
    if origin is tuple and inside[1:] == (...,):
        return f"a list of {_expected(inside[0]).removeprefix('a ')}" + "s" * (inside[0] is not str)
    return _KINDS.get(hint, "a table")
