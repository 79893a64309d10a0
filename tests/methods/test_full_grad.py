"""FullGrad: complete for every network, and equal to pytorch-grad-cam where that is defined."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.heatmap import min_max
from segcam_jax.methods import FullGradient
from tests import goldens
from tests.support.networks import make_input, make_params, skip_net

FOLDER = goldens.FOLDER
KEYS = jax.random.split(jax.random.key(3), 6)


def total(found: FullGradient):
    return found.input.sum() + sum(each.sum() for each in found.biases) + found.rest


def taken_apart(model, params, x, target, **options):
    split = segcam.split(model, "input", params, x)
    found = segcam.methods.full_gradient(split, params, x, target, **options)
    np.testing.assert_allclose(total(found), found.score, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(found.score, target(model(params, x)), rtol=1e-5, atol=1e-5)
    return found


def rows(x, *widths):
    """A network on the last axis: weights and biases of each width."""
    keys = jax.random.split(KEYS[0], 2 * len(widths))
    sizes = zip((x.shape[-1], *widths), widths, strict=False)
    return [
        (jax.random.normal(keys[2 * i], size), jax.random.normal(keys[2 * i + 1], size[1:]))
        for i, size in enumerate(sizes)
    ]


def dense(x, layer):
    weight, bias = layer
    return x @ weight + bias.reshape((1,) * (x.ndim - 1) + (-1,))


X = jax.random.normal(KEYS[1], (4, 5, 3))
LAYERS = rows(X, 6, 4)


def test_parts_change_with_the_parameters_as_the_score_does():
    def model(params, x):
        return dense(jnp.tanh(dense(x, params[0])), params[1])

    target = segcam.targets.whole_image(1)
    split = segcam.split(model, "input", LAYERS, X)

    def parts(params):
        return total(segcam.methods.full_gradient(split, params, X, target))

    slopes = jax.grad(parts)(LAYERS), jax.grad(lambda params: target(model(params, X)))(LAYERS)
    for found, right in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)


def test_by_hand():
    def model(params, x):
        return dense(jax.nn.relu(dense(x, params[0])), params[1])

    found = taken_apart(model, LAYERS, X, segcam.targets.whole_image(1))
    (w1, b1), (w2, b2) = jax.tree.map(np.asarray, LAYERS)
    alive = np.asarray(X) @ w1 + b1 > 0
    slope = alive * w2[:, 1]
    first, second = found.biases
    np.testing.assert_allclose(found.input, np.asarray(X) * (slope @ w1.T), atol=1e-5)
    np.testing.assert_allclose(first, slope * b1, atol=1e-5)
    assert second[..., 1] == pytest.approx(b2[1])
    assert not second[..., [0, 2, 3]].any()
    assert found.rest == pytest.approx(0, abs=1e-4)


ACTIVATIONS = {
    "relu": (jax.nn.relu, 2),
    "maximum": (lambda x: jnp.maximum(x, 0), 2),
    "remat": (jax.checkpoint(jax.nn.relu), 2),
    "absolute": (jnp.abs, None),
    "relu6": (lambda x: jax.nn.relu6(4 * x), 3),
    "clip": (lambda x: jnp.clip(x, -1, 1), 3),
    "leaky": (jax.nn.leaky_relu, 3),
    "silu": (jax.nn.silu, 3),
    "gelu": (jax.nn.gelu, None),
    "softplus": (jax.nn.softplus, 3),
    "tanh": (jnp.tanh, 3),
    "where": (lambda x: jnp.where(x > 0.5, x, 2.0), None),
    "squared": (lambda x: jax.nn.relu(x) ** 2, 3),
    "scan": (lambda x: lax.scan(lambda c, r: (c, jax.nn.relu(r) + 1), 0, x)[1], None),
    "own gradient": (jax.custom_vjp(lambda x: jnp.sin(x)), 3),
}
ACTIVATIONS["own gradient"][0].defvjp(lambda x: (jnp.sin(x), x), lambda x, r: (2 * r * jnp.cos(x),))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_complete_for_every_activation(name):
    activation, count = ACTIVATIONS[name]

    def model(params, x):
        return dense(activation(dense(x, params[0])), params[1])

    found = taken_apart(model, LAYERS, X, segcam.targets.whole_image(1))
    if count is not None:
        assert len(found.biases) == count


def test_a_normalisation_is_one_bias_however_it_is_written():
    """BatchNorm after a convolution's bias: as if both were folded."""
    (weight, bias), last = LAYERS
    mean, scale, shift = (jax.random.normal(key, (1, 1, 6)) for key in KEYS[2:5])

    def plain(params, x):
        y = (dense(x, (weight, bias)) - mean) / 1.7 * scale + shift
        return dense(jax.nn.relu(y), last)

    def folded(params, x):
        moved = (bias.reshape(1, 1, -1) - mean) / 1.7 * scale + shift
        return dense(jax.nn.relu((x @ weight) * (scale / 1.7) + moved), last)

    target = segcam.targets.whole_image(2)
    first, second = (taken_apart(model, (), X, target) for model in (plain, folded))
    assert len(first.biases) == len(second.biases) == 2
    for one, other in zip(first.biases, second.biases, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_zeros_on_the_way_keep_the_bias_with_its_sign():
    for model in (
        lambda params, x: 0.0 - dense(x, params[0]),
        lambda params, x: 0.0 + dense(x, params[0]),
        lambda params, x: dense(x, params[0]) - 0.0,
        lambda params, x: 2.0 - (0.0 - dense(x, params[0])),
    ):
        taken_apart(model, LAYERS, X, segcam.targets.whole_image(1))


def test_networks_and_targets():
    params, x = make_params(), make_input()
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:9] = True
    found = taken_apart(skip_net, params, x, segcam.targets.region(1, mask))
    assert len(found.biases) == 1
    assert found.rest == pytest.approx(0, abs=1e-4)
    found = taken_apart(skip_net, params, x, segcam.targets.region(1, mask, of="probabilities"))
    assert abs(found.rest) > 0.1
    naive = taken_apart(skip_net, params, x, segcam.targets.whole_image(1), execution=segcam.NAIVE)
    fast = taken_apart(skip_net, params, x, segcam.targets.whole_image(1))
    np.testing.assert_allclose(naive.biases[0], fast.biases[0], atol=1e-5)
    split = segcam.split(skip_net, "bottleneck", params, x)
    hidden = segcam.methods.full_gradient(split, params, x, segcam.targets.whole_image(1))
    np.testing.assert_allclose(total(hidden), hidden.score, rtol=1e-5)


