"""What went wrong in a user's own code, in one line: file, line, error."""

import sysconfig
import traceback
from pathlib import Path

import segcam_jax

_LIBRARIES = {
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
    Path(segcam_jax.__file__).resolve().parent,
}
_LONGEST = 240


def in_words(error: BaseException) -> str:
    """The place in the user's code where an exception came from, its type, and its first line.

    A place in a library is none of the user's: without one in their own code only type and line
    are told.
    """
    lines = (line.strip() for line in _message(error).splitlines())
    said = next(filter(None, lines), "")
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
    name = type(error).__name__
    what = f"{name}: {said}" if said else name
    places = users_lines(error)
    return f"{shown(places[-1][0])}, line {places[-1][1]}: {what}" if places else what


def users_lines(error: BaseException) -> list[tuple[str, int]]:
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


def shown(file: str) -> str:
    """A file as seen from the current folder, if it lies below."""
    path, here = Path(file).resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _message(error: BaseException) -> str:
    """What it says; without the place, which is told apart."""
    return error.msg or "" if isinstance(error, SyntaxError) else str(error)
