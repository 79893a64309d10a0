"""`Unet("vgg16")` of segmentation_models against Keras (`goldens/generate_vgg_unet.py`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, cli, models
from segcam_jax.cli import cache
from segcam_jax.models.vgg_unet import VggUNet, VggUNetConfig
from tests import goldens
from tests.goldens.drawing import drawn, sampled, volume
from tests.support.tapped import activations

GOLDENS = np.load(goldens.FOLDER / "vgg_unet.npz")
SHAPES = {
    str(name): tuple(map(int, shape.split("x")))
    for name, shape in zip(GOLDENS["names"], GOLDENS["shapes"], strict=True)
}


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def tensors():
    return {name: drawn(name, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def model(tensors):
    return models.from_tensors(tensors, "unet-vgg16")


def test_every_layer_of_keras_is_a_tap_with_its_values(model):
    assert model.config == VggUNetConfig(classes=3, width=4)
    fn, params = segcam.from_nnx(model)
    seen, logits = activations(fn, params, volume((32, 64), 3))
    names = [name.replace("final_conv", "logits") for name in GOLDENS["layers"].tolist()]
    assert seen.keys() == set(names)
    assert {"center_block1_relu", "center_block2_relu"} <= seen.keys()
    assert model.convolutions() == [n for n in names if "conv" in n or n == "logits"]
    for name, values, scale in zip(names, GOLDENS["values"], GOLDENS["scales"], strict=True):
        np.testing.assert_allclose(
            sampled(seen[name]), values, rtol=0, atol=1e-4 * scale, err_msg=name
        )
        np.testing.assert_allclose(np.abs(seen[name]).max(), scale, rtol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(logits), GOLDENS["probabilities"], atol=1e-4)


def test_a_file_of_keras_is_converted_and_opened(tensors, model, tmp_path, monkeypatch, capsys):
    """An h5 in the form that Keras writes: the names of the layers, and of the weights of each."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(cache, "enable", lambda: None)
    path, out = tmp_path / "unet.h5", tmp_path / "unet.safetensors"
    by_layer = {}
    for name, value in tensors.items():
        by_layer.setdefault(name.partition("/")[0], {})[name] = value
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.encode() for layer in by_layer]
        for layer, weights in by_layer.items():
            group.create_group(layer).attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[layer][name] = value
    line = ["convert", str(path), "--model", "unet-vgg16", "--out", str(out)]
    assert cli.main(line) == 0
    assert "classes" in capsys.readouterr().out
    loaded = models.load(out)
    assert (loaded.name, loaded.config.multiple) == ("vgg_unet", 32)
    for one, other in zip(
        *map(jax.tree.leaves, (loaded.params, segcam.from_nnx(model)[1])), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    line[3], line[5] = "monai-unet", str(tmp_path / "other.safetensors")
    assert cli.main(line) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "other.safetensors").exists()


def test_weights_that_do_not_fit_are_named(tensors):
    lacking = {name: value for name, value in tensors.items() if "stage4b_bn" not in name}
    with pytest.raises(InputError, match="4 not in the file: .*decoder/4/1/norm"):
        models.from_tensors(lacking, "unet-vgg16")
    with pytest.raises(InputError, match="1 unknown to the table: stage5/kernel"):
        models.from_tensors(tensors | {"stage5/kernel": np.zeros(1)}, "unet-vgg16")


def test_the_network_of_seg_grad_cam_has_its_parameters():
    """23,752,273 of one class, as segmentation_models' summary has it, and 145 of each more."""
    model = nnx.eval_shape(lambda: VggUNet(rngs=nnx.Rngs(0)))
    sizes = {name: np.prod(shape) for name, shape in models.stored.shapes(model).items()}
    assert sum(sizes.values()) == 23_752_273 + 7 * 145
    assert sum(n for name, n in sizes.items() if name.endswith(("mean", "var"))) == 4_032


def test_what_does_not_fit_is_refused(model):
    fn, params = segcam.from_nnx(model)
    for shape, message in (((32, 48, 3), "multiples of 32"), ((32, 32, 1), "3 channels")):
        with pytest.raises(InputError, match=message):
            jax.eval_shape(fn, params, jnp.zeros(shape))
    with pytest.raises(InputError, match="`width` is 6; it must be a multiple of 4"):
        VggUNetConfig(width=6)


def test_a_pixel_is_explained_at_the_centre(model):
    """Seg-Grad-CAM by its formula and JAX's own gradient, at a block that the source explains."""
    fn, params = segcam.from_nnx(model)
    x = jnp.asarray(volume((64, 64), 3))
    split = segcam.split(fn, "center_block2_relu", params, x)
    found = segcam.methods.seg_grad_cam(
        split, params, x, segcam.targets.pixel(1, (40, 20), (64, 64))
    )
    activation, carry = split.encode(params, x)
    slopes = jax.jit(jax.grad(lambda a: split.decode(a, carry)[40, 20, 1]))(activation)
    expected = (slopes.mean((0, 1)) * activation).sum(-1)
    assert activation.shape == (2, 2, 32)
    np.testing.assert_allclose(found.map, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())
