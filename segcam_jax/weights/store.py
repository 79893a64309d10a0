"""Tensors on disk: safetensors with JSON metadata, written whole or not at all, read strictly."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from segcam_jax import _files
from segcam_jax.types import InputError, counted
from segcam_jax.weights.tables import listed

_LENGTH, _METADATA = 8, "__metadata__"  # bytes of the header's length, and of what it is a multiple
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def save(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping) -> None:
    """Writes tensors and metadata to a `.safetensors` file under a temporary name, then renames.

    The same tensors and metadata give the same bytes.

    Args:
        path: the file to write; its folder is made.
        tensors: name -> array.
        metadata: what JSON can hold.

    Raises:
        InputError: if it cannot be written.
    """
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    # Not `ascontiguousarray`, which makes a vector of a number.
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    _files.write_bytes(path, _in_order(safetensors.numpy.save(arrays, metadata=texts)))


def _in_order(data: bytes) -> bytes:
    """The bytes of a file with its metadata sorted; safetensors writes them in a random order."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH:end])
    header[_METADATA] = dict(sorted(header[_METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + data[end:]


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads what `save` wrote.

    Returns:
        `(tensors, metadata)`.

    Raises:
        InputError: if the file is missing, truncated or no safetensors file.
    """
    return _read(Path(path), tensors=True)


def metadata(path: str | Path) -> dict:
    """Reads the metadata alone, without the tensors; raises `InputError` as `load`."""
    return _read(Path(path), tensors=False)[1]


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, np.ndarray], dict]:
    if not _files.is_there(path):
        raise InputError(f"weights file {str(path)!r} does not exist; give a .safetensors file")
    origin = f"weights file {str(path)!r}"
    try:
        with safetensors.safe_open(path, framework="np") as file:
            texts = file.metadata() or {}
            names = file.keys() if tensors else ()
            arrays = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, AttributeError, TypeError) as error:
        # NumPy has no type of less than 16 bits, and says so in one of two ways.
        if library := _foreign(path):
            raise InputError(
                f"weights file {str(path)!r} is a {library} file; convert it first: `segcam "
                f"convert {path} --model NETWORK --out {path.stem}.safetensors`"
            ) from None
        raise InputError(
            f"weights file {str(path)!r} cannot be read ({error}); it is truncated or was not "
            "written by segcam_jax"
        ) from None
    about = {
        key: _files.parse_json(value, f"{origin}: its entry {key!r} is")
        for key, value in texts.items()
    }
    return arrays, about


def _foreign(path: Path) -> str:
    """The library whose weights a file holds, by how it begins; `""` for none that is known."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return ""
    # A zip archive, or, of old versions, a pickle.
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "PyTorch"
    return "Keras" if start == b"\x89HDF\r\n\x1a\n" else ""


def check_fit(
    tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Checks that names and shapes are exactly those expected.

    Raises:
        InputError: one message with every missing, unexpected and misshapen tensor.
    """
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tensors[name].shape}, the model {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    problems += [
        f"{name} is {array.dtype}, expected floats of 16, 32 or 64 bits"
        for name, array in tensors.items()
        if array.dtype.name not in _FLOATS
    ]
    if problems:
        raise InputError(
            f"weights of {source!r} do not fit the model, {counted(len(problems), 'mismatch')}: "
            + listed(problems, "; ")
        )
