"""The demo's scan: a 3D network's lesions, each explained by modality, on a bundled case.

OUT/case/flair.nii.gz, t1.nii.gz, truth.nii.gz   the bundled case
OUT/lesions/...                                  its run, as `segcam instances` writes it
OUT/figures/case.png                             what is planted
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segcam_jax import viz
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
from segcam_jax.reports.scans import Record
from segcam_jax.runs.instance_studies import MapStudy
from segcam_jax.runs.scans import ScanRun
from segcam_jax.types import InputError
from segcam_jax.viz.slices import marked_slices
from segcam_jax.volumes import SaliencyOptions, SegmentOptions, scan_inputs, segmentation

WEIGHTS = "lesions"
METHOD, TAP = "instance_smooth_grad", "input"
SAMPLES = 10
# Smaller ones are single voxels at a threshold, which no figure shows.
FEWEST_VOXELS = 3
CASE, RUN = "case", "lesions"
STORES = (f"{RUN}/run.zarr",)
GROUPS = {"TP": "found (TP)", "FP": "false alarm (FP)", "FN": "missed (FN)"}
NAMES = {"flair": "FLAIR", "t1": "T1"}
KINDS = {
    LESION: ("lesion", "#00D08A"),
    T1_ONLY: ("no lesion: dark in T1 alone", "#4DA6FF"),
    FLAIR_ONLY: ("no lesion: bright in FLAIR alone", "#FF9A3C"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the run says of the lesions, in words and numbers of the page.

    Attributes:
        planted: lesions in the case.
        marked: instances that the network marks.
        found: those of them on a lesion.
        missed: lesions without an instance.
        larger: in how many of those found FLAIR's largest value exceeds T1's.
        ratio: by which factor, in the median.
        inside: in how many of those found the peak of FLAIR's map lies in the instance itself.
        table: the cells of a row per instance.
        figures: of each instance, and what it shows.
        peaks: the figure of all peaks.
        dice: the network's mean Dice; empty where its weights do not say.
        samples: noisy copies that a map is the mean of.
        fewest: voxels of the smallest instance that is shown.
    """

    planted: int
    marked: int
    found: int
    missed: int
    larger: int
    ratio: str
    inside: int
    table: list[list[str]]
    figures: list[tuple[str, str]]
    peaks: str
    dice: str
    samples: int
    fewest: int


def explain(out: Path, line: Sequence[str], *, overwrite: bool) -> Finding:
    """Explains the case and draws the figures; what is there already is not computed again.

    Args:
        out: the folder of the demo.
        line: the command line, for the manifest.
        overwrite: replace a run that is another.

    Raises:
        InputError: if another run is there.
    """
    require("nibabel", extra="nifti")
    case = load()
    files = _written(case, out)
    network = open_network(NetworkSpec.parse(WEIGHTS), OpenOptions(ndims=(scan_inputs.AXES,)))
    segmenting = segmentation.checked(
        SegmentOptions(
            min_voxels=FEWEST_VOXELS, truth=TruthOptions("instances"), roi=case.lesions.shape
        ),
        network,
    )
    saliency = SaliencyOptions(methods=(METHOD,), options=(f"samples={SAMPLES}",))
    study = MapStudy.of(network, segmenting, saliency, MODALITIES)
    cases = tuple(scan_inputs.make_cases([files], segmenting))
    run = ScanRun(network, cases, MODALITIES, segmenting, study)
    stored = computed(
        run, out / RUN, files_of(study.pairs), overwrite=overwrite, stop_on_error=True
    )
    records = reported(stored, out / RUN, line)
    viz.save(_overview(case), out / "figures" / "case.png")
    return finding(records, int(case.lesions.max()), network.model.metadata)


def _written(case: BundledCase, out: Path) -> ScanFiles:
    """The case as NIfTI files, as a scanner's would be."""
    paths = [out / CASE / f"{name}.nii.gz" for name in (*MODALITIES, "truth")]
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


# ---- what the numbers say


def finding(records: Sequence[Record], planted: int, about: Mapping[str, Any]) -> Finding:
    """What the page says."""
    groups = [record["instance"]["group"] for record in records]
    seen = [record for record in records if record["instance"]["group"] == "TP"]
    sizes = [{name: _magnitude(_of(record, name)) for name in NAMES} for record in seen]
    ratios = [size["flair"] / max(size["t1"], 1e-12) for size in sizes]
    dice = (about.get("scores") or {}).get("mean_dice")
    return Finding(
        planted=planted,
        marked=groups.count("TP") + groups.count("FP"),
        found=len(seen),
        missed=groups.count("FN"),
        larger=sum(size["flair"] > size["t1"] for size in sizes),
        ratio=f"{np.median(ratios):.1f}" if ratios else "",
        inside=sum(_of(each, "flair")["peak_positive_distance_mm"] == 0 for each in seen),
        table=[_cells(record) for record in records],
        figures=[(_figure_of(record), _words(record)) for record in records],
        peaks=f"{RUN}/peaks.{name_of(METHOD, TAP)}.png",
        dice=f"{dice:.2f}" if dice else "",
        samples=SAMPLES,
        fewest=FEWEST_VOXELS,
    )


def _of(record: Record, modality: str) -> Record:
    """What the record's first map of a modality says."""
    (found,) = [each for each in record["maps"][0]["modalities"] if each["modality"] == modality]
    return found


def _magnitude(values: Record) -> float:
    return max(values["peak_positive"], -values["peak_negative"])


def _cells(record: Record) -> list[str]:
    about = record["instance"]
    peaks = [
        f"{_of(record, name)[peak]:.3f}"
        for name in NAMES
        for peak in ("peak_positive", "peak_negative")
    ]
    seen = (
        f"{about['instance']}",
        _group(about),
        f"{about['voxels']}",
        f"{about['mean_probability']:.2f}",
    )
    return [*seen, *peaks]


def _group(about: Record) -> str:
    return GROUPS.get(about["group"]) or about["group"]


def _words(record: Record) -> str:
    about = record["instance"]
    return f"Instance {about['instance']}, {about['voxels']} voxels: {_group(about)}."


def _figure_of(record: Record) -> str:
    """The figure of an instance, beside its maps."""
    folder = Path(record["files"][0]).parent
    return f"{RUN}/{folder.as_posix()}/{name_of(METHOD, TAP)}.png"


# ---- what is planted


def _overview(case: BundledCase) -> Figure:
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
