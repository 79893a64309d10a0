"""How a study runs: compiled once, in chunks that fit the memory. Methods say what to ablate."""

from segcam_jax.engine.chunks import chunk_for as chunk_for
from segcam_jax.engine.compiled import compiled as compiled
from segcam_jax.engine.run import (
    ablation_scores as ablation_scores,
    baseline as baseline,
    sampled_moments as sampled_moments,
    value_and_gradient as value_and_gradient,
)
