"""Many explanations, resumed: a study of many images or scans, read ahead, computed, stored."""

from segcam_jax.runs.stored_run import StoredRun as StoredRun, open_store as open_store
from segcam_jax.runs.stored_scans import StoredScans as StoredScans, open_scans as open_scans
