"""Guided backpropagation against values by hand, in every way that a ReLU is written."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, tap
from tests import goldens
from tests.goldens.network import network

KEYS = jax.random.split(jax.random.key(7), 4)
PARAMS = {"in": jax.random.normal(KEYS[0], (3, 8)), "out": jax.random.normal(KEYS[1], (8, 8))}
X = 2 * jax.random.normal(KEYS[2], (4, 5, 3))
SLOPE = jnp.asarray([0.1, 0.3, 0.0, 1.0, 0.2, 0.2, 0.2, 0.05])
RELUS = {
    "jax.nn": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum of zeros": lambda x: jnp.maximum(jnp.zeros_like(x), x),
    "clip": lambda x: jnp.clip(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where not": lambda x: jnp.where(x <= 0, 0.0, x),
    "zero below": lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)),
    "gate": lambda x: x * (x > 0).astype(x.dtype),
    "jit": jax.jit(lambda x: jnp.maximum(x, 0)),
    "remat": jax.checkpoint(lambda x: jax.nn.relu(x)),
    "nested": jax.jit(jax.checkpoint(jax.jit(jax.nn.relu))),
    "own derivative": jax.custom_jvp(lambda x: jnp.maximum(x, 0)),
    "vmap": jax.vmap(jax.nn.relu),
    "cond": lambda x: jax.lax.cond(x[0, 0, 0] < 1e6, jax.nn.relu, lambda x: x, x),
    "scan": lambda x: jax.lax.scan(lambda c, row: (c, jax.nn.relu(row)), 0, x)[1],
}
RELUS["own derivative"].defjvps(lambda t, y, x: t * (x > 0).astype(x.dtype))
CAPPED = {
    "jax.nn": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "minimum": lambda x: jnp.minimum(jax.nn.relu(x), 6),
    "minimum first": lambda x: jnp.maximum(jnp.minimum(x, 6), 0),
    "clamp": lambda x: jax.lax.clamp(0.0, x, 6.0),
}
LEAKY = {
    "jax.nn": lambda x: jax.nn.leaky_relu(x, 0.2),
    "slope given": lambda x: jax.nn.leaky_relu(x, jnp.asarray(0.2)),
    "where": lambda x: jnp.where(x > 0, x, 0.2 * x),
    "where not": lambda x: jnp.where(x < 0, x * 0.2, x),
    "maximum": lambda x: jnp.maximum(x, 0.2 * x),
}
PRELU = {
    "where": lambda x: jnp.where(x >= 0, x, SLOPE.reshape(1, 1, -1) * x),
    "leaky": lambda x: jax.nn.leaky_relu(x, SLOPE.reshape(1, 1, -1)),
}
SMOOTH = (
    *(jax.nn.elu, jax.nn.celu, jax.nn.selu, jax.nn.gelu, jax.nn.silu, jax.nn.softplus),
    *(jax.nn.hard_sigmoid, jax.nn.hard_swish, jax.nn.hard_tanh, jnp.tanh),
)


def explained(activation, rule="guided", **options):
    """Two layers, each followed by `activation`."""

    def model(params, x):
        return activation(activation(x @ params["in"]) @ params["out"])

    split = segcam.split(model, "input", PARAMS, X)
    target = segcam.targets.whole_image(2)
    return segcam.methods.guided_backprop(split, PARAMS, X, target, rule=rule, **options), model


def by_hand(slope, cap, rule):
    """The formulas of the module, in NumPy."""
    slope = np.asarray(slope)
    values, sums = np.asarray(X), []
    for name in ("in", "out"):
        sums.append(values @ np.asarray(PARAMS[name]))
        values = np.minimum(np.where(sums[-1] > 0, sums[-1], slope * sums[-1]), cap)
    received = np.zeros_like(values)
    received[..., 2] = 1
    for name, x in zip(("out", "in"), reversed(sums), strict=True):
        received = np.maximum(received, 0)
        if rule == "guided":
            received = received * np.where(x > 0, 1, slope) * (x < cap)
        received = received @ np.asarray(PARAMS[name]).T
    return received


def agree(actual, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize(
    ("functions", "slope", "cap"),
    [(RELUS, 0, np.inf), (CAPPED, 0, 6), (LEAKY, 0.2, np.inf), (PRELU, SLOPE, np.inf)],
    ids=["relu", "relu6", "leaky", "prelu"],
)
def test_every_way_to_write_a_rectifier(functions, slope, cap, rule):
    expected = by_hand(slope, cap, rule)
    for name, function in functions.items():
        found, model = explained(function, rule)
        agree(found.attribution, expected)
        assert found.score == model(PARAMS, X)[..., 2].sum(), name


def test_the_rules_differ_from_the_gradient():
    def model(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["in"]) @ params["out"])

    split = segcam.split(model, "input", PARAMS, X)
    plain = segcam.methods.gradient(split, PARAMS, X, segcam.targets.whole_image(2)).attribution
    guided, _ = explained(jax.nn.relu)
    other, _ = explained(jax.nn.relu, "deconvnet")
    for first, second in ((plain, guided.attribution), (guided.attribution, other.attribution)):
        assert np.abs(first - second).max() > 0.1 * np.abs(second).max()


@pytest.mark.parametrize("function", SMOOTH)
def test_smooth_activations_are_no_rectifiers(function):
    with pytest.raises(InputError, match="no ReLU of any kind follows tap 'input'"):
        explained(function)


def test_smooth_activations_keep_their_gradient():
    def model(params, x):
        return jax.nn.hard_swish(jax.nn.relu(x @ params["in"]) @ params["out"])

    split = segcam.split(model, "input", PARAMS, X)
    found = segcam.methods.guided_backprop(
        split, PARAMS, X, segcam.targets.whole_image(2)
    ).attribution
    hidden = np.asarray(X @ PARAMS["in"])
    slope = jax.grad(lambda h: jax.nn.hard_swish(h @ PARAMS["out"])[..., 2].sum())
    received = np.maximum(slope(np.maximum(hidden, 0)), 0) * (hidden > 0)
    agree(found, received @ np.asarray(PARAMS["in"]).T)


def equinox_group():
    norm = equinox.nn.GroupNorm(3, 3)
    return lambda x: jnp.moveaxis(norm(jnp.moveaxis(x, -1, 0)), 0, -1)


def of_one(norm):
    """A norm of Flax takes its first axis for a batch."""
    return lambda x: norm(x[None])[0]


NORMALISATIONS = {
    "flax layer": lambda: nnx.LayerNorm(3, rngs=nnx.Rngs(0)),
    "flax group": lambda: of_one(nnx.GroupNorm(3, num_groups=3, rngs=nnx.Rngs(0))),
    "flax instance": lambda: of_one(nnx.InstanceNorm(3, rngs=nnx.Rngs(0))),
    "equinox layer": lambda: jax.vmap(jax.vmap(equinox.nn.LayerNorm((3,)))),
    "equinox group": equinox_group,
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_the_variance_of_a_normalisation_is_no_rectifier(name):
    """It is held above zero by a maximum, as a ReLU is."""

    with jax.numpy_rank_promotion("allow"):
        norm = NORMALISATIONS[name]()

    def model(params, x):
        with jax.numpy_rank_promotion("allow"):
            return norm(x) @ params["in"]

    split = segcam.split(model, "input", PARAMS, X)
    with pytest.raises(InputError, match="no ReLU"):
        segcam.methods.guided_backprop(split, PARAMS, X, segcam.targets.whole_image(2))


def test_loops_equal_the_same_layers_in_a_row():
    layers = jax.random.normal(KEYS[3], (3, 3, 3))

    def looped(params, x):
        step = jax.checkpoint(lambda x, w: jax.nn.relu(x @ w + 0.1))
        return jax.lax.scan(lambda x, w: (step(x, w), None), x, params)[0]

    def counted(params, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: jax.nn.relu(x @ params[i] + 0.1), x)

    def straight(params, x):
        for w in params:
            x = jax.nn.relu(x @ w + 0.1)
        return x

    found = [
        segcam.methods.guided_backprop(
            segcam.split(model, "input", layers, X), layers, X, segcam.targets.whole_image(1)
        ).attribution
        for model in (straight, looped, counted)
    ]
    agree(found[1], found[0])
    agree(found[2], found[0])


def test_a_relu_that_cannot_be_rewritten_is_an_error():
    mesh = jax.make_mesh((1,), ("one",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()

    def model(params, x):
        inner = jax.shard_map(jax.nn.relu, mesh=mesh, in_specs=spec, out_specs=spec)
        return jax.nn.relu(inner(x @ params["in"]) @ params["out"])

    split = segcam.split(model, "input", PARAMS, X)
    with pytest.raises(InputError, match="a ReLU lies inside `shard_map`"):
        segcam.methods.guided_backprop(split, PARAMS, X, segcam.targets.whole_image(2))


def test_rules_and_inputs_are_checked():
    split = segcam.split(lambda p, x: jax.nn.relu(x @ p["in"]), "input", PARAMS, X)
    with pytest.raises(InputError, match="rule='plain'; choose guided or deconvnet"):
        segcam.methods.guided_backprop(
            split, PARAMS, X, segcam.targets.whole_image(2), rule="plain"
        )
    with pytest.raises(InputError, match="kind='cubic'"):
        segcam.methods.guided_grad_cam(
            split, PARAMS, X, segcam.targets.whole_image(2), kind="cubic"
        )

    def pooled(params, x):
        hidden = tap(jax.nn.relu(x @ params["in"]).mean((0, 1)), "pooled")
        return hidden @ params["out"]

    split = segcam.split(pooled, "pooled", PARAMS, X)
    with pytest.raises(InputError, match="both need positions"):
        segcam.methods.guided_grad_cam(split, PARAMS, X, segcam.targets.whole_image(2))


FOLDER = goldens.FOLDER


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "guided.npz") as stored:
        found = dict(stored)
    with np.load(FOLDER / "unet2d.npz") as stored:
        params = {k.removeprefix("params/"): stored[k] for k in stored if k.startswith("params/")}
        target = segcam.targets.region(int(stored["class_index"]), stored["mask"])
        return found, params, stored["input"], target


def test_equals_pytorch_grad_cam_and_captum(golden):
    found, params, x, target = golden
    split = segcam.split(network, "input", params, x)
    guided = segcam.methods.guided_backprop(split, params, x, target).attribution
    agree(guided, found["pgc/guided_backprop"])
    agree(guided, found["captum/guided_backprop"])
    other = segcam.methods.guided_backprop(split, params, x, target, rule="deconvnet").attribution
    agree(other, found["captum/deconvolution"])


@pytest.mark.parametrize("layer", ["bottleneck", "decoder"])
@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_guided_grad_cam_equals_captum(golden, layer, kind):
    found, params, x, target = golden
    split = segcam.split(network, layer, params, x)
    explanation = segcam.methods.guided_grad_cam(split, params, x, target, kind=kind)
    agree(explanation.attribution, found[f"{layer}/captum/guided_grad_cam_{kind}"])
    agree(explanation.map, found[f"{layer}/captum/guided_grad_cam_{kind}"].sum(-1))
    assert explanation.map.shape == x.shape[:-1]


def test_execution_changes_nothing(golden):
    found, params, x, target = golden
    split = segcam.split(network, "input", params, x)
    naive = segcam.methods.guided_backprop(split, params, x, target, execution=segcam.NAIVE)
    agree(naive.attribution, found["pgc/guided_backprop"])
    jitted = jax.jit(lambda x: segcam.methods.guided_backprop(split, params, x, target).map)(x)
    agree(jitted, found["pgc/guided_backprop"].sum(-1))
