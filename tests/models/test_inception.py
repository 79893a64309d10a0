"""Inception-v3: torchvision's parameter counts, its taps, exact splits, the second classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, models
from segcam_jax.models.inception import inception_v3
from segcam_jax.models.randomised import randomised


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def network():
    return segcam.from_nnx(randomised(lambda: inception_v3(classes=5, auxiliary=False)))


def image():
    return jax.random.uniform(jax.random.key(0), (75, 90, 3))


@pytest.mark.parametrize(("auxiliary", "count"), [(True, 27_161_264), (False, 23_834_568)])
def test_parameters_are_torchvisions(auxiliary, count):
    model = nnx.eval_shape(lambda: inception_v3(auxiliary=auxiliary))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


def test_taps():
    fn, params = segcam.from_nnx(nnx.eval_shape(inception_v3))
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((299, 299, 3), jnp.float32))
    shapes = {name: struct.shape for name, struct in taps.items()}
    assert shapes["conv2d_1a_3x3"] == shapes["conv2d_1a_3x3/relu"] == (149, 149, 32)
    assert shapes["mixed_5d"] == (35, 35, 288)
    assert shapes["mixed_6e/branch7x7dbl_5"] == (17, 17, 192)
    assert shapes["mixed_7c"] == shapes["features"] == shapes["features/relu"] == (8, 8, 2048)
    assert segcam.bottleneck(taps) == "features/relu"
    names = nnx.eval_shape(inception_v3).convolutions()
    assert set(names) - set(taps) == {"auxiliary/conv0", "auxiliary/conv1"}


def test_splits_are_exact(network):
    fn, params = network
    split = segcam.split(fn, "mixed_7a/branch3x3_2", params, image())
    whole = jax.jit(fn)(params, image())
    halves = jax.jit(lambda params, x: split.decode(*split.encode(params, x)))
    np.testing.assert_allclose(halves(params, image()), whole, rtol=1e-5, atol=1e-6)


def test_pyramid():
    model = nnx.eval_shape(inception_v3)
    view = nnx.view(model, use_running_average=True)
    x = jax.ShapeDtypeStruct((2, 299, 331, 3), jnp.float32)
    features = jax.eval_shape(lambda model, x: model.pyramid(x), view, x)
    assert [f.shape[1:] for f in features] == [
        *((147, 163, 64), (71, 79, 192), (35, 39, 288), (17, 19, 768), (8, 9, 2048))
    ]


def test_the_second_classifier():
    view = nnx.view(nnx.eval_shape(lambda: inception_v3(classes=5)), use_running_average=True)
    run = jax.eval_shape
    both = run(
        lambda model, x: model.with_auxiliary(x),
        view,
        jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32),
    )
    assert [each.shape for each in both] == [(2, 5), (2, 5)]
    with pytest.raises(InputError, match="at least 299 x 299, or a network with auxiliary=False"):
        run(
            lambda model, x: model.with_auxiliary(x),
            view,
            jax.ShapeDtypeStruct((224, 224, 3), jnp.float32),
        )


def test_images_that_are_too_small():
    with pytest.raises(InputError, match="64 x 299; it needs at least 75 x 75"):
        nnx.eval_shape(inception_v3)(jnp.zeros((64, 299, 3)))


def test_convolutions_that_never_run():
    model = nnx.eval_shape(inception_v3)
    assert models.convolution_tap(model, 70) == "mixed_6e/branch_pool"
    assert models.convolution_tap(model, 73) == "mixed_7a/branch3x3_1"
    assert models.convolution_tap(model, 96) == "mixed_7c/branch_pool"
    for index in (71, 72):
        with pytest.raises(InputError, match="training only .* choose from 1 to 70 or 73 to 96"):
            models.convolution_tap(model, index)
