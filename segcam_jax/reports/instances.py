"""The files and figures of a run of `segcam instances`: maps, a table, portraits, peaks.

OUT/SCAN/instance-001/METHOD.TAP.MODALITY.nii.gz   maps; METHOD.MODALITY of methods of the input
OUT/SCAN/instance-001/METHOD.TAP.png               drawn when all maps are there: one colour scale
OUT/SCAN/instance-001/record.json                  what was measured of them
OUT/instances.csv, quality.csv, peaks.METHOD.TAP.png

All instances of a run share one symmetric scale of colours per method, which is known only when all
are explained.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from segcam_jax import _files, viz
from segcam_jax.data.instances import GROUPS, Instance
from segcam_jax.data.volume import canonical, canonical_index, canonical_spacing
from segcam_jax.methods import METHODS
from segcam_jax.networks.class_queries import find_class
from segcam_jax.reports.scans import (
    QUALITY,
    RECORD,
    Advance,
    Record,
    ScanReport,
    StoredScan,
    folder_of,
    is_current,
    values_of,
    write_quality,
)
from segcam_jax.runs.instance_studies import ALL
from segcam_jax.runs.stored_scans import StoredScans, box_of
from segcam_jax.taps import INPUT
from segcam_jax.types import shortened
from segcam_jax.viz.plots import peak_table, peak_words
from segcam_jax.viz.slices import Portrait, instance_portrait
from segcam_jax.volumes import SaliencyOptions, put_back
from segcam_jax.volumes.scan_inputs import slug

TABLE = "instances.csv"
COLUMNS = (
    "scan",
    "instance",
    "group",
    "voxels",
    "volume_mm3",
    "touches_border",
    "iou",
    "adjusted_iou",
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
Pair = tuple[str, str]
# The numbers of a map, which a record has by modality.
_NUMBERS = COLUMNS[COLUMNS.index("peak_positive") :]
# The enlarged cube: the instance and this much around it, in mm.
_AROUND = 12.0
# The share of voxels at either end of a modality's values that are drawn black and white.
_TAIL = 0.0005


class InstanceReport(ScanReport):
    """The files of a run."""

    def __init__(self, run: StoredScans, out: Path):
        super().__init__(run, out)
        options = dict(run.manifest.options)
        names = SaliencyOptions.__dataclass_fields__
        self._options = msgspec.convert({name: options[name] for name in names}, SaliencyOptions)
        self.pairs: list[Pair] = [(method, tap) for method, tap in options["pairs"]]

    def files(self) -> list[str]:
        """Those that are not of a scan."""
        return files_of(self.pairs)

    @property
    def count(self) -> int:
        """How many figures there are."""
        return (len(self._explained) + 1) * len(self.pairs)

    @property
    def records(self) -> list[Record]:
        """What was measured of every instance that is explained."""
        return [record for _, _, record in self._explained]

    @functools.cached_property
    def _explained(self) -> list[tuple[int, Instance, Record]]:
        """The number of its scan, an instance, and its record."""
        found: dict[tuple[int, int], tuple[int, Instance, Record]] = {}
        for item, instance, row in self._run.results():
            if (item, instance.label) not in found:
                about = {**values_of(instance), "scan": row["scan"], "instance": instance.label}
                about |= {name: row[name] for name in ("volume_mm3", "mean_probability")}
                made = {"run": self._run.manifest.key, "sha256": self._run.scans[item]["sha256"]}
                record = {**made, "instance": about, "maps": []}
                found[item, instance.label] = item, instance, record
            maps = found[item, instance.label][2]["maps"]
            if not maps or (maps[-1]["method"], maps[-1]["tap"]) != (row["method"], row["tap"]):
                said = {name: row[name] for name in ("method", "tap", "score")}
                window = [list(along) for along in box_of(row["crop"])]
                maps.append({**said, "window": window, "modalities": []})
            numbers = {name: row[name] for name in ("modality", *_NUMBERS)}
            maps[-1]["modalities"].append(numbers)
        for _, _, record in found.values():
            record["files"] = list(self._map_files(record).values())
        return list(found.values())

    def _map_files(self, record: Record) -> dict[tuple[str, str, str], str]:
        """Names of an instance's maps by method, tap and modality."""
        about = record["instance"]
        folder = folder_of(about["scan"], about["instance"])
        return {
            (each["method"], each["tap"], one["modality"]): (
                f"{folder}/{name_of(each['method'], each['tap'])}.{one['modality']}.nii.gz"
            )
            for each in record["maps"]
            for one in each["modalities"]
        }

    def _folders(self) -> Iterable[str]:
        scans = self._run.scans
        return (folder_of(scans[item]["scan"], each.label) for item, each, _ in self._explained)

    @functools.cached_property
    def _limits(self) -> dict[Pair, float]:
        """The end of the colour scale of each method at a tap."""
        return {pair: _limit(self.records, pair) for pair in self.pairs}

    def _write_instances(self, scan: StoredScan, advance: Advance) -> list[str]:
        files = []
        for number, instance, record in self._explained:
            if number == scan.item:
                files += self._write_instance(scan, instance, record, advance)
        return files

    def _write_together(self, advance: Advance) -> list[str]:
        write_table(self.records, self._out)
        files = [TABLE]
        if write_quality(self._run.scans.values(), self._out):
            files.append(QUALITY)
        for pair in self.pairs:
            file = f"peaks.{name_of(*pair)}.png"
            if self._explained:
                title = f"Peaks of {self._method(pair)}"
                found = _peaks(self._explained, pair)
                figure = peak_table(found, label=f"peak ({self._label(pair)})", title=title)
                viz.save(figure, self._out / file)
                files.append(file)
            else:
                (self._out / file).unlink(missing_ok=True)
            advance(1, file if self._explained else "")
        return files

    def _facts(self) -> Record:
        run = self._run
        scans = []
        for item, row in run.scans.items():
            labels = [each.label for number, each, _ in self._explained if number == item]
            about = {"name": row["scan"], "inputs": row["files"], "truth": row["truth"]}
            scans.append({**about, "instances": labels, "error": row["error"]})
        index = run.manifest.options["class_index"]
        labels = run.manifest.network.labels
        return {
            "modalities": list(run.modalities),
            "class": labels[-1] if index is None else labels[find_class(index, labels)],
            "about_maps": (
                "float32, signed, not normalised, in the file order and on the grid of each scan's "
                "first volume; 0 outside of the window that the network was given"
            ),
            "about_boxes": "boxes and windows of records count voxels along the network's axes",
            "scans": scans,
        }

    def _write_instance(
        self, scan: StoredScan, instance: Instance, record: Record, advance: Advance
    ) -> list[str]:
        """Writes the maps and figures of an instance that are not current; returns their names."""
        out, folder, limits = self._out, folder_of(scan.name, instance.label), self._limits
        pairs = [(each["method"], each["tap"]) for each in record["maps"]]
        figures = {pair: f"{folder}/{name_of(*pair)}.png" for pair in pairs}
        files = self._map_files(record)
        full = {
            **record,
            "limits": {name_of(*pair): limits[pair] for pair in figures},
            "files": [*files.values(), *figures.values()],
        }
        names = [*full["files"], f"{folder}/{RECORD}"]
        if is_current(out, folder, full):
            for file in figures.values():
                advance(1, f"{file}: drawn before")
            return names
        # Only the scale of colours may be another: the maps are there, and their figures are drawn.
        same = is_current(out, folder, full, but=("limits",))
        maps = self._maps(scan, instance)
        for name, file in files.items():
            if not same:
                scan.write(out / file, maps[name])
        for pair, file in figures.items():
            portrait = _portrait(scan, instance, maps, record, pair)
            title = f"{shortened(scan.name)}: {_words(instance)}; {self._method(pair)}"
            figure = instance_portrait(
                portrait, limit=limits[pair], label=self._label(pair), title=title
            )
            viz.save(figure, out / file)
            advance(1, file)
        _files.write_json(out / folder / RECORD, full)
        return names

    def _maps(self, scan: StoredScan, instance: Instance) -> dict[tuple[str, str, str], np.ndarray]:
        """The maps of an instance as volumes on the network's grid."""
        extents, rows = scan.given.scan.grid.shape, self._run.rows_of(scan.item, instance.label)
        return {
            (row["method"], row["tap"], row["modality"]): put_back(
                self._run.map(row), box_of(row["crop"]), extents
            )
            for row in rows
        }

    def _method(self, pair: Pair) -> str:
        """A method in words."""
        method, tap = METHODS[pair[0]], pair[1]
        aggregation = self._options.value(method.name, "aggregation")
        how = "" if aggregation is None else f" ({aggregation})"
        return f"{method.title}{how}" + ("" if tap == INPUT else f" at {tap}")

    def _label(self, pair: Pair) -> str:
        """What the values of a map are."""
        if not METHODS[pair[0]].slope:
            return "importance"
        meaning = self._run.manifest.network.meaning
        logits = self._options.of == "logits" and meaning.outputs != "probabilities"
        of = "logit" if logits else "probability"
        return f"{of} per unit of input"


