"""Many explanations, resumed: a study of many images or scans, read ahead, computed, stored."""

from typing import TYPE_CHECKING

from segcam_jax.runs.job import Job as Job, OpenJob as OpenJob
from segcam_jax.runs.manifest import (
    device as device,
    versions as versions,
    weights_record as weights_record,
)
from segcam_jax.runs.stored_run import StoredRun as StoredRun, open_store as open_store
from segcam_jax.runs.work import StudyOptions as StudyOptions

if TYPE_CHECKING:
    from segcam_jax.runs.stored_scans import (
        StoredScans as StoredScans,
        open_scans as open_scans,
    )
else:

    def __getattr__(name):
        if name in ("StoredScans", "open_scans"):  # They import all that is known of scans.
            from segcam_jax.runs import stored_scans

            return getattr(stored_scans, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
