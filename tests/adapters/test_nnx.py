"""Flax NNX models as they are: a tap at every submodule, nothing left behind."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, tap
from segcam_jax.adapters import calls
from tests.support.adapted import CLASSES, assert_same_explanations, assert_taps_are, untouched

X = jax.random.normal(jax.random.key(0), (6, 8, 2))


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def mark(x, name, names):
    return tap(x, name) if names else x


class Block(nnx.Module):
    def __init__(self, inputs, outputs, rngs):
        self.conv = nnx.Conv(inputs, outputs, (3, 3), padding=[(1, 1), (1, 1)], rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)
        self.names = ()

    def __call__(self, x):
        return nnx.relu(self.norm(mark(self.conv(x), "hand/conv", self.names)))


class Net(nnx.Module):
    """Called with a batch; `shared` runs twice."""

    def __init__(self, rngs, names=()):
        self.first = Block(2, 4, rngs)
        self.layers = nnx.List([Block(4, 4, rngs), Block(4, 4, rngs)])
        self.layers[1].names = names
        self.names = names
        self.shared = nnx.Conv(4, 4, (1, 1), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x, train=True):
        assert x.ndim == 4
        x = self.first(x)
        for layer in self.layers:
            x = self.shared(layer(x))
        x = self.dropout(mark(x, "hand/shared", self.names), deterministic=not train)
        return self.head(x.mean((1, 2)))


PATHS = [
    *("first/conv", "first/norm", "first", "layers/0/conv", "layers/0/norm", "layers/0"),
    *("shared", "layers/1/conv", "layers/1/norm", "layers/1", "shared#2", "dropout", "head"),
]


def test_every_submodule_is_a_tap():
    fn, params = segcam.from_nnx(Net(nnx.Rngs(0)), batch_axis=0)
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == ["input", *PATHS]
    assert taps["layers/1/conv"].shape == (6, 8, 4)
    assert taps["head"].shape == (CLASSES,)


def test_taps_are_the_outputs_of_submodules_in_eval_mode():
    model = Net(nnx.Rngs(0))
    fn, params = segcam.from_nnx(model, batch_axis=0)
    view = nnx.view(model, deterministic=True, use_running_average=True)
    first = view.first.conv(X[None])
    block = nnx.relu(view.first.norm(first))
    shared = view.shared(view.layers[0](block))
    again = view.shared(view.layers[1](shared))
    expected = {"first/conv": first, "first": block, "shared": shared, "shared#2": again}
    assert_taps_are(fn, params, X, {name: value[0] for name, value in expected.items()})
    np.testing.assert_allclose(fn(params, X), view(X[None], train=False)[0], atol=1e-6)


def test_explanations_are_those_of_the_hand_tapped_twin():
    fn, params = segcam.from_nnx(Net(nnx.Rngs(0)), batch_axis=0)
    twin, same = segcam.from_nnx(Net(nnx.Rngs(0), ("by hand",)), batch_axis=0, submodules=False)
    assert set(segcam.list_taps(twin, same, X)) == {"input", "hand/conv", "hand/shared"}
    assert_same_explanations(
        (fn, params), (twin, same), X, {"layers/1/conv": "hand/conv", "shared#2": "hand/shared"}
    )


def test_model_and_classes_are_left_as_they_are():
    model = Net(nnx.Rngs(0))
    with untouched(model, [module for _, module in nnx.iter_modules(model)]):
        fn, params = segcam.from_nnx(model, batch_axis=0)
        segcam.methods.grad_cam(
            segcam.split(fn, "first", params, X), params, X, segcam.targets.whole_image(1)
        )
        with pytest.raises(Exception, match=r"shape|size"):
            fn(params, jnp.ones((6, 8, 3)))
    assert not model.dropout.deterministic


def test_equal_models_share_splits():
    one, params = segcam.from_nnx(Net(nnx.Rngs(0)), batch_axis=0)
    other, _ = segcam.from_nnx(Net(nnx.Rngs(1)), batch_axis=0)
    assert one == other
    assert segcam.split(one, "first", params, X) is segcam.split(other, "first", params, X)
    for different in (
        segcam.from_nnx(Net(nnx.Rngs(0))),
        segcam.from_nnx(Net(nnx.Rngs(0)), batch_axis=0, train=False),
        segcam.from_nnx(Net(nnx.Rngs(0), ("by hand",)), batch_axis=0),
    ):
        assert one != different[0]


class Named(nnx.Module):
    """Its author's names are those of submodules, and of the input."""

    def __init__(self, rngs):
        self.input = nnx.Linear(2, 3, rngs=rngs)
        self.hidden = nnx.Linear(3, 3, rngs=rngs)
        self.head = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(tap(nnx.relu(self.hidden(self.input(x))), "hidden"))


