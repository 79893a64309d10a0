"""One of several processes of `test_distributed.py`: the same studies in each, over all devices.

python -m tests.support.distributed_worker RANK PROCESSES PORT FOLDER WEIGHTS IMAGE...
"""

import sys
from pathlib import Path

import jax
import numpy as np

import segcam_jax as segcam
from segcam_jax import Execution, cli
from tests.support.networks import make_input, make_params, skip_net

DEVICES_EACH = 2


def study():
    params, x = make_params(width=6), make_input()
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:7] = True
    return (
        segcam.split(skip_net, "bottleneck", params, x),
        params,
        x,
        segcam.targets.region(1, mask),
    )


def maps(everywhere, by_images):
    """Maps of one study, of samples, of a batch of three images: on all devices of two meshes."""
    split, params, x, target = study()
    images = np.stack([np.asarray(x) * scale for scale in (1, -1, 2)])
    one = Execution(chunk_size=2, mesh=everywhere)
    many = Execution(chunk_size=2, mesh=by_images)
    key = jax.random.key(7)
    found = {
        "ablation": segcam.methods.ablation_cam(split, params, x, target, execution=one),
        "noise": segcam.methods.smooth_grad(
            split, params, x, target, key=key, samples=5, execution=one
        ),
        "batch": segcam.explain_batch(
            segcam.methods.ablation_cam, split, params, images, target, execution=many
        ),
    }
    return {name: np.asarray(explanation.map) for name, explanation in found.items()}


def global_batch(mesh):
    """Each process feeds its own image."""
    split, params, x, target = study()
    image = np.asarray(x)[None] * (1 + jax.process_index())
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("images"))
    images = jax.make_array_from_process_local_data(along, image)
    explanation = segcam.explain_batch(
        segcam.methods.ablation_cam, split, params, images, target, execution=Execution(mesh=mesh)
    )
    return np.asarray(explanation.map)


def explain(weights, images, out, *words):
    """A run in a folder that several processes may share; returns the exit code."""
    line = ["explain", *images, "--weights", weights, "--method", "grad_cam", "--region", "all"]
    return cli.main([*line, "--shard", "1", "--out", str(out), *words])


def main(rank, processes, port, folder, weights, *images):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES_EACH)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"localhost:{port}", num_processes=int(processes), process_id=int(rank)
    )
    everywhere = segcam.device_mesh()
    by_images = segcam.device_mesh(images=int(processes))
    assert everywhere.devices.size == DEVICES_EACH * int(processes)
    found = {**maps(everywhere, by_images), "fed": global_batch(by_images)}
    np.savez(Path(folder) / f"maps{rank}.npz", **found)
    assert explain(weights, images, Path(folder) / "run", "--no-figures") == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
