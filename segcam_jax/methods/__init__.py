"""Methods, all of one signature: `method(split, params, x, target, **options) -> Explanation`.

`split` is the model, cut at the tap to explain; `params` its parameters; `x` one example; `target`
the score to explain. `execution` says how the engine runs a method, and changes no result.
"""

from segcam_jax.methods.ablation import (
    ablation_cam as ablation_cam,
    fast_ablation_cam as fast_ablation_cam,
)
from segcam_jax.methods.approximate import (
    group_ablation_cam as group_ablation_cam,
    screened_ablation_cam as screened_ablation_cam,
)
from segcam_jax.methods.atlas import Atlas as Atlas, ablation_atlas as ablation_atlas
from segcam_jax.methods.augmented import aug_smooth as aug_smooth
from segcam_jax.methods.contrast_cams import finer_cam as finer_cam, shapley_cam as shapley_cam
from segcam_jax.methods.eigen_cams import eigen_cam as eigen_cam, eigen_grad_cam as eigen_grad_cam
from segcam_jax.methods.factorization import (
    Factorization as Factorization,
    deep_feature_factorization as deep_feature_factorization,
)
from segcam_jax.methods.feature_cams import (
    fem as fem,
    given_weights as given_weights,
    kpca_cam as kpca_cam,
)
from segcam_jax.methods.full_grad import (
    FullGradient as FullGradient,
    full_grad as full_grad,
    full_gradient as full_gradient,
)
from segcam_jax.methods.gradient_cams import (
    grad_cam as grad_cam,
    grad_cam_pp as grad_cam_pp,
    hires_cam as hires_cam,
    layer_cam as layer_cam,
    xgrad_cam as xgrad_cam,
)
from segcam_jax.methods.guided import (
    guided_backprop as guided_backprop,
    guided_grad_cam as guided_grad_cam,
)
from segcam_jax.methods.instances import instance_smooth_grad as instance_smooth_grad
from segcam_jax.methods.planning import explain_plan as explain_plan
from segcam_jax.methods.registry import (
    METHODS as METHODS,
    Method as Method,
    MethodCall as MethodCall,
    find as find,
    find_all as find_all,
    parse_calls as parse_calls,
)
from segcam_jax.methods.saliency import (
    gradient as gradient,
    input_x_gradient as input_x_gradient,
    integrated_gradients as integrated_gradients,
    smooth_grad as smooth_grad,
)
from segcam_jax.methods.score_cam import recipro_cam as recipro_cam, score_cam as score_cam

seg_grad_cam = grad_cam
