"""The files of the package that an image passes on its way from its file to its figures.

python -m benchmarks.walk

Counted by a trace of all calls, in all threads, from the first that reads the image to the last
that writes a figure, while `segcam explain` explains a second image of the same form: its programs
are compiled, so that what is traced once is not counted.
"""

import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

import segcam_jax
from segcam_jax.cli import main

ROOT = Path(segcam_jax.__file__).parent
# Where an image enters, and where a figure leaves.
_FIRST, _LAST = "data/images.py", "viz/files.py"


def walk() -> list[str]:
    """The files in the order in which they are first entered."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for name in ("first", "second"):
            pixels = generator.integers(0, 255, (64, 64)).astype(np.uint8)
            Image.fromarray(pixels).save(f"{place}/{name}.png")
        words = ["--weights", "texture-mnist-unbiased", "--class", "3", "--region", "all"]
        _explain(place, "first", words)
        seen: list[str] = []

        def traced(frame: FrameType, event: str, argument: Any) -> None:
            file = Path(frame.f_code.co_filename)
            if event == "call" and file.is_relative_to(ROOT):
                seen.append(str(file.relative_to(ROOT)))

        threading.setprofile(traced)
        sys.setprofile(traced)
        try:
            _explain(place, "second", words)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    start = seen.index(_FIRST)
    stop = len(seen) - seen[::-1].index(_LAST)
    return list(dict.fromkeys(seen[start:stop]))


def _explain(place: str, name: str, words: list[str]) -> None:
    code = main(["explain", f"{place}/{name}.png", *words, "--out", f"{place}/{name}"])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    found = walk()
    print("\n".join(found))
    print(f"{len(found)} files")