def files_of(pairs: Sequence[Pair]) -> list[str]:
    """The files of a run that are not of a scan, by its methods at taps."""
    return [TABLE, QUALITY, *(f"peaks.{name_of(*pair)}.png" for pair in pairs)]


def name_of(method: str, tap: str) -> str:
    """A method at a tap, for file names."""
    return method if METHODS[method].explains == "input" else f"{method}.{slug(tap)}"


def write_table(records: Sequence[Record], out: Path) -> None:
    """Writes a row per instance, method, tap and modality."""
    rows = [
        [{**record["instance"], **maps, **numbers}.get(column) for column in COLUMNS]
        for record in records
        for maps in record["maps"]
        for numbers in maps["modalities"]
    ]
    _files.write_bytes(out / TABLE, _files.as_csv(COLUMNS, rows))


def _maps(record: Mapping[str, Any], pair: Pair) -> list[Mapping[str, Any]]:
    """What a record says of the maps of one method, by modality."""
    found = [each for each in record["maps"] if (each["method"], each["tap"]) == pair]
    return found[0]["modalities"] if found else []


def _limit(records: Sequence[Record], pair: Pair) -> float:
    """The common end of a method's colour scale: the median over maps of their largest magnitude.

    Half of all maps then reach the end of the scale, and a single extreme instance does not leave
    all others without any colour.
    """
    values = [
        max(abs(each["peak_positive"]), abs(each["peak_negative"]))
        for record in records
        for each in _maps(record, pair)
    ]
    return float(np.median(values)) or 1.0 if values else 1.0


