"""The lesion networks of Instance SmoothGrad's authors, through the command line at full size.

python -m benchmarks.lesion_networks [--only DynUNet SwinUNETR UNETR]

Each is a file with a factory and a checkpoint, as a user has them, and `segcam instances` runs in a
process of its own on the bundled case: FLAIR and T1, windows of 96^3 with Gaussian weights and an
overlap of 0.25, threshold 0.4, Instance SmoothGrad (4 samples, the mean over the lesion) and
Grad-CAM++ of each lesion. The weights are not published, so they are random, and the last bias is
set so that two in a thousand voxels are above the threshold; the two largest lesions are explained.
Seconds are of the whole command, memory is the peak of its process.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from benchmarks import results, timing
from benchmarks.tables import markdown
from segcam_jax import files
from segcam_jax.data import nifti, scans
from segcam_jax.data.samples import lesions
from segcam_jax.data.volume import Volume
from segcam_jax.extras import require

OUT = Path(__file__).parent / "results" / "lesion_networks.json"
_ROI = 96
_THRESHOLD = 0.4
_BRIGHT = 2e-3  # of the voxels
_INSTANCES = 2


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network of MONAI."""

    source: str
    tap: str


def _factory(call: str) -> str:
    return f"from monai.networks import nets\n\n\ndef make():\n    return nets.{call}.eval()\n"


NETWORKS = {
    "DynUNet": _Network(
        _factory(
            'DynUNet(3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], [16, 32, 64], 0.1, "instance", '
            "res_block=True)"
        ),
        "bottleneck",
    ),
    "SwinUNETR": _Network(_factory("SwinUNETR(2, 2, feature_size=24)"), "encoder10"),
    "UNETR": _Network(_factory("UNETR(2, 2, (96, 96, 96))"), "encoder4"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the networks, and writes the JSON after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    found = files.read_json(OUT) or {}
    for name in parser.parse_args(arguments).only:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(NETWORKS[name], Path(folder))
        print(name, found[name], flush=True)
        results.save(OUT, found)


def measured(network: _Network, folder: Path) -> dict[str, Any]:
    """What `segcam instances` takes for a network; its files are written into a folder."""
    case = lesions.load()
    volume = Volume(case.image[..., 0], case.affine, folder)
    names = ("flair.nii.gz", "t1.nii.gz")
    for channel, name in enumerate(names):
        nifti.write_map(folder / name, case.image[..., channel], like=volume)
    (folder / "network.py").write_text(network.source)
    count, least = _checkpoint(network, scans.zscore(case.image), folder / "network.pth")
    given = ["--weights", "network.py:make", "--checkpoint", "network.pth"]
    more = [*given, *names, "--roi", str(_ROI), "--overlap", "0.25", "--out", "out"]
    more += ["--threshold", str(_THRESHOLD), "--min-voxels", str(least), "--tap", network.tap]
    more += ["--method", "instance_smooth_grad", "grad_cam_pp", "--option", "samples=4"]
    start = time.perf_counter()
    peak = _run("instances", *more, folder=folder)
    return {
        "parameters": count,
        "instances": len(list((folder / "out").glob("*/instance-*/record.json"))),
        "maps": len(list((folder / "out").glob("*/instance-*/*.nii.gz"))),
        "seconds": time.perf_counter() - start,
        "peak GiB": peak / 2**30,
        "tap": network.tap,
        "commit": results.commit(),
        "environment": timing.environment(),
    }


def _run(*arguments: str, folder: Path) -> int:
    """The bytes that a command of ours takes at its peak; its own process."""
    line = [sys.executable, "-m", "segcam_jax", *arguments]
    paths = [str(results.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(line, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), line)
    return usage.ru_maxrss * 1024


def _checkpoint(network: _Network, x: np.ndarray, path: Path) -> tuple[int, int]:
    """Random weights whose brightest voxels are lesions.

    Returns:
        `(parameters, voxels of the least lesion that is explained)`.
    """
    torch = require("torch", extra="bench")
    torch.manual_seed(0)
    made: dict[str, Any] = {}
    exec(network.source, made)
    module = made["make"]()
    missing = [_ROI - extent for extent in x.shape[:-1]]
    padding = [(each // 2, each - each // 2) for each in missing]
    window = np.pad(x, (*padding, (0, 0)))
    with torch.no_grad():
        output = module(torch.from_numpy(np.moveaxis(window, -1, 0)[None]))[0].numpy()
    inside = tuple(slice(low, low + n) for (low, _), n in zip(padding, x.shape, strict=False))
    logits = (output[1] - output[0])[inside]
    wanted = np.log(_THRESHOLD / (1 - _THRESHOLD))
    level = np.quantile(logits, 1 - _BRIGHT)
    last = [each for each in module.modules() if isinstance(each, torch.nn.Conv3d)][-1]
    with torch.no_grad():
        last.bias[1] += wanted - level
    torch.save(module.state_dict(), path)
    labels: Any = scipy.ndimage.label(logits > level, np.ones((3, 3, 3)))[0]
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    return sum(each.numel() for each in module.parameters()), int(sizes[-_INSTANCES:][0])


def table() -> str:
    """The networks as a table."""
    lines = []
    for name, row in (files.read_json(OUT) or {}).items():
        counts = f"{row['parameters']:,}", str(row["instances"]), str(row["maps"])
        lines.append((name, *counts, f"{row['seconds']:.0f}", f"{row['peak GiB']:.1f} GiB"))
    return markdown("network | parameters | lesions | maps | seconds | peak memory", lines)


if __name__ == "__main__":
    main()
