"""DenseNet: torchvision's parameter counts, its taps, exact splits, what reads a concatenation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, models
from segcam_jax.models.densenet import DenseNetConfig, densenet
from segcam_jax.models.randomised import randomised

PARAMETERS = {121: 7_978_856, 169: 14_149_480, 201: 20_013_928}


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def small():
    return segcam.from_nnx(randomised(lambda: densenet(121, growth=2, classes=5, hidden=7)))


@pytest.fixture(scope="module")
def whole(small):
    fn, params = small
    return jax.jit(fn)(params, image())


def image():
    return jax.random.uniform(jax.random.key(0), (32, 40, 3))


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameters_are_torchvisions(depth):
    model = nnx.eval_shape(lambda: densenet(depth))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == (PARAMETERS[depth])
    )


def test_taps_of_densenet_169():
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: densenet(169)))
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((224, 224, 3), jnp.float32))
    shapes = {name: struct.shape for name, struct in taps.items()}
    assert shapes["features"] == shapes["features/norm"] == shapes["features/relu"] == (7, 7, 1664)
    assert shapes["block4/layer32"] == (7, 7, 1664)
    assert shapes["block4/layer32/conv2"] == (7, 7, 32)
    assert shapes["block1"] == shapes["transition1/relu"] == (56, 56, 256)
    assert shapes["transition1"] == (28, 28, 128)
    assert sum(name.rsplit("/")[-1].startswith("conv") for name in taps) == 168
    assert segcam.bottleneck(taps) == "features/relu"


@pytest.mark.parametrize("tap", ["block2/layer1/conv2", "features"])
def test_splits_are_exact(small, whole, tap):
    fn, params = small
    split = segcam.split(fn, tap, params, image())
    halves = jax.jit(lambda params, x: split.decode(*split.encode(params, x)))
    np.testing.assert_allclose(halves(params, image()), whole, rtol=1e-5, atol=1e-6)


def test_all_later_layers_read_the_tapped_concatenation(small):
    fn, params = small
    split = segcam.split(fn, "block1/layer2", params, image())
    ablated = jax.jit(lambda params, x: split.ablated(params, x, jnp.zeros((1, 1, 1))))
    np.testing.assert_array_equal(ablated(params, image()), ablated(params, 1 - image()))


def test_a_batch_and_a_single_image_agree(small, whole):
    fn, params = small
    batch = jnp.stack([1 - image(), image()])
    np.testing.assert_allclose(jax.jit(fn)(params, batch)[1], whole, atol=1e-5)


def test_pyramid():
    view = nnx.view(nnx.eval_shape(lambda: densenet(121, growth=2)), use_running_average=True)
    x = jax.ShapeDtypeStruct((64, 96, 3), jnp.float32)
    features = jax.eval_shape(lambda model, x: model.pyramid(x), view, x)
    assert [f.shape for f in features] == [
        *((32, 48, 4), (16, 24, 16), (8, 12, 32), (4, 6, 64), (2, 3, 64))
    ]


def test_configurations_that_do_not_fit():
    for field, value in {"depth": 120, "growth": 0, "hidden": -1}.items():
        with pytest.raises(InputError, match=field):
            DenseNetConfig(**{field: value})


def test_convolutions_by_number():
    model = nnx.eval_shape(lambda: densenet(121))
    assert len(model.convolutions()) == 120
    assert models.convolution_tap(model, 14) == "transition1/conv"
    assert models.convolution_tap(model, 120) == "block4/layer16/conv2"
