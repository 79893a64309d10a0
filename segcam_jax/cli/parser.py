"""The words of a command line as a dataclass, by `tyro`; what is wrong with them in one line."""

import contextlib
import inspect
import io
import re
import shutil
import sys
import textwrap
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


_DESCRIPTION = "DESCRIPTION"
_SECTIONS = re.compile(r"\n(?:Attributes|Args|Raises|References):\n")


def parsed(kind: type, arguments: Sequence[str], **options: Any) -> Any:
    """Reads the options of a command.

    Args:
        options: of `tyro.cli`: `prog`, `description`, `config`.

    Returns:
        The options; None where help was asked for, and is printed.
    """
    said = io.StringIO()
    text = options.pop("description", None) or inspect.getdoc(kind) or ""
    shown: Any = _Shown(_SECTIONS.split(text)[0].strip())
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            return tyro.cli(kind, args=arguments, description=_DESCRIPTION, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
    # A frame of lines or of dashes, whose title the text below repeats.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    rows = [re.sub(r"[\u2500-\u257f]+|-{4,}", " ", row).strip() for row in plain.splitlines()]
    text = re.sub(r"(\s*;)+\s*", "; ", " ".join(row or ";" for row in rows[1:])).strip("; ")
    raise InputError(" ".join(text.split()) or "wrong options; see --help")


class _Shown:
    """Standard output that puts a description where tyro, which joins its lines, prints a word.

    A paragraph fills the lines of the terminal; what is indented stays as it is.
    """

    def __init__(self, text: str):
        width = shutil.get_terminal_size().columns
        paragraphs = (
            part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )
        self._out, self._text = sys.stdout, "\n\n".join(paragraphs)

    def write(self, text: str) -> int:
        return self._out.write(text.replace(_DESCRIPTION, self._text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)
