"""The files that rows name: some that are right, and those that no reader can take."""

import dataclasses
import gzip
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import jax.numpy as jnp
import nibabel
import numpy as np
import polars
import safetensors.numpy
from flax import nnx
from PIL import Image

from segcam_jax import _files
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNet, MonaiUNetConfig
from segcam_jax.models.unet import UNet, UNetConfig, save_unet
from segcam_jax.reports.export import export
from segcam_jax.runs import open_store
from segcam_jax.runs.table import Part
from tests.support import stored_runs
from train import command
from train.classifier.config import ClassifierConfig
from train.classifier.data import read_images
from train.classifier.task import NO_EFFECT

# How files end that commands are given.
SUFFIXES = (
    *(".png", ".npy", ".tif", ".csv", ".zarr", ".nii", ".nii.gz", ".nrrd", ".safetensors", ".pth"),
    *(".h5", ".toml", ".json", ".txt", ".py", ""),
)
LOST = "\udcff"  # A byte that is no UTF-8.
LONG = "n" * 300
DEEP = "d/" * 2500
AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])
EXTENTS = (12, 10, 8)


def build(folder):
    """Makes all files in a folder."""
    here = Path(folder)
    right(here)
    for name in ("closed", "unlisted", "fixed"):
        (here / name).mkdir()
    for suffix in SUFFIXES:
        paths(here, suffix)
    weights(here)
    factories(here)
    images(here)
    nifti(here)
    nrrd(here)
    options(here)
    runs(here)
    trained(here)
    without_rights(here)


# What rights folders have that may not be entered; not listed; not written to.
RIGHTS = {"closed": 0o000, "unlisted": 0o311, "fixed": 0o555}


def without_rights(here):
    """Folders that nobody may enter, list, or write to; a run in each, and classes."""
    for name in RIGHTS:
        shutil.copy(here / "image.png", here / name / "image.png")
        shutil.copytree(here / "run.zarr", here / f"{name}.zarr")
        shutil.copytree(here / "classes", here / f"classes_{name}")
    for name in ("manifest", "part"):
        shutil.copytree(here / "run.zarr", here / f"locked_{name}.zarr")
    (here / "locked_manifest.zarr" / "manifest.json").chmod(0)
    next((here / "locked_part.zarr").rglob("*.parquet")).chmod(0)
    (here / "fixed_file.png").write_bytes(b"x")
    (here / "fixed_file.png").chmod(0o444)
    for name, mode in RIGHTS.items():
        (here / f"classes_{name}" / "a").chmod(mode)
        (here / f"{name}.zarr" / "items").chmod(mode)
        (here / name).chmod(mode)


def with_rights(here):
    """Gives all back, so that the folder can be removed."""
    for name in RIGHTS:
        for folder in (name, f"{name}.zarr/items", f"classes_{name}/a"):
            (here / folder).chmod(0o755)


