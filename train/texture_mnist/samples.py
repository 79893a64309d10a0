"""Writes the TextureMNIST samples that the package ships.

    python -m train.texture_mnist_samples

Expected result: `segcam_jax/data/samples/texture_mnist.npz` below 1.2 MB, the same bytes each time.
Cost: seconds.
"""

import dataclasses
from pathlib import Path

from segcam_jax import files
from segcam_jax.data import samples
from train import command
from train.data.texture_mnist import TextureMnist
from train.texture_mnist.config import TrainConfig
from train.texture_mnist.data import dataset_config

BIASED_SAMPLES = 200


def make_samples() -> samples.BundledSamples:
    """One held-out unbiased sample of each digit, and 200 held-out biased ones of digit 2."""
    plain = dataset_config(TrainConfig(variant="unbiased"), "test")
    biased = dataset_config(TrainConfig(variant="biased"), "test")
    planted = dataclasses.replace(biased, samples=10 * BIASED_SAMPLES)
    (bias,) = biased.bias
    return samples.BundledSamples(
        unbiased=TextureMnist(plain).batch(range(10)),
        biased=TextureMnist(planted).batch(range(bias.digit, 10 * BIASED_SAMPLES, 10)),
    )


@dataclasses.dataclass(frozen=True)
class ShippedSamples:
    """The samples.

    Attributes:
        out: the file to write.
    """

    out: Path = samples.PATH


def write(told: ShippedSamples) -> Path:
    """Writes the samples; returns their file."""
    files.check_writable(told.out)
    with files.whole_file(told.out) as temporary:
        samples.save(temporary, make_samples())
    return told.out


def main() -> None:
    """The command line."""
    command.run(write, ShippedSamples, __doc__)


if __name__ == "__main__":
    main()
