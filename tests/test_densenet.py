"""DenseNet: torchvision's parameter counts, its taps, exact splits, what reads a concatenation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.models.densenet import DenseNetConfig, densenet
from segcam_jax.models.randomised import randomised

PARAMETERS = {121: 7_978_856, 169: 14_149_480, 201: 20_013_928}


@pytest.fixture(autouse=True)
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def small():
    return segcam.from_nnx(randomised(lambda: densenet(121, growth=2, classes=5, hidden=7)))


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


@pytest.mark.parametrize("tap", ["block1/layer2", "block2/layer1/conv2", "transition2", "features"])
def test_splits_are_exact(small, tap):
    fn, params = small
    split = segcam.split(fn, tap, params, image())
    decoded = split.decode(*split.encode(params, image()))
    np.testing.assert_array_equal(decoded, fn(params, image()))


def test_all_later_layers_read_the_tapped_concatenation(small):
    fn, params = small
    split = segcam.split(fn, "block1/layer2", params, image())
    blank = jnp.zeros((1, 1, 1))
    one, other = (split.ablated(params, x, blank) for x in (image(), 1 - image()))
    np.testing.assert_array_equal(one, other)


def test_a_batch_and_a_single_image_agree(small):
    fn, params = small
    x = jax.random.uniform(jax.random.key(1), (3, 32, 40, 3))
    np.testing.assert_allclose(fn(params, x)[1], fn(params, x[1]), atol=1e-5)


def test_pyramid():
    model = nnx.view(randomised(lambda: densenet(121, growth=2)), use_running_average=True)
    features = model.pyramid(jnp.zeros((64, 96, 3)))
    assert [f.shape for f in features] == [
        *((32, 48, 4), (16, 24, 16), (8, 12, 32), (4, 6, 64), (2, 3, 64))
    ]


def test_configurations_that_do_not_fit():
    for field, value in {"depth": 120, "growth": 0, "hidden": -1}.items():
        with pytest.raises(InputError, match=field):
            DenseNetConfig(**{field: value})
