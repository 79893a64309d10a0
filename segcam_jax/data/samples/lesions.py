"""The case of planted lesions that the package ships, so that a demo needs no other data.

    case = load()
    case.image      # float32 d h w 2: FLAIR and T1, 0 outside the brain
    case.lesions    # int32 d h w: 0, or the number of a planted lesion

`python -m train.lesions_samples` writes the file. NOTICE.md has the licence of the brain in it.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from segcam_jax.types import InputError

PATH = Path(__file__).with_name("lesions.npz")
MODALITIES = ("flair", "t1")
CLASSES = ("background", "lesion")
# What is planted: a lesion, and what is none, dark in T1 alone or bright in FLAIR alone.
LESION, T1_ONLY, FLAIR_ONLY = 1, 2, 3
_LEVELS = 255


@dataclasses.dataclass(frozen=True, eq=False)
class BundledCase:
    """A case.

    Attributes:
        image: FLAIR and T1, positive in the brain, 0 outside.
        lesions: number of the lesion that a voxel belongs to, from 1; else 0.
        kind: what is planted at a voxel, `LESION`, `T1_ONLY` or `FLAIR_ONLY`; 0 for
            nothing.
        affine: voxel indices -> mm.
    """

    image: Float[np.ndarray, "d h w 2"]
    lesions: Int[np.ndarray, "d h w"]
    kind: Int[np.ndarray, "d h w"]
    affine: Float[np.ndarray, "4 4"]


def load(path: str | Path = PATH) -> BundledCase:
    """Reads the case that the package ships.

    Args:
        path: a file that `save` wrote.

    Raises:
        InputError: if the file is missing, truncated or not of this form.
    """
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with Path(path).open("rb") as stream, np.load(stream) as file:
            return BundledCase(
                file["image"].astype(np.float32),
                file["lesions"].astype(np.int32),
                file["kind"].astype(np.int32),
                file["affine"].astype(np.float64),
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"samples file {str(path)!r} cannot be read ({error}); write it with "
            "python -m train.lesions_samples"
        ) from None


def save(path: str | Path, case: BundledCase) -> None:
    """Writes a case with 8 bits a voxel and modality; equal cases give equal bytes."""
    scale = _LEVELS / case.image.max(axis=(0, 1, 2), keepdims=True)
    # What is brain stays brain.
    image = np.where(case.image > 0, np.maximum(np.round(case.image * scale), 1), 0)
    np.savez_compressed(
        path,
        image=image.astype(np.uint8),
        lesions=case.lesions.astype(np.uint8),
        kind=case.kind.astype(np.uint8),
        affine=case.affine.astype(np.float32),
    )
