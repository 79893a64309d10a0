"""The figures of a run over instances, drawn from its files when all maps are there.

All instances of a run share one symmetric scale of colours per method, which is known only then.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import viz
from segcam_jax.data import nifti
from segcam_jax.data.instances import GROUPS, Instance
from segcam_jax.data.volume import canonical, canonical_index, canonical_spacing
from segcam_jax.methods import METHODS
from segcam_jax.sweep.instance_plan import ALL, InstancePlan, name_of, restored
from segcam_jax.taps import INPUT
from segcam_jax.types import shortened
from segcam_jax.viz.instances import Portrait, instance_portrait, peak_table, peak_words
from segcam_jax.volumes import ScanInput, Segmented
from segcam_jax.volumes.scan_inputs import VolumeCase

Explained = tuple[VolumeCase, Instance, Mapping[str, Any]]
Advance = Callable[[int, str], None]
# The enlarged cube: the instance and this much around it, in mm.
_AROUND = 12.0
# The share of voxels at either end of a modality's values that are drawn black and white.
_TAIL = 0.0005


def draw_all(
    plan: InstancePlan, out: Path, explained: Sequence[Explained], advance: Advance
) -> None:
    """Draws the figures that are not there yet.

    Args:
        plan: of the run.
        out: the run's folder, with all maps.
        explained: every instance with its record.
        advance: is called with the number of figures done, and their names.
    """
    limits = {pair: _limit(explained, pair) for pair in plan.pairs}
    current: tuple[VolumeCase, tuple[ScanInput, Segmented]] | None = None
    for case, instance, record in explained:
        for pair, file in plan.figure_files(case, instance).items():
            if (out / file).is_file():
                advance(1, f"{file}: drawn before")
                continue
            if current is None or current[0] is not case:
                current = case, restored(plan, case, out)
            portrait = _portrait(plan, case, current[1], instance, pair, record, out)
            title = f"{shortened(case.name)}: {_words(instance)}; {_method(plan, pair)}"
            figure = instance_portrait(
                portrait, limit=limits[pair], label=_label(plan, pair), title=title
            )
            viz.save(figure, out / file)
            advance(1, file)
    for pair in plan.pairs:
        file = f"peaks.{name_of(*pair)}.png"
        if explained:
            title = f"Peaks of {_method(plan, pair)}"
            found = _peaks(explained, pair)
            figure = peak_table(found, label=f"peak ({_label(plan, pair)})", title=title)
            viz.save(figure, out / file)
        advance(1, file if explained else "")


def _maps(record: Mapping[str, Any], pair: tuple[str, str]) -> list[Mapping[str, Any]]:
    """What a record says of the maps of one method, by modality."""
    (found,) = [each for each in record["maps"] if (each["method"], each["tap"]) == pair]
    return found["modalities"]


def _limit(explained: Sequence[Explained], pair: tuple[str, str]) -> float:
    """The common end of a method's colour scale: the median over maps of their largest magnitude.

    Half of all maps then reach the end of the scale, and a single extreme instance does not leave
    all others without any colour.
    """
    values = [
        max(abs(each["peak_positive"]), abs(each["peak_negative"]))
        for _, _, record in explained
        for each in _maps(record, pair)
    ]
    return float(np.median(values)) or 1.0 if values else 1.0


def _peaks(
    explained: Sequence[Explained], pair: tuple[str, str]
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


def _method(plan: InstancePlan, pair: tuple[str, str]) -> str:
    """A method in words."""
    method, tap = METHODS[pair[0]], pair[1]
    aggregation = plan.explaining.value(method.name, "aggregation")
    how = "" if aggregation is None else f" ({aggregation})"
    return f"{method.title}{how}" + ("" if tap == INPUT else f" at {tap}")


def _label(plan: InstancePlan, pair: tuple[str, str]) -> str:
    """What the values of a map are."""
    if not METHODS[pair[0]].slope:
        return "importance"
    logits = plan.explaining.of == "logits" and plan.network.meaning.outputs != "probabilities"
    of = "logit" if logits else "probability"
    return f"{of} per unit of input"


def _volume(value: float) -> str:
    """Four significant digits, of large volumes all before the point: 12.57, 114,700."""
    return f"{float(f'{value:.4g}'):,.0f}" if value >= 1000 else f"{value:.4g}"


def _words(instance: Instance) -> str:
    """An instance in words."""
    group = f" ({instance.group})" if instance.group else ""
    border = ", at the volume's border" if instance.touches_border else ""
    return f"instance {instance.label}{group}, {_volume(instance.volume)} mm³{border}"


def _portrait(plan, case, read, instance, pair, record, out: Path) -> Portrait:
    scan, segmented = read[0].scan, read[1]
    affine = scan.grid.affine
    mask = segmented.mask(instance)
    shape = mask.shape

    def turned(values: np.ndarray) -> np.ndarray:
        return canonical(values, affine)

    images = {
        name: turned(_grey(volume.values))
        for name, volume in zip(scan.modalities, scan.volumes, strict=True)
    }
    files = plan.map_files(case, instance)
    first = next(iter(images))
    maps, remarks = {}, {}
    for each in _maps(record, pair):
        name = each["modality"]
        values = nifti.read_volume(out / files[(*pair, name)]).values
        values = scan.framed(values)
        column = "map" if name == ALL else f"map: {name}"
        maps[column] = (turned(values), name if name in images else first)
        at = each["peak_positive_distance_mm"]
        remarks[column] = peak_words(each["peak_positive"], at, each["peak_negative"])
    spacing = canonical_spacing(affine)
    inside = np.argwhere(mask)
    middle = inside[np.argmin(((inside - inside.mean(0)) ** 2).sum(1))]
    sizes = [
        (stop - start) * size
        for (start, stop), size in zip(instance.box, scan.grid.spacing, strict=True)
    ]
    return Portrait(
        images=images,
        probability=turned(segmented.probability),
        mask=turned(mask),
        maps=maps,
        remarks=remarks,
        center=canonical_index(middle.tolist(), shape, affine),  # pyright: ignore
        spacing=spacing,  # pyright: ignore
        # Not more than the scan: of micrometres, 12 mm around are thousands of voxels of nothing.
        extent=min(max(sizes) + 2 * _AROUND, max(np.multiply(shape, spacing).tolist())),
    )


def _grey(values: np.ndarray) -> np.ndarray:
    """A modality in [0, 1], but for a few voxels at either end."""
    there = values[values != 0]
    if not there.size:
        return np.zeros_like(values)
    low, high = np.quantile(there, (_TAIL, 1 - _TAIL))
    low = min(low, 0.0) if values.min() >= 0 else low
    return np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
