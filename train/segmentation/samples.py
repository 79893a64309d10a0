"""Writes a folder of images and masks on which a segmentation network is trained in minutes.

    python -m train.segmentation_samples runs/defects

The images show scratches and inclusions on real surfaces (`train.data.defects`): 240 images to
train on in `runs/defects/train` and 60 held-out images in `runs/defects/test`, grey, each with a
binary mask. The script writes the same files each time.
Needs the extra `train`. Cost: seconds.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from train import command
from train.data.defects import DefectConfig, defect


def write(out: Path, *, training: int = 240, held_out: int = 60, size: int = 128) -> int:
    """Writes `out/train` and `out/test`, `images/NNN.png` and `masks/NNN.png`; returns how many."""
    command.check_new(out)
    for config, count in (
        (DefectConfig("train", size), training),
        (DefectConfig("test", size), held_out),
    ):
        folders = [out / config.split / name for name in ("images", "masks")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(count):
            image, mask = defect(config, number)
            for folder, values in zip(folders, (image, mask.astype(np.uint8) * 255), strict=True):
                Image.fromarray(values).save(folder / f"{number:03}.png")
    return training + held_out


@dataclasses.dataclass(frozen=True)
class Samples:
    """Which files to write.

    Attributes:
        out: the folder to make.
        training: how many images to train on.
        held_out: how many images to hold out.
        size: height and width of the images.
    """

    out: Annotated[Path, tyro.conf.Positional]
    training: int = 240
    held_out: int = 60
    size: int = 128

    def written(self) -> int:
        """Writes the files; returns how many images they are."""
        command.check_at_least(self, 1, "training", "held_out", most=command.MOST_AT_ONCE)
        return write(self.out, training=self.training, held_out=self.held_out, size=self.size)


def main() -> None:
    """The command line."""
    print(f"{command.run(Samples.written, Samples, __doc__)} images written")


if __name__ == "__main__":
    main()
