"""Names of the package that are looked up when they are asked for.

Modules that need Flax, zarr or polars, so that `import segcam_jax` stays light; and for one version
what stood at the top until version 0.4.
"""

import importlib
import sys
import warnings
from typing import Any

_PACKAGE = "segcam_jax"
_MODULES = ("metrics", "models", "runs", "volumes")
_METHODS = """
METHODS Atlas ablation_atlas ablation_cam deep_feature_factorization eigen_cam eigen_grad_cam
fast_ablation_cam fem finer_cam full_grad full_gradient grad_cam grad_cam_pp gradient
group_ablation_cam guided_backprop guided_grad_cam hires_cam input_x_gradient instance_smooth_grad
integrated_gradients kpca_cam layer_cam recipro_cam score_cam screened_ablation_cam seg_grad_cam
shapley_cam smooth_grad xgrad_cam
""".split()
_TARGETS = """
component component_mask instances pixel predicted predicted_mask region stack whole_image
""".split()
_MOVED = {
    **dict.fromkeys(_METHODS, "methods"),
    **dict.fromkeys(_TARGETS, "targets"),
    **dict.fromkeys(("PROFILES", "Profile"), "heatmap"),
    **dict.fromkeys(("Plan", "replicate", "sliding_window"), "engine"),
}


def find(name: str) -> Any:
    """A module of the package, or what stood at its top; warns of the latter, once of each.

    Raises:
        AttributeError: if there is neither.
    """
    if name in _MODULES:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    if name not in _MOVED:
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")
    module = f"{_PACKAGE}.{_MOVED[name]}"
    warnings.warn(
        f"{_PACKAGE}.{name} is now {module}.{name} (`from {module} import {name}`); the old name "
        "goes with the next version",
        FutureWarning,
        stacklevel=2,
    )
    value = getattr(importlib.import_module(module), name)
    setattr(sys.modules[_PACKAGE], name, value)
    return value


def directory() -> list[str]:
    """The names of the package, without those of old."""
    return sorted({*vars(sys.modules[_PACKAGE]), *_MODULES})
