"""Parameters drawn anew: by the model's own initialisers where it tells them, else permuted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import segcam_jax as segcam
from segcam_jax import metrics, models
from segcam_jax.metrics.randomisation import redrawn
from segcam_jax.models.unet import UNet, UNetConfig

KEY = jax.random.key(3)
X = jnp.ones((4, 4, 2))


@pytest.fixture(autouse=True)
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _redrawn(adapted, x=X):
    """What is drawn anew, by path, and what is permuted."""
    fn, params = adapted
    found, kept = redrawn(segcam.split(fn, "input", params, x), params, KEY)
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path).removesuffix(".value") for path, _ in paths]
    before = dict(zip(names, (np.asarray(leaf) for _, leaf in paths), strict=True))
    return before, dict(zip(names, map(np.asarray, found), strict=True)), kept


def _same_values(one, other):
    np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(other.ravel()))
    assert not np.array_equal(one, other)


def test_a_network_of_the_library_is_drawn_as_it_is_initialised():
    config = UNetConfig(in_channels=2, classes=3, depth=1, width=16)
    model = models.randomised(lambda: UNet(config, rngs=models.Keys(0)))
    before, found, kept = _redrawn(segcam.from_nnx(model))
    assert kept == ()
    assert found.keys() == before.keys()
    for name, values in found.items():
        kind, shape = name.split("['")[-1], values.shape
        if kind == "kernel']":
            area = np.prod(shape[:2])
            limit = np.sqrt(6 / (area * (shape[2] + shape[3])))  # Of Glorot and Bengio, even.
            deviation = limit / np.sqrt(3)
            if "head" in name:  # LeCun's, normal, cut at two deviations.
                deviation = 1 / np.sqrt(area * shape[2])
                limit = 2 * deviation / 0.8796
            assert np.abs(values).max() <= limit * (1 + 1e-6), name
            error = 4 * deviation / np.sqrt(values.size)
            assert abs(values.mean()) < error, name
            assert abs(values.std() - deviation) < error, name
        else:
            want = 1 if kind in ("scale']", "var']") else 0
            np.testing.assert_array_equal(values, want, err_msg=name)
            assert not np.array_equal(before[name], values)
    equal = [v for v in found.values() if v.shape == (3, 3, 16, 16)]
    assert len(equal) == 2  # Each has a key of its own.
    assert np.abs(equal[0] - equal[1]).max() > 0.01


class Kept(nnx.Module):
    """Keeps what its constructor was given."""

    def __init__(self, width, *, rngs):
        self.width = width
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        init = nnx.initializers.constant(5.0)
        self.head = nnx.Linear(width, 3, bias_init=init, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x).mean((0, 1)))


class Lost(Kept):
    """Keeps it under another name."""

    def __init__(self, channels, *, rngs):
        super().__init__(channels, rngs=rngs)


class Scaled(Kept):
    """Keeps something else under that name, with which its constructor fails."""

    def __init__(self, width, *, rngs):
        super().__init__(width, rngs=rngs)
        self.width = None


def test_a_model_of_nnx_tells_if_it_keeps_its_arguments():
    for kind in (Kept, Lost, Scaled):
        model = kind(2, rngs=nnx.Rngs(0))
        model.head.bias[...] = jnp.arange(3.0)
        before, found, kept = _redrawn(segcam.from_nnx(model))
        if kind is Kept:
            assert kept == ()
            np.testing.assert_array_equal(found["['head']['bias']"], 5)
        else:
            assert set(kept) == before.keys()
            _same_values(found["['head']['bias']"], before["['head']['bias']"])


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(3, bias_init=linen.initializers.constant(5.0))(x.mean((1, 2)))


def test_a_module_of_linen_draws_its_variables():
    variables = Dense().init(KEY, X[None], train=False)
    variables = jax.tree.map(
        lambda leaf: leaf + jnp.arange(leaf.size).reshape(leaf.shape), variables
    )
    extra = {**variables, "extra": {"table": jnp.arange(9.0)}}
    before, found, kept = _redrawn(segcam.from_linen(Dense(), extra, train=False))
    assert kept == ("['extra']['table']",)
    _same_values(found["['extra']['table']"], before["['extra']['table']"])
    np.testing.assert_array_equal(found["['params']['Dense_0']['bias']"], 5)
    np.testing.assert_array_equal(found["['batch_stats']['BatchNorm_0']['var']"], 1)
    kernel = "['params']['Dense_0']['kernel']"
    assert np.abs(found[kernel]).max() < 2 < before[kernel].max()


class Channels(eqx.Module):
    """Tells by its layers, as it keeps no argument."""

    layers: list
    gain: jax.Array

    def __init__(self, width, key):
        keys = jax.random.split(key)
        self.layers = [
            eqx.nn.Conv2d(2, width, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(1, width),
            eqx.nn.Conv2d(width, width, 3, padding=1, key=keys[1]),
        ]
        self.gain = jnp.arange(1.0, 9.0)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.mean((1, 2)) * self.gain


def test_a_model_of_equinox_draws_its_layers():
    model = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_array(leaf) else leaf, Channels(8, KEY))
    before, found, kept = _redrawn(segcam.from_equinox(model))
    assert kept == ("[0].gain",)
    _same_values(found["[0].gain"], before["[0].gain"])
    for layer, inputs in ((0, 2), (2, 8)):  # Even, up to the root of the fan.
        values, limit = found[f"[0].layers[{layer}].weight"], 1 / np.sqrt(9 * inputs)
        assert 0.9 * limit < np.abs(values).max() <= limit
        assert abs(values.std() - limit / np.sqrt(3)) < 0.1 * limit
        assert np.abs(found[f"[0].layers[{layer}].bias"]).max() <= limit
    np.testing.assert_array_equal(found["[0].layers[1].weight"], 1)
    np.testing.assert_array_equal(found["[0].layers[1].bias"], 0)


def test_randomisation_says_what_it_permutes():
    model = Kept(2, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (4, 4, 2))
    for kind, count in ((model, 0), (Lost(2, rngs=nnx.Rngs(0)), 6)):
        fn, params = segcam.from_nnx(kind)
        given = (segcam.split(fn, "input", params, x, outputs="logits"), params, x)
        given = (*given, segcam.targets.whole_image(0), segcam.methods.input_x_gradient)
        found = metrics.parameter_randomisation(*given, key=KEY)
        assert len(found.permuted) == count
    double = metrics.parameter_randomisation(*given, key=KEY, draw=lambda key, values: 2 * values)
    assert double.permuted == ()
    np.testing.assert_allclose(double.last, 1, rtol=1e-6)
