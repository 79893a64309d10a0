"""Files that are written whole or not at all, their digests, and names that file systems take."""

import contextlib
import csv
import errno
import fnmatch
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax.types import FileError, InputError

_NAME_BYTES = 100
_MARK = len(".01234567.")  # what a temporary name begins with


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside a file; what is written there gets the file's name at the end.

    A reader never sees half a file, and an earlier file survives a failure. The folder is made.

    Raises:
        FileError: if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from None


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `whole_file` gives; a process that died leaves some."""
    return re.fullmatch(r"\.[0-9a-f]{8}\..+", name) is not None


def remove_temporary(folder: Path, name: str | None = None) -> None:
    """Removes what processes that died have left in a folder, of all files or of one of a name."""
    for each in filter(is_temporary, names_in(folder)):
        if name in (None, each[_MARK:]):
            (folder / each).unlink(missing_ok=True)


def whole_files(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder by name, without those that another process is writing."""
    names = fnmatch.filter(names_in(folder), pattern)
    return [folder / name for name in names if not is_temporary(name)]


def names_in(folder: Path) -> list[str]:
    """The names in a folder, in order; none if it does not exist."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise not_read(folder, error) from None


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Writes a whole file; raises as `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def keep_bytes(path: str | Path, data: bytes, *, overwrite: bool = False) -> None:
    """Writes a whole file, unless it is there and the same: its time then stays.

    Raises:
        InputError: if another file of that name is there and stays, or one cannot be read.
        FileError: as `whole_file`.
    """
    there = read_if_there(path)
    if there is not None and there != data and not overwrite:
        raise InputError(
            f"{str(path)!r} exists and holds something else; give another folder, or --overwrite"
        )
    if there != data:
        write_bytes(path, data)


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Writes a `.npy` file; raises as `whole_file`."""
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def write_json(path: str | Path, values: Any) -> None:
    """Writes JSON that other readers than Python's take (no NaN); raises as `whole_file`."""
    write_bytes(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def check_writable(path: Path) -> None:
    """Checks, before a long computation, that a file can be written; makes nothing.

    Raises:
        InputError: if it cannot.
    """
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give a file")
    if _is_taken(path) and not path.is_file():
        raise InputError(
            f"{str(path)!r} cannot be replaced: it is a FIFO, a device or a broken link"
        )
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Checks, before a long computation, that a command's output can be a folder; makes nothing.

    Raises:
        InputError: if it is a file, lies in one, or nothing may be made there.
    """
    _is_taken(path)
    there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        inside = "" if there == path else f"lies below {str(there)!r}, which "
        raise InputError(f"output {str(path)!r} {inside}is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise not_written(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def check_free(
    folder: Path, names: Iterable[str], said: str = "", *, unless: Path | None = None
) -> None:
    """Checks that nobody else's files are where a command's output will be.

    Args:
        said: what one that is there is not, for the message.
        unless: a file that says that they are ours. It is looked for last: whoever writes files has
            made it first.
    """
    check_folder(folder)
    there = set(names_in(folder))  # Looked at once: a network's file system answers slowly.
    taken = next(
        (name for name in names if Path(name).parts[0] in there and (folder / name).exists()), None
    )
    if taken is not None and not (unless is not None and unless.exists()):
        raise InputError(
            f"output {str(folder)!r} already holds {taken!r}{said}; give another folder, or "
            "--overwrite"
        )


def remove(folder: Path, files: Iterable[str | Path]) -> None:
    """Removes files in a folder, and folders in it that nobody else's files keep."""
    inside, targets = folder.resolve(), [folder / file for file in files]
    for target in targets:
        if target.parent.resolve().is_relative_to(inside) and not target.is_dir():
            target.unlink(missing_ok=True)
    for place in {target.parent for target in targets} - {folder}:
        with contextlib.suppress(OSError):
            place.rmdir()


def _is_taken(path: Path) -> bool:
    """Whether anything has a name; raises `FileError` if nothing can have it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise not_written(path, error) from None
    return True


def not_written(path: Path, error: OSError) -> FileError:
    """The one-line form of an operating system's refusal."""
    return FileError(f"{str(path)!r} cannot be written: {error.strerror or error}")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: if it cannot be read.
    """
    data = read_if_there(path)
    if data is None:
        raise InputError(f"{str(path)!r} does not exist")
    return data


def read_if_there(path: str | Path) -> bytes | None:
    """The bytes of a file; None if there is none. Raises as `read_bytes` if it cannot be read."""
    if not is_there(path):
        return None
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise not_read(path, error) from None


def is_there(path: str | Path) -> bool:
    """Whether a file is there.

    Raises:
        InputError: if the path is not a file but a folder, a FIFO or a device, whose end may never
            come, or a link to itself; or if a folder above it cannot be entered.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise not_read(path, error) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{str(path)!r} is a folder; give the files in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{str(path)!r} is a FIFO, a socket or a device; give a file on a disk")
    return True


def not_read(path: str | Path, error: OSError) -> InputError:
    """The one-line form of an operating system's refusal to read."""
    return InputError(f"{str(path)!r} cannot be read: {error.strerror or error}")


def parse_json(text: bytes | str, origin: str) -> Any:
    """What JSON holds.

    Args:
        text: it.
        origin: what holds it, with the verb, in the message.

    Raises:
        InputError: if it is none, or is nested too deeply.
    """
    try:
        found = json.loads(text)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # pyright: ignore
            json.dumps(found, ensure_ascii=False).encode()  # No text has half a letter.
        return found
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} not JSON: {error}") from None


