"""How a study runs: what is computed, compiled once, in chunks that fit the memory."""

from segcam_jax.engine.ablation import (
    ablation_drops as ablation_drops,
    ablation_scores as ablation_scores,
    baseline as baseline,
    change_readings as change_readings,
    read_of as read_of,
    readings as readings,
    score_of as score_of,
)
from segcam_jax.engine.atlas import (
    linear_target as linear_target,
    output_changes as output_changes,
    read_changes as read_changes,
)
from segcam_jax.engine.compiled import compiled as compiled, compiled_function as compiled_function
from segcam_jax.engine.devices import device_mesh as device_mesh, replicate as replicate
from segcam_jax.engine.execution import NAIVE as NAIVE, Execution as Execution
from segcam_jax.engine.gradients import (
    bias_gradients as bias_gradients,
    rectified_gradient as rectified_gradient,
    region_gradients as region_gradients,
    sampled_moments as sampled_moments,
    value_and_gradient as value_and_gradient,
)
from segcam_jax.engine.many_images import (
    Call as Call,
    check_call as check_call,
    explain_batch as explain_batch,
    explain_together as explain_together,
    images_at_once as images_at_once,
    predict_together as predict_together,
)
from segcam_jax.engine.many_targets import (
    explain_classes as explain_classes,
    explain_targets as explain_targets,
)
from segcam_jax.engine.plan import Plan as Plan
from segcam_jax.engine.planning import plan_of as plan_of
from segcam_jax.engine.score import encode as encode
from segcam_jax.engine.sliding import sliding_window as sliding_window
