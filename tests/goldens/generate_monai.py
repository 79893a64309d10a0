"""Writes `monai.npz`: what each layer of MONAI's `UNet` computes.

The tests read the `.npz` only. To write it again, in an environment of its own (Python 3.11, CPU):

    pip install torch==2.13.0 numpy==2.4.6 jax flax
    pip install --no-deps monai==1.6.1
    python -m tests.goldens.generate_monai

Weights, PReLU slopes, BatchNorm statistics and the image are drawn by `drawing.py`, and so the file
holds names and results only. NETWORK is one of `monai_unets.py`:

    NETWORK/names, NETWORK/shapes   the tensors of its state dict, shapes as `4x2x3x3x3`
    NETWORK/layers                  the names of its convolutions and of its levels
    NETWORK/values                  sixteen values of each one's output, channels last
    NETWORK/scales                  the largest magnitude of each one's output
    NETWORK/logits
"""

from pathlib import Path

import numpy as np
from flax import nnx

from segcam_jax.models.monai_unet import MonaiUNet
from segcam_jax.models.monai_unet.weights import monai_taps
from tests.goldens.drawing import sampled, volume
from tests.goldens.monai_unets import NETWORKS
from tests.support.monai_networks import network, outputs, state

FILE = Path(__file__).with_name("monai.npz")


def main() -> None:
    arrays = {}
    for name, (config, extents) in NETWORKS.items():
        theirs = network(config)
        ours = nnx.eval_shape(lambda config=config: MonaiUNet(config, rngs=nnx.Rngs(0)))
        layers = list(monai_taps(ours))
        seen, logits = outputs(theirs, layers, volume(extents, config.in_channels))
        shapes = {key: value.shape for key, value in state(theirs).items()}
        arrays |= {
            f"{name}/names": np.array(list(shapes)),
            f"{name}/shapes": np.array(["x".join(map(str, shape)) for shape in shapes.values()]),
            f"{name}/layers": np.array(layers),
            f"{name}/values": np.stack([sampled(seen[layer]) for layer in layers]),
            f"{name}/scales": np.array([np.abs(seen[layer]).max() for layer in layers]),
            f"{name}/logits": logits,
        }
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
