"""Weights files of other libraries: what is read of them, and one line for each that cannot be."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from segcam_jax import InputError
from segcam_jax.weights import foreign, store, torch_files
from tests import goldens

GOLDENS = goldens.FOLDER

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2)}

# Pickles of a few bytes that keep value 2^31 - 1, and that say 2^40 bytes follow.
GREEDY = (
    (b"\x80\x02}r\xff\xff\xff\x7f.", "value 2147483647 is kept where there are 3 at most"),
    (b"\x80\x02}p2147483647\n.", "value 2147483647 is kept where there are 3 at most"),
    (
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        "expected 1099511627776 bytes|MemoryError",
    ),
)


def same(found, expected=TENSORS):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_safetensors_of_any_writer(tmp_path):
    path = tmp_path / "net.safetensors"
    wrapped = {f"module.{name}": value for name, value in TENSORS.items()}
    safetensors.numpy.save_file(wrapped, path, metadata={"format": "pt"})
    found = foreign.read(path)
    same({name: found[name] for name in TENSORS})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="cannot be read .* truncated"):
        foreign.read(path)


@pytest.mark.parametrize(
    ("start", "library"),
    [(b"PK\x03\x04", "PyTorch"), (b"\x80\x02}", "PyTorch"), (b"\x89HDF\r\n\x1a\n", "Keras")],
)
def test_unconverted_files_are_not_called_broken(tmp_path, start, library):
    path = tmp_path / "small.weights"
    path.write_bytes(start + bytes(100))
    message = f"is a {library} file; convert it first: `segcam convert .*small.safetensors`"
    with pytest.raises(InputError, match=message):
        store.metadata(path)


def test_bfloat16(tmp_path):
    import ml_dtypes

    path = tmp_path / "net.safetensors"
    value = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"x": value}, path)
    np.testing.assert_array_equal(np.asarray(foreign.read(path)["x"], np.float32), [1.5, -2.0])


def stored_by_torch():
    """What `goldens/generate_torch_files.py` saved, in NumPy."""
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    pair = np.array([1.5, -2.0], np.float32)
    return {
        "whole": whole,
        "turned": whole.transpose(2, 0, 1),
        "part": whole[1, 1:, ::2],
        "spread": np.array([[3.0] * 3, [4.0] * 3]),
        "parameter": np.array([[0.5, -2.0]]),
        "none": np.zeros((0, 3)),
        "bfloat16": pair,
        "float16": pair,
        "float64": pair,
        "count": np.array(7),
        "bytes": np.array([1, 255], np.uint8),
        "truth": np.array([True, False]),
    }


@pytest.mark.parametrize("name", ["torch_zip", "torch_old"])
def test_both_formats_of_torch_without_torch(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    expected = stored_by_torch()
    if name == "torch_zip":
        expected["float8"] = np.array([1.5, -2.0], np.float32)
    found = foreign.read(GOLDENS / f"{name}.pth")
    same(found, expected)
    for key, array in found.items():
        assert array.flags.writeable
        assert array.flags.c_contiguous
        whole_numbers = key in ("count", "bytes", "truth")
        assert array.dtype == (expected[key].dtype if whole_numbers else np.float32)


def test_broken_files_of_torch_without_torch(tmp_path):
    path = tmp_path / "net.pth"
    for name in ("torch_zip", "torch_old"):
        whole = (GOLDENS / f"{name}.pth").read_bytes()
        for end in (len(whole) - 5, len(whole) // 2, 40, 3):
            path.write_bytes(whole[:end])
            with pytest.raises(InputError, match=r"cannot be read \(.+\); it is truncated"):
                foreign.read(path)
    packed = zipfile.ZipFile(GOLDENS / "torch_zip.pth")
    for change, message in (
        ({"byteorder": b"big"}, "other byte order"),
        ({"data/0": b"1234"}, "storage 0 has 4 bytes"),
        ({"data.pkl": b"cbuiltins\neval\n."}, r"Python objects \(builtins.eval\)"),
        ({"data.pkl": b"\x80\x02}."}, "holds no state dict"),
        *(({"data.pkl": data}, why) for data, why in GREEDY),
        ({"data/0": bytes(96)}, None),
        ({}, "it is compressed"),
    ):
        kind = zipfile.ZIP_STORED if change else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name in packed.namelist():
                content = change.get(name.partition("/")[2], packed.read(name))
                archive.writestr(name, content)
        if message is not None:
            with pytest.raises(InputError, match=message):
                foreign.read(path)
            continue
        assert not foreign.read(path)["whole"].any()
        whole = path.read_bytes()
        for old, new, what in (
            (bytes(96), bytes(50) + b"1" + bytes(45), "storage 0"),
            (b"state_dict", b"state_dicu", "data.pkl"),
        ):
            path.write_bytes(whole.replace(old, new))
            with pytest.raises(InputError, match=f"{what} is damaged"):
                foreign.read(path)


def test_pickles_that_ask_for_gigabytes_before_pytorch_1_6(tmp_path):
    version = b"\x80\x02M\xe9\x03."
    for data, message in GREEDY:
        whole = (GOLDENS / "torch_old.pth").read_bytes()
        assert version in whole
        (tmp_path / "net.pth").write_bytes(whole.replace(version, data))
        with pytest.raises(InputError, match=message):
            foreign.read(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [(0, (2, 3), (4, 1)), (4, (3,), (1,)), (-1, (2,), (1,)), (5, (2,), (-1,)), (0, (2,), ())],
)
def test_a_tensor_lies_in_its_storage(start, shape, strides):
    path = GOLDENS / "torch_zip.pth"
    file = torch_files.TorchFile(path)
    (storage, dtype, *_) = next(each for each in file.content["state_dict"].values())
    storage = storage._replace(count=24)
    few = torch_files.Stored(storage, dtype, start + 18, shape, strides)
    if start < 0:
        few = few._replace(start=-1)
    with pytest.raises(ValueError, match="does not lie in its storage|shorter|longer"):
        file.array(few)


def test_what_would_run_code_is_refused_without_torch(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({"a": Trap()}, protocol=2))
    with pytest.raises(InputError, match=r"\(_?io.open\), which could run code when they are read"):
        foreign.read(tmp_path / "net.pth")
    assert not (tmp_path / "sprung").exists()


def test_state_dicts_and_checkpoints_of_torch(tmp_path, torch):
    state = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    half = {name: value.bfloat16() for name, value in state.items()}
    parallel = {f"module.{name}": value for name, value in state.items()}
    for content in (state, half, parallel, {"epoch": 3, "state_dict": {**state, "epoch": 3}}):
        torch.save(content, tmp_path / "net.pth")
        same(foreign.read(tmp_path / "net.pth"))
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(foreign.read(tmp_path / "old.pt"))
    # What a training logs is passed over, arrays and numbers of NumPy too.
    logged = {"best": np.float64(0.5), "losses": [np.float32(1)], "all": np.arange(3), "of": "me"}
    for protocol in (2, 4):
        content = {"network_weights": state, "logging": logged}
        torch.save(content, tmp_path / "net.pth", pickle_protocol=protocol)
        same(foreign.read(tmp_path / "net.pth"))


def test_what_would_have_to_be_unpickled_is_refused(tmp_path, torch):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for content in (Trap(), {"a": torch.ones(1), "trap": Trap()}, torch.nn.Linear(2, 2)):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(
            InputError, match="could run code when they are read; save .* `state_dict"
        ):
            foreign.read(tmp_path / "net.pth")
    assert not (tmp_path / "sprung").exists()


def test_files_of_torch_that_are_broken(tmp_path, torch):
    path = tmp_path / "net.pth"
    torch.save({name: torch.from_numpy(value) for name, value in TENSORS.items()}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3], b"", b"what is this?", b"\x80\x02K\x01."):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read|holds no state dict") as caught:
            foreign.read(path)
        assert "\n" not in str(caught.value)
    for content in ([torch.ones(1)], {"epoch": 3}, torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(InputError, match="holds no state dict"):
            foreign.read(path)


def test_parameters_themselves_and_what_numpy_has_not(tmp_path, torch):
    path = tmp_path / "net.pth"
    state = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    torch.save({name: torch.nn.Parameter(value) for name, value in state.items()}, path)
    same(foreign.read(path))
    torch.save({0: torch.ones(2)}, path)
    same(foreign.read(path), {"0": np.ones(2)})
    for value in (
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
    ):
        torch.save({**state, "odd": value}, path)
        with pytest.raises(InputError, match="'odd' is not a plain array of real numbers"):
            foreign.read(path)


def test_a_pickle_of_another_protocol_is_one_line(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps(TENSORS, protocol=5))
    with pytest.raises(InputError, match="cannot be read"):
        foreign.read(path)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("suffix", [":0", ""])
def test_keras_models_and_weights(tmp_path, whole, suffix):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    names = {"conv/conv": ["conv/conv/kernel"], "relu": [], "dense": ["net/dense/bias"]}
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        group.attrs["layer_names"] = [name.encode() for name in names]
        for layer, weights in names.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [f"{name}{suffix}".encode() for name in weights]
            for number, name in enumerate(weights):
                inner[f"{name}{suffix}"] = np.full(2, number, np.float32)
    same(foreign.read(path), {"conv/conv/kernel": np.zeros(2), "net/dense/bias": np.zeros(2)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read"):
        foreign.read(path)


@pytest.mark.parametrize(
    ("number", "said"), [("SIGSEGV", "crashed by SIGSEGV"), ("SIGXCPU", "never ends")]
)
def test_a_keras_file_that_ends_its_reader(tmp_path, monkeypatch, number, said):
    path = tmp_path / "net.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    reader = tmp_path / "reader.py"
    reader.write_text(f"import os, signal; os.kill(os.getpid(), signal.{number})")
    monkeypatch.setattr(foreign.keras_files, "__file__", str(reader))
    with pytest.raises(InputError, match=rf"net.h5' cannot be read \(libhdf5 {said}\); it is"):
        foreign.read(path)


def test_a_reader_that_fails_by_itself_does_not_blame_the_file(tmp_path, monkeypatch):
    path, reader = tmp_path / "net.h5", tmp_path / "reader.py"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    reader.write_text("raise MemoryError('none is left')")
    monkeypatch.setattr(foreign.keras_files, "__file__", str(reader))
    with pytest.raises(InputError, match="reads HDF5 failed: MemoryError: none is left$"):
        foreign.read(path)


def test_keras_files_without_names(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros(2)
    with pytest.raises(
        InputError, match="does not name its layers, because Keras 3 .* save the whole model"
    ):
        foreign.read(tmp_path / "net.weights.h5")


def test_words_in_a_keras_file_are_no_weights(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = ["dense"]
        file.create_group("dense").attrs["weight_names"] = ["dense/kernel:0"]
        file["dense"]["dense/kernel:0"] = np.array([b"a", b"b"])
    with pytest.raises(InputError, match="'dense/kernel' is not a plain array of real numbers"):
        foreign.read(tmp_path / "net.h5")


def test_files_of_no_kind(tmp_path):
    with pytest.raises(InputError, match="suffix '.npz'; expected one of .safetensors, .pth"):
        foreign.read(tmp_path / "net.npz")
    with pytest.raises(InputError, match="does not exist"):
        foreign.read(tmp_path / "net.safetensors")
    safetensors.numpy.save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(InputError, match="holds no tensors"):
        foreign.read(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("name", ["model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_checkpoints_of_tensorflow_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"TensorFlow checkpoint.*segcam\.from_keras"):
        foreign.read(tmp_path / name)
