"""What tests ask of a folder of `segcam explain`."""

import json
from pathlib import Path

from segcam_jax.runs import open_store


def run_of(out):
    return open_store(Path(out))


def rows_of(out):
    """The rows of its table that have results."""
    return [row for row in run_of(out).table.to_dicts() if row["error"] is None]


def manifest_of(out):
    return json.loads((Path(out) / "manifest.json").read_text())


def files_of(folder):
    """All files but those of the run, by name."""
    found = (str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("run.zarr"))
