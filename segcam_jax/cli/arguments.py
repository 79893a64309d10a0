"""The types of options that the commands share."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcam_jax.types import InputError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def optional(metavar: str):
    """What is shown of an option that may be left out."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def several(metavar: str):
    """What is shown of an option that takes several values: those it has, if there are any."""
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=lambda shown: f"(default: {shown})" if shown else ""
    )


Names = Annotated[tuple[str, ...], several("NAME ...")]
Classes = Annotated[Names, tyro.conf.arg(name="class")]
Options = Annotated[tuple[str, ...], several("NAME=VALUE ...")]
Layouts = Annotated[tuple[str, ...], several("TAP=LETTERS ...")]
MaybeName = Annotated[str | None, optional("NAME")]
MaybeNumber = Annotated[float | None, optional("NUMBER")]
MaybeCount = Annotated[int | None, optional("N")]
Range = Annotated[tuple[float, ...], optional("LOW HIGH")]
Size = Annotated[tuple[int, ...], optional("H W")]
MaybeFile = Annotated[Path | None, optional("FILE")]
Thresholds = Annotated[tuple[float, ...], optional("NUMBER ...")]
MaybeOutputs = Annotated[
    Literal["logits", "probabilities"] | None, optional("{logits,probabilities}")
]
Images = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint=""),
]


def option_of(field: str) -> str:
    """What the command line calls a field of a command."""
    return "--class" if field == "classes" else f"--{field.replace('_', '-')}"


def bytes_of(words: str | None) -> int | None:
    """The number of bytes in words such as `500MB` or `2GiB`, as --memory-limit takes them."""
    if words is None:
        return None
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", words)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) * unit < 1:
        raise InputError(
            f"--memory-limit was given {words!r}; give a number of bytes, such as 500MB or 2GiB"
        )
    return int(float(found[1]) * unit)


def names_in(words: Iterable[str]) -> tuple[str, ...]:
    """Names that were separated by blanks, commas, or both; each once."""
    split = (name.strip() for each in words for name in each.split(","))
    return tuple(dict.fromkeys(name for name in split if name))
