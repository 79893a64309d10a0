"""The words of a command line as a dataclass, by `tyro`; what is wrong with them in one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import tyro

from segcam_jax.types import InputError


def check_words(program: str, given: Sequence[str]) -> None:
    """Raises `InputError` if a word is empty, or no text, which tables could not hold."""
    for before, word in zip([program, *given], given, strict=False):
        if not word.strip():
            raise InputError(f"after {before!r} an empty word was given; give one, or leave it out")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"{word!r} is not text in UTF-8; rename the file") from None


def parsed(kind: type, arguments: Sequence[str], **options: Any) -> Any:
    """Reads the options of a command.

    Args:
        options: of `tyro.cli`: `prog`, `description`, `config`.

    Returns:
        The options; None where help was asked for, and is printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
    # A frame of lines or of dashes, whose title the text below repeats.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    rows = [re.sub(r"[\u2500-\u257f]+|-{4,}", " ", row).strip() for row in plain.splitlines()]
    text = re.sub(r"(\s*;)+\s*", "; ", " ".join(row or ";" for row in rows[1:])).strip("; ")
    raise InputError(" ".join(text.split()) or "wrong options; see --help")
