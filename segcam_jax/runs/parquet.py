"""Tables as Parquet files that know their own checksum.

A damaged file does not reach the decoder, which may abort the process on one, or read other values.
The checksum stands among the metadata, and is of the file with zeros in its place.
"""

import io
import zlib
from collections.abc import Mapping

import polars
from polars.exceptions import PanicException, PolarsError

# Both the name and the start of the value: one of them is left where the other is damaged.
_WORD = "segcam-crc32"
_START = f"{_WORD} ".encode()
_DIGITS = 8


def encode(table: polars.DataFrame, metadata: Mapping[str, str]) -> bytes:
    """A table as a file: the same bytes for equal tables and metadata."""
    stream = io.BytesIO()
    seal = {_WORD: f"{_WORD} {'0' * _DIGITS}"}
    table.write_parquet(stream, metadata={**metadata, **seal})
    data = stream.getvalue()
    return _with_digits(data, f"{zlib.crc32(data):0{_DIGITS}x}".encode())


def decode(data: bytes) -> tuple[polars.DataFrame, dict[str, str]] | None:
    """The table and the metadata of a file; None if it is damaged or cut off.

    Files of versions before 0.6 have no checksum, and are taken as they are.
    """
    if _WORD.encode() in data and not _is_whole(data):
        return None
    try:
        metadata = polars.read_parquet_metadata(io.BytesIO(data))
        return polars.read_parquet(io.BytesIO(data)), metadata
    except (PolarsError, PanicException, ValueError):
        return None


def _is_whole(data: bytes) -> bool:
    place = data.rfind(_START)
    if place < 0:
        return False
    said = data[place + len(_START) :][:_DIGITS]
    blank = _with_digits(data, b"0" * _DIGITS)
    return len(blank) == len(data) and said == f"{zlib.crc32(blank):0{_DIGITS}x}".encode()


def _with_digits(data: bytes, digits: bytes) -> bytes:
    place = data.rindex(_START) + len(_START)
    return data[:place] + digits + data[place + _DIGITS :]
