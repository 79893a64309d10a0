"""Exact, fast explanations of segmentation networks and classifiers for any JAX model.

    import segcam_jax as segcam

    explanation = segcam.explain(model, x, tap="bottleneck", target=2, method="ablation_cam")
    segcam.show(explanation, x)

Or part by part: name activations with `tap`, cut the model with `split`, choose a target, explain:

    split = segcam.split(fn, "bottleneck", params, x)  # fn(params, x) -> logits
    target = segcam.predicted(fn(params, x), class_index=2)
    explanation = segcam.ablation_cam(split, params, x, target)
    picture = segcam.heatmap(explanation.map, x.shape[:-1])

Conventions: channels last. One example per call; batching is `jax.vmap`. Images are float32 in
[0, 1] before the model's own normalisation. Logits are `h w k`, maps `h w` (3D: `d h w`), float32,
signed and raw: nothing is normalised before `heatmap`. PRNG keys are explicit. The same input gives
the same map for every chunk size and every number of devices.
"""

from segcam_jax.adapters import (
    from_equinox as from_equinox,
    from_function as from_function,
    from_linen as from_linen,
    from_nnx as from_nnx,
)
from segcam_jax.api import explain as explain, show as show
from segcam_jax.components import component_mask as component_mask
from segcam_jax.engine import (
    NAIVE as NAIVE,
    Execution as Execution,
    Plan as Plan,
    device_mesh as device_mesh,
    explain_batch as explain_batch,
    explain_classes as explain_classes,
    explain_targets as explain_targets,
    replicate as replicate,
    sliding_window as sliding_window,
)
from segcam_jax.heatmap import PROFILES as PROFILES, Profile as Profile, heatmap as heatmap
from segcam_jax.methods import (
    METHODS as METHODS,
    Atlas as Atlas,
    ablation_atlas as ablation_atlas,
    ablation_cam as ablation_cam,
    deep_feature_factorization as deep_feature_factorization,
    eigen_cam as eigen_cam,
    eigen_grad_cam as eigen_grad_cam,
    explain_plan as explain_plan,
    fast_ablation_cam as fast_ablation_cam,
    fem as fem,
    finer_cam as finer_cam,
    full_grad as full_grad,
    full_gradient as full_gradient,
    grad_cam as grad_cam,
    grad_cam_pp as grad_cam_pp,
    gradient as gradient,
    group_ablation_cam as group_ablation_cam,
    guided_backprop as guided_backprop,
    guided_grad_cam as guided_grad_cam,
    hires_cam as hires_cam,
    input_x_gradient as input_x_gradient,
    instance_smooth_grad as instance_smooth_grad,
    integrated_gradients as integrated_gradients,
    kpca_cam as kpca_cam,
    layer_cam as layer_cam,
    recipro_cam as recipro_cam,
    score_cam as score_cam,
    screened_ablation_cam as screened_ablation_cam,
    seg_grad_cam as seg_grad_cam,
    shapley_cam as shapley_cam,
    smooth_grad as smooth_grad,
    xgrad_cam as xgrad_cam,
)
from segcam_jax.outputs import predicted_mask as predicted_mask
from segcam_jax.taps import (
    Split as Split,
    bottleneck as bottleneck,
    list_taps as list_taps,
    split as split,
    tap as tap,
)
from segcam_jax.targets import (
    Target as Target,
    component as component,
    instances as instances,
    pixel as pixel,
    predicted as predicted,
    region as region,
    stack as stack,
    whole_image as whole_image,
)
from segcam_jax.types import (
    Explanation as Explanation,
    InputError as InputError,
    SegcamError as SegcamError,
    TapError as TapError,
    TargetError as TargetError,
)

__version__ = "0.5.0"
