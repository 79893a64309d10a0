"""Metrics: segmentation quality, faithfulness and localisation of explanations, sanity checks."""

from segcam_jax.metrics import segmentation as segmentation
from segcam_jax.metrics.approximation import (
    ApproximationError as ApproximationError,
    approximation_error as approximation_error,
)
from segcam_jax.metrics.lesions import (
    LesionScores as LesionScores,
    adjusted_iou as adjusted_iou,
    lesion_scores as lesion_scores,
    surface_distance as surface_distance,
)
from segcam_jax.metrics.rank import rank_correlation as rank_correlation
from segcam_jax.metrics.saliency import region_shares as region_shares
