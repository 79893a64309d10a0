"""The files of the package that an image or a lesion passes, from its file to its figures.

python -m benchmarks.walk [image|lesion]

Counted by a trace of all calls, in all threads, from the first that reads the image to the last
that writes a figure, while `segcam explain` explains a second image of the same form, or `segcam
instances` a second scan: the programs are compiled, so that what is traced once is not counted.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import nibabel
import numpy as np
from PIL import Image

import segcam_jax
from segcam_jax.cli import main
from segcam_jax.data.samples import lesions

ROOT = Path(segcam_jax.__file__).parent
# Where a figure leaves.
_LAST = "viz/files.py"


def walk(kind: str = "image") -> list[str]:
    """The files in the order in which they are first entered."""
    first, make = {"image": ("data/images.py", _image), "lesion": ("data/nifti.py", _lesion)}[kind]
    with tempfile.TemporaryDirectory() as place:
        _run(make(Path(place), 0))
        line = make(Path(place), 1)
        seen = _traced(lambda: _run(line))
    start = seen.index(first)
    stop = len(seen) - seen[::-1].index(_LAST)
    return list(dict.fromkeys(seen[start:stop]))


def _image(place: Path, number: int) -> list[str]:
    """A command that explains an image."""
    pixels = np.random.default_rng(number).integers(0, 255, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(place / f"{number}.png")
    words = ["--weights", "texture-mnist-unbiased", "--class", "3", "--region", "all"]
    return ["explain", str(place / f"{number}.png"), *words, "--out", str(place / f"out{number}")]


def _lesion(place: Path, number: int) -> list[str]:
    """A command that explains the largest lesion of the bundled case, cut out of it."""
    case = lesions.load()
    largest = np.bincount(case.lesions[case.lesions > 0]).argmax()
    middle = np.argwhere(case.lesions == largest).mean(0).astype(int) + number
    around = tuple(slice(max(0, at - 16), max(0, at - 16) + 32) for at in middle)
    files = [str(place / f"{number}-{name}.nii.gz") for name in ("flair", "t1")]
    for channel, file in enumerate(files):
        nibabel.save(nibabel.Nifti1Image(case.image[(*around, channel)], case.affine), file)
    words = ["--weights", "lesions", "--roi", "32", "--min-voxels", "100"]
    return ["instances", *files, *words, "--out", str(place / f"out{number}")]


def _run(line: list[str]) -> None:
    if code := main(line):
        raise SystemExit(code)


def _traced(run: Callable[[], None]) -> list[str]:
    """The files of the package by the calls that enter them."""
    seen: list[str] = []

    def traced(frame: FrameType, event: str, argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(ROOT):
            seen.append(str(file.relative_to(ROOT)))

    threading.setprofile(traced)
    sys.setprofile(traced)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


if __name__ == "__main__":
    found = walk(*sys.argv[1:2])
    print("\n".join(found))
    print(f"{len(found)} files")