def test_names_of_the_author_win():
    model = Named(nnx.Rngs(0))
    fn, params = segcam.from_nnx(model)
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == ["input", "input#module", "hidden#module", "hidden", "head"]
    hidden = model.hidden(model.input(X))
    assert_taps_are(fn, params, X, {"hidden#module": hidden, "hidden": nnx.relu(hidden)})


class Rare(nnx.Module):
    """What is not one array of floats, calls in transforms, a method that is not a call."""

    def __init__(self, rngs):
        self.scale = nnx.Linear(2, 2, rngs=rngs)
        self.many = Many()
        self.whole = Whole()
        self.mode = Mode(rngs)
        self.head = nnx.Linear(2, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.remat(lambda scale, x: scale(x))(self.scale, x)
        for _ in range(2):
            x = nnx.jit(lambda scale, x: scale(x))(self.scale, x)
        x, _ = self.many(x)
        self.whole(x)
        return self.head(self.mode.apply(x))


class Many(nnx.Module):
    def __call__(self, x):
        return x, x


class Whole(nnx.Module):
    def __call__(self, x):
        return x.astype(int)


class Mode(nnx.Module):
    def __init__(self, rngs):
        self.training = True
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def apply(self, x):
        return x + 100 if self.training else self.norm(x)


def test_rare_modules():
    fn, params = segcam.from_nnx(Rare(nnx.Rngs(0)))
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == ["input", "scale", "scale#2", "scale#3", "mode/norm", "head"]
    assert jnp.abs(fn(params, X)).max() < 50


def test_networks_of_the_library_name_their_taps_themselves():
    from segcam_jax.models.unet import UNet, UNetConfig

    blocks = ("encoder1", "bottleneck", "decoder1")
    model = UNet(UNetConfig(classes=2, depth=1, width=2), rngs=nnx.Rngs(0))
    x = jnp.ones((8, 8, 1))
    own = segcam.list_taps(*segcam.from_nnx(model), x)
    inside = [f"{block}/{name}" for block in blocks for name in ("norm1", "conv1", "norm2")]
    assert sorted(own) == sorted(["input", *inside, *blocks, "logits"])
    every = segcam.list_taps(*segcam.from_nnx(model, submodules=True), x)
    assert own.keys() < every.keys()


def test_what_is_no_module():
    with pytest.raises(InputError, match="from_nnx was given int, expected an nnx.Module"):
        segcam.from_nnx(3)
    fn, params = segcam.from_nnx(Net(nnx.Rngs(0)), batch_axis=0, output=lambda y: y[0])
    with pytest.raises(InputError, match=r"returns shape \(3,\), which has none there"):
        fn(params, X)


class Whole2d(nnx.Module):
    """A convolution, a norm of one's choice, a head; Flax's layers take any axes in front."""

    def __init__(self, norm=lambda rngs: nnx.BatchNorm(4, rngs=rngs)):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = norm(rngs)
        self.head = nnx.Conv(4, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))))


def test_a_batch_is_no_image():
    """Four images at once share channel weights: their maps are none of each one's."""
    xs = jax.random.normal(jax.random.key(1), (4, 6, 8, 2))
    for batch_axis in (None, 0):
        fn, params = segcam.from_nnx(Whole2d(), batch_axis=batch_axis)
        split = segcam.split(fn, "conv", params, xs[0])
        assert split.activation.shape == (6, 8, 4)
        for refused in (xs, xs[:, None]):
            with pytest.raises(InputError, match="a batch: the model treats the entries"):
                segcam.split(fn, "conv", params, refused)
        with pytest.raises(
            InputError, match=r"\(1, 6, 8, 2\), a batch of one: .* Give one example, x\[0\]"
        ):
            segcam.split(fn, "conv", params, xs[:1])
    with pytest.raises(InputError, match="a batch of one"):
        segcam.list_taps(fn, params, xs[:1])  # Its adapter gives the model a batch already.
    with pytest.raises(InputError, match="'conv' is 2D and was given shape .*too few axes"):
        segcam.split(fn, "conv", params, xs[0, 0, 0])


