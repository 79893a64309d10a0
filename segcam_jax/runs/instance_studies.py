"""What is computed of every instance of a run over scans: maps by methods, or its context."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segcam_jax import taps
from segcam_jax.data import nifti
from segcam_jax.data.instances import GROUPS, Instance
from segcam_jax.data.volume import spacing_of
from segcam_jax.engine import Execution
from segcam_jax.engine.sliding import Tiling, tiling
from segcam_jax.methods import METHODS, MethodCall
from segcam_jax.networks.layers import check_map
from segcam_jax.networks.network import Network
from segcam_jax.runs import cost
from segcam_jax.runs.manifest import Kind
from segcam_jax.runs.scans import Row
from segcam_jax.runs.store import Variable
from segcam_jax.runs.stored_scans import map_name
from segcam_jax.taps import INPUT, Split
from segcam_jax.types import InputError
from segcam_jax.volumes import (
    Crop,
    SaliencyOptions,
    ScanInput,
    Segmented,
    SegmentOptions,
    context_curve,
    crop_around,
    explain_instance,
    measure,
    scale_of,
    stitched,
    target_of,
)
from segcam_jax.volumes.context import SAME_SPACING
from segcam_jax.volumes.instance_maps import passes
from segcam_jax.volumes.scan_inputs import VolumeCase
from segcam_jax.volumes.segmentation import class_of

ALL = "all"  # what a map of all modalities together is called
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class MapStudy:
    """Maps of every instance by methods at taps.

    Attributes:
        pairs: (method, tap).
        groups: of instances to explain; empty: all.
    """

    network: Network
    segmenting: SegmentOptions
    explaining: SaliencyOptions
    modalities: tuple[str, ...]
    pairs: tuple[Pair, ...]
    groups: tuple[str, ...] = ()
    kind: Kind = "instances"

    @classmethod
    def of(
        cls,
        network: Network,
        segmenting: SegmentOptions,
        explaining: SaliencyOptions,
        modalities: tuple[str, ...],
        groups: tuple[str, ...] = (),
    ) -> "MapStudy":
        """The study, checked; raises `SegcamError` if a tap, method, group or number is none."""
        check_groups(groups)
        _check(explaining, len(modalities))
        window = (*segmenting.window, len(modalities))
        taps = tuple(dict.fromkeys(explaining.taps)) or (network.bottleneck(window),)
        pairs = tuple(
            (method, tap)
            for method in explaining.methods
            for tap in ((INPUT,) if METHODS[method].explains == "input" else taps)
        )
        if explaining.taps and all(tap == INPUT for _, tap in pairs):
            raise InputError(
                f"--tap needs a method of activations; {' and '.join(explaining.methods)} explain "
                "the input"
            )
        voxel = np.zeros(segmenting.window, bool)
        voxel[tuple(extent // 2 for extent in voxel.shape)] = True
        least = target_of(voxel, 0, explaining.of, tight=False, meaning=network.meaning)
        for method, tap in pairs:
            if explaining.field == "stitched" and tap != INPUT:
                raise InputError(
                    f"--field stitched explains the input, and {method} looks at {tap!r}, which "
                    "every window has of its own; name a method of the input, or --field window"
                )
            split = network.split(tap, window)
            check_map(tap, split.activation)
            call = MethodCall(METHODS[method], tuple(explaining.given[method].items()))
            cost.check_instance(split, network.params, window, call, least)
        return cls(network, segmenting, explaining, modalities, pairs, groups)

    def options(self) -> Mapping[str, Any]:
        """All that determines it, as JSON holds it."""
        return {**dataclasses.asdict(self.explaining), "pairs": self.pairs, "groups": self.groups}

    def wanted(self, instance: Instance) -> bool:
        """Whether an instance is explained."""
        return not self.groups or instance.group in self.groups

    def calls(self) -> tuple[Pair, ...]:
        """Methods at taps."""
        return self.pairs

    def passes(self, call: Any) -> int:
        """How many steps of progress a method makes."""
        return passes(call[0], self.explaining)

    def windows(self, tiles: Tiling) -> int:
        """None: `cost.check_instance` knows what methods take."""
        return 0

    def shown(
        self, given: ScanInput, found: Segmented, instance: Instance, tap: str
    ) -> tuple[Split, Any, Crop]:
        """What the network is given of an instance, and the split and the parameters for it."""
        network, window, mask = self.network, self.segmenting.window, found.mask(instance)
        field = self.explaining.field
        if field == "stitched":
            said = self.segmenting
            tiles = tiling(mask.shape, window, overlap=said.overlap, windows=said.windows)
            crop, windows = stitched.around(given.x, mask, tiles)
            params, fn = (network.params, *windows), stitched.Stitched(network.fn, tiles.roi)
            one = network.split(tap, (*window, given.x.shape[-1]))  # Says what it returns.
            return taps.split(fn, tap, params, crop.x, outputs=one.outputs), params, crop
        crop = crop_around(
            given.x, mask, instance.box, window=window, multiples=network.multiples, field=field
        )
        return network.split(tap, crop.x.shape), network.params, crop

    def compute(
        self,
        given: ScanInput,
        found: Segmented,
        instance: Instance,
        call: Pair,
        execution: Execution,
        advance: Callable[[str], None],
    ) -> tuple[list[Variable], list[Row]]:
        """The maps of a method, those of the part of its crop that lies in the scan.

        `advance` is told before each pass what is added to the name of the instance.
        """
        method, tap = call
        split, params, crop = self.shown(given, found, instance, tap)

        def tell(done: int, samples: int) -> None:
            number = f", sample {done + 1} of {samples}" if samples > 1 else ""
            advance(f", {method}{number}")

        explained = explain_instance(
            split,
            params,
            crop,
            method,
            self.explaining,
            class_index=class_of(self.segmenting, self.network.labels),
            scale=scale_of(given.x, self.explaining),
            instances=len(found.predicted),
            meaning=self.network.meaning,
            execution=execution,
            advance=tell,
        )
        values, mask = crop.inside(explained.values), crop.inside(crop.mask)
        named = {ALL: values}
        if METHODS[method].per_channel:
            named = dict(zip(self.modalities, np.moveaxis(values, -1, 0), strict=True))
        about = {
            "method": method,
            "tap": tap,
            "crop": [end for along in crop.box for end in along],
            "score": explained.score,
        }
        # Distances are found in the crop alone: a map is 0 outside of it.
        spacing = given.scan.grid.spacing
        rows = [
            {**about, "modality": name, **_told(measure(each, mask, spacing))}
            for name, each in named.items()
        ]
        name = map_name(instance.label, method, tap)
        axes = [f"{axis}.{name}" for axis in "zyx"] + ["modality"] * (values.ndim - mask.ndim)
        return [Variable(name, tuple(axes), values)], rows


def _told(numbers: Mapping[str, float]) -> Row:
    return {key: None if np.isnan(value) else value for key, value in numbers.items()}


def check_groups(groups: tuple[str, ...]) -> None:
    """Raises `InputError` if a group is unknown."""
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise InputError(f"group {unknown[0]!r} is unknown; choose from {', '.join(GROUPS)}")


def _check(options: SaliencyOptions, channels: int) -> None:
    if not options.methods:
        raise InputError("no method was given; `segcam methods` lists them")
    for method in options.methods:
        if (samples := options.value(method, "samples")) is not None and samples < 1:
            raise InputError(f"`samples` is {samples}; give at least 1")
        if (sigma := options.value(method, "sigma")) is not None and sigma < 0:
            raise InputError(f"`sigma` is {sigma}; give a number that is not negative")
        if options.legacy_divisor and options.value(method, "aggregation") == "max":
            raise InputError(
                "the legacy divisor needs the aggregation mean; a maximum is not divided"
            )
    if not 0 <= options.channel < channels:
        raise InputError(f"modality {options.channel} of {channels}; count from 0")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"`seed` is {options.seed}; give a number from 0 to below 2^32")


@dataclasses.dataclass(frozen=True, eq=False)
class ContextStudy:
    """How much context every instance needs.

    Attributes:
        steps: dilations.
        max_voxels: larger instances are left out; None: none.
        groups: of instances to study; empty: all.
    """

    network: Network
    segmenting: SegmentOptions
    steps: int
    max_voxels: int | None
    groups: tuple[str, ...] = ()
    kind: Kind = "context"

    def check(self, cases: tuple[VolumeCase, ...]) -> None:
        """Checks the study's own options, and that all scans have voxels of one size."""
        check_groups(self.groups)
        first, *others = [(case.files.files[0], min(self._spacing(case))) for case in cases]
        for path, size in others:
            if not np.isclose(size, first[1], rtol=SAME_SPACING):
                raise InputError(
                    f"{str(path)!r} has voxels of {size:.4g} mm, {str(first[0])!r} of "
                    f"{first[1]:.4g} mm; study scans of one voxel size at a time"
                )
        if not 1 <= self.steps < 1000:
            raise InputError(f"`steps` is {self.steps}; give 1 to 999 dilations")
        least = self.segmenting.min_voxels
        if self.max_voxels is not None and self.max_voxels < least:
            raise InputError(f"`max_voxels` is {self.max_voxels}, below `min_voxels`, {least}")

    def _spacing(self, case: VolumeCase) -> tuple[float, ...]:
        """The size of the voxels that a scan is studied on."""
        own = spacing_of(nifti.read_grid(case.files.files[0])[1])
        return self.segmenting.spacing or own

    def options(self) -> Mapping[str, Any]:
        """All that determines it, as JSON holds it."""
        return {"steps": self.steps, "max_voxels": self.max_voxels, "groups": self.groups}

    def wanted(self, instance: Instance) -> bool:
        """Whether an instance is studied."""
        small = self.max_voxels is None or instance.voxels <= self.max_voxels
        return small and (not self.groups or instance.group in self.groups)

    def calls(self) -> tuple[None]:
        """One."""
        return (None,)

    def passes(self, call: Any) -> int:
        """One."""
        return 1

    def windows(self, tiles: Tiling) -> int:
        """Those that the instance lies in, for each dilation and for all of the input."""
        return (self.steps + 1) * tiles.in_the_middle()

    def compute(
        self,
        given: ScanInput,
        found: Segmented,
        instance: Instance,
        call: None,
        execution: Execution,
        advance: Callable[[str], None],
    ) -> tuple[list[Variable], list[Row]]:
        """A row for each dilation."""
        advance("")
        curve = context_curve(
            self.network.fn,
            self.network.params,
            given.x,
            found.mask(instance),
            class_index=class_of(self.segmenting, self.network.labels),
            steps=self.steps,
            connectivity=self.segmenting.connectivity,
            threshold=self.segmenting.threshold,
            # Extents are whole numbers, so scans that are resampled have about that size, each
            # another one; their curves need distances in common.
            spacing=self.segmenting.spacing or given.scan.grid.spacing,
            roi=self.segmenting.window,
            overlap=self.segmenting.overlap,
            windows=self.segmenting.windows,
            meaning=self.network.meaning,
            execution=execution,
        )
        full = {"full_score": curve.full_score, "full_detected": curve.full_detected}
        columns = {
            "dilations": curve.dilations,
            "distance_mm": curve.distance,
            "reach_mm": curve.reach,
            "score": curve.scores,
            "detected": curve.detected,
        }
        lists = {name: values.tolist() for name, values in columns.items()}
        rows = [
            dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)
        ]
        return [], [{**full, **row} for row in rows]