def right(here):
    """What every command takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "image.png")
    Image.fromarray(pixels.T).save(here / "other.png")
    (here / "photos").mkdir()
    Image.fromarray(pixels).save(here / "photos" / "one.png")
    net = UNet(UNetConfig(classes=3, depth=1, width=4), rngs=nnx.Rngs(3))
    save_unet(here / "net.safetensors", net, {"classes": ["square", "circle", "cross"]})
    model = MonaiUNet(
        MonaiUNetConfig(in_channels=1, channels=(2, 4), strides=(2,)), rngs=nnx.Rngs(0)
    )
    about = {"classes": ["background", "lesion"], "orientation": "RAS", "spacing": [1, 2, 1.5]}
    stored.save(here / "vol.safetensors", "monai_unet", model, about)
    values = np.random.default_rng(1).normal(5, 1, EXTENTS).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), here / "scan.nii")
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), here / "scan.nii.gz")
    truth = (values > 6).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(truth, AFFINE), here / "truth.nii")
    shots = stored_runs.photos(here / "shots")
    options = {"tap": ["body"], "method": ["grad_cam"], "seed": 0, "weights": "net.safetensors"}
    stored_runs.write(here / "run.zarr", images=shots, made=stored_runs.manifest(options))
    mine = stored_runs.network(sha256=_files.sha256_of(here / "net.safetensors"))
    made = stored_runs.manifest(options, net=mine)
    stored_runs.write(here / "scored.zarr", images=shots, made=made)


def paths(here, suffix):
    """What is no file that can be read, whatever its name says."""
    os.symlink(f"loop{suffix}", here / f"loop{suffix}")
    os.symlink("nothing", here / f"gone{suffix}")
    os.mkfifo(here / f"fifo{suffix}")
    (here / f"folder{suffix}").mkdir()
    (here / f"folder{suffix}" / "inside").write_bytes(b"x")
    (here / f"empty{suffix}").write_bytes(b"")
    (here / f"letters{suffix}").write_bytes(b"twenty letters of it")
    (here / f"noise{suffix}").write_bytes(np.random.default_rng(5).bytes(5000))
    shutil.copy(here / "image.png", here / f"locked{suffix}")
    (here / f"locked{suffix}").chmod(0)
    shutil.copy(here / "image.png", here / "closed" / f"inside{suffix}")
    shutil.copy(here / "image.png", here / f"{LOST}{suffix}")


def weights(here):
    """Weights by hand: what a file says of itself, and tensors."""
    data = (here / "net.safetensors").read_bytes()
    tensors = safetensors.numpy.load(data)
    length = struct.unpack("<Q", data[:8])[0]
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    config = json.loads(about["config"])

    def save(name, changes, arrays=tensors):
        texts = {key: value for key, value in {**about, **changes}.items() if value is not None}
        (here / name).write_bytes(safetensors.numpy.save(arrays, metadata=texts))

    for name, value in {
        "float": {**config, "width": 4.5},
        "huge": {**config, "width": 10**12},
        "deep": {**config, "depth": 10**9},
        "negative": {**config, "depth": -1},
        "zero": {**config, "width": 0},
        "words": {**config, "width": "4"},
        "unknown": {**config, "colour": 3},
        "list": [1, 2],
        "nothing": None,
        "none_classes": {**config, "classes": 0},
        "true": {**config, "width": True},
        "nan": {**config, "width": float("nan")},
        "dropout": {**config, "dropout": -1},
    }.items():
        save(f"config_{name}.safetensors", {"config": json.dumps(value)})
    save("config_missing.safetensors", {"config": None})
    save("model_words.safetensors", {"model": "nn"})
    save("model_list.safetensors", {"model": "[1]"})
    save("model_unknown.safetensors", {"model": '"resnet0"'})
    save("json_nested.safetensors", {"more": "[" * 100_000 + "]" * 100_000})
    save("json_number.safetensors", {"more": "9" * 10_000})
    for name, value in {
        "integer": 3,
        "object": {"a": 1},
        "words": "abc",
        "numbers": [1, 2, 3],
    }.items():
        save(f"classes_{name}.safetensors", {"classes": json.dumps(value)})
    save("classes_two.safetensors", {"classes": '["a", "b"]'})
    save("outputs_words.safetensors", {"outputs": '"perhaps"'})
    save("outputs_list.safetensors", {"outputs": "[1]"})
    save("multi_words.safetensors", {"multi_label": '"no"'})
    first = next(iter(tensors))
    save("float8.safetensors", {}, {**tensors, first: tensors[first].astype(jnp.float8_e4m3fn)})
    halves = {name: array.astype(jnp.bfloat16) for name, array in tensors.items()}
    save("bfloat16.safetensors", {}, halves)
    save("integers.safetensors", {}, {**tensors, first: tensors[first].astype(np.int32)})
    save("nan.safetensors", {}, {**tensors, first: np.full_like(tensors[first], np.nan)})
    save("missing.safetensors", {}, {k: v for k, v in tensors.items() if k != first})
    save("extra.safetensors", {}, {**tensors, "extra": np.zeros(3, np.float32)})
    save("shape.safetensors", {}, {**tensors, first: np.zeros((2, 2), np.float32)})
    (here / "cut.safetensors").write_bytes(data[:-100])
    (here / "header.safetensors").write_bytes(struct.pack("<Q", 2**60) + data[8:])
    (here / "plain.safetensors").write_bytes(safetensors.numpy.save(tensors))
    (here / "archive.pth").write_bytes(b"PK\x03\x04" + b"0" * 40)
    (here / "code.pth").write_bytes(pickle.dumps(_Code()))
    (here / "code.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }".ljust(117)
        + b"\n"
        + pickle.dumps(_Code())
    )
    (here / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    volume = safetensors.numpy.load((here / "vol.safetensors").read_bytes())
    data = (here / "vol.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    texts = json.loads(data[8 : 8 + length])["__metadata__"]
    config = json.loads(texts["config"])
    for name, changes in {
        "float": {"channels": [2.5, 4]},
        "strides": {"strides": [0]},
        "huge": {"channels": [2, 10**12]},
        "ndim": {"ndim": 9},
        "words": {"norm": "perhaps"},
    }.items():
        said = {**texts, "config": json.dumps({**config, **changes})}
        (here / f"vol_{name}.safetensors").write_bytes(
            safetensors.numpy.save(volume, metadata=said)
        )
    for name, said in {
        "orientation": {"orientation": '"XYZ"'},
        "orientation_list": {"orientation": "[1]"},
        "spacing": {"spacing": "[0, 1, 1]"},
        "spacing_words": {"spacing": '"one"'},
    }.items():
        (here / f"vol_{name}.safetensors").write_bytes(
            safetensors.numpy.save(volume, metadata={**texts, **said})
        )


class _Code:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def factories(here):
    """Users' own files."""
    (here / "nets.py").write_text(
        """
import os, sys
import jax, jax.numpy as jnp

def base(): raise BaseException("no model today")
def exits(): sys.exit(0)
def exits_words(): sys.exit("gone\\naway")
def exits_hard(): raise SystemExit
def generator(): raise GeneratorExit
def interrupted(): raise ValueError("x" * 10_000)
def memory(): raise MemoryError
def deep(): return deep()
def prints():
    for _ in range(1000): print("p" * 10_000)
    return 3
def returns_none(): pass
def returns_number(): return 3
def returns_class(): return dict
def returns_module(): return os
def returns_text(): return "model"
def returns_self(): return returns_self
def returns_triple(): return (lambda p, x: x), {}, 3
def returns_empty(): return ()
def needs(a, b): return None
def multiline(): raise ValueError("one\\ntwo\\nthree")
def fails_later(): return (lambda p, x: 1 / 0), {}
def returns_words(): return (lambda p, x: "words"), {}
def returns_nothing(): return (lambda p, x: None), {}
def returns_scalar(): return (lambda p, x: jnp.sum(x)), {}
def exits_later(): return (lambda p, x: sys.exit(0)), {}
def base_later():
    def fn(p, x): raise BaseException("later")
    return fn, {}
number = 3
"""
    )
    (here / "syntax.py").write_text("def make(:\n")
    (here / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (here / "base.py").write_text("raise BaseException('at import')\n")
    (here / "null.py").write_bytes(b"x = 1\0\n")
    (here / "latin.py").write_bytes(b"x = '\xe9'\n")
    (here / "imports.py").write_text("import no_such_module_at_all\n")


def images(here):
    """Images that are damaged, or that hold what no image holds."""
    data = (here / "image.png").read_bytes()
    (here / "cut.png").write_bytes(data[: len(data) // 2])
    (here / "flipped.png").write_bytes(data[:60] + bytes([data[60] ^ 255]) + data[61:])
    huge = data[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + data[24:]
    (here / "huge.png").write_bytes(huge)
    (here / "zero.png").write_bytes(data[:16] + struct.pack(">II", 0, 0) + data[24:])
    np.save(here / "nan.npy", np.full((16, 16), np.nan, np.float32))
    np.save(here / "infinite.npy", np.full((16, 16), np.inf, np.float32))
    np.save(here / "negative.npy", np.full((16, 16), -1, np.float32))
    np.save(here / "complex.npy", np.ones((16, 16), np.complex64))
    np.save(here / "words.npy", np.array([["a", "b"]]))
    np.save(here / "none.npy", np.zeros((0, 16), np.float32))
    np.save(here / "four.npy", np.zeros((2, 2, 2, 2), np.float32))
    np.save(here / "five.npy", np.zeros((16, 16, 5), np.float32))
    np.save(here / "vector.npy", np.zeros(16, np.float32))
    np.save(here / "number.npy", np.float32(1))
    _npy(here / "header.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (16, 16")
    _npy(
        here / "claims.npy",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }",
    )
    _npy(here / "minus.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 4), }")
    _npy(here / "nested.npy", "(" * 5000)
    _npy(here / "dtype.npy", "{'descr': 'x9', 'fortran_order': False, 'shape': (4, 4), }")
    tiff = here / "good.tif"
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(tiff)
    data = tiff.read_bytes()
    (here / "cut.tif").write_bytes(data[:50])
    (here / "offset.tif").write_bytes(data[:4] + struct.pack("<I", 2**32 - 4) + data[8:])
    (here / "self.tif").write_bytes(b"II*\0" + struct.pack("<IHI", 8, 0, 8))
    (here / "list.csv").write_text("image,class\nimage.png,9\n")
    (here / "column.csv").write_text("image,colour\nimage.png,red\n")
    (here / "ragged.csv").write_text("image,class\nimage.png\nother.png,1,2,3\n")
    (here / "missing.csv").write_text("image\nnone.png\n")
    (here / "twice.csv").write_text("image,image\nimage.png,image.png\n")
    (here / "quote.csv").write_text('image,class\n"image.png,1\n')
    (here / "both.csv").write_text("image,region,mask\nimage.png,all,image.png\n")
    (here / "mask.csv").write_text("image,mask\nimage.png,none.png\n")
    (here / "leaves.csv").write_text("image\n../../../../../../../../etc/passwd\n")
    (here / "leaves_mask.csv").write_text("image,mask\nimage.png,/etc/passwd\n")
    (here / "blank.csv").write_text("image\n\n")
    (here / "latin.csv").write_bytes(b"image\n\xe9.png\n")
    (here / "null.csv").write_bytes(b"image\na\0b.png\n")
    (here / "long.csv").write_text(f"image\n{'x' * 5000}.png\n")


def _npy(path, header):
    text = header.encode().ljust(6000) + b"\n"
    path.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + bytes(64))


def nifti(here):
    """NIfTI headers by hand."""
    data = bytearray((here / "scan.nii").read_bytes())

    def save(name, *changes):
        changed = bytearray(data)
        for kind, offset, *values in changes:
            struct.pack_into(f"<{kind}", changed, offset, *values)
        (here / f"{name}.nii").write_bytes(changed)

    save("vox_past", ("f", 108, 1e9))
    save("vox_nan", ("f", 108, np.nan))
    save("vox_negative", ("f", 108, -352.0))
    save("vox_zero", ("f", 108, 0.0))
    save("vox_half", ("f", 108, 352.5))
    save("vox_inside", ("f", 108, 100.0))
    save("ndim", ("h", 40, 9))
    save("ndim_zero", ("h", 40, 0))
    save("ndim_negative", ("h", 40, -3))
    save("extent_negative", ("h", 42, -12))
    save("extent_huge", ("hhh", 42, 32767, 32767, 32767))
    save("extent_zero", ("h", 42, 0))
    save("dtype", ("h", 70, 4242))
    save("dtype_none", ("h", 70, 0))
    save("dtype_rgb", ("h", 70, 128), ("h", 72, 24))
    save("dtype_complex", ("h", 70, 32), ("h", 72, 64))
    save("sizeof", ("i", 0, 349))
    save("sizeof_zero", ("i", 0, 0))
    save("sizeof_two", ("i", 0, 540))
    save("magic", ("4s", 344, b"abc\0"))
    save("slope_nan", ("ff", 112, np.nan, 0.0))
    save("slope_infinite", ("ff", 112, np.inf, 0.0))
    save("slope_huge", ("ff", 112, 1e38, 1e38))
    save("affine_nan", ("f", 280, np.nan))
    save("affine_infinite", ("f", 280, np.inf))
    save("affine_zero", ("4f4f4f", 280, *(0.0,) * 12))
    tiny = np.eye(3, 4) * 1e-30
    save("affine_tiny", ("4f4f4f", 280, *tiny.ravel()))
    save("affine_huge", ("4f4f4f", 280, *(np.eye(3, 4) * 1e30).ravel()))
    save("pixdim_nan", ("h", 252, 0), ("h", 254, 0), ("fff", 80, np.nan, 1, 1))
    save("pixdim_zero", ("h", 252, 0), ("h", 254, 0), ("fff", 80, 0, 0, 0))
    save("pixdim_negative", ("h", 252, 0), ("h", 254, 0), ("fff", 80, -1, -1, -1))
    save("qform_code", ("h", 252, -3), ("h", 254, 0))
    save("quaternion", ("h", 252, 1), ("h", 254, 0), ("fff", 256, 5, 5, 5))
    save("sform_code", ("h", 254, 99), ("h", 252, 77))
    (here / "cut.nii").write_bytes(data[:-400])
    (here / "short.nii").write_bytes(data[:300])
    (here / "header_only.nii").write_bytes(data[:352])
    whole = (here / "scan.nii.gz").read_bytes()
    (here / "cut.nii.gz").write_bytes(whole[:-20])
    (here / "crc.nii.gz").write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]
    (here / "flipped.nii.gz").write_bytes(flipped)
    # Voxels that are whole, and a checksum that is not theirs.
    stored_only = gzip.compress(bytes(data), 0, mtime=0)
    at = len(stored_only) - 500
    (here / "bit.nii.gz").write_bytes(
        stored_only[:at] + bytes([stored_only[at] ^ 1]) + stored_only[at + 1 :]
    )
    (here / "garbage.nii.gz").write_bytes(gzip.compress(b"twenty letters of it"))
    (here / "double.nii.gz").write_bytes(gzip.compress(whole))
    values = np.ones(EXTENTS, np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), here / "nan.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((*EXTENTS, 2), np.float32), AFFINE), here / "four.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4), np.float32), AFFINE), here / "flat.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 4), np.float32), AFFINE), here / "grid.nii")
    half = np.full(EXTENTS, 0.5, np.float32)
    nibabel.save(nibabel.Nifti1Image(half, AFFINE), here / "half.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros(EXTENTS, np.uint8), AFFINE), here / "zeros.nii")


def nrrd(here):
    """NRRD headers by hand."""
    values = np.ones(EXTENTS, np.float32).tobytes()
    usual = {
        "type": "float",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "12 10 8",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
    }

    def save(name, data=values, **changes):
        fields = {**usual, **{key.replace("_", " "): each for key, each in changes.items()}}
        lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
        text = "\n".join(["NRRD0004", *lines, "", ""])
        (here / f"{name}.nrrd").write_bytes(text.encode() + data)

    save("scan")
    save("dirnone", space_directions="none (1,0,0) (0,1,0)")
    save("dirs_none", space_directions="none none none")
    save("dirs_two", space_directions="(1,0,0) (0,1,0)")
    save("dirs_four", space_directions="(1,0,0) (0,1,0) (0,0,1) (1,1,1)")
    save("dirs_flat", space_directions="(1,0) (0,1) (0,0)")
    save("dirs_words", space_directions="(a,0,0) (0,1,0) (0,0,1)")
    save("dirs_nan", space_directions="(nan,0,0) (0,1,0) (0,0,1)")
    save("dirs_plane", space_directions="(1,0,0) (1,0,0) (0,0,1)")
    save("dirs_zero", space_directions="(0,0,0) (0,0,0) (0,0,0)")
    save("sizes_missing", sizes=None)
    save("sizes_two", sizes="12 10")
    save("sizes_words", sizes="a b c")
    save("sizes_negative", sizes="-12 10 8")
    save("sizes_huge", sizes="1000000 1000000 1000000")
    save("sizes_more", sizes="12 10 9")
    save("dimension_missing", dimension=None)
    save("dimension_nine", dimension="9")
    save("dimension_words", dimension="three")
    save("type_missing", type=None)
    save("type_words", type="colour")
    save("type_block", type="block")
    save("encoding_missing", encoding=None)
    save("encoding_words", encoding="rot13")
    save("encoding_gzip", encoding="gzip")
    save("encoding_bzip", encoding="bzip2")
    save("encoding_text", encoding="text")
    save("endian_missing", endian=None)
    save("endian_words", endian="middle")
    save("spacings_two", space_directions=None, space=None, space_origin=None, spacings="1 1")
    save(
        "spacings_five", space_directions=None, space=None, space_origin=None, spacings="1 1 1 1 1"
    )
    save("spacings_zero", space_directions=None, space=None, space_origin=None, spacings="0 1 1")
    save("spacings_words", space_directions=None, space=None, space_origin=None, spacings="a b c")
    save("origin_two", space_origin="(0,0)")
    save("origin_nan", space_origin="(nan,0,0)")
    save("origin_words", space_origin="none")
    save("skip", line_skip="-5")
    save("skip_words", byte_skip="many")
    save("skip_past", byte_skip="1000000")
    save("detached", data_file="../../../etc/passwd")
    save("detached_self", data_file="detached_self.nrrd")
    save("detached_fifo", data_file="fifo.npy")
    save("detached_none", data_file="none.raw")
    save("cut", data=values[:-4])
    (here / "magic.nrrd").write_bytes(b"NRRD9999\n\n")
    (here / "no_end.nrrd").write_bytes(b"NRRD0004\ntype: float\ndimension: 3")
    (here / "letters2.nhdr").write_bytes(b"twenty letters of it")


def options(here):
    """Options in files."""
    for name, text in {
        "syntax": "seed = = 3",
        "unknown": "colour = 3",
        "kind": 'seed = "three"',
        "float": "seed = 1.5",
        "nested": "[seed]\nvalue = 1",
        "list": "seed = [1, 2]",
        "date": "region = 1979-05-27",
        "negative": "seed = -1",
        "huge": "seed = 1e400",
        "nan": "min_probability = nan",
        "infinite": "smoothing = inf",
        "twice": "seed = 1\nseed = 2",
        "deep": "a = " + "[" * 5000 + "]" * 5000,
        "out": 'out = "elsewhere"',
        "both": 'tap = "x"\ntaps = "y"',
    }.items():
        (here / f"{name}.toml").write_text(text + "\n")
    (here / "latin.toml").write_bytes(b"weights = '\xe9'\n")
    (here / "two.txt").write_text("a\nb\n")
    (here / "gap.txt").write_text("a\n\nc\n")
    (here / "latin.txt").write_bytes(b"caf\xe9\n")
    (here / "object.json").write_text('{"a": 1}')
    (here / "numbers.json").write_text("[1, 2, 3]")
    (here / "deep.json").write_text("[" * 100_000)
    (here / "cut.json").write_text('["a",')


def trained(here):
    """What classifiers are trained on, and folders of trainings that were changed by hand."""
    for name, kinds in {
        "classes": ("a", "b"),
        "classes_one": ("a",),
        "classes_hollow": ("a", "b"),
        "classes_broken": ("a", "b"),
        "classes_loop": ("a", "b"),
        "classes_none": (),
    }.items():
        (here / name).mkdir()
        for kind in kinds:
            (here / name / kind).mkdir()
            for number in range(2):
                shutil.copy(here / "image.png", here / name / kind / f"{number}.png")
    for number in range(2):
        (here / "classes_hollow" / "a" / f"{number}.png").unlink()
    shutil.copy(here / "cut.png", here / "classes_broken" / "a" / "0.png")
    os.symlink("loop.png", here / "classes_loop" / "a" / "loop.png")
    for name, text in {
        "none": "twenty letters of it",
        "list": "[1, 2]",
        "other": '{"checkpoints": 1}',
    }.items():
        (here / f"trained_{name}").mkdir()
        (here / f"trained_{name}" / "config.json").write_text(text)
    options = {"size": 32, "channels": 1, "model": "resnet18", "width": 4, "folds": 2}
    config = ClassifierConfig((here / "classes",), here / "trained_damaged", **options)
    images = read_images(config)
    command.claim_folder(config.out, config, NO_EFFECT, data=images.sha256, start=None)
    head = "scan,instance,group,voxels,method,tap,modality,mean\n"
    rows = [f"scan{each},1,{'TP' if each % 2 else 'FP'},9,image,,t1,1\n" for each in range(12)]
    for name, row in {
        "infinite": "scan,1,TP,9,image,,t1,inf\n",
        "number": "scan,one,TP,9,image,,t1,1\n",
        "field": "s" * 200_000,
    }.items():
        (here / f"features_{name}.csv").write_text("".join((head, *rows, row)))
    step = config.out / "fold1" / "checkpoints" / "last" / "3"
    step.mkdir(parents=True)
    (step.parents[1] / "best").mkdir()
    (step / "state").write_bytes(b"twenty letters of it")


def runs(here):
    """Runs whose manifests, tables and arrays were changed by hand."""

    manifest = (here / "run.zarr" / "manifest.json").read_text()

    def changed(name, change):
        (here / name).mkdir()
        file = here / name / "manifest.json"
        values = json.loads(manifest)
        result = change(values)
        text = (
            result if isinstance(result, str) else json.dumps(values if result is None else result)
        )
        file.write_text(text)

    needed = (
        "version",
        "key",
        "options",
        "network",
        "source",
        "items_per_shard",
        "targets",
        "versions",
    )
    for field in (*needed, "format"):
        changed(f"lacks_{field}.zarr", lambda values, field=field: values.pop(field) and None)
    wrong = {
        "format": [99, "1", None, [1], 1.5],
        "version": [3, None, {}],
        "key": [3, []],
        "options": [[], "x", 3],
        "network": [[], "x", None, {}],
        "source": [[], None, {"words": 3}],
        "items_per_shard": ["2", 0, -1, 1.5, 10**30],
        "targets": ["2", 0, -1, 2.5],
        "versions": [[], 3],
        "finished": [3, [], {"items": "5"}],
        "kind": ["photos", 3, "instances"],
        "figures": [[], 3],
    }
    for field, values in wrong.items():
        for number, value in enumerate(values):
            changed(
                f"{field}_{number}.zarr",
                lambda found, field=field, value=value: found.update({field: value}),
            )
    for field, values in {
        "labels": ["cat", [1, 2], None],
        "classifies": ["yes", 1],
        "background": [3, {"index": "0", "assumed": False}, {"index": 0}],
        "meaning": ["logits", None, {"outputs": "perhaps"}],
        "images": [[], {"channels": "1"}, 3],
        "sha256": [3],
        "title": [None],
    }.items():
        for number, value in enumerate(values):
            changed(
                f"network_{field}_{number}.zarr",
                lambda found, field=field, value=value: found["network"].update({field: value}),
            )
    for field, values in {"words": ["x", [1]], "items": ["5", -1, 2.5], "digest": [3]}.items():
        for number, value in enumerate(values):
            changed(
                f"source_{field}_{number}.zarr",
                lambda found, field=field, value=value: found["source"].update({field: value}),
            )
    path = "../../../../../../../../etc/passwd"
    network = {"given": path, "absolute": "/etc/passwd"}

    def other_images(values):
        scored = json.loads((here / "scored.zarr" / "manifest.json").read_text())
        values["network"].update(sha256=scored["network"]["sha256"])
        values["source"].update(words=[path])

    changed("leaves_source.zarr", other_images)

    def led_away(values):
        values["network"].update(network)
        values["source"].update(words=["image.png"])
        values["options"].update(weights=path)

    changed("leaves_network.zarr", led_away)
    changed("unknown_key.zarr", lambda values: values.update(colour=3))
    changed("nested.zarr", lambda values: "[" * 100_000)
    changed("array.zarr", lambda values: [1, 2])
    changed("text.zarr", lambda values: "twenty letters of it")
    changed("nothing.zarr", lambda values: "")
    export(open_store(here / "run.zarr"), here / "exports" / "of_run", what=["npy"], items=[0])
    for name in ("table", "short", "words", "metadata", "chunk", "part_loop", "leaves", "extent"):
        shutil.copytree(here / "run.zarr", here / f"stored_{name}.zarr")
    parts = sorted((here / "stored_table.zarr").rglob("*.parquet"))
    parts[0].write_bytes(b"twenty letters of it")
    part = sorted((here / "stored_short.zarr").rglob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-30])
    part = sorted((here / "stored_words.zarr").rglob("*.parquet"))[0]
    part.rename(part.with_name("first.parquet"))
    file = sorted((here / "stored_metadata.zarr").rglob("map.body/zarr.json"))[0]
    file.write_text("{}")
    chunk = sorted((here / "stored_chunk.zarr").rglob("map.body/c/*"))[0]
    target = chunk if chunk.is_file() else sorted(p for p in chunk.rglob("*") if p.is_file())[0]
    target.write_bytes(b"twenty letters of it")
    for name in ("leaves", "extent"):
        file = sorted((here / f"stored_{name}.zarr").rglob("*.parquet"))[0]
        part = Part.decode(file.read_bytes())
        if name == "leaves":
            part = dataclasses.replace(part, objects={path: 1000})
        else:
            out = polars.lit("../../..").alias("extent")
            part = dataclasses.replace(part, table=part.table.with_columns(out))
        file.write_bytes(part.encode())
    part = sorted((here / "stored_part_loop.zarr").rglob("*.parquet"))[0]
    part.unlink()
    os.symlink(part.name, part)
