"""Every convolution against torchvision, run live where torch and torchvision are installed."""

import jax
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import models
from tests.goldens.drawing import image
from tests.support.tapped import activations

pytest.importorskip("torch")


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def torchvision_networks():
    try:
        from tests.support import torchvision_networks
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return torchvision_networks


NAMES = [name for name in models.CLASSIFIERS if name != "efficientnet_lite0"]
SLOW = ("resnet101", "resnet152", "densenet169", "densenet201")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES],
)
def test_every_convolution(name, torchvision_networks):
    theirs = torchvision_networks.network(name, classes=7)
    pixels = image(96 if name == "inception_v3" else 64)
    layers, expected, logits = torchvision_networks.outputs(theirs, pixels)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = models.from_tensors(state, name)
    fn, params = segcam.from_nnx(ours)
    seen, output = activations(fn, params, pixels)
    for tap, layer in zip(ours.convolutions(), layers, strict=True):
        assert (tap in seen) == (layer in expected)
        if tap in seen:
            scale = np.abs(expected[layer]).max()
            np.testing.assert_allclose(seen[tap], expected[layer], rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(output, logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_a_state_dict_on_disk(tmp_path, torchvision_networks):
    theirs = torchvision_networks.network("resnet18", classes=3)
    torchvision_networks.torch.save(theirs.state_dict(), tmp_path / "net.pth")
    models.convert(tmp_path / "net.pth", "resnet18", tmp_path / "net.safetensors")
    loaded = models.load(tmp_path / "net.safetensors")
    pixels = (image(64) + 2) / 4
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    _, _, logits = torchvision_networks.outputs(theirs, (pixels - mean) / std)
    found = jax.jit(loaded.fn)(loaded.params, pixels)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
