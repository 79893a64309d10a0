"""Writes planted lesions as a cohort of NIfTI scans: OUT/case000/planted/flair.nii.gz, t1, mask.

    python -m train.lesions_cohort --out cohort --cases 40

Cases are held-out ones, as the bundled network is scored on. The mask holds the number of each
lesion: `--truth-labels instances`.
Cost: seconds a case.
"""

import dataclasses
from pathlib import Path

import numpy as np
import rich

from segcam_jax import files
from segcam_jax.extras import require
from train import command
from train.data.brain_template import Template, mni152
from train.data.lesions import MODALITIES, LesionCases, LesionConfig


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A cohort.

    Attributes:
        out: the folder to write.
        cases: how many.
        seed: of the cases.
        spacing: edge of a voxel, mm.
    """

    out: Path
    cases: int = 40
    seed: int = 0
    spacing: float = 2.0

    def check(self) -> None:
        """Raises `InputError`, naming the setting, if one is none."""
        command.check_new(self.out)
        command.check_at_least(self, 1, "cases", most=command.MOST_AT_ONCE)
        command.check_at_least(self, 1, "spacing", most=16)
        command.check_seed(self.seed)


def write(told: Cohort) -> Path:
    """Writes the cohort; returns its folder."""
    told.check()
    write_cases(told, mni152(spacing=told.spacing))
    rich.print(f"{told.cases} scans: {told.out}")
    return told.out


def write_cases(told: Cohort, template: Template) -> None:
    """Writes cases that are made of a template."""
    nibabel = require("nibabel", extra="nifti")
    config = LesionConfig(split="test", seed=told.seed, cases=told.cases)
    cases = LesionCases(template, config)
    for number in range(told.cases):
        case, folder = cases[number], told.out / f"case{number:03d}" / "planted"
        images = dict(zip(MODALITIES, np.moveaxis(case.image, -1, 0), strict=True))
        for name, values in {**images, "mask": case.lesions.astype(np.int16)}.items():
            with files.whole_file(folder / f"{name}.nii.gz") as temporary:
                image = nibabel.Nifti1Image(values, template.affine)
                image.header.set_xyzt_units("mm")
                nibabel.save(image, temporary)


def main() -> None:
    """The command line."""
    command.run(write, Cohort, __doc__)


if __name__ == "__main__":
    main()
