"""Many explanations, resumed: a study of many images or scans, read ahead, computed, stored."""

from segcam_jax.runs.job import Job as Job, OpenJob as OpenJob
from segcam_jax.runs.manifest import (
    device as device,
    versions as versions,
    weights_record as weights_record,
)
from segcam_jax.runs.stored_run import StoredRun as StoredRun, open_store as open_store
from segcam_jax.runs.stored_scans import StoredScans as StoredScans, open_scans as open_scans
from segcam_jax.runs.work import StudyOptions as StudyOptions
