"""`segcam convert`: a weights file of another library becomes one of ours."""

from pathlib import Path

import jax

from segcam_jax.cli import commands, console
from segcam_jax.types import InputError


def convert(command: commands.Convert) -> None:
    """Reads, maps, checks and writes; a file that does not fit leaves nothing behind.

    Raises:
        InputError: naming what does not fit.
    """
    from segcam_jax import models

    out = command.out
    if out.exists() and not command.overwrite:
        raise InputError(f"{str(out)!r} exists; choose another file, or give --overwrite")
    labels = None if command.labels is None else _labels(command.labels)
    try:
        model = models.convert(
            command.source,
            command.model,
            out,
            layout=command.layout,
            normalisation=command.normalisation,
            labels=labels,
        )
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror or error}") from None
    parameters = sum(leaf.size for leaf in jax.tree.leaves(models.stored.parameters(model)))
    config = model.config
    rows = [
        ("model", command.model),
        ("parameters", f"{parameters:,}"),
        ("image channels", config.in_channels),
        ("classes", config.classes),
        ("normalisation", config.normalisation),
        ("written", out),
    ]
    console.table(f"Converted {command.source}", ("", "what"), rows)


def _labels(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels {str(path)!r} cannot be read as text: {error}") from None
    return [line.strip() for line in lines if line.strip()]
