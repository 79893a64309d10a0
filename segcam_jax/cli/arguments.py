"""The types of options that the commands share."""

from pathlib import Path
from typing import Annotated

import tyro


def optional(metavar: str):
    """What is shown of an option that may be left out."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
MaybeName = Annotated[str | None, optional("NAME")]
MaybeNumber = Annotated[float | None, optional("NUMBER")]
MaybeCount = Annotated[int | None, optional("N")]
Size = Annotated[tuple[int, ...], optional("H W")]
MaybeFile = Annotated[Path | None, optional("FILE")]
Images = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint=""),
]
