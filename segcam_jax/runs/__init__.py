"""Many explanations, resumed: a study of many images, read ahead, computed in batches, stored."""

from segcam_jax.runs.stored_run import StoredRun as StoredRun, open_store as open_store
