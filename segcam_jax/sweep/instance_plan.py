"""The plan of a run over instances: its files and their names, its records, checked beforehand."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.data import nifti
from segcam_jax.data.instances import GROUPS, Instance, Instances, measured
from segcam_jax.methods import METHODS
from segcam_jax.networks.layers import check_map
from segcam_jax.networks.network import Network
from segcam_jax.sweep import store
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError
from segcam_jax.volumes import (
    SaliencyOptions,
    ScanInput,
    Segmented,
    SegmentOptions,
    read_input,
    segmentation,
)
from segcam_jax.volumes.scan_inputs import VolumeCase, slug

TABLE = "instances.csv"
ALL = "all"  # what a map of all modalities together is called
COLUMNS = (
    "scan",
    "instance",
    "group",
    "voxels",
    "volume_mm3",
    "touches_border",
    "iou",
    "mean_probability",
    "method",
    "tap",
    "modality",
    "score",
    "peak_positive",
    "peak_positive_distance_mm",
    "peak_negative",
    "peak_negative_distance_mm",
    "mean_inside",
)


@dataclasses.dataclass(frozen=True, eq=False)
class InstancePlan:
    """A run that can be carried out.

    Attributes:
        network: what is explained.
        cases: the scans.
        modalities: what their volumes are called.
        segmenting: how instances are found.
        explaining: how they are explained.
        pairs: (method, tap).
        groups: of instances to explain; empty: all.
        key: digest of all that determines the maps, but for the contents of the scans.
    """

    network: Network
    cases: tuple[VolumeCase, ...]
    modalities: tuple[str, ...]
    segmenting: SegmentOptions
    explaining: SaliencyOptions
    pairs: tuple[tuple[str, str], ...]
    groups: tuple[str, ...]
    key: str

    @property
    def class_index(self) -> int:
        """The explained class."""
        return segmentation.class_of(self.segmenting, self.network)

    def files(self) -> list[str]:
        """What the run writes, as far as it is known before anything is segmented."""
        each = [file for case in self.cases for file in self.case_files(case)]
        figures = [f"peaks.{name_of(*pair)}.png" for pair in self.pairs]
        return [*each, TABLE, *figures, store.MANIFEST]

    def case_files(self, case: VolumeCase) -> list[str]:
        """What the segmentation of a scan writes, its record last."""
        names = [*self.volume_files(case), *self.network_files(case), store.RECORD]
        return list(dict.fromkeys(f"{case.name}/{name}" for name in names))

    def volume_files(self, case: VolumeCase) -> list[str]:
        """What the segmentation of a scan writes on the grid of its file, in its folder."""
        names = ["probability.nii.gz", "instances.nii.gz"]
        return names + (["missed.nii.gz"] if case.files.truth is not None else [])

    def network_files(self, case: VolumeCase) -> list[str]:
        """The same on the network's grid, from which a run goes on.

        Those on the file's grid, where nothing is resampled: a turn is undone exactly.
        """
        names = self.volume_files(case)
        return [f"network-{name}" for name in names] if self.segmenting.match_spacing else names

    def map_files(self, case: VolumeCase, instance: Instance) -> dict[tuple[str, str, str], str]:
        """Names of an instance's maps by (method, tap, modality)."""
        return {
            (method, tap, modality): (
                f"{folder_of(case, instance)}/{name_of(method, tap)}.{modality}.nii.gz"
            )
            for method, tap in self.pairs
            for modality in modalities_of(method, self.modalities)
        }

    def figure_files(self, case: VolumeCase, instance: Instance) -> dict[tuple[str, str], str]:
        """Names of an instance's figures by (method, tap)."""
        folder = folder_of(case, instance)
        return {pair: f"{folder}/{name_of(*pair)}.png" for pair in self.pairs}


def name_of(method: str, tap: str) -> str:
    """A method at a tap, for file names."""
    return method if METHODS[method].explains == "input" else f"{method}.{slug(tap)}"


def folder_of(case: VolumeCase, instance: Instance) -> str:
    """An instance's folder."""
    return f"{case.name}/instance-{instance.label:03d}"


