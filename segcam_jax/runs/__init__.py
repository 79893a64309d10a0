"""Many explanations, resumed: a study of many images or scans, read ahead, computed, stored."""

import importlib
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
    from segcam_jax.runs.measures import Measure as Measure
    from segcam_jax.runs.scores import CONTROL as CONTROL, Scoring as Scoring
    from segcam_jax.runs.stored_scans import StoredScans as StoredScans, open_scans as open_scans
else:
    # They import all that is known of scans, or of metrics.
    _LATER = {
        **dict.fromkeys(("StoredScans", "open_scans"), "stored_scans"),
        **dict.fromkeys(("CONTROL", "Scoring"), "scores"),
        "Measure": "measures",
    }

    def __getattr__(name):
        if name in _LATER:
            return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
