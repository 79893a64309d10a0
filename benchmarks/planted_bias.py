"""Where the saliency of a planted bias falls, of both networks on all bundled samples.

python -m benchmarks.planted_bias
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import segcam_jax
from segcam_jax import _files
from segcam_jax.data.samples import BUNDLED_SAMPLES, load
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec
from segcam_jax.runs.manifest import device, versions, weights_record
from segcam_jax.sweep.bias import bias_study

RESULTS = Path(__file__).parent / "results"
WEIGHTS = {"biased": "texture-mnist-biased", "unbiased": "texture-mnist-unbiased"}
BIASED_CLASS = 2
# CAMs of one gradient, exact ablations, and those that decompose the activation.
METHODS = (
    *("grad_cam", "hires_cam", "grad_cam_pp", "xgrad_cam", "layer_cam"),
    *("ablation_cam", "fast_ablation_cam", "eigen_cam", "eigen_grad_cam"),
)
TAPS = ("bottleneck", "decoder1")


def measure(
    weights: str,
    *,
    class_index: int = BIASED_CLASS,
    methods: Sequence[str] = METHODS,
    samples: int = BUNDLED_SAMPLES,
) -> dict[str, Any]:
    """The study of a network, as JSON holds it.

    Args:
        weights: its name, or a file.
        class_index: the biased class.
        methods: names of methods.
        samples: how many of the bundled ones.
    """
    network = open_network(NetworkSpec.parse(weights))
    some = jax.tree.map(lambda leaf: leaf[:samples], load().biased)
    study = bias_study(network, some, class_index=class_index, methods=methods, taps=TAPS)
    rows = [
        {key: _number(value) for key, value in dataclasses.asdict(row).items()}
        for row in study.rows
    ]
    return {
        "dataset": "texture_mnist",
        "versions": versions(),
        "device": device(),
        "segcam_jax": segcam_jax.__version__,
        "weights": weights_record(network),
        "bias": {
            "class_index": class_index,
            "profile": study.profile,
            "target": "sum of logits over the pixels predicted as the class",
            "samples": study.samples,
            "left_out": study.left_out,
            "rows": rows,
        },
    }


def _number(value: Any) -> Any:
    """A number that JSON can hold; None for NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    for name, weights in WEIGHTS.items():
        _files.write_json(RESULTS / f"bias_{name}.json", measure(weights))