def test_flax_and_equinox_layers():
    """Flax's convolutions have a batch axis of their own, Equinox's channels first."""
    target = segcam.targets.whole_image(1)
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0), use_running_average=True)
    norm.mean[...] = jnp.arange(4.0)
    conv = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(1))
    head = nnx.Conv(4, 2, (1, 1), rngs=nnx.Rngs(2))
    graph, state = nnx.split((conv, norm, head))

    def flax(state, x):
        conv, norm, head = nnx.merge(graph, state)
        return head(nnx.relu(norm(conv(x))))

    x = jax.random.normal(KEYS[0], (6, 7, 3))
    found = taken_apart(flax, state, x, target)
    assert len(found.biases) == 2
    split = segcam.split(flax, "input", state, x)
    assert segcam.methods.full_grad(split, state, x, target).map.shape == (6, 7)

    conv = equinox.nn.Conv2d(3, 4, 3, key=KEYS[0])
    head = equinox.nn.Conv2d(4, 2, 1, key=KEYS[1])
    dynamic, static = equinox.partition((conv, head), equinox.is_array)

    def eqx(params, x):
        conv, head = equinox.combine(params, static)
        return jnp.moveaxis(head(jax.nn.relu(conv(x))), 0, -1)

    x = jnp.moveaxis(x, -1, 0)
    split = segcam.split(eqx, "input", dynamic, x, channel_axis=0)
    found = segcam.methods.full_gradient(split, dynamic, x, target)
    np.testing.assert_allclose(total(found), found.score, rtol=1e-4, atol=1e-5)
    layers = [found.input, *(jnp.moveaxis(each, 0, -1) for each in found.biases)]
    expected = sum(
        jax.image.resize(jnp.abs(each).sum(-1), (6, 7), "linear", antialias=False)
        for each in layers
    )
    explanation = segcam.methods.full_grad(split, dynamic, x, target, rescale="none")
    np.testing.assert_allclose(explanation.map, expected, rtol=1e-4, atol=1e-5)


def test_a_model_with_a_batch_axis():
    params, x = make_params(), make_input()

    def batched(params, x):
        return jax.vmap(lambda one: skip_net(params, one))(x)[0]

    target = segcam.targets.whole_image(1)
    split = segcam.split(batched, "input", params, x[None], batch_axis=0)
    single = segcam.split(skip_net, "input", params, x)
    expected = segcam.methods.full_grad(single, params, x, target).map
    np.testing.assert_allclose(
        segcam.methods.full_grad(split, params, x[None], target).map, expected, rtol=1e-4
    )


