"""Flax Linen modules as they are: a tap at every submodule, nothing left behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import segcam_jax as segcam
from segcam_jax import InputError, tap
from tests.support.adapted import CLASSES, assert_same_explanations, assert_taps_are

X = jax.random.normal(jax.random.key(0), (6, 8, 2))


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Block(linen.Module):
    """Its switch is an argument, its dropout's a field."""

    outputs: int
    hand: bool = False

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(self.outputs, (3, 3), padding=[(1, 1), (1, 1)])(x)
        x = tap(x, "hand/conv") if self.hand else x
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(0.5, deterministic=False)(linen.relu(x))


class Net(linen.Module):
    hand: bool = False

    def setup(self):
        self.first = Block(4)
        self.layers = [Block(4), Block(4, hand=self.hand)]
        self.shared = linen.Conv(4, (1, 1))
        self.head = linen.Dense(CLASSES)

    def __call__(self, x, train: bool):
        assert x.ndim == 4
        x = self.first(x)
        for layer in self.layers:
            x = self.shared(layer(x, train=train))
        return self.head((tap(x, "hand/shared") if self.hand else x).mean((1, 2)))


@pytest.fixture(scope="module")
def variables():
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    found = Net().init(keys, X[None], train=False)
    # Not those of a network that has seen nothing.
    changed = jax.tree.map(lambda leaf: leaf + 0.1, found["batch_stats"])
    return {**found, "batch_stats": changed}


def inside(block):
    return [f"{block}/{name}" for name in ("Conv_0", "BatchNorm_0", "Dropout_0")] + [block]


def test_every_submodule_is_a_tap(variables):
    fn, params = segcam.from_linen(Net(), variables)
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == [
        *("input", *inside("first"), *inside("layers_0"), "shared"),
        *(*inside("layers_1"), "shared#2", "head"),
    ]
    assert taps["layers_1/Conv_0"].shape == (6, 8, 4)


def test_taps_are_the_outputs_of_submodules_in_eval_mode(variables):
    fn, params = segcam.from_linen(Net(), variables)
    weights, statistics = variables["params"]["first"], variables["batch_stats"]["first"]
    conv = linen.Conv(4, (3, 3), padding=1).apply({"params": weights["Conv_0"]}, X[None])
    norm = linen.BatchNorm(use_running_average=True).apply(
        {"params": weights["BatchNorm_0"], "batch_stats": statistics["BatchNorm_0"]}, conv
    )
    block = linen.relu(norm)
    expected = {"first/Conv_0": conv, "first/BatchNorm_0": norm, "first": block}
    assert_taps_are(fn, params, X, {name: value[0] for name, value in expected.items()})


def test_explanations_are_those_of_the_hand_tapped_twin(variables):
    ours = segcam.from_linen(Net(), variables)
    twin = segcam.from_linen(Net(hand=True), variables)
    names = {"layers_1/Conv_0": "hand/conv", "shared#2": "hand/shared"}
    assert_same_explanations(ours, twin, X, names)


def test_module_and_class_are_left_as_they_are(variables):
    module = Net()
    before = [dict(vars(cls)) for cls in (Net, Block, linen.Conv)]
    fields = dict(vars(module))
    fn, params = segcam.from_linen(module, variables)
    segcam.list_taps(fn, params, X)
    with pytest.raises(Exception, match=r"shape|size"):
        fn(params, jnp.ones((6, 8, 3)))
    assert [dict(vars(cls)) for cls in (Net, Block, linen.Conv)] == before
    assert vars(module) == fields
    jaxpr = jax.make_jaxpr(lambda x: module.apply(variables, x[None], train=False))
    with pytest.raises(Exception, match=r"PRNG|dropout|immutable"):
        jaxpr(X)  # It trains again.


def test_equal_modules_share_splits_and_may_take_one_example(variables):
    one, params = segcam.from_linen(Net(), variables)
    other, _ = segcam.from_linen(Net(), variables)
    assert one == other
    assert segcam.split(one, "first", params, X) is segcam.split(other, "first", params, X)
    assert one != segcam.from_linen(Net(hand=True), variables)[0]

    module = linen.Sequential([linen.Conv(4, (3, 3)), linen.relu, linen.Conv(2, [1, 1])])
    fn, params = segcam.from_linen(module, module.init(jax.random.key(0), X), batch_axis=None)
    assert list(segcam.list_taps(fn, params, X)) == ["input", "layers_0", "layers_2"]
    np.testing.assert_allclose(fn(params, X), module.apply(params, X), atol=1e-6)
    assert hash(fn) == hash(segcam.from_linen(module, params, batch_axis=None)[0])


def test_what_is_no_module():
    with pytest.raises(InputError, match="from_linen was given int, expected a linen.Module"):
        segcam.from_linen(3, {})


class Normalised(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.GroupNorm(2)(linen.Conv(4, (3, 3))(x)))
        return linen.Dense(3)(x.mean((-3, -2)))


