"""Equinox models as they are: a tap at every submodule, channels first, nothing left behind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, tap
from tests.support.adapted import CLASSES, assert_same_explanations, assert_taps_are, untouched

X = jax.random.normal(jax.random.key(0), (6, 8, 2))
HWC, CHW = (lambda x: jnp.moveaxis(x, 0, -1)), (lambda x: jnp.moveaxis(x, -1, 0))


class Block(eqx.Module):
    conv: eqx.nn.Conv2d
    dropout: eqx.nn.Dropout
    hand: bool = False

    def __init__(self, inputs, outputs, key, hand=False):
        self.conv = eqx.nn.Conv2d(inputs, outputs, 3, padding=[(1, 1), (1, 1)], key=key)
        self.dropout = eqx.nn.Dropout(0.5)
        self.hand = hand

    def __call__(self, x):
        x = self.conv(x)
        return self.dropout(jax.nn.relu(tap(x, "hand/conv") if self.hand else x))


class Net(eqx.Module):
    first: eqx.nn.Sequential
    layers: list[Block]
    shared: eqx.nn.Conv2d
    head: eqx.nn.Linear
    hand: bool = eqx.field(static=True)

    def __init__(self, key, hand=False):
        keys = jax.random.split(key, 5)
        relu = eqx.nn.Lambda(jax.nn.relu)
        self.first = eqx.nn.Sequential([eqx.nn.Conv2d(2, 4, 3, key=keys[0]), relu])
        self.layers = [Block(4, 4, keys[1]), Block(4, 4, keys[2], hand)]
        self.shared = eqx.nn.Conv2d(4, 4, 1, key=keys[3])
        self.head = eqx.nn.Linear(4, CLASSES, key=keys[4])
        self.hand = hand

    def __call__(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = self.shared(layer(x))
        return self.head((tap(x, "hand/shared") if self.hand else x).mean((1, 2)))


def modules_of(model):
    def is_module(node):
        return isinstance(node, eqx.Module) and node is not model

    found = [n for n in jax.tree.leaves(model, is_leaf=is_module) if isinstance(n, eqx.Module)]
    return [model, *(inner for module in found for inner in modules_of(module))]


def test_every_submodule_is_a_tap_with_channels_last():
    fn, params = segcam.from_equinox(Net(jax.random.key(1)))
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == [
        *("input", "first/layers/0", "first/layers/1", "first"),
        *("layers/0/conv", "layers/0/dropout", "layers/0", "shared"),
        *("layers/1/conv", "layers/1/dropout", "layers/1", "shared#2", "head"),
    ]
    assert taps["first"].shape == taps["layers/1/conv"].shape == (4, 6, 4)
    assert segcam.bottleneck(taps) == "shared#2"


def test_taps_are_the_outputs_of_submodules_in_inference_mode():
    model = Net(jax.random.key(1))
    fn, params = segcam.from_equinox(model)
    first = model.first(CHW(X))
    block = jax.nn.relu(model.layers[0].conv(first))
    shared = model.shared(block)
    again = model.shared(jax.nn.relu(model.layers[1].conv(shared)))
    expected = {"first": first, "layers/0": block, "shared": shared, "shared#2": again}
    assert_taps_are(fn, params, X, {name: HWC(value) for name, value in expected.items()})
    np.testing.assert_allclose(fn(params, X), model.head(again.mean((1, 2))), atol=1e-6)


def test_explanations_are_those_of_the_hand_tapped_twin():
    ours = segcam.from_equinox(Net(jax.random.key(1)))
    twin = segcam.from_equinox(Net(jax.random.key(1), hand=True))
    # What the author tapped is channels last as well, and is listed beside the submodule.
    assert segcam.list_taps(*twin, X)["hand/conv"].shape == (4, 6, 4)
    names = {"layers/1/conv": "hand/conv", "shared#2": "hand/shared"}
    assert_same_explanations(ours, twin, X, names)


def test_maps_are_those_of_a_model_wrapped_by_hand():
    model = eqx.nn.inference_mode(Net(jax.random.key(1), hand=True))
    params, static = eqx.partition(model, eqx.is_array)

    def fn(params, x):
        return eqx.combine(params, static)(CHW(x))

    ours, same = segcam.from_equinox(Net(jax.random.key(1)))
    by_hand = segcam.split(fn, "hand/conv", params, X, channel_axis=0)
    adapted = segcam.split(ours, "layers/1/conv", same, X)
    target = segcam.targets.whole_image(2)
    np.testing.assert_allclose(
        segcam.methods.ablation_cam(adapted, same, X, target).map,
        segcam.methods.ablation_cam(by_hand, params, X, target).map,
        rtol=1e-5,
        atol=1e-6,
    )


def test_model_and_classes_are_left_as_they_are():
    model = Net(jax.random.key(1))
    modules = modules_of(model)
    assert len(modules) == 12
    with untouched(model, modules):
        fn, params = segcam.from_equinox(model)
        segcam.list_taps(fn, params, X)
        with pytest.raises(Exception, match=r"shape|input"):
            fn(params, jnp.ones((6, 8, 3)))
    assert not model.layers[0].dropout.inference


def test_equal_models_share_splits():
    one, params = segcam.from_equinox(Net(jax.random.key(1)))
    other, _ = segcam.from_equinox(Net(jax.random.key(2)))
    assert one == other
    assert segcam.split(one, "first", params, X) is segcam.split(other, "first", params, X)
    assert one != segcam.from_equinox(Net(jax.random.key(1), hand=True))[0]
    assert one != segcam.from_equinox(Net(jax.random.key(1)), channel_axis=-1)[0]


class Stateful(eqx.Module):
    body: eqx.nn.Sequential
    tokens: eqx.nn.Linear
    head: eqx.nn.Conv2d

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.body = eqx.nn.Sequential([eqx.nn.Conv2d(2, 4, 1, key=keys[0]), norm])
        self.tokens = eqx.nn.Linear(4, 4, key=keys[1])
        self.head = eqx.nn.Conv2d(4, CLASSES, 1, key=keys[2])

    def __call__(self, x, state):
        x, state = self.body(x, state)
        tokens = jax.vmap(self.tokens)(x.reshape(4, -1).T)
        return self.head(tokens.T.reshape(x.shape)), state


def test_a_model_with_state_and_tokens():
    model, state = eqx.nn.make_with_state(Stateful)(jax.random.key(3))
    batch = jax.random.normal(jax.random.key(4), (5, 2, 6, 8))
    _, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        batch, state
    )
    fn, params = segcam.from_equinox(model, state)
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == ["input", "body/layers/0", "body/layers/1", "body", "tokens", "head"]
    assert taps["body"].shape == (6, 8, 4)
    assert taps["tokens"].shape == (48, 4)
    inference = eqx.nn.inference_mode(model)
    body, _ = inference.body(CHW(X), state)
    output, _ = inference(CHW(X), state)
    assert_taps_are(fn, params, X, {"body/layers/1": HWC(body), "head": HWC(output)})
    assert fn(params, X).shape == (6, 8, CLASSES)


def test_what_is_no_module():
    with pytest.raises(InputError, match="from_equinox was given int, expected an eqx.Module"):
        segcam.from_equinox(3)
    with pytest.raises(InputError, match="given tuple.*give the state as the second argument"):
        segcam.from_equinox((3, None))


class Counting(eqx.Module):
    """Keeps a count in a state, and one in an array of numpy."""

    index: eqx.nn.StateIndex
    conv: eqx.nn.Conv2d
    counted: np.ndarray

    def __init__(self):
        self.index = eqx.nn.StateIndex(jnp.zeros(()))
        self.conv = eqx.nn.Conv2d(2, 3, 1, key=jax.random.key(0))
        self.counted = np.zeros((3, 1, 1), np.float32)

    def __call__(self, x, state):
        if isinstance(self.counted, np.ndarray):
            self.counted[...] += 1
        count = state.get(self.index) + 1
        return self.conv(x) + count + self.counted, state.set(self.index, count)


def test_state_and_arrays_are_the_same_after_a_call():
    """0.1.0 counted in the model's own array: 3 after two calls."""
    model, state = eqx.nn.make_with_state(Counting)()
    fn, params = segcam.from_equinox(model, state)
    x = jax.random.normal(jax.random.key(1), (6, 8, 2))
    first, second = fn(params, x), fn(params, x)
    np.testing.assert_array_equal(first, second)
    split = segcam.split(fn, "conv", params, x)
    split.encode(params, x)
    assert (state.get(model.index), model.counted.max()) == (0, 0)
    np.testing.assert_allclose(first, jnp.moveaxis(model(jnp.moveaxis(x, -1, 0), state)[0], 0, -1))


