"""Keras models as they are: every layer a tap, the model as it was."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError

if importlib.util.find_spec("keras") is None:
    pytest.skip("needs Keras 3", allow_module_level=True)
os.environ["KERAS_BACKEND"] = "jax"
keras = pytest.importorskip("keras")
layers = keras.layers

X = np.random.default_rng(0).normal(size=(16, 12, 3)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def keras_rules():
    """Keras relies on JAX's usual promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def functional():
    keras.utils.set_random_seed(0)
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    image = keras.Input((16, 12, 3))
    skip = layers.Conv2D(4, 3, padding="same", activation="relu", name="skip")(image)
    x = layers.BatchNormalization(name="norm")(layers.MaxPooling2D(name="pool")(skip))
    inner = keras.Sequential(
        [layers.Conv2D(4, 1, name="conv"), layers.ReLU(name="act")], name="inner"
    )
    x = layers.Dropout(0.5, name="drop")(inner(shared(shared(x))))
    x = layers.Concatenate(name="join")([layers.UpSampling2D(name="up")(x), skip])
    model = keras.Model(image, layers.Conv2D(2, 1, name="head")(x))
    for variable in model.get_layer("norm").non_trainable_variables:
        variable.assign(variable + 0.5)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.drop = layers.Conv2D(5, 3, name="conv"), layers.Dropout(0.9, name="drop")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return self.head(self.drop(self.conv(x)).mean((1, 2)))


def test_a_functional_model_and_its_layers():
    model = functional()
    own = model.get_layer("norm").call
    object.__setattr__(model.get_layer("norm"), "call", own)  # A user's own stays.
    before = [np.asarray(variable) for variable in model.variables]
    attributes = [set(vars(layer)) for layer in model._flatten_layers()]
    fn, params = segcam.from_keras(model)
    want = np.asarray(model(X[None], training=False))[0]
    np.testing.assert_allclose(fn(params, X), want, atol=1e-6)
    taps = segcam.list_taps(fn, params, X)
    names = {"skip", "pool", "norm", "shared", "shared#2", "inner/conv", "inner/act", "inner"}
    assert {*names, "drop", "up", "join", "head"} <= set(taps)
    assert taps["inner/conv"].shape == (8, 6, 4)
    part = keras.Model(model.inputs[0], model.get_layer("drop").output)
    split = segcam.split(fn, "drop", params, X)
    activation, carry = split.encode(params, X)
    np.testing.assert_allclose(activation, part(X[None])[0], atol=1e-6)
    np.testing.assert_allclose(split.decode(activation, carry), want, atol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert jnp.abs(fn(zeros, X)).max() == 0
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes
    assert vars(model.get_layer("norm"))["call"] is own
    one_line = segcam.explain(model, X, tap="drop", target=1, method="ablation_cam")
    target = segcam.targets.predicted(fn(params, X), 1)
    by_parts = segcam.methods.ablation_cam(split, params, X, target)
    np.testing.assert_allclose(one_line.map, by_parts.map, rtol=1e-5)


def test_a_subclassed_model():
    model = Subclassed()
    with pytest.raises(InputError, match=r"is not built, .* call it on an image first"):
        segcam.from_keras(model)
    want = np.asarray(model(X[None]))[0]
    fn, params = segcam.from_keras(model)
    np.testing.assert_allclose(jax.jit(fn)(params, X), want, atol=1e-6)
    assert list(segcam.list_taps(fn, params, X)) == ["input", "conv", "drop", "head"]
    with pytest.raises(InputError, match="given dict, expected a layer or model of Keras 3"):
        segcam.from_keras({})


def test_channels_first_must_be_said():
    conv = layers.Conv2D(4, 3, padding="same", data_format="channels_first", name="conv")
    model = keras.Sequential([keras.Input((3, 16, 12)), conv], name="net")
    with pytest.raises(InputError, match=r"'net' takes channels first, \(3, 16, 12\), .*axis=0"):
        segcam.from_keras(model)
    fn, params = segcam.from_keras(model, channel_axis=0)
    want = np.asarray(model(X.transpose(2, 0, 1)[None]))[0].transpose(1, 2, 0)
    np.testing.assert_allclose(fn(params, X), want, atol=1e-6)
    with pytest.raises(InputError, match="ValueError: Input 0 .*have value 3, but received"):
        fn(params, X[..., :2])
    turned = keras.Sequential([keras.Input((16, 12, 3)), layers.Permute((3, 1, 2)), conv])
    segcam.from_keras(turned)


def test_another_backend_is_refused():
    code = (
        "import keras, segcam_jax as segcam\n"
        "try: segcam.from_keras(keras.layers.Dense(2))\n"
        "except segcam.InputError as error: print(error)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    run = subprocess.run(
        (sys.executable, "-c", code), env=environment, capture_output=True, text=True, check=False
    )
    assert "Keras runs on numpy, and from_keras needs JAX" in run.stdout, run.stderr