def classifier(params, x):
    """The network of the golden file."""

    def conv(x, name, stride=1):
        y = lax.conv_general_dilated(
            x[None],
            params[f"{name}.weight"],
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        bias = params.get(f"{name}.bias")
        return y if bias is None else y + bias.reshape(1, 1, -1)

    x = jax.nn.relu(conv(x, "conv1"))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    mean, var, scale, shift = (
        params[f"norm2.{name}"].reshape(1, 1, -1)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    x = jax.nn.relu((conv(x, "conv2", 2) - mean) * lax.rsqrt(var + 1e-5) * scale + shift)
    x = jax.nn.relu(conv(x, "conv3"))
    return x.mean((0, 1)) @ params["head.weight"] + params["head.bias"]


@pytest.fixture(scope="module")
def golden():
    prefix = "fullgrad/"
    with np.load(FOLDER / "guided.npz") as stored:
        found = {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
    params = {k.removeprefix("params/"): v for k, v in found.items() if k.startswith("params/")}
    return found, params


def rescaled_as_pytorch_grad_cam(found: FullGradient):
    """The map of its formula: it adds 1e-7 to the range of each channel."""
    total = 0
    for part in (found.input, *found.biases):
        if part.ndim > 1:
            part = jnp.abs(part.reshape(part.shape[-3:]))
            each = jax.vmap(min_max, -1, -1)(part).sum(-1)
            total += jax.image.resize(each, found.input.shape[:-1], "linear", antialias=False)
    return total


def test_heatmap_equals_pytorch_grad_cam_and_the_authors_rescaling(golden):
    found, params = golden
    x, target = found["input"], segcam.targets.whole_image(int(found["class_index"]))
    np.testing.assert_allclose(classifier(params, x), found["logits"], atol=1e-5)
    parts = taken_apart(classifier, params, x, target)
    theirs = rescaled_as_pytorch_grad_cam(parts)
    np.testing.assert_allclose(min_max(theirs), found["pgc/heatmap"], atol=1e-5)
    split = segcam.split(classifier, "input", params, x)
    # What these 1e-7 make of gradients as small as here.
    for rescale, name, atol in (("channel", "pgc", 1e-3), ("layer", "official", 1e-5)):
        explanation = segcam.methods.full_grad(split, params, x, target, rescale=rescale)
        np.testing.assert_allclose(min_max(explanation.map), found[f"{name}/heatmap"], atol=atol)


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_the_map_does_not_depend_on_the_scale_of_the_score(rescale):
    """By hand, in float64, of a score as small as the mean over a volume makes it."""

    def model(params, x):
        return dense(jax.nn.relu(dense(x, params[0])), params[1])

    def scaled(values):
        size = np.abs(values)
        axes = (0, 1) if rescale == "channel" else (0, 1, 2)
        low, high = size.min(axes, keepdims=True), size.max(axes, keepdims=True)
        return ((size - low) / np.where(high > low, high - low, 1)).sum(-1)

    split = segcam.split(model, "input", LAYERS, X)
    found = segcam.methods.full_grad(
        split, LAYERS, X, lambda y: 1e-9 * y[..., 1].sum(), rescale=rescale
    )
    x, ((w1, b1), (w2, b2)) = jax.tree.map(lambda v: np.asarray(v, np.float64), (X, LAYERS))
    slope = (x @ w1 + b1 > 0) * w2[:, 1]
    last = np.zeros((*x.shape[:-1], 4))
    last[..., 1] = b2[1]
    expected = scaled(x * (slope @ w1.T)) + scaled(slope * b1) + scaled(last)
    np.testing.assert_allclose(found.map, expected, rtol=1e-4)


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_what_is_not_finite_stays_visible(rescale):
    """The derivative of the root is infinite at 0, and 0 times it NaN; the score is finite."""
    x = X.at[1, 2].set(0)
    split = segcam.split(lambda params, x: jnp.sqrt(jnp.abs(x)), "input", None, x)
    found = segcam.methods.full_grad(split, None, x, segcam.targets.whole_image(1), rescale=rescale)
    assert np.isfinite(found.score)
    assert np.isnan(found.map[1, 2])


def test_input_is_checked():
    split = segcam.split(skip_net, "input", make_params(), make_input())
    with pytest.raises(InputError, match="rescale='all'; choose channel, layer or none"):
        segcam.methods.full_grad(
            split, make_params(), make_input(), segcam.targets.whole_image(1), rescale="all"
        )

    def vector(params, x):
        return dense(jax.nn.relu(dense(x, params[0])), params[1])

    split = segcam.split(vector, "input", LAYERS, X[0, 0])
    with pytest.raises(InputError, match="full_grad needs positions"):
        segcam.methods.full_grad(split, LAYERS, X[0, 0], segcam.targets.whole_image(1))
