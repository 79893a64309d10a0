"""Readers of damaged files: bytes that were flipped, ends that are missing."""

import contextlib
import time

import nibabel
import numpy as np
import pytest
from hypothesis import given, seed, settings, strategies as st
from PIL import Image

from segcam_jax import models
from segcam_jax.data import nifti
from segcam_jax.data.images import read_image
from segcam_jax.runs import open_store
from segcam_jax.types import SegcamError
from tests.hard_inputs import world
from tests.hard_inputs.rows import deadline
from train.data import tfrecord

SECONDS = 60
EXAMPLES = 200
LONGEST = 20  # seconds of one file


def _image(path):
    read_image(path, channels=1)


def _records(path):
    for record in tfrecord.index(path, skip_broken=True).records:
        tfrecord.read(record)


def _run(path):
    run = open_store(next(each for each in path.parents if each.suffix == ".zarr"))
    assert run.table.width


READERS = {
    "image.png": _image,
    "image.jpg": _image,
    "image.npy": _image,
    "good.tif": _image,
    "scan.nii": nifti.read_volume,
    "scan.nii.gz": nifti.read_volume,
    "scan.nrrd": nifti.read_volume,
    "net.safetensors": models.load,
    "run.zarr/manifest.json": _run,
    "run.zarr/items/00000.parquet": _run,
    "records.tfrecords": _records,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("fuzzed")
    world.right(folder)
    world.nrrd(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    Image.fromarray(pixels.astype(np.uint16)).save(folder / "good.tif")
    np.save(folder / "image.npy", pixels / np.float32(255))
    records = b""
    for data in (b"one", b"another", b""):
        length = len(data).to_bytes(8, "little")
        for part in (length, data):
            records += part + tfrecord.masked_checksum(part).to_bytes(4, "little")
    (folder / "records.tfrecords").write_bytes(records)
    return folder


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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name, files, tmp_path):
    whole = (files / name).read_bytes()
    path = files / name if "/" in name else tmp_path / name
    read = READERS[name]

    def check(data):
        path.write_bytes(data)
        with contextlib.suppress(SegcamError), deadline(LONGEST):
            read(path)

    start, rounds = time.monotonic(), 0
    while time.monotonic() < start + SECONDS:
        some = settings(max_examples=EXAMPLES, deadline=None, derandomize=False, database=None)
        seed(rounds)(some(given(damaged(whole))(check)))()
        rounds += 1
    path.write_bytes(whole)
    read(path)


def test_whole_files_are_read(files):
    assert nibabel.load(files / "scan.nii").shape == world.EXTENTS
    for name, read in READERS.items():
        read(files / name)
