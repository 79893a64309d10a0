"""Features of every instance of a run over scans, in its images and its maps, as one table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segcam_jax import _files
from segcam_jax.data.instances import Instance
from segcam_jax.metrics import FIRST_ORDER, TEXTURE, instance_features
from segcam_jax.runs.stored_scans import ScanOfRun, StoredScans, box_of
from segcam_jax.volumes import put_back

TABLE = "features.csv"
IMAGE = "image"  # what stands in place of a method where values are those of the scan
COLUMNS = ("scan", "instance", "group", "voxels", "method", "tap", "modality")


def write_features(run: StoredScans, out: Path) -> int:
    """Writes a row for each instance that is explained and each modality of its scan, and of maps.

    Images are as the network is given them. Values outside of a map's window are 0.

    Returns:
        How many rows.

    Raises:
        InputError: if a scan cannot be read or has changed.
        FileError: if the table cannot be written.
    """
    rows = [row for item in run.scans for row in _of_scan(run, item)]
    names = (*COLUMNS, *FIRST_ORDER, *TEXTURE)
    cells = [[row[name] for name in names] for row in rows]
    _files.write_bytes(out / TABLE, _files.as_csv(names, cells))
    return len(rows)


def _of_scan(run: StoredScans, item: int) -> Iterator[dict[str, Any]]:
    explained: dict[int, tuple[Instance, list[dict[str, Any]]]] = {}
    for number, instance, row in run.results():
        if number == item:
            explained.setdefault(instance.label, (instance, []))[1].append(row)
    scan = ScanOfRun(run, item)
    for instance, rows in explained.values():
        mask = scan.found.mask(instance)
        about = {"scan": scan.name, "instance": instance.label, "group": instance.group}
        about["voxels"] = instance.voxels
        images = np.moveaxis(scan.given.x, -1, 0)
        parts = [(IMAGE, "", name, x) for name, x in zip(run.modalities, images, strict=True)]
        for row in rows:
            values = put_back(run.map(row), box_of(row["crop"]), mask.shape)
            parts.append((row["method"], row["tap"], row["modality"], values))
        for method, tap, modality, values in parts:
            where = {"method": method, "tap": tap, "modality": modality}
            inside = instance_features(values[instance.slices], mask[instance.slices])
            yield {**about, **where, **inside}
