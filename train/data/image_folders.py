"""Folders of images, one class per sub-folder: what image classifiers are mostly trained on.

    pollen/
      Anadenanthera/  1.jpg  2.jpg  ...
      Arecaceae/      1.jpg  ...

    images = read_folders("pollen", size=224)
    images[0], images.labels[0], images.class_names

Files are what `images.read_image` takes, at any depth below their class's folder. Classes and files
are in natural order (`2.jpg` before `10.jpg`), the same on every machine. Hidden files are passed
over, files of other kinds as well, with a note; every image is decoded once, so that faults show
before work begins.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segcam_jax.data.images import read_image
from segcam_jax.networks.image_inputs import fitted
from segcam_jax.types import InputError, counted
from train.data import labelled
from train.data.labelled import LabelledImages

# Pillow opens these kinds too, but nobody means them by images.
_DOCUMENTS = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".hdf"}


class _File(NamedTuple):
    """An image file: where it is, what it is called, its class, extents and digest."""

    path: Path
    name: str
    label: int
    extents: tuple[int, int]
    sha256: str


def read_folders(
    root: str | Path, *, channels: int = 3, size: int | None = None, skip_broken: bool = False
) -> LabelledImages:
    """Reads a folder of images, one class per sub-folder.

    Args:
        root: the folder; each folder in it that is not hidden is a class.
        channels: 3 or 1; images of the other kind are converted as `read_image` does it.
        size: images are stretched to this height and width; None keeps their own.
        skip_broken: leave out images that do not decode, and say so in `notes`; else they are
            errors.
    """
    labelled.check_options(channels=channels, size=size)
    root = Path(root)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"{str(root)!r} {kind}; give a folder with one sub-folder per class")
    folders = [path for path in _entries(root) if path.is_dir()]
    folders.sort(key=lambda path: natural_key(path.name))
    if not folders:
        raise InputError(
            f"{str(root)!r} has no sub-folders; put the images of each class into one of its own"
        )
    class_names = tuple(folder.name for folder in folders)
    if len(folders) < 2:
        labelled.check_classes(np.zeros(1, np.int32), class_names, str(root))
    files, notes = _files(root, folders, channels, skip_broken)
    labels = np.array([file.label for file in files], np.int32)
    labelled.check_classes(labels, class_names, str(root))

    def pixels(index: int) -> np.ndarray:
        image = read_image(files[index].path, channels=channels).pixels
        return image if size is None else fitted(image, (size, size), "stretch")

    return LabelledImages(
        labels=labels,
        class_names=class_names,
        names=tuple(file.name for file in files),
        extents=tuple((size, size) if size else file.extents for file in files),
        notes=notes,
        sha256=labelled.fingerprint(
            [(channels, size, *class_names), *((f.name, f.label, f.sha256) for f in files)]
        ),
        pixels=pixels,
    )


def _files(
    root: Path, folders: list[Path], channels: int, skip_broken: bool
) -> tuple[list[_File], tuple[str, ...]]:
    """All image files, and what was wrong with those left out."""
    suffixes = {*Image.registered_extensions(), ".npy"} - _DOCUMENTS
    found, notes = [], []
    others = [path for path in _entries(root) if path.is_file()]
    for label, folder in enumerate(folders):
        files = _files_in(folder)
        paths = [path for path in files if path.suffix.lower() in suffixes]
        others += [path for path in files if path.suffix.lower() not in suffixes]
        if not paths:
            raise InputError(f"{str(folder)!r} holds no images; add some, or remove the folder")
        for path in paths:
            try:
                image = read_image(path, channels=channels)
            except InputError as error:
                if not skip_broken:
                    raise
                notes.append(f"left out: {error}")
                continue
            name = path.relative_to(root).as_posix()
            found.append(_File(path, name, label, image.pixels.shape[:2], image.sha256))
    if others:
        kinds = ", ".join(sorted({path.suffix or path.name for path in others}))
        notes.append(f"passed over {counted(len(others), 'file')}, no images of a class ({kinds})")
    return found, tuple(notes)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder and not hidden."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be read: {error.strerror or error}") from None


def _files_in(folder: Path) -> list[Path]:
    """All files below a folder, in natural order."""
    entries = _entries(folder)
    files = [path for path in entries if path.is_file()]
    files += [path for below in entries if below.is_dir() for path in _files_in(below)]
    return sorted(files, key=natural_key)


def natural_key(name: str | Path) -> tuple[tuple[int, int, str], ...]:
    """Sorts digits as numbers: `class 2` before `class 10`, as the package `natsort` does.

    >>> sorted(["class 10", "class 2", "b"], key=natural_key)
    ['b', 'class 2', 'class 10']
    """
    parts = re.split(r"([0-9]+)", str(name))
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p)