def read_json(path: Path) -> Any:
    """Reads JSON; None if there is no such file, it cannot be read, or it holds no JSON."""
    try:
        return parse_json(read_bytes(path), f"{str(path)!r} is")
    except InputError:
        return None


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV; numbers with six significant digits, NaN as nothing."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value


def digest_of(data: bytes | str) -> str:
    """The SHA-256 of bytes or of a text, hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, hexadecimal; raises as `read_bytes`."""
    return digest_of(read_bytes(path))


def key_of(values: Any) -> str:
    """A digest of what JSON can hold, the same for equal values."""
    return digest_of(json.dumps(values, sort_keys=True))


def file_name(name: str) -> str:
    """A name as part of a file's: of a long one its start, and a digest that no other name has.

    File systems take 255 bytes, of which the rest of a file's name and a temporary one need some.
    """
    data = os.fsencode(name)
    if len(data) <= _NAME_BYTES:
        return name
    digest = digest_of(data)[:8]
    start = data[: _NAME_BYTES - len(digest) - 1].decode(errors="ignore").rstrip(". ")
    return f"{start}-{digest}"


def slug(words: str, otherwise: str) -> str:
    """Words as a part of a file's name: what is not a letter, number, `_` or `.` becomes a hyphen.

    Args:
        otherwise: the name where nothing is left of the words.
    """
    return file_name(re.sub(r"[^\w.]+", "-", words).strip("-.") or otherwise)


def unique_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, numbered where one stands already, whatever the file system makes of its case.

    Args:
        taken: names that no file may have.
    """
    seen = {name.casefold() for name in taken}
    # Counts go on where the last one of the same name has stopped: there may be very many.
    counts: dict[str, Iterator[int]] = {}
    unique = []
    for name in names:
        count = counts.setdefault(name.casefold(), itertools.count(2))
        candidates = itertools.chain([name], (f"{name}-{k}" for k in count))
        free = next(each for each in candidates if each.casefold() not in seen)
        seen.add(free.casefold())
        unique.append(free)
    return unique


def names_of(paths: Sequence[Path], otherwise: str = "image") -> list[str]:
    """A name for what is made of each file: its stem, numbered where several have the same."""
    return unique_names([file_name(path.stem.strip(". ") or otherwise) for path in paths])
