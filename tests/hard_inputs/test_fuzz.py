"""Readers of damaged files: bytes that were flipped, ends that are missing, other values."""

import contextlib
import copy
import functools
import json
import shutil
import struct
import time

import nibabel
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, seed, settings, strategies as st
from PIL import Image

from segcam_jax import models
from segcam_jax.data import nifti
from segcam_jax.data.images import read_image
from segcam_jax.networks.bundles import Bundle
from segcam_jax.networks.network import FolderConfig
from segcam_jax.networks.plans import Plan
from segcam_jax.runs import open_store
from segcam_jax.runs.items import list_items
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import SegcamError
from segcam_jax.weights import foreign
from tests import goldens
from tests.hard_inputs import world
from tests.hard_inputs.rows import deadline
from tests.support import trained_folders
from train.data import tfrecord

SECONDS = 60
EXAMPLES = 200
LONGEST = 20  # seconds of one file
# What values of JSON are changed to.
OTHERS = (
    *(None, True, 0, -1, 1, 2.5, 10**30, 1e308, float("nan"), "", "x", "None", "/etc", "../x"),
    *([], [1], [[]], ["x", 1], {}, {"x": 1}, "@x", "$1", "9" * 50, "\udcff"),
)


def _image(path):
    read_image(path, channels=1)


def _records(path):
    for record in tfrecord.index(path, skip_broken=True).records:
        tfrecord.read(record)


def _run(path):
    run = open_store(next(each for each in path.parents if each.suffix == ".zarr"))
    assert run.table.width
    for tap in run.taps:
        for method in run.methods(tap):
            for row in (0, 1):
                if run.has_map(row, tap, method):
                    run.map(row, tap, method)


def _of_metadata(path):
    """Weights whose file says of itself what a file of JSON says."""
    tensors = safetensors.numpy.load((path.parent / "net.safetensors").read_bytes())
    about = json.loads(path.read_text())
    texts = {str(k): json.dumps(v) for k, v in about.items()} if isinstance(about, dict) else {}
    made = path.with_suffix(".safetensors")
    made.write_bytes(safetensors.numpy.save(tensors, metadata=texts))
    models.load(made)


def _plan(path):
    plan = Plan.read(path.parent, "3d_fullres")
    plan.check_kind()
    for part in (plan.steps, plan.patch, plan.classes, plan.channels, plan.architecture):
        assert isinstance(part, tuple | list)
    FolderConfig(len(plan.channels), len(plan.classes), plan.multiples)


def _bundle(path):
    bundle = Bundle.read(path.parents[1])
    for part in (bundle.network(), bundle.window, bundle.steps, bundle.names("outputs")):
        assert isinstance(part, tuple | list)
    assert isinstance(bundle.multi_label, bool)


def _list(path):
    list_items([path], StudyOptions(classes=("top:1",)))


READERS = {
    "image.png": _image,
    "image.jpg": _image,
    "image.npy": _image,
    "good.tif": _image,
    "scan.nii": nifti.read_volume,
    "scan.nii.gz": nifti.read_volume,
    "scan.nrrd": nifti.read_volume,
    "net.safetensors": models.load,
    "about.json": _of_metadata,
    "torch_zip.pth": foreign.read,
    "torch_old.pth": foreign.read,
    "keras.h5": foreign.read,
    "list.csv": _list,
    "run.zarr/manifest.json": _run,
    "run.zarr/8x8/map.body/zarr.json": _run,
    "run.zarr/items/00000.parquet": _run,
    "nnunet/plans.json": _plan,
    "nnunet/dataset.json": _plan,
    "bundle/configs/inference.json": _bundle,
    "bundle/configs/metadata.json": _bundle,
    "records.tfrecords": _records,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("fuzzed")
    write(folder)
    return folder


def write(folder):
    """A file of each kind, whole."""
    world.right(folder)
    world.nrrd(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    Image.fromarray(pixels.astype(np.uint16)).save(folder / "good.tif")
    np.save(folder / "image.npy", pixels / np.float32(255))
    data = (folder / "net.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    (folder / "about.json").write_text(
        json.dumps({name: json.loads(text) for name, text in about.items()})
    )
    for name in ("torch_zip", "torch_old"):
        shutil.copy(goldens.FOLDER / f"{name}.pth", folder)
    _write_keras(folder / "keras.h5")
    lines = ("image,class,region", "image.png,1,all", 'other.png,top:2,"pixel:1,2"', "")
    (folder / "list.csv").write_text("\n".join(lines))
    trained_folders.write_plans(folder / "nnunet")
    trained_folders.write_bundle(folder / "bundle")
    records = b""
    for data in (b"one", b"another", b""):
        length = len(data).to_bytes(8, "little")
        for part in (length, data):
            records += part + tfrecord.masked_checksum(part).to_bytes(4, "little")
    (folder / "records.tfrecords").write_bytes(records)


def _write_keras(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        layer = group.create_group("dense")
        layer.attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        layer["dense/kernel:0"] = np.ones((2, 3), np.float32)
        layer["dense/bias:0"] = np.zeros(3, np.float32)


def damaged(data):
    """The bytes with up to eight others in places of them, most in the header, and cut off."""
    last = len(data) - 1
    places = st.integers(0, min(last, 400)) | st.integers(0, last)
    flips = st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)
    ends = st.just(len(data)) | st.integers(0, len(data))

    def change(flips, end):
        changed = bytearray(data)
        for place, value in flips:
            changed[place] = value
        return bytes(changed[:end])

    return st.builds(change, flips, ends)


def altered(data):
    """JSON with up to three other values, or without them."""
    places = list(_places(json.loads(data)))
    changes = st.lists(
        st.tuples(st.sampled_from(places), st.sampled_from(OTHERS), st.booleans()), max_size=3
    )

    def change(changes):
        values = json.loads(data)
        for place, value, stays in changes:
            with contextlib.suppress(LookupError, TypeError):  # A change before took the place.
                within = functools.reduce(lambda inside, key: inside[key], place[:-1], values)
                if stays:
                    within[place[-1]] = copy.deepcopy(value)
                else:
                    del within[place[-1]]
        return json.dumps(values).encode()

    return st.builds(change, changes)


def _places(values, start=()):
    """The keys that lead to every value."""
    keys = values if isinstance(values, dict) else range(len(values))
    for key in keys:
        yield (*start, key)
        if isinstance(values[key], dict | list):
            yield from _places(values[key], (*start, key))


def fuzz(name, files, folder, seconds, first=0):
    """Reads damaged files of a kind for some seconds; of other seeds from `first` on."""
    whole = (files / name).read_bytes()
    path = files / name if "/" in name or name.endswith((".json", ".csv")) else folder / name
    read = READERS[name]
    changed = damaged(whole)
    if name.endswith(".json"):
        # The reader of `about.json` is that of the file that is made of it.
        changed = altered(whole) if name == "about.json" else altered(whole) | changed

    def check(data):
        path.write_bytes(data)
        with contextlib.suppress(SegcamError), deadline(LONGEST):
            read(path)

    start, rounds = time.monotonic(), first
    try:
        while time.monotonic() < start + seconds:
            some = settings(max_examples=EXAMPLES, deadline=None, derandomize=False, database=None)
            seed(rounds)(some(given(changed)(check)))()
            rounds += 1
    finally:
        path.write_bytes(whole)
    read(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name, files, tmp_path):
    fuzz(name, files, tmp_path, SECONDS)


def test_whole_files_are_read(files):
    assert nibabel.load(files / "scan.nii").shape == world.EXTENTS
    for name, read in READERS.items():
        read(files / name)
