"""Results on disk: one JSON per suite, written whole after every turn, and what it was made from.

{"suite", "workloads": {"P1": {"complete", "code", "commit", "environment", "rows": [...]}},
 "curves": {"channels": {...}}}
"""

import argparse
import hashlib
import json
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.workloads import Size, Suite
from segcam_jax import files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# These files read results; they do not make them.
_READERS = {"report.py", "plots.py"}


def path_of(suite: Suite, size: Size) -> Path:
    """Where the results of a suite go; tiny ones, which say nothing, out of the way."""
    return RESULTS / f"{suite}.json" if size == "full" else ROOT / "runs" / f"tiny_{suite}.json"


def load(path: Path) -> dict[str, Any]:
    """What was measured so far."""
    return files.read_json(path) or {"workloads": {}, "curves": {}}


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes the file whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    files.write_json(path, _plain(results))


def code() -> str:
    """A digest of all code that results depend on."""
    digest = hashlib.sha256()
    for folder in ("segcam_jax", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.name not in _READERS:
                digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """The commit that is checked out, marked where files differ from it; None without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "segcam_jax", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    run = subprocess.run(("git", *arguments), cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def measure_each(
    measure: Callable[[str, Size], dict[str, Any]],
    keys: Collection[str],
    out: Path,
    description: str | None,
) -> None:
    """Measures what a command line names of the keys, and writes the JSON after each."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--only", nargs="+", choices=list(keys), default=list(keys))
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    found = files.read_json(given.out) or {}
    for key in given.only:
        record = measure(key, given.size)
        made = {"size": given.size, "commit": commit(), "code": code()}
        found[key] = {**made, "environment": timing.environment(), **record}
        files.write_json(given.out, found)
        print(json.dumps(record, indent=1), flush=True)


def is_finished(record: dict[str, Any] | None, made_from: dict[str, Any]) -> bool:
    """Whether a workload or curve is complete, of the same code, options, machine and versions."""
    if not record or not record.get("complete"):
        return False
    if any(record.get(key) != made_from[key] for key in ("code", "size", "full")):
        return False
    return _lasting(record["environment"]) == _lasting(made_from["environment"])


def _lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """What of an environment is the same in the next run on the same machine."""
    return {key: value for key, value in environment.items() if key != "load"}


def _plain(value: Any) -> Any:
    """Numbers rounded to what was measured."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
