"""Where the saliency of a planted bias falls, of both networks on all bundled samples.

python -m benchmarks.planted_bias
"""

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import segcam_jax
from segcam_jax import files
from segcam_jax.data.samples import BUNDLED_SAMPLES, load
from segcam_jax.reports.planted_bias import bias_rows, places_of
from segcam_jax.runs import Job, StudyOptions, device, versions, weights_record
from segcam_jax.types import TargetError

RESULTS = Path(__file__).parent / "results"
WEIGHTS = {"biased": "texture-mnist-biased", "unbiased": "texture-mnist-unbiased"}
BIASED_CLASS = 2
# CAMs of one gradient, exact ablations, and those that decompose the activation.
METHODS = (
    *("grad_cam", "hires_cam", "grad_cam_pp", "xgrad_cam", "layer_cam"),
    *("ablation_cam", "fast_ablation_cam", "eigen_cam", "eigen_grad_cam"),
)
TAPS = ("encoder4", "bottleneck", "decoder1")
_PROFILE = "segcam_jax"


def measure(
    weights: str,
    *,
    class_index: int = BIASED_CLASS,
    methods: Sequence[str] = METHODS,
    taps: Sequence[str] = TAPS,
    samples: int = BUNDLED_SAMPLES,
) -> dict[str, Any]:
    """The study of a network, as JSON holds it.

    Args:
        weights: its name, or a file.
        class_index: the biased class.
        methods: names of methods.
        taps: names of taps.
        samples: how many of the bundled ones.
    """
    some = jax.tree.map(lambda leaf: leaf[:samples], load().biased)
    options = StudyOptions(
        weights=weights, taps=tuple(taps), methods=tuple(methods), classes=(f"{class_index}",)
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for index, image in enumerate(some.image):
            files.write_array(place / "images" / f"{index:03}.npy", image)
        job = Job(options, (place / "images",), place / "run.zarr", devices=1).open()
        run = job.run()
        there = run.table["row"].filter(run.table["error"].is_null())
        if not len(there):
            raise TargetError(
                f"class {class_index} is predicted nowhere in {samples} samples; these weights "
                "cannot be studied for it"
            )
        places = dict(enumerate(places_of(some)))
        rows = bias_rows(run, {row: places[row] for row in there}, profile=_PROFILE)
    numbers = [
        {key: _number(value) for key, value in dataclasses.asdict(row).items()} for row in rows
    ]
    return {
        "dataset": "texture_mnist",
        "versions": versions(),
        "device": device(),
        "segcam_jax": segcam_jax.__version__,
        "weights": weights_record(job.network),
        "bias": {
            "class_index": class_index,
            "profile": _PROFILE,
            "target": "sum of logits over the pixels predicted as the class",
            "samples": len(there),
            "left_out": samples - len(there),
            "rows": numbers,
        },
    }


def _number(value: Any) -> Any:
    """A number that JSON can hold; None for NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    for name, weights in WEIGHTS.items():
        files.write_json(RESULTS / f"bias_{name}.json", measure(weights))
