"""What is scored of a run over scans: of each instance its window of the scan, target and maps."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars
from jaxtyping import Bool, Float

from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, OpenOptions, Said
from segcam_jax.runs.instance_studies import MapStudy
from segcam_jax.runs.stored_scans import ScanOfRun, StoredScans, found_in, number_of
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError
from segcam_jax.volumes import Crop, SaliencyOptions, SegmentOptions, scale_of
from segcam_jax.volumes.instance_maps import method_of, target_of
from segcam_jax.volumes.scan_inputs import AXES
from segcam_jax.volumes.segmentation import class_of


class ScoredScans:
    """A stored run of `segcam instances`, and all that metrics are given of it.

    Raises:
        InputError: if it has no maps of instances, or its network cannot be opened.
    """

    compares = False

    def __init__(self, run: StoredScans):
        if run.manifest.kind != "instances":
            raise InputError(f"{str(run.path)!r} has no maps; give a run of `segcam instances`")
        self._run = run
        segmenting = run.options(SegmentOptions)
        self._study = MapStudy(
            _opened(run),
            segmenting,
            run.options(SaliencyOptions),
            run.modalities,
            tuple(tuple(pair) for pair in run.manifest.options["pairs"]),
        )
        self.network, self.threshold = self._study.network, segmenting.threshold

    @property
    def taps(self) -> tuple[str, ...]:
        """Those that maps are of."""
        return tuple(dict.fromkeys(tap for pairs in self._pairs.values() for _, tap in pairs))

    @functools.cached_property
    def shards(self) -> Mapping[int, list[dict[str, Any]]]:
        """A row for each instance that has maps, by the number of its scan."""
        found: dict[int, list[dict[str, Any]]] = {item: [] for item in self._run.scans}
        table = self._run.table.filter(polars.col("instance").is_not_null())
        for (item, _), rows in table.group_by("item", "instance", maintain_order=True):
            there = rows.filter(polars.col("score").is_not_null())
            if len(there):
                first = rows.row(0, named=True)
                number = number_of(first["item"], first["row"])
                about = {"row": number, "item": number, "path": first["scan"]}
                pairs = there.select("method", "tap").unique(maintain_order=True).rows()
                instance = {"scan": item, "instance": first["instance"], "pairs": pairs}
                found[int(item)].append(about | instance)  # pyright: ignore[reportArgumentType]
        return found

    @functools.cached_property
    def _pairs(self) -> Mapping[int, list[tuple[str, str]]]:
        """The maps of each row, by method and tap."""
        return {row["row"]: row["pairs"] for rows in self.shards.values() for row in rows}

    def pairs(self, row: int) -> list[tuple[str, str]]:
        """The maps of a row, by method and tap."""
        return list(self._pairs[row])

    def explained(self, about: Mapping[str, Any], tap: str) -> tuple[Any, ...]:
        """The split at a tap, the parameters, the input and the target."""
        split, params, crop = self._shown(about["scan"], about["instance"], tap)
        study = self._study
        target = target_of(
            crop.mask,
            class_of(study.segmenting, self.network.labels),
            study.explaining.of,
            tight=False,
            meaning=self.network.meaning,
        )
        return split, params, crop.x, target

    def extent(self, about: Mapping[str, Any]) -> tuple[int, ...]:
        """Extents of the input."""
        return self._crop(about).mask.shape

    def inside(self, about: Mapping[str, Any]) -> tuple[slice, ...]:
        """The part of the input that lies in the scan."""
        return self._crop(about).place

    def map(self, about: Mapping[str, Any], method: str, tap: str) -> Float[np.ndarray, "u v w"]:
        """The raw map over the input, 0 outside of the scan; a sum over modalities."""
        found = self._run.map_of(about["scan"], about["instance"], method, tap)
        crop = self._crop(about)
        values = np.zeros(crop.mask.shape, np.float32)
        place = values[crop.place]
        if found.shape[:AXES] != place.shape:
            extents = " x ".join(map(str, found.shape[:AXES]))
            raise InputError(
                f"{str(self._run.path)!r}: the map of instance {about['instance']} by {method} at "
                f"{tap} was changed by hand: it has {extents} voxels, and its crop has "
                f"{' x '.join(map(str, place.shape))}"
            )
        place[...] = found if found.ndim == AXES else found.sum(-1)
        return values

    def region(self, about: Mapping[str, Any]) -> Bool[np.ndarray, "u v w"]:
        """The instance in the input."""
        return self._crop(about).mask

    def method(self, about: Mapping[str, Any], name: str, tap: str) -> tuple[Callable, tuple]:
        """What explains again, and its options."""
        scan = self._scan(about["scan"])
        scale = scale_of(scan.given.x, self._study.explaining)
        instances = len(scan.found.predicted)
        return method_of(name, self._study.explaining, scale, instances), ()

    def randomised(self, given: Sequence[Any]) -> tuple[Any, Any]:
        """The split and the parameters whose layers are drawn anew, of what `explained` gives.

        Of a stitched field those of the network over one window: the windows that lie beside its
        parameters are no layer, and the loop over them hides in which order layers are computed.
        """
        split, params, x, _ = given
        if self._study.explaining.field != "stitched":
            return split, params
        window = (*self._study.segmenting.window, x.shape[-1])
        return self.network.split(INPUT, window), params[0]

    def drawn(self, about: Mapping[str, Any], params: Any) -> Any:
        """Parameters that were drawn anew, as the split takes them."""
        if self._study.explaining.field != "stitched":
            return params
        _, (_, *windows), _ = self._shown(about["scan"], about["instance"], INPUT)
        return params, *windows

    def _crop(self, about: Mapping[str, Any]) -> Crop:
        _, tap = about["pairs"][0]
        return self._shown(about["scan"], about["instance"], tap)[2]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _scan(self, item: int) -> ScanOfRun:
        return ScanOfRun(self._run, item)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _shown(self, item: int, number: int, tap: str) -> tuple[Any, Any, Crop]:
        scan = self._scan(item)
        instance = found_in(self._run.table, item)[number]
        split, params, crop = self._study.shown(scan.given, scan.found, instance, tap)
        return split, jax.device_put(params), crop


def _opened(run: StoredScans) -> Network:
    """The network of a run, opened as it was then."""
    record, options = run.manifest.network, run.manifest.options
    spec = NetworkSpec.parse(record.given).from_anywhere(Path(record.absolute))
    users, meaning = spec.kind == "user", record.meaning
    roi, file = options["roi"], options.get("checkpoint")
    opening = OpenOptions(
        size=tuple(roi * AXES if len(roi) == 1 else roi) if users else None,
        channels=len(run.modalities) if users else None,
        ndims=(AXES,),
        said=Said(meaning.outputs, not meaning.exclusive),
        # Earlier versions have none of these.
        checkpoint=None if file is None else Path(file),
        layout=tuple(options.get("layout", ())),
        mirror=options.get("mirror", False),
    )
    network = open_network(spec, opening)
    if network.sha256 != record.sha256 and spec.kind == "nnunet" and not opening.mirror:
        # A network that was trained without mirroring refuses it, and is not that of the run.
        with contextlib.suppress(InputError):
            mirrored = open_network(spec, dataclasses.replace(opening, mirror=True))
            network = mirrored if mirrored.sha256 == record.sha256 else network
    return network
