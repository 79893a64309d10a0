"""Files of PyTorch read without PyTorch: what they hold by name, and the values of their tensors.

`torch.save` writes a zip archive: `NAME/data.pkl` is a pickle whose tensors name storages, and
`NAME/data/KEY` are the bytes of each. Before version 1.6 it wrote five pickles after each other (a
number, a version, facts about the machine, what was saved, and the keys of its storages), and after
them the count of values and the bytes of every storage.

A pickle calls functions by name. Those that weights need are few, and functions of this file stand
for them; a file that names another one is refused. So no code of a file runs.
"""

import collections
import io
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_ZIP = b"PK\x03\x04"
# The first pickle of the old format, after its protocol: 0x1950a86a20f9469cfc6c.
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_OTHER_ORDER = "written on a machine with the other byte order"
# torch.NAMEStorage -> the type of its values; those of an untyped one are bytes.
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "int8",
    "QUInt8": "uint8",
    "QInt32": "int32",
    "Untyped": "uint8",
}
_TYPES = {
    *_STORAGES.values(),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu"),
}
_PLAIN: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": dict,
    "builtins.set": set,
    "builtins.complex": complex,
    "torch.Size": tuple,
    # Given to `_rebuild_from_type_v2`, and never called.
    **dict.fromkeys(("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"), ""),
    **dict.fromkeys(("torch.per_tensor_affine", "torch.per_channel_affine"), ""),
}


class Refused(pickle.UnpicklingError):
    """A file names a function or class that could run code; the message is that name."""


class Unread:
    """A number, an array or a type of NumPy in a file, which is beside what weights need."""

    def __setstate__(self, state: Any) -> None:
        """Takes what a pickle says of it, and keeps nothing."""


class Storage(NamedTuple):
    """Values that follow each other in a file.

    Attributes:
        key: its name there.
    """

    key: str
    dtype: str
    count: int


class Stored(NamedTuple):
    """A tensor as a file says it: a view of a storage.

    Attributes:
        storage: where its values lie; None for a tensor that is not a plain array (sparse,
            quantised, without values).
        start: the first of them.
        strides: values from one index to the next, along each axis.
    """

    storage: Storage | None
    dtype: str = ""
    start: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


class _Place(NamedTuple):
    """Where a storage lies in a file: its first byte, how many there are, their CRC-32 or 0."""

    first: int
    size: int
    checksum: int = 0


class TorchFile:
    """A file that `torch.save` wrote.

    A file that is broken or made up raises what a pickle can raise, which is any exception.

    Attributes:
        content: what was saved; its tensors are `Stored`, what is NumPy's is `Unread`.

    Raises:
        Refused: if reading the file could run code.
        ValueError: if `torch.save` did not write it, or on a machine with the other byte order.
    """

    def __init__(self, path: Path):
        self._bytes = np.memmap(path, np.uint8, mode="r")
        start = self._bytes[:16].tobytes()
        if start.startswith(_ZIP):
            read = _read_archive
        elif start[2:].startswith(_MAGIC):
            read = _read_pickles
        else:
            raise ValueError("not a file of torch.save")
        self.content, self._places = read(path)

    def array(self, tensor: Stored) -> np.ndarray:
        """The values of a tensor that has a storage, copied.

        Raises:
            ValueError: if the file is cut off, or the tensor does not lie in its storage.
        """
        storage, dtype = tensor.storage, _dtype(tensor.dtype)
        assert storage is not None
        first, size, checksum = self._places[storage.key]
        if size != storage.count * _dtype(storage.dtype).itemsize:
            raise ValueError(f"storage {storage.key} has {size} bytes, and not all of its values")
        whole = np.frombuffer(self._bytes, np.uint8, size, first)
        if checksum and zlib.crc32(whole.data) != checksum:
            raise ValueError(f"storage {storage.key} is damaged")
        values = whole.view(dtype)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.start + sum((length - 1) * stride for length, stride in steps)
        if min(tensor.start, *tensor.shape, *tensor.strides, 0) < 0 or last >= len(values):
            raise ValueError(f"a tensor does not lie in its storage {storage.key}")
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(values[tensor.start :], tensor.shape, strides)
        return np.array(view, order="C")


