"""TFRecord files without TensorFlow: the records of a file, each with its checksums verified.

    records = index("test.tfrecords").records
    data = read(records[0])                    # bytes, here a serialized tf.train.Example

A file is a sequence of records: the length of the data (8 bytes, little endian), a checksum of
these bytes, the data, a checksum of the data. Checksums are CRC-32C, rotated right by 15 bits, plus
0xa282ead8, modulo 2**32. The packages that read TFRecord without TensorFlow (`tfrecord` 1.14, grain
0.2) skip the checksums, and none says which record is broken.

References:
    https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
"""

import dataclasses
import struct
from pathlib import Path
from typing import BinaryIO

from segcam_jax.extras import require
from segcam_jax.types import InputError

_HEADER, _FOOTER = 12, 4
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Record:
    """A record whose checksums are right.

    Attributes:
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
        skip_broken: go on behind records whose data are broken, and end at one whose length is,
            since nothing says where the next begins.
    """
    path = Path(path)
    records, problems, start, number = [], [], 0, 0
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{str(path)!r} cannot be read: it is a FIFO or a device, and no file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if not size:
                raise InputError(f"{str(path)!r} is empty; a TFRecord file has records")
            while start is not None and start < size:
                number += 1
                length, problem, following = _checked(file, start, size)
                if problem is None:
                    records.append(Record(path, number, start + _HEADER, length))
                else:
                    sentence = f"record {number} of {str(path)!r}, at byte {start}, {problem}"
                    if not skip_broken:
                        raise InputError(f"{sentence}{_advice(file, number)}")
                    lost = "" if following else "; what follows it is left out too"
                    problems.append(f"{sentence}{lost}")
                start = following
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    if not records:
        raise InputError(
            f"{str(path)!r} holds no whole record; it is not a TFRecord file, or damaged"
        )
    return Index(tuple(records), tuple(problems))


def _checked(file: BinaryIO, start: int, size: int) -> tuple[int, str | None, int | None]:
    """The length of the record at a place, what is wrong with it, and where the next begins."""
    file.seek(start)
    header = file.read(_HEADER)
    if len(header) < _HEADER:
        return 0, f"is cut off: {len(header)} bytes are left, a header has {_HEADER}", None
    length, checksum = struct.unpack("<QI", header)
    if masked_checksum(header[:8]) != checksum:
        return 0, "has a length whose checksum is wrong", None
    left = size - start - _HEADER
    if length + _FOOTER > left:
        return length, f"is cut off: {left} bytes are left of {length + _FOOTER}", None
    data, (checksum,) = file.read(length), struct.unpack("<I", file.read(_FOOTER))
    wrong = None if masked_checksum(data) == checksum else "has a wrong checksum"
    return length, wrong, start + _HEADER + length + _FOOTER


def _advice(file: BinaryIO, number: int) -> str:
    file.seek(0)
    if number == 1 and file.read(2) == _GZIP:
        return "; the file is compressed by gzip, unpack it first"
    return "; fetch the file again, or leave broken records out (skip_broken)"


def read(record: Record) -> bytes:
    """Reads the data of a record."""
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