def test_a_batch_is_no_image():
    module = Normalised()
    x = jax.random.normal(jax.random.key(1), (6, 8, 2))
    variables = module.init(jax.random.key(0), x[None])
    fn, params = segcam.from_linen(module, variables)
    np.testing.assert_allclose(fn(params, x), module.apply(variables, x[None])[0], atol=1e-6)
    with pytest.raises(InputError, match="a batch: the model treats the entries"):
        segcam.split(fn, "Conv_0", params, jnp.stack([x, x]))
    plain, params = segcam.from_linen(module, variables, batch_axis=None)
    with pytest.raises(InputError, match="the norm 'GroupNorm_0' treats the first axis"):
        segcam.split(plain, "Conv_0", params, x)
    with pytest.raises(InputError, match="'Conv_0' is 2D and was given shape"):
        segcam.split(plain, "Conv_0", params, x[0])


class Keeping(linen.Module):
    """Counts, statistics and sown values, of which a call returns new ones."""

    @linen.compact
    def __call__(self, x):
        calls = self.variable("state", "calls", lambda: jnp.zeros(()))
        if not self.is_initializing() and self.is_mutable_collection("state"):
            calls.value += 1
        self.sow("intermediates", "x", x)
        return linen.Conv(3, (1, 1))(x) + calls.value


def test_variables_are_the_same_after_a_call():
    module = Keeping()
    variables = module.init(jax.random.key(0), X[None])
    before = jax.tree.map(np.array, variables)
    with pytest.raises(InputError, match=r"returns a pair, .* give output=lambda pair: pair\[0\]"):
        segcam.from_linen(module, variables, mutable=["state"])
    fn, params = segcam.from_linen(
        module, variables, mutable=["state", "intermediates"], output=lambda out: out[0]
    )
    outputs = [fn(params, X), fn(params, X), jax.jit(fn)(params, X)]
    split = segcam.split(fn, "Conv_0", params, X)
    for output in [*outputs, split.decode(*split.encode(params, X))]:
        np.testing.assert_allclose(output, outputs[0], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


class Masked(linen.Module):
    @linen.compact
    def __call__(self, x, mask):
        return linen.Conv(3, (3, 3))(x) * mask


def test_modules_with_further_inputs():
    module, mask = Masked(), jnp.arange(48.0).reshape(6, 8, 1)
    variables = module.init(jax.random.key(0), X[None], mask[None])
    with pytest.raises(InputError, match="call needs the argument 'mask'"):
        segcam.list_taps(*segcam.from_linen(module, variables), X)
    fn, params = segcam.from_linen(
        module, variables, call=lambda module, x: module(x["image"], x["mask"])
    )
    x = {"image": X, "mask": mask}
    expected = module.apply(variables, X[None], mask[None])[0]
    np.testing.assert_allclose(fn(params, x), expected, atol=1e-4)
    assert list(segcam.list_taps(fn, params, x)) == ["Conv_0"]


class ChannelsFirstAtTheDoor(linen.Module):
    """Given `n c h w`, works `n h w c`, as diffusers' networks do."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(5, (3, 3))(x.transpose(0, 2, 3, 1)))
        return linen.Conv(CLASSES, (3, 3))(x).transpose(0, 3, 1, 2)


def test_another_layout_inside_than_at_the_door_is_read():
    module = ChannelsFirstAtTheDoor()
    variables = module.init(jax.random.key(0), X.transpose(2, 0, 1)[None])
    fn, params = segcam.from_linen(module, variables, channel_axis=0)
    taps = segcam.list_taps(fn, params, X)
    found = taps["Conv_0"]
    assert (found.shape, found.inside) == ((6, 8, 5), "hwc")
    assert (found.on_grid, found.evidence) == (True, "made by a convolution")
    split = segcam.split(fn, "Conv_0", params, X)
    activation, carry = split.encode(params, X)
    want = linen.Conv(5, (3, 3)).apply({"params": variables["params"]["Conv_0"]}, X)
    np.testing.assert_allclose(activation, want, atol=1e-5)
    # Channels are ablated, not rows.
    target = segcam.targets.region(1, np.eye(6, 8, dtype=bool))
    drops = segcam.methods.ablation_cam(split, params, X, target).drops
    score = float(target(split.decode(activation, carry)))
    by_hand = [
        score - float(target(split.decode(activation.at[..., c].set(0), carry))) for c in range(5)
    ]
    np.testing.assert_allclose(drops, by_hand, atol=1e-4)
    # Letters are those inside of the model, whatever its door.
    said = segcam.split(fn, "Conv_0", params, X, channel_axis=0)
    assert said.activation.shape == (8, 5, 6)
    assert said.activation.evidence == "as given; otherwise made by a convolution"
    same = segcam.split(fn, "Conv_0", params, X, channel_axis=2)
    assert (same.activation.shape, same.activation.evidence) == ((6, 8, 5), "as given")