def test_a_module_is_no_function():
    """It holds arrays and has no hash; 0.1.0 said "unhashable type" alone."""
    model = eqx.nn.Conv2d(2, 3, 1, key=jax.random.key(0))
    for fn in (model, model.__call__, eqx.nn.Sequential([model])):
        for call in (segcam.list_taps, lambda fn, *given: segcam.split(fn, "input", *given)):
            with pytest.raises(
                InputError, match=r"no hash; adapt a model with .*from_equinox\(model"
            ):
                call(fn, {}, jnp.ones((2, 6, 8)))


class Masked(eqx.Module):
    conv: eqx.nn.Conv2d

    def __call__(self, x, mask):
        return self.conv(x) * mask


def test_models_with_further_inputs():
    model = Masked(eqx.nn.Conv2d(2, 3, 1, key=jax.random.key(0)))
    mask = jnp.arange(48.0).reshape(6, 8, 1)
    with pytest.raises(InputError, match="call needs the argument 'mask'"):
        segcam.list_taps(*segcam.from_equinox(model), X)
    fn, params = segcam.from_equinox(model, call=lambda model, x: model(*x))
    np.testing.assert_allclose(fn(params, (X, mask)), HWC(model(CHW(X), CHW(mask))), rtol=1e-5)
    assert list(segcam.list_taps(fn, params, (X, mask))) == ["conv"]