def modalities_of(method: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """What maps a method makes: one per modality, or one of all."""
    return tuple(modalities) if METHODS[method].per_channel else (ALL,)


def make_plan(
    network: Network,
    cases: Sequence[VolumeCase],
    modalities: Sequence[str],
    segmenting: SegmentOptions,
    explaining: SaliencyOptions,
    *,
    groups: Sequence[str] = (),
    version: str,
) -> InstancePlan:
    """Checks methods and taps, and takes the digest of what determines the maps.

    Raises:
        SegcamError: if a tap, method or number is none; before anything is written.
    """
    _check(explaining, len(modalities))
    window = (*segmenting.window, len(modalities))
    taps = tuple(dict.fromkeys(explaining.taps)) or (network.bottleneck(window),)
    pairs = tuple(
        (method, tap)
        for method in explaining.methods
        for tap in ((INPUT,) if METHODS[method].explains == "input" else taps)
    )
    for _, tap in pairs:
        check_map(tap, network.split(tap, window).activation)
    plan = segmentation_plan(network, cases, modalities, segmenting, groups=groups, version=version)
    key = _files.key_of([plan.key, dataclasses.asdict(explaining), pairs])
    return dataclasses.replace(plan, explaining=explaining, pairs=pairs, key=key)


def segmentation_plan(
    network: Network,
    cases: Sequence[VolumeCase],
    modalities: Sequence[str],
    segmenting: SegmentOptions,
    *,
    groups: Sequence[str] = (),
    version: str,
) -> InstancePlan:
    """The plan without any method: instances are found, not explained.

    Raises:
        InputError: if a group is unknown.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise InputError(f"group {unknown[0]!r} is unknown; choose from {', '.join(GROUPS)}")
    # Files are held to the records of their scans, so that one may be mended without the others.
    names = [[case.name, case.files.truth is not None] for case in cases]
    what = [dataclasses.asdict(segmenting), list(groups)]
    key = _files.key_of([version, network.key, names, list(modalities), what])
    return InstancePlan(
        network,
        tuple(cases),
        tuple(modalities),
        segmenting,
        SaliencyOptions(methods=()),
        (),
        tuple(groups),
        key,
    )


def _check(options: SaliencyOptions, channels: int) -> None:
    if not options.methods:
        raise InputError("no method was given; `segcam methods` lists them")
    for method in options.methods:
        if (samples := options.value(method, "samples")) is not None and samples < 1:
            raise InputError(f"`samples` is {samples}; give at least 1")
        if (sigma := options.value(method, "sigma")) is not None and sigma < 0:
            raise InputError(f"`sigma` is {sigma}; give a number that is not negative")
        if options.legacy_divisor and options.value(method, "aggregation") == "max":
            raise InputError("the legacy divisor is for aggregation mean; a maximum is not divided")
    if not 0 <= options.channel < channels:
        raise InputError(f"modality {options.channel} of {channels}; count from 0")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"`seed` is {options.seed}; give a number from 0 to below 2^32")


def values_of(instance: Instance) -> dict[str, Any]:
    """An instance as JSON holds it."""
    values = dataclasses.asdict(instance)
    return {**values, "iou": None if np.isnan(instance.iou) else instance.iou}


def instance_of(values: Mapping[str, Any]) -> Instance:
    """What `values_of` made, back."""
    box = tuple((int(a), int(b)) for a, b in values["box"])
    iou = float("nan") if values["iou"] is None else values["iou"]
    return Instance(**{**values, "box": box, "iou": iou})


def restored(plan: InstancePlan, case: VolumeCase, out: Path) -> tuple[ScanInput, Segmented]:
    """A scan, read again, and what the files of its segmentation say of it."""
    given = read_input(case.files, plan.segmenting, plan.modalities)
    scan = given.scan
    read = [nifti.read_volume(out / case.name / file) for file in plan.network_files(case)]
    on_file = not plan.segmenting.match_spacing
    probability, *labels = [scan.turn.of(v.values) if on_file else v.values for v in read]
    sides: list[Instances] = [
        measured(each.astype(np.int32), spacing=scan.grid.spacing) for each in labels
    ]
    return given, Segmented(probability, sides[0], sides[1] if len(sides) > 1 else None)


def rows(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The table: a row per instance, method, tap and modality, in the order of `COLUMNS`."""
    return [
        [{**record["instance"], **maps, **numbers}.get(column) for column in COLUMNS]
        for record in records
        for maps in record["maps"]
        for numbers in maps["modalities"]
    ]
