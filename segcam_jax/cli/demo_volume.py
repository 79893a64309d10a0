"""`segcam demo --volume`: a 3D network's lesions, each explained by modality, on a bundled case."""

import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files, viz
from segcam_jax.cli import commands, page_volume
from segcam_jax.cli.instances import computed, reported
from segcam_jax.data import nifti
from segcam_jax.data.samples.lesions import (
    FLAIR_ONLY,
    LESION,
    MODALITIES,
    T1_ONLY,
    BundledCase,
    load,
)
from segcam_jax.data.scans import ScanFiles
from segcam_jax.data.truths import TruthOptions
from segcam_jax.data.volume import Volume, canonical
from segcam_jax.extras import require
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.reports.instances import files_of, name_of
from segcam_jax.runs.instance_studies import MapStudy
from segcam_jax.runs.scans import ScanRun
from segcam_jax.sweep import store
from segcam_jax.types import InputError
from segcam_jax.viz.planted import marked_slices
from segcam_jax.volumes import SaliencyOptions, SegmentOptions, scan_inputs, segmentation

WEIGHTS = "lesions"
METHOD, TAP = "instance_smooth_grad", "input"
SAMPLES = 10
# Smaller ones are single voxels at a threshold, which no figure shows.
FEWEST_VOXELS = 3
CASE, RESULTS, PAGE, OVERVIEW = "case", "results", "index.html", "case.png"
INPUTS = tuple(f"{CASE}/{name}.nii.gz" for name in (*MODALITIES, "truth"))
FILES = (*INPUTS, OVERVIEW, PAGE)
NAMES = {"flair": "FLAIR", "t1": "T1"}
KINDS = {
    LESION: ("lesion", "#00D08A"),
    T1_ONLY: ("no lesion: dark in T1 alone", "#4DA6FF"),
    FLAIR_ONLY: ("no lesion: bright in FLAIR alone", "#FF9A3C"),
}


def demo(command: commands.Demo, line: Sequence[str]) -> None:
    """Writes the case, its maps and figures, and the page."""
    start = time.perf_counter()
    require("nibabel", extra="nifti")
    out = command.out or Path("segcam-demo-volume")
    store.RunFolder(out, _files.key_of("demo --volume"), FILES)
    case = load()
    files = _written(case, out)
    network = open_network(NetworkSpec.parse(WEIGHTS), OpenOptions(ndims=(scan_inputs.AXES,)))
    segmenting = segmentation.checked(
        SegmentOptions(
            min_voxels=FEWEST_VOXELS,
            truth=TruthOptions("instances"),
            roi=case.lesions.shape,
        ),
        network,
    )
    saliency = SaliencyOptions(methods=(METHOD,), options=(f"samples={SAMPLES}",))
    study = MapStudy.of(network, segmenting, saliency, MODALITIES)
    cases = tuple(scan_inputs.make_cases([files], segmenting))
    run = ScanRun(network, cases, MODALITIES, segmenting, study)
    stored = computed(run, out / RESULTS, files_of(study.pairs), stop_on_error=True)
    records = reported(stored, out / RESULTS, line)
    viz.save(_overview(case), out / OVERVIEW)
    facts = page_volume.Facts(
        records=records,
        planted=int(case.lesions.max()),
        figures=[_figure_of(record) for record in records],
        peaks=f"{RESULTS}/peaks.{name_of(METHOD, TAP)}.png",
        metadata=network.model.metadata,
        samples=SAMPLES,
        fewest=FEWEST_VOXELS,
        seconds=time.perf_counter() - start,
    )
    _files.write_bytes(out / PAGE, page_volume.render(facts).encode())
    place = (out / PAGE).resolve()
    print(f"The demo is in {out}; open {place.as_uri()}")
    if command.open:
        webbrowser.open(place.as_uri())


def _written(case: BundledCase, out: Path) -> ScanFiles:
    """The case as NIfTI files, as a scanner's would be."""
    paths = [out / file for file in INPUTS]
    parts = [*np.moveaxis(case.image, -1, 0), case.lesions.astype(np.int16)]
    for path, values in zip(paths, parts, strict=True):
        # Their digests are part of the run: a file that holds the case already stays.
        if not _holds(path, values):
            like = Volume(values.astype(np.float32), case.affine, path)
            nifti.write_map(path, values, like=like)
    return ScanFiles(CASE, (paths[0], paths[1]), paths[2])


def _holds(path: Path, values: np.ndarray) -> bool:
    """Whether a file is there, whole, and of these values."""
    if not path.is_file():
        return False
    try:
        return np.array_equal(nifti.read_volume(path).values, values.astype(np.float32))
    except InputError:
        return False


def _figure_of(record: dict[str, Any]) -> str:
    """The figure of an instance, beside its maps."""
    folder = Path(record["files"][0]).parent
    return f"{RESULTS}/{folder.as_posix()}/{name_of(METHOD, TAP)}.png"


def _overview(case: BundledCase) -> Any:
    """What is planted, on the slices that most of each kind is in."""
    spans = canonical(case.kind, case.affine)
    found = {kind: spans == kind for kind in KINDS}
    cuts = {int(where.sum(axis=(0, 1)).argmax()) for where in found.values() if where.any()}
    images = {}
    for channel, name in enumerate(MODALITIES):
        values = canonical(case.image[..., channel], case.affine)
        bright = np.quantile(values[values > 0], 0.998)
        images[NAMES[name]] = np.clip(values / bright, 0, 1)
    regions = {words: (colour, found[kind]) for kind, (words, colour) in KINDS.items()}
    return marked_slices(images, regions, sorted(cuts), title="What is planted in the case")
