"""P8: a study on 1 to 8 virtual devices, in a process of its own, since XLA reads flags once.

Two cores gain nothing from eight devices: what is measured is the work of each device, and that
the maps are the same.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.workloads import WORKLOADS, Size

DEVICES = (1, 2, 4, 8)


def run(size: Size) -> dict[str, Any]:
    """Measures in a child process.

    Returns:
        `{"rows": [{"devices", "flops_per_device", "share", "difference"}, ...]}`.

    Raises:
        RuntimeError: if the child fails; with its last words.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={DEVICES[-1]}".strip(),
    }
    command = (sys.executable, "-m", "benchmarks.scaling", size)
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the study on virtual devices failed: {last}")
    return json.loads(child.stdout.splitlines()[-1])


def measure(size: Size) -> dict[str, Any]:
    """Work per device for the whole image as target, and differences of maps for one pixel."""
    import jax
    import numpy as np

    import segcam_jax as segcam
    from benchmarks.cost import shapes
    from benchmarks.studies import CLASS, study
    from segcam_jax.engine import Execution

    base = study(WORKLOADS["P8"], size)
    split, params, x = base.split, base.params, base.x
    everywhere = segcam.targets.whole_image(CLASS)
    space = base.network.image[:-1]
    pixel = segcam.targets.pixel(CLASS, [n // 2 for n in space], space)

    def explained(target, execution):
        return lambda params, x: segcam.methods.ablation_cam(
            split, params, x, target, execution=execution
        )

    rows, alone = [], None
    for count in DEVICES:
        mesh = segcam.device_mesh(count)
        # One chunk per device: XLA counts the body of a loop once.
        chunk = -(-(base.total + 1) // count)
        at_once = Execution(mesh=mesh, chunk_size=chunk, skip_dead=False)
        program = jax.jit(explained(everywhere, at_once)).lower(shapes(params), shapes(x))
        flops = float((program.compile().cost_analysis() or {}).get("flops", 0.0))
        found = explained(pixel, dataclasses.replace(Execution(), mesh=mesh))(params, x)
        heat = np.asarray(found.map)
        alone = heat if alone is None else alone
        difference = float(np.abs(heat - alone).max() / max(float(np.abs(alone).max()), 1e-30))
        rows.append({"devices": count, "flops_per_device": flops, "difference": difference})
    for row in rows:
        row["share"] = row["flops_per_device"] / rows[0]["flops_per_device"]
    return {"rows": rows}


if __name__ == "__main__":
    print(json.dumps(measure("tiny" if sys.argv[1:] == ["tiny"] else "full")))
