"""Keras's HDF5 files, read by a process of their own: `python keras_files.py FILE`.

On damaged files libhdf5 crashes, or never ends: then this process ends, and the one that asked says
so. It costs the start of an interpreter, 0.2 s. stdout is the list of the tensors' names as a line
of JSON, or null where the file names no layers, and then each tensor as in a file of NumPy.
"""

import contextlib
import importlib
import json
import os
import sys

import numpy as np

DAMAGED = 3  # the exit code where the file is at fault, and not this process
_SECONDS = 5  # of a core, besides those for the file's bytes
_BYTES = 10**6  # read a second at least


def main(path: str) -> None:
    """Writes the tensors of a file to stdout, or ends with what is wrong with it on stderr."""
    _limit(_SECONDS + os.path.getsize(path) // _BYTES)
    try:
        found = _tensors(path)
    except Exception as error:  # h5py raises many kinds on damaged files.
        print(f"{error}" or type(error).__name__, file=sys.stderr)
        sys.exit(DAMAGED)
    out = sys.stdout.buffer
    out.write(f"{json.dumps(found and list(found))}\n".encode())
    for tensor in (found or {}).values():
        np.lib.format.write_array(out, tensor, allow_pickle=False)


def _limit(seconds: int) -> None:
    """Ends this process after so many seconds of a core, without a file of its memory."""
    # Where it does not exist, no process has limits; a lower limit stays.
    with contextlib.suppress(ModuleNotFoundError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))


def _tensors(path: str) -> dict[str, np.ndarray] | None:
    """The tensors of all layers that a file names; None where it names none."""
    with importlib.import_module("h5py").File(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            return None
        tensors = {}
        for layer in map(_text, group.attrs["layer_names"]):
            for name in map(_text, group[layer].attrs["weight_names"]):
                tensor = np.asarray(group[layer][name])
                # Words of any length are objects.
                tensors[name] = tensor.astype(bytes) if tensor.dtype.hasobject else tensor
        return tensors


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    main(sys.argv[1])
