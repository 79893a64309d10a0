"""Every convolution of the classifiers against torchvision, Keras and EfficientNet-Lite's port.

Weights are drawn by name, read by the tables, and compared with values stored in `goldens/`.
"""

import jax
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import models
from tests import goldens
from tests.goldens.drawing import drawn, image, sampled
from tests.support.tapped import activations

GOLDENS = np.load(goldens.FOLDER / "classifiers.npz")
NETWORKS = {
    "resnet18": "torchvision",
    "resnet50": "torchvision",
    "densenet121": "torchvision",
    "inception_v3": "torchvision",
    "efficientnet_lite0": "torch",
    "keras_densenet169": "keras",
}


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def tensors(name):
    """The drawn tensors of a golden's weights file."""
    pairs = zip(GOLDENS[f"{name}/names"], GOLDENS[f"{name}/shapes"], strict=True)
    shapes = {str(key): tuple(map(int, filter(None, text.split("x")))) for key, text in pairs}
    return {key: drawn(key, shape) if shape else np.int64(0) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution(name):
    network = name.removeprefix("keras_")
    model = models.from_tensors(tensors(name), network, layout=NETWORKS[name])
    assert model.config.classes == 5
    fn, params = segcam.from_nnx(model)
    seen, logits = activations(fn, params, image(int(GOLDENS[f"{name}/extent"])))
    names = model.convolutions()
    assert len(names) == len(GOLDENS[f"{name}/layers"])
    ran = [tap for tap in names if tap in seen]
    assert set(names) - set(ran) <= {"auxiliary/conv0", "auxiliary/conv1"}
    for tap, values, scale in zip(
        names, GOLDENS[f"{name}/values"], GOLDENS[f"{name}/scales"], strict=True
    ):
        if tap in seen:
            np.testing.assert_allclose(sampled(seen[tap]), values, rtol=0, atol=1e-4 * scale)
            np.testing.assert_allclose(np.abs(seen[tap]).max(), scale, rtol=1e-4)
    scale = np.abs(GOLDENS[f"{name}/logits"]).max()
    np.testing.assert_allclose(logits, GOLDENS[f"{name}/logits"], rtol=0, atol=1e-4 * scale)


def test_oldest_names_of_torchvision_and_keras():
    known = tensors("densenet121")
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in known.items()
    }
    assert sum(key not in known for key in old) > 100
    pairs = [("densenet121", "torchvision", known, old)]
    known = tensors("keras_densenet169")
    old = {
        key.replace("conv1_conv/", "conv1/conv/").replace("conv1_bn/", "conv1/bn/"): value
        for key, value in known.items()
    }
    pairs.append(("densenet169", "keras", known, old))
    for name, layout, *both in pairs:
        one, other = (models.from_tensors(each, name, layout=layout) for each in both)
        for a, b in zip(
            *map(jax.tree.leaves, map(models.stored.shapes, (one, other))), strict=True
        ):
            assert a == b
        for a, b in zip(
            *(jax.tree.leaves(segcam.from_nnx(m)[1]) for m in (one, other)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
