"""How much saliency lies in the planted texture: the ProportionBias of Seg-Grad-CAM, as CSV.

    python -m train.texture_mnist_bias --weights texture-mnist-biased --out bias.csv

The script generates held-out samples of the digits that the network was trained with a bias of, as
its file says, and explains each sample's digit at layers, and at the input by integrated gradients
as the source does (baseline 0.5, 200 left steps). A row has the share of the positive saliency in
the biased half of the background, in its other half and in the digit, per area and in all.
Cost: a few seconds of one core a sample, nearly all of it for integrated gradients.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars
import rich

from segcam_jax import files, models
from segcam_jax.reports.planted_bias import PLACES, places_of, proportion_rows
from segcam_jax.runs import Job, StudyOptions
from segcam_jax.types import InputError
from train import command, reports
from train.data.texture_mnist import TextureMnist
from train.texture_mnist.quality import samples_of

_PATHS = ("baseline=0.5", "steps=200", "rule=left")


@dataclasses.dataclass(frozen=True)
class Proportions:
    """What to measure.

    Attributes:
        weights: bundled weights by name, or a .safetensors file.
        out: the CSV file to write.
        samples: how many samples to generate.
        method: methods that explain layers.
        tap: these layers.
        integrated_gradients: explain the input too.
    """

    weights: str
    out: Path = Path("runs/bias.csv")
    samples: int = 20
    method: tuple[str, ...] = ("grad_cam",)
    tap: tuple[str, ...] = ("encoder4", "bottleneck")
    integrated_gradients: bool = True

    def check(self) -> None:
        """Raises `InputError`, naming the setting, if one is none."""
        command.check_outputs(written=(self.out,))
        command.check_at_least(self, 1, "samples", most=command.MOST_AT_ONCE)


def measure(config: Proportions) -> list[dict[str, Any]]:
    """Writes the rows; returns them.

    Raises:
        InputError: if the network has no bias of its own, or sees none of the digits.
    """
    config.check()
    model = models.load(config.weights)
    data = samples_of(model, config.weights, 10 * config.samples)
    digits = sorted(bias.digit for bias in data.bias)
    if not digits:
        raise InputError(f"weights {config.weights!r} tell of no bias; give those of a biased run")
    indices = [n for n in range(10 * config.samples) if n % 10 in digits][: config.samples]
    samples = TextureMnist(data).batch(indices)
    methods = (*config.method, *(["integrated_gradients"] if config.integrated_gradients else []))
    options = StudyOptions(
        weights=config.weights,
        taps=config.tap,
        methods=methods,
        options=tuple(f"integrated_gradients.{each}" for each in _PATHS)
        if config.integrated_gradients
        else (),
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lines = ["image,class"]
        for number, (index, image) in enumerate(zip(indices, samples.image, strict=True)):
            files.write_array(place / f"{number:05}.npy", image)
            lines.append(f"{number:05}.npy,{index % 10}")
        files.write_bytes(place / "list.csv", "\n".join(lines).encode())
        run = Job(options, (place / "list.csv",), place / "run.zarr", devices=1).open().run()
        there = run.table.filter(run.table["error"].is_null())
        where = places_of(samples)
        places = {row: where[item] for row, item in there.select("row", "item").rows()}
        if not places:
            raise InputError(f"the network of {config.weights!r} sees none of the digits {digits}")
        rows = proportion_rows(run, places)
    reports.write_table(config.out, polars.DataFrame(rows))
    for method in dict.fromkeys((row["method"], row["tap"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["tap"]) == method]
        shares = [np.mean([row[f"{place}_per_area"] for row in chosen]) for place in PLACES]
        rich.print(*method, *(f"{name} {x:.2f}" for name, x in zip(PLACES, shares, strict=True)))
    rich.print(f"{len(places)} of {len(indices)} samples: {config.out}")
    return rows


def main() -> None:
    """The command line."""
    command.run(measure, Proportions, __doc__)


if __name__ == "__main__":
    main()
