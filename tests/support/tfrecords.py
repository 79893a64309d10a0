"""Writes TFRecord files byte by byte, apart from what reads them."""

import struct

import numpy as np


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, of the polynomial 0x1EDC6F41 reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    value %= 2**64
    groups = b""
    while value >= 128:
        groups += bytes([value % 128 + 128])
        value //= 128
    return groups + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number * 8) + varint(content)
    return varint(number * 8 + 2) + varint(len(content)) + content


def tensor(image: np.ndarray, *, dtype: int = 1) -> bytes:
    """What `tf.io.serialize_tensor` makes of float32 values."""
    dims = b"".join(field(2, field(1, extent)) for extent in image.shape)
    return field(1, dtype) + field(2, dims) + field(4, image.astype("<f4").tobytes())


def example(**features: bytes | int) -> bytes:
    """A `tf.train.Example` of bytes and integers."""
    entries = b""
    for name, value in features.items():
        # An integer list is packed.
        values = field(3, field(1, varint(value))) if isinstance(value, int) else None
        feature = values or field(1, field(1, value))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def record(pixels: np.ndarray, label: int, name: str, /, **changed: bytes | int) -> bytes:
    """A record in the layout of POLEN23E; a feature that is empty bytes is left out."""
    height, width, depth = pixels.shape
    features: dict = {
        "label": label,
        "image": tensor(pixels),
        "height": height,
        "width": width,
        "depth": depth,
        "filename": name.encode(),
    }
    kept = {name: value for name, value in (features | changed).items() if value != b""}
    return example(**kept)