class _Unpickler(pickle.Unpickler):
    """Reads the pickle of a file; remembers the storages that it names.

    Functions are given out as bound methods, which a pickle cannot set attributes of.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self._file = file
        self.storages: dict[str, Storage] = {}
        tensor_functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_type,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._subclass,
            "torch._utils._rebuild_sparse_tensor": self._no_array,
            "torch._utils._rebuild_qtensor": self._no_array,
            "torch._utils._rebuild_nested_tensor": self._no_array,
            "torch._utils._rebuild_meta_tensor_no_storage": self._no_array,
            "torch.serialization._get_layout": self._word,
            "torch.device": self._word,
            "numpy.dtype": self._unread,
            "numpy.ndarray": self._unread,
            "_codecs.encode": self._unread,
        }
        for core in ("numpy.core", "numpy._core"):
            for name in ("scalar", "_reconstruct"):
                tensor_functions[f"{core}.multiarray.{name}"] = self._unread
        self._known = _PLAIN | tensor_functions

    def load(self) -> Any:
        """Reads a pickle that asks for no more memory than its own bytes.

        Pickle itself makes room for as many bytes as the pickle says that follow, and for as many
        values as the number of the last one that it keeps: a flipped bit is gigabytes.
        """
        start = self._file.tell()
        for count, (step, given, _) in enumerate(pickletools.genops(self._file), 1):
            if "PUT" in step.name and int(given or 0) > count:
                raise ValueError(f"value {given} is kept where there are {count} at most")
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _TYPES:
            return name
        kind = name.removesuffix("Storage")
        if module in ("torch", "torch.storage") and name != kind and kind in _STORAGES:
            return _STORAGES[kind]
        if f"{module}.{name}" not in self._known:
            raise Refused(f"{module}.{name}")
        return self._known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, count, *part = pid
        if kind != "storage" or any(part):
            raise ValueError("a storage is a part of another one, as PyTorch wrote before 0.4")
        self.storages[key] = Storage(key, dtype, count)
        return self.storages[key]

    def _tensor(
        self,
        storage: Storage,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        _requires_grad: bool = False,
        _hooks: Any = None,
        lazily: Any = None,
    ) -> Stored:
        # `lazily` says what is still to be done to the values: conjugate or negate them.
        return Stored(None) if lazily else Stored(storage, storage.dtype, start, shape, strides)

    def _tensor_of_type(
        self,
        storage: Storage,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        _requires_grad: bool,
        _hooks: Any,
        dtype: str,
        lazily: Any = None,
    ) -> Stored:
        tensor = self._tensor(storage, start, shape, strides, lazily=lazily)
        return tensor._replace(dtype=dtype)

    def _parameter(self, tensor: Stored, *_about: Any) -> Stored:
        return tensor

    def _subclass(self, made_by: Callable, _kind: str, given: tuple, _state: Any) -> Any:
        return made_by(*given)

    def _no_array(self, *_about: Any) -> Stored:
        return Stored(None)

    def _unread(self, *_about: Any) -> Unread:
        return Unread()

    def _word(self, *words: Any) -> str:
        return ":".join(map(str, words))


def _read_archive(path: Path) -> tuple[Any, dict[str, _Place]]:
    """What a zip archive holds, and where the bytes of its storages lie."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        names = [name for name in archive.namelist() if name.count("/") == 1]
        folder = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        members: dict[str, _Place] = {}
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed, which torch.save does not do")
            # Before the bytes stand 30 of a header, a name and padding, of lengths told there.
            file.seek(member.header_offset + 26)
            first = member.header_offset + 30 + sum(struct.unpack("<2H", file.read(4)))
            name = member.filename.removeprefix(folder)
            members[name] = _Place(first, member.file_size, member.CRC)

        def read(name: str) -> bytes:
            first, size, checksum = members[name]
            file.seek(first)
            data = file.read(size)
            if checksum and zlib.crc32(data) != checksum:
                raise ValueError(f"{name} is damaged")
            return data

        if "byteorder" in members and read("byteorder") != b"little":
            raise ValueError(_OTHER_ORDER)
        content = _Unpickler(io.BytesIO(read("data.pkl"))).load()
    return content, {name.removeprefix("data/"): place for name, place in members.items()}


def _read_pickles(path: Path) -> tuple[Any, dict[str, _Place]]:
    """The same of a file of before PyTorch 1.6."""
    with path.open("rb") as file:
        _magic, _version = (_Unpickler(file).load() for _ in range(2))
        if not _Unpickler(file).load()["little_endian"]:
            raise ValueError(_OTHER_ORDER)
        reader = _Unpickler(file)
        content = reader.load()
        places = {}
        for key in _Unpickler(file).load():
            (count,) = struct.unpack("<q", file.read(8))
            size = count * _dtype(reader.storages[key].dtype).itemsize
            places[key] = _Place(file.tell(), size)
            file.seek(size, io.SEEK_CUR)
    return content, places


def _dtype(name: str) -> np.dtype:
    # NumPy has no type of these names.
    return np.dtype(getattr(ml_dtypes, name, name))