class Pooled(nnx.Module):
    """Insists on a batch, or on one example."""

    def __init__(self, batched):
        self.dense, self.batched = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), batched

    def __call__(self, x):
        if self.batched:
            return self.dense(x.mean((1, 2)))
        h, w, c = x.shape
        return self.dense(x.reshape(h * w, c).mean(0))


@pytest.mark.parametrize("batched", [True, False])
def test_a_forgotten_and_a_superfluous_batch_axis_are_named(batched):
    wrong, right = (None, 0) if batched else (0, None)
    model, x = Pooled(batched), jnp.ones((4, 6, 2))
    fn, params = segcam.from_nnx(model, batch_axis=wrong)
    told = rf"\(4, 6, 2\) with batch_axis={wrong} .*; it takes x with batch_axis={right}"
    with pytest.raises(InputError, match=told):
        segcam.list_taps(fn, params, x)
    fn, params = segcam.from_nnx(model, batch_axis=right)
    assert list(segcam.list_taps(fn, params, x)) == ["input", "dense"]
    if not batched:
        with pytest.raises(InputError, match=r"it takes x\[0\] with batch_axis=None"):
            segcam.list_taps(fn, params, x[None])


def test_what_a_model_takes_neither_with_nor_without_a_batch_is_its_own_error():
    fn, params = segcam.from_nnx(Pooled(True), batch_axis=0)
    with pytest.raises(InputError, match=r"TypeError: dot_general .*it takes shape \(4, 6, 2\)"):
        segcam.list_taps(fn, params, jnp.ones((4, 6, 5)))
    with pytest.raises(InputError, match=r"TypeError: dot_general .*it takes shape \(4, 6, 2\)"):
        fn(params, jnp.ones((4, 6, 5)))
    with pytest.raises(TypeError, match="dot_general"):
        jax.jit(fn)(params, jnp.ones((4, 6, 5)))


