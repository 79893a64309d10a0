"""The TextureMNIST samples that the package ships, so that a demo needs no extra.

    samples = load()
    samples.unbiased.image    # float32 10 64 64 1: one held-out sample of each digit, no bias
    samples.biased.image      # float32 200 64 64 1: held-out samples of digit 2, all biased

`python -m train.texture_mnist_samples` writes the file.
"""

import dataclasses
import zipfile
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.types import InputError

BACKGROUND = 10
CLASSES = (*(str(digit) for digit in range(10)), "background")
PATH = Path(__file__).with_name("texture_mnist.npz")
BUNDLED_SAMPLES = 200  # of the biased digit
_FIELDS = ("image", "label", "biased_tile")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextureMnistSample:
    """One sample, or a batch of them with `n` in front of every shape.

    Attributes:
        image: greys in [0, 1].
        label: 0..9 on the digit, 10 on the background.
        digit: the digit.
        digit_with_infill: the digit's pixels.
        background: all other pixels.
        biased_tile: the background tiles (digit included) that hold the digit's bias texture, if
            the sample is biased; else nothing.
        is_biased: whether a bias drew the textures.
    """

    image: Float[np.ndarray, "*n h w 1"]
    label: Int[np.ndarray, "*n h w"]
    digit: Int[np.ndarray, "*n"]
    digit_with_infill: Bool[np.ndarray, "*n h w"]
    background: Bool[np.ndarray, "*n h w"]
    biased_tile: Bool[np.ndarray, "*n h w"]
    is_biased: Bool[np.ndarray, "*n"]


@dataclasses.dataclass(frozen=True)
class BundledSamples:
    """The samples that the package ships.

    Attributes:
        unbiased: ten samples without bias, digits 0 to 9 in order.
        biased: two hundred samples of digit 2, each with the texture `stripes_diagonal` in one half
            (`biased_tile`) of its background; in four of them the other half drew it too.
    """

    unbiased: TextureMnistSample
    biased: TextureMnistSample


def load(path: str | Path = PATH) -> BundledSamples:
    """Reads the samples that the package ships.

    Args:
        path: a file that `save` wrote.

    Raises:
        InputError: if the file is missing, truncated or not of this form.
    """
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with Path(path).open("rb") as stream, np.load(stream) as file:
            arrays = {key: file[key] for key in file.files}
        parts = {
            part: _sample(*(arrays[f"{part}_{field}"] for field in _FIELDS))
            for part in ("unbiased", "biased")
        }
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"samples file {str(path)!r} cannot be read ({error}); write it with "
            "python -m train.texture_mnist_samples"
        ) from None
    return BundledSamples(**parts)


def save(path: str | Path, samples: BundledSamples) -> None:
    """Writes samples as 8-bit greys and labels; equal samples give equal bytes."""
    arrays = {}
    for part in ("unbiased", "biased"):
        sample = getattr(samples, part)
        arrays[f"{part}_image"] = np.round(sample.image * 255).astype(np.uint8)
        arrays[f"{part}_label"] = sample.label.astype(np.uint8)
        arrays[f"{part}_biased_tile"] = sample.biased_tile
    np.savez_compressed(path, **arrays)


def _sample(image: np.ndarray, label: np.ndarray, biased_tile: np.ndarray) -> TextureMnistSample:
    on_digit = label != BACKGROUND
    return TextureMnistSample(
        image=image.astype(np.float32) / 255,
        label=label.astype(np.int32),
        digit=label.min(axis=(1, 2)).astype(np.int32),
        digit_with_infill=on_digit,
        background=~on_digit,
        biased_tile=biased_tile.astype(bool),
        is_biased=np.asarray(biased_tile.any(axis=(1, 2))),
    )
