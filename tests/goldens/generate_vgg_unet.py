"""Writes `vgg_unet.npz`: what each layer of segmentation_models' `Unet("vgg16")` computes in Keras.

The tests read the `.npz` only. To write it again, in an environment of its own (Python 3.11, CPU):

    pip install numpy==2.4.6 keras==3.15.1 jax h5py
    python -m tests.goldens.generate_vgg_unet

segmentation_models itself (1.0.1, of 2020) needs Keras 2. `network` lays the same layers out in
Keras 3, with the names that its `build_unet` gives them, a quarter of 16 channels at the first; the
names of the tensors are those of the `.h5` file that Keras writes. Weights, statistics and the
image are drawn by `drawing.py`:

    names, shapes       the tensors of the file, shapes as `3x3x3x4`
    layers              the layers with a tap, in order of evaluation
    values, scales      sixteen values of each one's output, and its largest magnitude
    probabilities       of the softmax at the end
"""

import os
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

from segcam_jax.weights import foreign
from tests.goldens.drawing import drawn, sampled, volume

FILE = Path(__file__).with_name("vgg_unet.npz")
WIDTH, CLASSES, EXTENTS = 4, 3, (32, 64)
COUNTS = (2, 2, 3, 3, 3)


def conv_norm_relu(x, channels: int, name: str):
    """As `Conv3x3BnReLU` of segmentation_models names its layers."""
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def network() -> keras.Model:
    """VGG-16 without its top, two centre blocks, and five stages of nearest upsampling."""
    x = given = keras.Input((None, None, 3))
    skips = []
    for block, (count, multiple) in enumerate(zip(COUNTS, (1, 2, 4, 8, 8), strict=True), 1):
        for n in range(1, count + 1):
            name, channels = f"block{block}_conv{n}", multiple * WIDTH
            x = layers.Conv2D(channels, 3, activation="relu", padding="same", name=name)(x)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    for n in (1, 2):
        x = conv_norm_relu(x, 8 * WIDTH, f"center_block{n}")
    stages = zip([*skips[:0:-1], None], (4, 2, 1, 0.5, 0.25), strict=True)
    for stage, (skip, multiple) in enumerate(stages):
        x = layers.UpSampling2D(2, name=f"decoder_stage{stage}_upsampling")(x)
        if skip is not None:
            x = layers.Concatenate(name=f"decoder_stage{stage}_concat")([x, skip])
        for part in "ab":
            x = conv_norm_relu(x, int(multiple * WIDTH), f"decoder_stage{stage}{part}")
    logits = layers.Conv2D(CLASSES, 3, padding="same", name="final_conv")(x)
    return keras.Model(given, layers.Activation("softmax", name="softmax")(logits))


def main() -> None:
    """Draws the weights, writes and reads the file of Keras, and keeps what the layers compute."""
    model = network()
    expected = {}
    for layer in model.layers:
        named = {f"{layer.name}/{weight.name}": tuple(weight.shape) for weight in layer.weights}
        expected |= {name: drawn(name, shape) for name, shape in named.items()}
        layer.set_weights([expected[name] for name in named])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.h5"
        model.save(path)
        tensors = foreign.read(path)
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], value) for name, value in expected.items())
    ends = ("_bn", "_relu", "_pool", "conv", *(f"conv{n}" for n in (1, 2, 3)))
    tapped = [layer for layer in model.layers if layer.name.endswith(ends)]
    probe = keras.Model(model.input, [*(layer.output for layer in tapped), model.output])
    *found, probabilities = (np.asarray(each)[0] for each in probe(volume(EXTENTS, 3)[None]))
    np.savez_compressed(
        FILE,
        names=np.array(list(tensors)),
        shapes=np.array(["x".join(map(str, value.shape)) for value in tensors.values()]),
        layers=np.array([layer.name for layer in tapped]),
        values=np.stack([sampled(value) for value in found]),
        scales=np.array([np.abs(value).max() for value in found]),
        probabilities=probabilities,
    )


if __name__ == "__main__":
    main()
