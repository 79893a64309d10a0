"""Writes `classifiers.npz`: what each convolution of other libraries' classifiers computes.

The tests read the `.npz` only. To write it again, in an environment of its own (Python 3.11, CPU):

    pip install torch==2.13.0 numpy==2.4.6 pillow keras==3.15.1 jax h5py
    pip install --no-deps torchvision==0.28.0 efficientnet-lite-pytorch==0.1.0
    python -m tests.goldens.generate_classifiers

Weights, BatchNorm statistics and the image are drawn by `drawing.py`, and so the file holds names
and results only. NETWORK is `resnet18`, `resnet50`, `densenet121`, `inception_v3` (torchvision),
`efficientnet_lite0` (efficientnet_lite_pytorch) or `keras_densenet169` (keras.applications with
FastAblationCAM's head: pooling, a linear Dense of 1664, Dense of 5):

    NETWORK/names, NETWORK/shapes   the tensors of its weights file, shapes as `64x3x7x7`
    NETWORK/extent                  the image's height; `image(extent)`
    NETWORK/layers                  its convolutions in the order of the modules
    NETWORK/values                  sixteen values of each one's output, channels last; zero where a
                                    convolution does not run
    NETWORK/scales                  the largest magnitude of each one's output
    NETWORK/logits
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from efficientnet_lite_pytorch import EfficientNet

from tests.goldens.drawing import drawn, image, sampled
from tests.support.torchvision_networks import filled, network, outputs

FILE = Path(__file__).with_name("classifiers.npz")
TORCHVISION = {"resnet18": 64, "resnet50": 64, "densenet121": 64, "inception_v3": 96}


def packed(name, shapes, extent, layers, seen, logits) -> dict[str, np.ndarray]:
    """The arrays of one network."""
    silent = np.zeros(1)
    return {
        f"{name}/names": np.array(list(shapes)),
        f"{name}/shapes": np.array(["x".join(map(str, shape)) for shape in shapes.values()]),
        f"{name}/extent": np.int32(extent),
        f"{name}/layers": np.array(layers),
        f"{name}/values": np.stack([sampled(seen.get(layer, silent)) for layer in layers]),
        f"{name}/scales": np.array([np.abs(seen.get(layer, silent)).max() for layer in layers]),
        f"{name}/logits": logits,
    }


def of_torch(name: str, model, extent: int) -> dict[str, np.ndarray]:
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    layers, seen, logits = outputs(model, image(extent))
    return packed(name, shapes, extent, layers, seen, logits)


def of_keras(name: str, extent: int) -> dict[str, np.ndarray]:
    base = keras.applications.DenseNet169(
        weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    hidden = keras.layers.Dense(1664, name="dense")(base.output)
    model = keras.Model(base.input, keras.layers.Dense(5, name="dense_1")(hidden))
    shapes = {}
    for layer in model.layers:
        values = {f"{layer.name}/{weight.name}": tuple(weight.shape) for weight in layer.weights}
        layer.set_weights([drawn(key, shape) for key, shape in values.items()])
        shapes |= values
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    probe = keras.Model(model.input, [*(layer.output for layer in convs), model.output])
    *found, logits = (np.asarray(value)[0] for value in probe(image(extent)[None]))
    layers = [layer.name for layer in convs]
    return packed(name, shapes, extent, layers, dict(zip(layers, found, strict=True)), logits)


def main() -> None:
    arrays = {}
    for name, extent in TORCHVISION.items():
        arrays |= of_torch(name, network(name, classes=5), extent)
    # Without a fixed image size it pads as TensorFlow does for any image.
    lite = EfficientNet.from_name("efficientnet-lite0", num_classes=5, image_size=None)
    arrays |= of_torch("efficientnet_lite0", filled(lite), 64)
    arrays |= of_keras("keras_densenet169", 64)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