@pytest.mark.parametrize(
    "norm",
    [
        lambda rngs: nnx.GroupNorm(4, 2, rngs=rngs),
        lambda rngs: nnx.InstanceNorm(4, rngs=rngs),
    ],
)
def test_a_norm_that_wants_a_batch(norm):
    """Flax's GroupNorm takes the rows of one image for examples."""
    model = Whole2d(norm)
    with pytest.raises(InputError, match="the norm 'norm' treats the first axis .*batch_axis=0"):
        segcam.list_taps(*segcam.from_nnx(model), X)
    fn, params = segcam.from_nnx(model, batch_axis=0)
    np.testing.assert_allclose(fn(params, X), model(X[None])[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="a batch"):
        segcam.list_taps(fn, params, jnp.stack([X, X]))


class Keeping(nnx.Module):
    """Keeps whatever a module can: counts, statistics, keys, sown values, lists, numpy arrays."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.conv = nnx.SpectralNorm(conv, rngs=rngs)
        self.head = nnx.Conv(4, CLASSES, (1, 1), rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros(()))
        self.mean = nnx.BatchStat(jnp.zeros(4))
        self.rngs = nnx.Rngs(3)
        self.log, self.number, self.table = [], 0, {"seen": [0]}
        self.same = self.log
        self.own = types.SimpleNamespace(number=0)
        self.counted = np.zeros(1, np.float32)

    def __call__(self, x):
        y = self.conv(x, update_stats=True)
        self.calls[...] += 1
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * y.mean((0, 1))
        y = y - self.mean[...] + jax.random.normal(self.rngs(), (4,))
        self.sow(nnx.Intermediate, "feature", y)
        self.log.append(y)
        self.number += 1
        self.table["seen"][0] += 1
        self.own.number += 1
        if isinstance(self.counted, np.ndarray):
            self.counted += 1
        return self.head(y) + len(self.same) + self.own.number + self.table["seen"][0]


def kept(model):
    """The values of all Variables, keys as their data, copied."""

    def copied(value):
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(value) if is_key else value)

    return jax.tree.map(copied, nnx.to_pure_dict(nnx.state(model)))


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_a_module_keeps_is_the_same_after_a_call():
    """0.1.0 counted 2 calls here, and gave another output the second time."""
    model = Keeping()
    before = kept(model)
    fn, params = segcam.from_nnx(model)
    outputs = [fn(params, X), fn(params, X), jax.jit(fn)(params, X), fn(params, X)]
    split = segcam.split(fn, "conv", params, X)
    outputs.append(split.decode(*split.encode(params, X)))
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, kept(model), before)
    assert (model.log, model.number, model.table) == ([], 0, {"seen": [0]})
    assert model.same is model.log
    assert (model.own.number, model.counted[0], hasattr(model, "feature")) == (0, 0, False)
    twin = Keeping()
    np.testing.assert_allclose(outputs[0], twin(X), rtol=1e-5, atol=1e-5)
    assert twin.calls[...] == len(twin.log) == 1


class Masked(nnx.Module):
    """Takes a mask besides the image, by position or by name."""

    def __init__(self):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))

    def __call__(self, x, mask, *, gain=1.0):
        return self.conv(x) * mask * gain


def test_models_with_further_inputs():
    model, mask = Masked(), jnp.arange(48.0).reshape(6, 8, 1)
    expected = model(X[None], mask[None])[0]
    fn, params = segcam.from_nnx(model, batch_axis=0)
    with pytest.raises(InputError, match=r"needs the argument 'mask': .*\(mask=\.\.\.\)"):
        segcam.list_taps(fn, params, X)
    fn, params = segcam.from_nnx(model, batch_axis=0, mask=mask)
    np.testing.assert_allclose(fn(params, X), expected, atol=1e-4)
    named = {"image": X, "mask": mask}
    for x, call in (
        (named, lambda model, x: model(x["image"], x["mask"])),
        (named, lambda model, x: model(x["image"], mask=x["mask"])),
        ((X, mask), lambda model, x: model(*x)),
    ):
        fn, params = segcam.from_nnx(model, batch_axis=0, call=call)
        np.testing.assert_allclose(fn(params, x), expected, atol=1e-4)
        split = segcam.split(fn, "conv", params, x)
        assert split.activation.on_grid
        found = segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(1))
        weight = mask.mean()  # d(sum of the second channel) / d(conv) is the mask, there alone
        hidden = model.conv(X[None])[0]
        np.testing.assert_allclose(found.map, hidden[..., 1] * weight, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="unexpected keyword argument 'masks'"):
        segcam.list_taps(*segcam.from_nnx(model, batch_axis=0, masks=mask), X)


class Refusing:
    """Does not let itself be copied, with an error of its own."""

    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


class Broken:
    """Copying it fails for another reason."""

    def __deepcopy__(self, memo):
        raise MemoryError


class Forward(nnx.Module):
    """Called by a method of another name."""

    def __init__(self, size):
        self.conv = nnx.Conv(size, 3, (3, 3), rngs=nnx.Rngs(0))
        self.table = Refusing()

    def forward(self, x):
        return self.conv(x)


def test_a_model_without_a_call_is_told_how():
    """The class was constructed instead: `__init__() takes 2 positional arguments`."""
    model = Forward(2)
    with pytest.raises(InputError, match="Forward has no __call__; .*call=lambda model, x"):
        segcam.list_taps(*segcam.from_nnx(model), X)
    fn, params = segcam.from_nnx(model, call=lambda model, x: model.forward(x))
    with pytest.warns(
        UserWarning, match=r"Forward.table cannot be copied .*RuntimeError: no copies"
    ):
        found = fn(params, X)
    np.testing.assert_allclose(found, model.forward(X), rtol=1e-5, atol=1e-5)


def test_an_error_that_is_no_refusal_to_be_copied_is_told():
    """It was swallowed, and the attribute shared without a word."""
    model = Forward(2)
    model.table = [Broken()]
    fn, params = segcam.from_nnx(model, call=lambda model, x: model.forward(x))
    with pytest.raises(MemoryError):
        fn(params, X)


def test_tables_that_cannot_be_written_to_are_shared():
    fixed, free = np.arange(6.0), np.arange(6.0)
    fixed.flags.writeable = False
    view = free[:3]
    view.flags.writeable = False
    table = {"jax": jnp.arange(3.0), "fixed": fixed, "free": free, "view": view}
    found = calls.copied({"tables": [table]}, {})["tables"][0]
    shared = {name for name in table if np.shares_memory(found[name], table[name])}
    assert found is not table
    assert shared == {"jax", "fixed"}
    assert found["jax"] is table["jax"]
