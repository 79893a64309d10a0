"""Metrics of explanations: faithfulness, localisation, robustness, sanity checks; and of networks.

    from segcam_jax import metrics

    metrics.deletion(split, params, x, target, explanation.map)      # a curve and its area
    metrics.METRICS                                                  # all, with their direction

What each kind is given stands in `metrics.registry`.
"""

from segcam_jax.metrics import segmentation as segmentation
from segcam_jax.metrics.approximation import (
    ApproximationError as ApproximationError,
    approximation_error as approximation_error,
)
from segcam_jax.metrics.complexity import (
    effective_complexity as effective_complexity,
    entropy as entropy,
    sparseness as sparseness,
)
from segcam_jax.metrics.controls import mask_shaped as mask_shaped, random_map as random_map
from segcam_jax.metrics.correlation import (
    SensitivityN as SensitivityN,
    faithfulness_correlation as faithfulness_correlation,
    faithfulness_estimate as faithfulness_estimate,
    monotonicity_correlation as monotonicity_correlation,
    mu_fidelity as mu_fidelity,
    sensitivity_n as sensitivity_n,
)
from segcam_jax.metrics.deletion import Curve as Curve, deletion as deletion, insertion as insertion
from segcam_jax.metrics.dense import (
    DenseCurve as DenseCurve,
    OffTarget as OffTarget,
    Sufficiency as Sufficiency,
    dice_deletion as dice_deletion,
    dice_insertion as dice_insertion,
    iou_drop as iou_drop,
    off_target_drop as off_target_drop,
    sufficiency as sufficiency,
)
from segcam_jax.metrics.drop import (
    Arcc as Arcc,
    Drop as Drop,
    arcc as arcc,
    average_drop as average_drop,
)
from segcam_jax.metrics.evidence import (
    ablation_matrix as ablation_matrix,
    evidence_shares as evidence_shares,
    segment_ablation as segment_ablation,
    segment_evidence as segment_evidence,
)
from segcam_jax.metrics.features import (
    FIRST_ORDER as FIRST_ORDER,
    TEXTURE as TEXTURE,
    instance_features as instance_features,
)
from segcam_jax.metrics.infidelity import completeness as completeness, infidelity as infidelity
from segcam_jax.metrics.lesions import (
    LesionScores as LesionScores,
    adjusted_iou as adjusted_iou,
    lesion_scores as lesion_scores,
    surface_distance as surface_distance,
)
from segcam_jax.metrics.localisation import (
    attribution_localisation as attribution_localisation,
    auc as auc,
    mass_accuracy as mass_accuracy,
    per_instance as per_instance,
    pointing_game as pointing_game,
    rank_accuracy as rank_accuracy,
    top_k_intersection as top_k_intersection,
)
from segcam_jax.metrics.occlusion import (
    OcclusionStudy as OcclusionStudy,
    Patch as Patch,
    Quality as Quality,
    occlusion_study as occlusion_study,
)
from segcam_jax.metrics.randomisation import (
    Randomisation as Randomisation,
    efficient_mprt as efficient_mprt,
    parameter_randomisation as parameter_randomisation,
    random_class as random_class,
)
from segcam_jax.metrics.rank import rank_correlation as rank_correlation
from segcam_jax.metrics.registry import METRICS as METRICS, Metric as Metric, find as find
from segcam_jax.metrics.road import Road as Road, impute as impute, road as road
from segcam_jax.metrics.robustness import (
    average_sensitivity as average_sensitivity,
    local_lipschitz as local_lipschitz,
    max_sensitivity as max_sensitivity,
    relative_input_stability as relative_input_stability,
    relative_output_stability as relative_output_stability,
    relative_representation_stability as relative_representation_stability,
)
from segcam_jax.metrics.saliency import region_shares as region_shares
from segcam_jax.metrics.segments import (
    irof as irof,
    region_perturbation as region_perturbation,
    selectivity as selectivity,
    superpixels as superpixels,
)
from segcam_jax.metrics.similarity import correlation as correlation, ssim as ssim
