"""Why a user's own model or target fails, where, and which input the model would take."""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segcam_jax.types import InputError

_LONGEST = 240
# Keras puts a line before what a layer raises, and prints that bold.
_BEFORE = "Exception encountered when calling "
_BOLD = re.compile(r"\x1b\[\d*m")
_LIBRARIES = {
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
    Path(__file__).resolve().parent,
}
# Begins the note that an exception gets in the submodule that raises it.
_SUBMODULE = "in the submodule "
_CHANNELS = (3, 1, 2, 4)
_MULTIPLES = (2, 4, 8, 16, 32)


def words_of(error: BaseException) -> str:
    """The place in the user's code where an exception came from, its type, and its first line.

    If no call is in the user's own code, the words have only the type and the first line.
    """
    message = error.msg or "" if isinstance(error, SyntaxError) else str(error)
    lines = [line.strip() for line in _BOLD.sub("", message).splitlines()]
    said = next((line for line in lines if line and not line.startswith(_BEFORE)), "")
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
    name = type(error).__name__
    what = f"{name}: {said}" if said else name
    where = place_of(error)
    return f"{where}: {what}" if where else what


def place_of(error: BaseException) -> str:
    """File and line of the last call in the user's own code; empty if there is none."""
    lines = lines_of(error)
    if not lines:
        return ""
    path, here = Path(lines[-1][0]).resolve(), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}, line {lines[-1][1]}"


def lines_of(error: BaseException) -> list[tuple[str, int]]:
    """File and line of the calls in the user's own code, the outermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [(frame.filename, frame.lineno or 0) for frame in frames if is_users(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        found.append((error.filename, error.lineno or 0))
    return found


def is_users(file: str) -> bool:
    """Whether a source file is neither this library's nor an installed one's."""
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(library) for library in _LIBRARIES)


def place(error: BaseException, submodule: str) -> None:
    """Notes in which submodule an exception was raised; the innermost comes first."""
    if not _submodule(error):
        error.add_note(f"{_SUBMODULE}{submodule!r}")


class ModelError(InputError):
    """A model that fails on what it is given.

    Attributes:
        rest: where and how, and what it would take; the message without what was given.
    """

    def __init__(self, given: str, rest: str):
        super().__init__(f"the model fails on {given}{rest}")
        self.rest = rest


def refused(fn: Callable, params: Any, x: Any, error: Exception) -> ModelError:
    """What to say of a model that fails on an input: where, and which input it would take.

    Args:
        params: its parameters, or their shapes.
        x: what it fails on, or its shapes.
    """
    where = f", {note}" if (note := _submodule(error)) else ""
    return ModelError(_shapes(x), f"{where}: {words_of(error).rstrip('.')}{_hint(fn, params, x)}")


def _submodule(error: BaseException) -> str:
    notes = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_SUBMODULE)), "")


def _shapes(x: Any) -> str:
    """The arrays of an input with their shapes, and dtypes that are not float32."""
    leaves = jax.tree_util.tree_leaves_with_path(x)
    told = [
        f"x{jax.tree_util.keystr(path)} of shape {np.shape(leaf)}"
        + ("" if leaf.dtype == np.float32 else f" and dtype {leaf.dtype}")
        for path, leaf in leaves
    ]
    return ", ".join(told) or "an x without arrays"


def _hint(fn: Callable, params: Any, x: Any) -> str:
    """What the model would take of the same kind, if something is found."""
    given = getattr(x, "shape", ())
    if len(given) < 2:
        return ""
    for shape, todo in _likely(given):
        try:
            jax.eval_shape(fn, params, jax.ShapeDtypeStruct(shape, x.dtype))
        except Exception:  # It does not take this either.
            continue
        return f"; it takes shape {shape}{todo}"
    return ""


def _likely(given: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Shapes that may have been meant, each with what to do: a batch, other channels or sides."""
    *sides, channels = given
    yield (1, *given), ": a batch of one, by batch_axis=0 of `explain` or the adapter"
    if given[0] == 1:
        yield given[1:], ": one example, x[0]"
    if len(given) > 2:
        yield (*given[1:], given[0]), ": channels last, np.moveaxis(x, 0, -1)"
    if len(given) > 3:
        yield given[1:], ": one example of a batch, x[0]"
        yield (*given[2:], given[1]), ": one example, channels last, np.moveaxis(x[0], 0, -1)"
    if len(given) == 2:
        yield (*given, 1), ": one channel, x[..., None]"
        yield (*given, 3), ": a grey image as three channels, x[..., None].repeat(3, -1)"
    others = [count for count in _CHANNELS if count != channels and len(given) > 2]
    for count in others:
        rgba = (channels, count) == (4, 3)
        yield (*sides, count), ": an RGBA image without alpha, x[..., :3]" if rgba else ""
    padded = given
    for multiple in _MULTIPLES:
        before = padded
        padded = (*(-(-side // multiple) * multiple for side in sides), channels)
        if padded != before:
            yield padded, ""
    if padded != given:
        yield from (((*padded[:-1], count), "") for count in others[:2])
