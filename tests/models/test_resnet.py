"""ResNet: torchvision's parameter counts, its taps, exact splits, inputs that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, models
from segcam_jax.models.randomised import randomised
from segcam_jax.models.resnet import ResNetConfig, resnet

PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def small():
    return segcam.from_nnx(randomised(lambda: resnet(50, width=4, classes=5)))


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameters_are_torchvisions(depth):
    model = nnx.eval_shape(lambda: resnet(depth))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == (PARAMETERS[depth])
    )


def test_taps():
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: resnet(50)))
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((224, 224, 3), jnp.float32))
    shapes = {name: struct.shape for name, struct in taps.items()}
    assert shapes["stem/conv"] == (112, 112, 64)
    assert shapes["layer1/block1/shortcut"] == (56, 56, 256)
    assert shapes["layer4/block3/conv3"] == shapes["layer4/block3"] == (7, 7, 2048)
    assert list(shapes)[-6:] == [
        *("layer4/block3/sum", "features", "layer4/block3", "features/relu", "pooled", "logits")
    ]
    convolutions = [name for name in taps if "conv" in name or "shortcut" in name]
    assert len(convolutions) == 53
    assert segcam.bottleneck(taps) == "features/relu"


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("tap", ["layer2/block2", "layer3/block1/conv1", "features"])
def test_splits_are_exact(depth, tap):
    fn, params = segcam.from_nnx(randomised(lambda: resnet(depth, width=4, classes=5)))
    x = jax.random.uniform(jax.random.key(0), (32, 40, 3))
    split = segcam.split(fn, tap, params, x)
    halves = jax.jit(lambda params, x: split.decode(*split.encode(params, x)))
    whole = jax.jit(fn)(params, x)
    np.testing.assert_allclose(halves(params, x), whole, rtol=1e-5, atol=1e-6)


def test_both_paths_of_the_next_block_read_the_tapped_block(small):
    fn, params = small
    x = jax.random.uniform(jax.random.key(0), (32, 40, 3))
    split = segcam.split(fn, "layer2/block2", params, x)
    ablated = jax.jit(lambda params, x: split.ablated(params, x, jnp.zeros((1, 1, 1))))
    np.testing.assert_array_equal(ablated(params, x), ablated(params, 1 - x))
    assert jnp.abs(ablated(params, x) - jax.jit(fn)(params, x)).max() > 1e-3


def test_a_batch_and_a_single_image_agree(small):
    fn, params = small
    x = jax.random.uniform(jax.random.key(0), (3, 32, 40, 3))
    run = jax.jit(fn)
    np.testing.assert_allclose(run(params, x)[1], run(params, x[1]), atol=1e-5)


def test_pyramid():
    view = nnx.view(nnx.eval_shape(lambda: resnet(18, width=4)), use_running_average=True)
    x = jax.ShapeDtypeStruct((64, 96, 3), jnp.float32)
    features = jax.eval_shape(lambda model, x: model.pyramid(x), view, x)
    assert [f.shape for f in features] == [
        *((32, 48, 4), (16, 24, 4), (8, 12, 8), (4, 6, 16), (2, 3, 32))
    ]


def test_normalisation_is_part_of_the_network():
    x = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    plain, params = segcam.from_nnx(randomised(lambda: resnet(18, width=4)))
    normal, same = segcam.from_nnx(
        randomised(lambda: resnet(18, width=4, normalisation="imagenet"))
    )
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = jax.jit(plain)(params, (x - mean) / std)
    np.testing.assert_allclose(jax.jit(normal)(same, x), expected, atol=1e-4)


def test_inputs_that_do_not_fit():
    model = nnx.eval_shape(lambda: resnet(18))
    with pytest.raises(InputError, match=r"shape \(64, 64, 1\); it expects .* 3 channel"):
        model(jnp.zeros((64, 64, 1)))
    with pytest.raises(InputError, match="image of 16 x 64; it needs at least 32 x 32"):
        model(jnp.zeros((16, 64, 3)))
    for field, value in {"depth": 51, "classes": 0, "normalisation": "imagnet"}.items():
        with pytest.raises(InputError, match=field):
            ResNetConfig(**{field: value})
    with pytest.raises(InputError, match="'imagenet' is for 3 channels, not 1"):
        ResNetConfig(in_channels=1, normalisation="imagenet")


def test_convolutions_by_number():
    model = nnx.eval_shape(lambda: resnet(152))
    assert len(model.convolutions()) == 155
    assert models.convolution_tap(model, 1) == "stem/conv"
    assert models.convolution_tap(model, 5) == "layer1/block1/shortcut"
    assert models.convolution_tap(model, 155) == "layer4/block3/conv3"
    for index in (0, -1, 156, 3.0, True):
        with pytest.raises(InputError, match="does not exist; choose from 1 to 155"):
            models.convolution_tap(model, index)
