"""Writes the TextureMNIST samples that the package ships.

    python -m train.texture_mnist_samples

Expected result: `segcam_jax/data/samples/texture_mnist.npz` below 1.2 MB, the same bytes each time.
Cost: seconds.
"""

import dataclasses
from pathlib import Path

import tyro

from segcam_jax import files
from segcam_jax.data import samples
from train import command
from train.data.texture_mnist import TextureMnist
from train.texture_mnist.config import TrainConfig
from train.texture_mnist.data import PLANTED, dataset_config

BIASED_SAMPLES = 200


def make_samples() -> samples.BundledSamples:
    """One held-out unbiased sample of each digit, and 200 held-out biased ones of digit 2."""
    plain = dataset_config(TrainConfig(variant="unbiased"), "test")
    planted = dataclasses.replace(
        dataset_config(TrainConfig(variant="biased"), "test"), samples=10 * BIASED_SAMPLES
    )
    return samples.BundledSamples(
        unbiased=TextureMnist(plain).batch(range(10)),
        biased=TextureMnist(planted).batch(range(PLANTED.digit, 10 * BIASED_SAMPLES, 10)),
    )


def write(out: Path = samples.PATH) -> None:
    """Writes the samples.

    Args:
        out: the file to write.
    """
    with files.whole_file(out) as temporary:
        samples.save(temporary, make_samples())


def main() -> None:
    """The command line."""
    with command.faults_in_one_line():
        tyro.cli(write, description=__doc__)


if __name__ == "__main__":
    main()
