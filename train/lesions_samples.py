"""Writes the case of planted lesions that the package ships.

    python -m train.lesions_samples

Expected result: `segcam_jax/data/samples/lesions.npz` below 1 MB, the same bytes each time. The
case is one of those that the shipped weights are scored on, chosen since it shows lesions of all
sizes and a false alarm.
Cost: seconds.
"""

import sys
from pathlib import Path

import tyro

from segcam_jax import _files
from segcam_jax.data.samples import lesions
from segcam_jax.types import InputError
from train.data.brain_template import mni152
from train.data.lesions import LesionCases, LesionConfig

INDEX = 12


def make_case(index: int = INDEX) -> lesions.BundledCase:
    """A held-out case of the default configuration."""
    template = mni152()
    case = LesionCases(template, LesionConfig(split="test"))[index]
    return lesions.BundledCase(case.image, case.lesions, case.kind, template.affine)


def main(out: Path = lesions.PATH, index: int = INDEX) -> None:
    """Writes the case under a temporary name, then renames.

    Args:
        out: the file to write.
        index: of the case.
    """
    try:
        with _files.whole_file(out) as temporary:
            lesions.save(temporary, make_case(index))
    except (InputError, ImportError, IndexError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
