"""Writes folders of real images on which a classifier is trained in minutes.

    python -m train.classifier_samples digits runs/digits        # 1,797 digits, ten classes
    python -m train.classifier_samples textures runs/textures    # 192 crops, three classes

`digits` are scikit-learn's handwritten digits of 8x8. `textures` are 64x64 crops of scikit-image's
brick, gravel and grass; they do not overlap, so that no fold holds a pixel of another.
Needs the extra `train`. Cost: seconds.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image

from segcam_jax.extras import require
from train import command

CROP = 64


def digits() -> Iterator[tuple[str, np.ndarray]]:
    """Class and greys of each digit."""
    bunch = require("sklearn.datasets", extra="train").load_digits()
    for label, image in zip(bunch.target, bunch.images, strict=True):
        yield str(label), np.round(image * (255 / 16)).astype(np.uint8)


def textures() -> Iterator[tuple[str, np.ndarray]]:
    """Class and greys of each crop."""
    data = require("skimage.data", extra="train")
    for name in ("brick", "grass", "gravel"):
        whole = getattr(data, name)()
        for top in range(0, whole.shape[0] - CROP + 1, CROP):
            for left in range(0, whole.shape[1] - CROP + 1, CROP):
                yield name, whole[top : top + CROP, left : left + CROP]


def write(kind: Literal["digits", "textures"], out: Path) -> int:
    """Writes `out/CLASS/NUMBER.png` and returns the number of files."""
    command.check_new(out)
    images = {"digits": digits, "textures": textures}[kind]()
    counts: dict[str, int] = {}
    for name, image in images:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        counts[name] = counts.get(name, 0) + 1
        Image.fromarray(image).save(folder / f"{counts[name]}.png")
    return sum(counts.values())


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of images.

    Attributes:
        kind: which images.
        out: the folder to make.
    """

    kind: tyro.conf.Positional[Literal["digits", "textures"]]
    out: tyro.conf.Positional[Path]


def main() -> None:
    """The command line."""
    count = command.run(lambda told: write(told.kind, told.out), ImageFolder, __doc__)
    print(f"{count} images written")


if __name__ == "__main__":
    main()