def _peaks(
    explained: Sequence[tuple[int, Instance, Record]], pair: Pair
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Modality -> group -> the peaks of each instance."""
    groups = list(dict.fromkeys(instance.group for _, instance, _ in explained))
    groups.sort(key=(*GROUPS, "").index)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for _, instance, record in explained:
        for each in _maps(record, pair):
            names = found.setdefault(each["modality"], {group or "found": [] for group in groups})
            peaks = (each["peak_positive"], each["peak_negative"])
            names[instance.group or "found"].append(peaks)
    return found


def _volume(value: float) -> str:
    """Four significant digits, of large volumes all before the point: 12.57, 114,700."""
    return f"{float(f'{value:.4g}'):,.0f}" if value >= 1000 else f"{value:.4g}"


def _words(instance: Instance) -> str:
    """An instance in words."""
    group = f" ({instance.group})" if instance.group else ""
    border = ", at the volume's border" if instance.touches_border else ""
    return f"instance {instance.label}{group}, {_volume(instance.volume)} mm³{border}"


def _portrait(
    scan: StoredScan,
    instance: Instance,
    volumes: Mapping[tuple[str, str, str], np.ndarray],
    record: Record,
    pair: Pair,
) -> Portrait:
    """What the figure of an instance by a method shows."""
    read, found = scan.given.scan, scan.found
    affine, mask = read.grid.affine, found.mask(instance)
    shape = mask.shape

    def turned(values: np.ndarray) -> np.ndarray:
        return canonical(values, affine)

    images = {
        name: turned(_grey(volume.values))
        for name, volume in zip(read.modalities, read.volumes, strict=True)
    }
    first = next(iter(images))
    maps, remarks = {}, {}
    for each in _maps(record, pair):
        name = each["modality"]
        column = "map" if name == ALL else f"map: {name}"
        maps[column] = (turned(volumes[*pair, name]), name if name in images else first)
        at = each["peak_positive_distance_mm"]
        remarks[column] = peak_words(each["peak_positive"], at, each["peak_negative"])
    spacing = canonical_spacing(affine)
    inside = np.argwhere(mask)
    middle = inside[np.argmin(((inside - inside.mean(0)) ** 2).sum(1))]
    sizes = [
        (stop - start) * size
        for (start, stop), size in zip(instance.box, read.grid.spacing, strict=True)
    ]
    return Portrait(
        images=images,
        probability=turned(found.probability),
        mask=turned(mask),
        maps=maps,
        remarks=remarks,
        center=canonical_index(middle.tolist(), shape, affine),  # pyright: ignore
        spacing=spacing,  # pyright: ignore
        # Not more than the scan: of micrometres, 12 mm around are thousands of voxels of nothing.
        extent=min(max(sizes) + 2 * _AROUND, max(np.multiply(shape, spacing).tolist())),
        sides=read.grid.oriented,
    )


def _grey(values: np.ndarray) -> np.ndarray:
    """A modality in [0, 1], but for a few voxels at either end."""
    there = values[values != 0]
    if not there.size:
        return np.zeros_like(values)
    low, high = np.quantile(there, (_TAIL, 1 - _TAIL))
    low = min(low, 0.0) if values.min() >= 0 else low
    return np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
