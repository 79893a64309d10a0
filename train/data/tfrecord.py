"""TFRecord files without TensorFlow: the records of a file, each with its checksums verified.

    records = index("test.tfrecords").records
    data = read(records[0])                    # bytes, here a serialized tf.train.Example

A file is a sequence of records: the length of the data (8 bytes, little endian), a checksum of
these bytes, the data, a checksum of the data. Checksums are CRC-32C, rotated right by 15 bits, plus
0xa282ead8, modulo 2**32.

Why a reader of our own: of the packages that read TFRecord without TensorFlow, `tfrecord` 1.14 and
grain 0.2's experimental source both skip the checksums, and none says which record is broken, or
goes on behind it. The framing is these few lines; the checksum, which would be slow in Python, is
Google's own library (`google-crc32c`, extra `train`).

References:
    https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
"""

import dataclasses
import mmap
import struct
from pathlib import Path

import numpy as np

from segcam_jax.extras import require
from segcam_jax.types import InputError

_HEADER, _FOOTER = 12, 4
_SCANNED = 1 << 20  # bytes that are searched at once for a next record


@dataclasses.dataclass(frozen=True)
class Record:
    """A record whose checksums are right.

    Attributes:
        path: the file.
        number: its place in the file, counted from 1.
        offset: of its data in the file, in bytes.
        length: of its data, in bytes.
    """

    path: Path
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"record {self.number} of {str(self.path)!r}"


@dataclasses.dataclass(frozen=True)
class Index:
    """The records of a file.

    Attributes:
        records: those that are whole.
        problems: what was wrong with the others, one sentence each.
    """

    records: tuple[Record, ...]
    problems: tuple[str, ...]


def index(path: str | Path, *, skip_broken: bool = False) -> Index:
    """Finds the records of a file and verifies all checksums.

    Args:
        path: a TFRecord file, not compressed.
        skip_broken: go on behind broken records. If a length is damaged, the next record is the
            next place where a length, its checksum, the data and their checksum agree; several
            broken records in a row may then count as one.

    Raises:
        InputError: if the file cannot be read or holds no whole record, or a record is broken:
            names its number and place.
        MissingExtraError: without extra `train`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise InputError(f"{str(path)!r} is empty; a TFRecord file has records")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = _walk(path, data, skip_broken)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    if not found.records:
        raise InputError(f"{str(path)!r} holds no whole record; it is no TFRecord file, or damaged")
    return found


def read(record: Record) -> bytes:
    """Reads the data of a record.

    Raises:
        InputError: if the file has gone or was shortened since it was indexed.
    """
    try:
        with record.path.open("rb") as file:
            file.seek(record.offset)
            data = file.read(record.length)
    except OSError as error:
        raise InputError(f"{record} cannot be read: {error.strerror or error}") from None
    if len(data) != record.length:
        raise InputError(f"{record} is cut off; the file was changed while it was in use")
    return data


def masked_checksum(data: bytes) -> int:
    """The checksum of TFRecord files: `rotate_right(crc32c(data), 15) + 0xa282ead8 mod 2**32`."""
    crc = require("google_crc32c", extra="train").value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _walk(path: Path, data: mmap.mmap, skip_broken: bool) -> Index:
    """Goes through the file, record by record."""
    records, problems = [], []
    start, number = 0, 0
    while start < len(data):
        number += 1
        length = _length(data, start)
        problem = _problem(data, start, length)
        if problem is None:
            assert length is not None
            records.append(Record(path, number, start + _HEADER, length))
            start += _HEADER + length + _FOOTER
            continue
        sentence = f"record {number} of {str(path)!r}, at byte {start}, {problem}"
        if not skip_broken:
            raise InputError(f"{sentence}{_advice(data, number)}")
        problems.append(sentence)
        # Broken data are stepped over if another record begins, or the file ends, behind them.
        end = len(data) + 1 if length is None else start + _HEADER + length + _FOOTER
        trusted = end == len(data) or _length(data, end) is not None
        start = end if trusted else _next_start(data, start + 1)
    return Index(tuple(records), tuple(problems))


def _length(data: mmap.mmap, start: int) -> int | None:
    """The length of the record at a place; None if its checksum is wrong or it is cut off."""
    header = data[start : start + _HEADER]
    if len(header) < _HEADER:
        return None
    length, checksum = struct.unpack("<QI", header)
    return length if masked_checksum(header[:8]) == checksum else None


def _problem(data: mmap.mmap, start: int, length: int | None) -> str | None:
    """What is wrong with the record at a place, or None."""
    if length is None:
        if len(data) - start < _HEADER:
            return f"is cut off: {len(data) - start} bytes are left, a header has {_HEADER}"
        return "has a length whose checksum is wrong"
    first, end = start + _HEADER, start + _HEADER + length
    if end + _FOOTER > len(data):
        return f"is cut off: {len(data) - first} bytes are left of {length + _FOOTER}"
    (checksum,) = struct.unpack("<I", data[end : end + _FOOTER])
    return None if masked_checksum(data[first:end]) == checksum else "has a wrong checksum"


def _advice(data: mmap.mmap, number: int) -> str:
    if number == 1 and data[:2] == b"\x1f\x8b":
        return "; the file is compressed by gzip, unpack it first"
    return "; fetch the file again, or leave broken records out (skip_broken)"


def _next_start(data: mmap.mmap, start: int) -> int:
    """The next place from `start` on where a whole record begins; the file's end if none does."""
    last = len(data) - _HEADER - _FOOTER
    while start <= last:
        # Lengths that fit are few, and are looked for all at once; then checksums decide.
        count = min(_SCANNED, last + 1 - start)
        window = np.frombuffer(data[start : start + count + 7], np.uint8)
        lengths = np.lib.stride_tricks.sliding_window_view(window, 8).copy().view("<u8")[:, 0]
        room = np.uint64(last) - np.arange(start, start + count, dtype=np.uint64)
        for place in (start + np.flatnonzero(lengths <= room)).tolist():
            if _problem(data, place, _length(data, place)) is None:
                return place
        start += count
    return len(data)
