"""Tensors of other libraries' weights files: safetensors, PyTorch, Keras; no code in them runs."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.extras import require
from segcam_jax.types import InputError
from segcam_jax.weights import keras_files
from segcam_jax.weights.torch_files import Refused, Stored, TorchFile

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network_weights")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a weights file, by its suffix.

    Args:
        path: `.safetensors`; `.pth`, `.pt`, `.ckpt` or `.bin` of PyTorch: a state dict, or a
            checkpoint that holds one, read without PyTorch; `.h5` or `.hdf5` of Keras: a model,
            or weights by layer (extra `keras`).

    Returns:
        name -> tensor, in the file's order. PyTorch's names lose `module.`, which data parallel
        training puts before them; Keras's are `layer/weight`, without `:0`.

    Raises:
        InputError: if the file is missing, truncated, of an unknown kind, or holds more than
            tensors.
        MissingExtraError: if the library that reads it is not installed.
    """
    path = Path(path)
    if path.suffix == ".index" or re.fullmatch(r"\.data-\d+-of-\d+", path.suffix):
        raise InputError(
            f"weights file {str(path)!r} belongs to a TensorFlow checkpoint, which only "
            "TensorFlow reads; load it into the Keras model there, and save the model "
            "(model.save('net.h5')) or explain it as it is (segcam.from_keras)"
        )
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"weights file {str(path)!r} has suffix {path.suffix!r}; expected one of "
            + ", ".join(_READERS)
        )
    if not _files.is_there(path):
        raise InputError(f"weights file {str(path)!r} does not exist")
    tensors = _READERS[path.suffix.lower()](path)
    if not tensors:
        raise InputError(f"weights file {str(path)!r} holds no tensors; give a network's weights")
    for name, tensor in tensors.items():
        # NumPy knows of bfloat16 and the like by name alone.
        if tensor.dtype.kind not in "biuf" and "float" not in tensor.dtype.name:
            raise _no_numbers(path, name)
    return tensors


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None
    return _without_prefix(tensors)


def open_torch(path: Path) -> TorchFile:
    """Opens a file of `torch.save`."""
    if not path.is_file():
        raise InputError(f"weights file {str(path)!r} does not exist")
    with _reading(path):
        return TorchFile(path)


def tensors_of(file: TorchFile, state: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict in a file of `torch.save`, halves as float32."""
    arrays = {}
    with _reading(path):
        for name, tensor in state.items():
            if isinstance(tensor, Stored):
                if tensor.storage is None:
                    raise _no_numbers(path, name)
                array = file.array(tensor)
                floating = "float" in array.dtype.name
                arrays[str(name)] = array.astype(np.float32, copy=False) if floating else array
    return _without_prefix(arrays)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says in one line why a file of `torch.save` cannot be read."""
    try:
        yield
    except Refused as refused:
        raise InputError(
            f"weights file {str(path)!r} holds Python objects ({refused}), which could run code "
            "when they are read; save only the network's `state_dict()`, and give that file"
        ) from None
    except InputError:
        raise
    except Exception as error:  # A pickle that is cut off or made up raises anything.
        raise _unreadable(path, error) from None


def _torch(path: Path) -> dict[str, np.ndarray]:
    file = open_torch(path)
    state = _state(file.content)
    if state is None:
        raise InputError(
            f"weights file {str(path)!r} holds no state dict; save the network's `state_dict()`"
        )
    return tensors_of(file, state, path)


def _state(loaded: Any) -> Mapping[str, Any] | None:
    """The dictionary of tensors in what was loaded: itself, or one level down."""
    if not isinstance(loaded, Mapping):
        return None
    if any(isinstance(value, Stored) for value in loaded.values()):
        return loaded
    inner = [loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)]
    several = [key for key, value in loaded.items() if isinstance(value, Mapping) and _state(value)]
    if len(several) > 1:
        names = " and ".join(repr(key) for key in several)
        raise InputError(
            f"the checkpoint holds {len(several)} state dicts, {names}; save the one that you mean"
        )
    return _state(inner[0]) if inner else None


def _keras(path: Path) -> dict[str, np.ndarray]:
    require("h5py", extra="keras")
    words = [sys.executable, "-P", keras_files.__file__, str(path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=env)
    if child.returncode < 0:
        why = signal.Signals(-child.returncode).name
        why = "never ends" if why == "SIGXCPU" else f"crashed by {why}"
        raise _unreadable(path, f"libhdf5 {why}")
    said = child.stderr.decode(errors="replace")
    if child.returncode == keras_files.DAMAGED:
        raise _unreadable(path, said)
    if child.returncode:
        last = (said.split("\n")[-2:] or [""])[0]
        raise InputError(f"weights file {str(path)!r}: the process that reads HDF5 failed: {last}")
    told = io.BytesIO(child.stdout)
    names = json.loads(told.readline())
    if names is None:
        raise InputError(
            f"weights file {str(path)!r} does not name its layers, because Keras 3 leaves them "
            "out of `.weights.h5`; save the whole model: model.save('model.h5')"
        )
    return {name.removesuffix(":0"): np.lib.format.read_array(told) for name in names}


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _no_numbers(path: Path, name: object) -> InputError:
    return InputError(
        f"weights file {str(path)!r}: tensor {str(name)!r} is not a plain array of real numbers; "
        "save the network's `state_dict()`, not quantised or sparse"
    )


def _unreadable(path: Path, why: object) -> InputError:
    line = " ".join(str(why).split()) or type(why).__name__
    return InputError(
        f"weights file {str(path)!r} cannot be read ({line[:200]}); it is truncated, or not the "
        "kind of file that its name says"
    )


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _safetensors,
    ".pth": _torch,
    ".pt": _torch,
    ".ckpt": _torch,
    ".bin": _torch,
    ".h5": _keras,
    ".hdf5": _keras,
}
