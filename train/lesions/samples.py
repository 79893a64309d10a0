"""Writes the case of planted lesions that the package ships.

    python -m train.lesions_samples

Expected result: `segcam_jax/data/samples/lesions.npz` below 1 MB, the same bytes each time. The
case is one of those that the shipped weights are scored on, chosen since it shows lesions of all
sizes and a false alarm.
Cost: seconds.
"""

import dataclasses
from pathlib import Path

from segcam_jax import files
from segcam_jax.data.samples import lesions
from segcam_jax.types import InputError
from train import command
from train.data.brain_template import mni152
from train.data.lesions import CASES, LesionCases, LesionConfig

INDEX = 12


def make_case(index: int = INDEX) -> lesions.BundledCase:
    """A held-out case of the default configuration."""
    if not 0 <= index < CASES["test"]:
        raise InputError(f"`index` is {index}; there are cases 0 to {CASES['test'] - 1}")
    template = mni152()
    cases = LesionCases(template, LesionConfig(split="test"))
    case = cases[index]
    return lesions.BundledCase(case.image, case.lesions, case.kind, template.affine)


@dataclasses.dataclass(frozen=True)
class LesionSample:
    """The case.

    Attributes:
        out: the file to write.
        index: of the case.
    """

    out: Path = lesions.PATH
    index: int = INDEX


def write(told: LesionSample) -> Path:
    """Writes the case; returns its file."""
    files.check_writable(told.out)
    with files.whole_file(told.out) as temporary:
        lesions.save(temporary, make_case(told.index))
    return told.out


def main() -> None:
    """The command line."""
    command.run(write, LesionSample, __doc__)


if __name__ == "__main__":
    main()
