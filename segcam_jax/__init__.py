"""Exact, fast explanations of segmentation networks and classifiers for any JAX model.

    import segcam_jax as segcam

    explanation = segcam.explain(model, x, tap="bottleneck", target=2, method="ablation_cam")
    segcam.show(explanation, x)

Or part by part: name activations with `tap`, cut the model with `split`, choose a target, explain:

    split = segcam.split(fn, "bottleneck", params, x)  # fn(params, x) -> logits
    target = segcam.targets.predicted(fn(params, x), class_index=2)
    explanation = segcam.methods.ablation_cam(split, params, x, target)
    picture = segcam.heatmap(explanation.map, x.shape[:-1])

What is explained stands in `segcam.targets`, how in `segcam.methods`; `segcam.metrics` measures,
`segcam.models` has networks with their weights, `segcam.volumes` explains instances in scans, and
`segcam.runs` opens what a command has stored.

Conventions: channels last. One example per call; batching is `jax.vmap`. Images are float32 in
[0, 1] before the model's own normalisation. Logits are `h w k`, maps `h w` (3D: `d h w`), float32,
signed and raw: nothing is normalised before `heatmap`. PRNG keys are explicit. The same input gives
the same map for every chunk size and every number of devices.
"""

from typing import TYPE_CHECKING

from segcam_jax import _process as _process, methods as methods, targets as targets
from segcam_jax.adapters import (
    from_equinox as from_equinox,
    from_function as from_function,
    from_keras as from_keras,
    from_linen as from_linen,
    from_nnx as from_nnx,
    from_torch as from_torch,
)
from segcam_jax.api import explain as explain, show as show
from segcam_jax.engine import (
    NAIVE as NAIVE,
    Execution as Execution,
    device_mesh as device_mesh,
    explain_batch as explain_batch,
    explain_classes as explain_classes,
    explain_targets as explain_targets,
)
from segcam_jax.heatmap import heatmap as heatmap
from segcam_jax.methods import explain_plan as explain_plan
from segcam_jax.taps import (
    Split as Split,
    bottleneck as bottleneck,
    list_taps as list_taps,
    split as split,
    tap as tap,
)
from segcam_jax.targets import Target as Target
from segcam_jax.types import (
    Explanation as Explanation,
    InputError as InputError,
    SegcamError as SegcamError,
    TapError as TapError,
    TargetError as TargetError,
)

if TYPE_CHECKING:
    from segcam_jax import (
        metrics as metrics,
        models as models,
        runs as runs,
        viz as viz,
        volumes as volumes,
    )
else:
    import importlib as _importlib

    # They import Flax, zarr, polars and matplotlib.
    _LATER = ("metrics", "models", "runs", "viz", "volumes")

    def __getattr__(name):
        if name in _LATER:
            return _importlib.import_module(f"{__name__}.{name}")
        there = [each.__name__ for each in (methods, targets) if hasattr(each, name)]
        said = f"; it is {there[0]}.{name}" if there else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{said}")

    def __dir__():
        return sorted({*globals(), *_LATER})


__version__ = "0.13.0"
