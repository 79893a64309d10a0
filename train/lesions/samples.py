"""Writes the case of planted lesions that the package ships.

    python -m train.lesions_samples

Expected result: `segcam_jax/data/samples/lesions.npz` below 1 MB, the same bytes each time. The
case is one of those that the shipped weights are scored on, chosen since it shows lesions of all
sizes and a false alarm.
Cost: seconds.
"""

from pathlib import Path

import tyro

from segcam_jax import files
from segcam_jax.data.samples import lesions
from segcam_jax.types import InputError
from train import command
from train.data.brain_template import mni152
from train.data.lesions import LesionCases, LesionConfig

INDEX = 12


def make_case(index: int = INDEX) -> lesions.BundledCase:
    """A held-out case of the default configuration."""
    template = mni152()
    cases = LesionCases(template, LesionConfig(split="test"))
    if not 0 <= index < len(cases):
        raise InputError(f"`index` is {index}; there are cases 0 to {len(cases) - 1}")
    case = cases[index]
    return lesions.BundledCase(case.image, case.lesions, case.kind, template.affine)


def write(out: Path = lesions.PATH, index: int = INDEX) -> None:
    """Writes the case.

    Args:
        out: the file to write.
        index: of the case.
    """
    with files.whole_file(out) as temporary:
        lesions.save(temporary, make_case(index))


def main() -> None:
    """The command line."""
    with command.faults_in_one_line():
        tyro.cli(write, description=__doc__)


if __name__ == "__main__":
    main()
