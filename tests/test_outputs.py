"""What outputs hold: probabilities found at the end of a program, declared, contradicted, doubted.

The blob is 16 x 32 = 512 pixels of logit 6, the rest has logit -6.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import segcam_jax as segcam
from segcam_jax import InputError, TargetError
from segcam_jax._jaxpr import graph, logits, naming, probabilities
from segcam_jax.outputs import Meaning
from tests.support.networks import make_input, make_params, skip_net

BLOB = np.zeros((64, 64), bool)
BLOB[20:36, 8:40] = True
LOGIT = np.where(BLOB, 6.0, -6.0).astype(np.float32)[..., None]
SIGMOID = 1 / (1 + np.exp(-LOGIT))
BOTH = np.concatenate([1 - SIGMOID, SIGMOID], -1)


def channels_first(x):
    return jnp.moveaxis(jax.nn.softmax(jnp.moveaxis(x, -1, 0), axis=0), 0, -1)


def two_of_one(x):
    inside = jax.nn.sigmoid(x[..., :1])
    return jnp.concatenate([1 - inside, inside], -1)


def power_over_sum(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def three_heads(x):
    return jnp.stack([jax.nn.sigmoid(x[..., i]) for i in range(3)], -1)


def resized(activation, method="linear"):
    return lambda x: jax.image.resize(activation(x), (8, 6, 3), method)


def both(join, first=jax.nn.softmax, second=jax.nn.softmax):
    return lambda x: join(first(x), second(2 * x))


def pooled(x):
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4


def times_inverse(x):
    return jnp.exp(x) * (1 / jnp.exp(x).sum(-1, keepdims=True))


ENDINGS = {
    "softmax": (jax.nn.softmax, "softmax"),
    "of nnx": (nnx.softmax, "softmax"),
    "of linen": (linen.softmax, "softmax"),
    "in a jit": (jax.jit(lambda x: jax.nn.softmax(x)), "softmax"),
    "in a remat": (jax.checkpoint(lambda x: jax.nn.softmax(x)), "softmax"),
    "of a classifier": (lambda x: jax.nn.softmax(x.mean((0, 1))), "softmax"),
    "of half precision": (lambda x: jax.nn.softmax(x.astype(jnp.bfloat16)), "softmax"),
    "channels first": (channels_first, "softmax"),
    "out of a batch": (lambda x: jax.nn.softmax(x[None])[0], "softmax"),
    "of rows": (lambda x: jax.nn.softmax(x.reshape(-1, 3)).reshape(x.shape), "softmax"),
    "mapped": (jax.vmap(jax.vmap(jax.nn.softmax)), "softmax"),
    "foreground": (lambda x: jax.nn.softmax(x)[..., 1:2], "softmax"),
    "foreground, squeezed": (lambda x: jax.nn.softmax(x)[..., 1][..., None], "softmax"),
    "clipped": (lambda x: jnp.clip(jax.nn.softmax(x), 1e-7, 1 - 1e-7), "softmax"),
    "of logarithms": (lambda x: jnp.exp(jax.nn.log_softmax(x)), "softmax"),
    "written out": (power_over_sum, "softmax"),
    "sigmoid": (jax.nn.sigmoid, "sigmoid"),
    "sigmoid of nnx": (nnx.sigmoid, "sigmoid"),
    "sigmoid written out": (lambda x: 1 / (1 + jnp.exp(-x)), "sigmoid"),
    "background and foreground": (two_of_one, "softmax"),
    "heads, stacked": (three_heads, "sigmoid"),
    "unstacked": (lambda x: jnp.stack(jnp.unstack(jax.nn.softmax(x), axis=-1), -1), "softmax"),
    "tiled": (lambda x: jnp.tile(jax.nn.softmax(x), (2, 2, 1)), "softmax"),
    "repeated": (lambda x: jnp.repeat(jax.nn.softmax(x), 2, 0), "softmax"),
    "flipped": (lambda x: jax.nn.sigmoid(x)[::-1], "sigmoid"),
    "padded": (lambda x: jnp.pad(jax.nn.softmax(x), ((1, 1), (0, 2), (0, 0))), "softmax"),
    "resized": (resized(jax.nn.softmax), "softmax"),
    "resized sigmoid": (resized(jax.nn.sigmoid, "cubic"), "sigmoid"),
    "resized to the nearest": (resized(jax.nn.softmax, "nearest"), "softmax"),
    "channels first, resized": (
        lambda x: jax.image.resize(
            jax.nn.softmax(x).transpose(2, 0, 1), (3, 8, 6), "linear"
        ).transpose(1, 2, 0),
        "softmax",
    ),
    "pooled": (lambda x: pooled(jax.nn.softmax(x)), "softmax"),
    "over the image": (lambda x: jax.nn.sigmoid(x).mean((0, 1)), "sigmoid"),
    "mean of two": (both(lambda a, b: (a + b) / 2), "softmax"),
    "mean of a stack": (both(lambda a, b: jnp.stack([a, b]).mean(0)), "softmax"),
    "weighted": (both(lambda a, b: 0.3 * a + 0.7 * b), "softmax"),
    "masked": (lambda x: jax.nn.softmax(x) * (x[..., :1] > 0).astype(x.dtype), "softmax"),
    "where seen": (lambda x: jnp.where(x[..., :1] > 0, jax.nn.softmax(x), 0), "softmax"),
    "times an inverse": (times_inverse, "softmax"),
    "of tanh": (lambda x: 0.5 * (jnp.tanh(x / 2) + 1), "sigmoid"),
    "of half a tanh": (lambda x: 0.5 * jnp.tanh(x / 2) + 0.5, "sigmoid"),
    "logits": (lambda x: x, None),
    "resized logits": (resized(lambda x: x), None),
    "resized classes": (lambda x: jax.image.resize(jax.nn.softmax(x), (4, 4, 5), "linear"), None),
    "difference": (both(lambda a, b: a - b), None),
    "sum of two": (both(lambda a, b: a + b), None),
    "of softmax and sigmoid": (both(lambda a, b: (a + b) / 2, second=jax.nn.sigmoid), None),
    "stack of logits": (lambda x: jnp.stack([jax.nn.sigmoid(x[..., 0]), x[..., 1]], -1), None),
    "padded with -1": (
        lambda x: jnp.pad(jax.nn.softmax(x), ((1, 1), (0, 0), (0, 0)), constant_values=-1),
        None,
    ),
    "expected class": (lambda x: jax.nn.softmax(x) @ jnp.arange(3.0)[:, None], None),
    "tanh": (lambda x: jnp.tanh(x) + 2, None),
    "over rows": (lambda x: jax.nn.softmax(x, axis=0), None),
    "over space": (lambda x: jax.nn.softmax(x, axis=(0, 1)), None),
    "over positions": (lambda x: jax.nn.softmax(x.reshape(-1, 3), 0).reshape(x.shape), None),
    "classes moved away": (lambda x: jnp.swapaxes(jax.nn.softmax(x), 1, 2), None),
    "attention": (lambda x: jax.nn.softmax(x) @ jnp.ones((3, 3)), None),
    "gate": (lambda x: x * jax.nn.sigmoid(x.mean((0, 1), keepdims=True)), None),
    "silu": (jax.nn.silu, None),
    "log_softmax": (jax.nn.log_softmax, None),
    "log_sigmoid": (jax.nn.log_sigmoid, None),
    "scaled": (lambda x: 2 * jax.nn.sigmoid(x), None),
    "the larger": (lambda x: jnp.maximum(jax.nn.sigmoid(x), x), None),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_is_found_in_the_program(name):
    function, expected = ENDINGS[name]
    x = jax.ShapeDtypeStruct((4, 4, 3), np.float32)
    assert probabilities.ending_of(function, x) == expected


def ends_in(activation):
    return lambda params, x: activation(skip_net(params, x))


def test_a_split_says_what_its_output_holds():
    params, x = make_params(), make_input()
    softmax = ends_in(jax.nn.softmax)
    found = [
        segcam.split(skip_net, "bottleneck", params, x).outputs,
        segcam.split(skip_net, "bottleneck", params, x, outputs="probabilities").outputs,
        segcam.split(softmax, "bottleneck", params, x).outputs,
        segcam.split(softmax, "bottleneck", params, x, outputs="logits").outputs,
    ]
    assert found == ["logits", "probabilities", "probabilities", "logits"]
    assert segcam.split(ends_in(nnx.sigmoid), "encoder", params, x).at_input.outputs != "logits"
    with pytest.raises(InputError, match="outputs='odds'; choose 'logits' or 'probabilities'"):
        segcam.split(skip_net, "bottleneck", params, x, outputs="odds")  # pyright: ignore


def test_a_target_that_contradicts_what_was_declared_is_refused():
    params, x = make_params(), make_input()
    said: dict = {"of": "probabilities", "reduce": "mean"}
    found = segcam.split(ends_in(jax.nn.softmax), "bottleneck", params, x)
    told = segcam.split(ends_in(jax.nn.softmax), "bottleneck", params, x, outputs="probabilities")
    for outputs in (None, "probabilities"):
        segcam.methods.grad_cam(
            told, params, x, segcam.targets.whole_image(1, **said, outputs=outputs)
        )
    logits = segcam.targets.whole_image(1, **said, outputs="logits")
    segcam.methods.grad_cam(found, params, x, logits)  # Declared beats traced.
    segcam.methods.score_cam(found, params, x, logits)
    with pytest.raises(TargetError, match="has outputs='logits', .* given outputs='probabilities'"):
        segcam.methods.grad_cam(told, params, x, logits)


class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=nnx.Rngs(0))

    def __call__(self, x):
        return jax.nn.softmax(self.conv(x))


class Scores(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.softmax(linen.Conv(3, (1, 1), name="conv")(x))


class Convolved(eqx.Module):
    conv: eqx.nn.Conv2d

    def __call__(self, x):
        return jax.nn.softmax(self.conv(x), axis=0)


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox", "function"])
def test_adapters_hand_on_what_was_declared(library):
    x = jnp.ones((4, 4, 2))

    def adapted(**said):
        if library == "nnx":
            return segcam.from_nnx(Net(), **said), "conv"
        if library == "linen":
            variables = Scores().init(jax.random.key(0), x[None])
            return segcam.from_linen(Scores(), variables, **said), "conv"
        if library == "equinox":
            conv = eqx.nn.Conv2d(2, 3, 1, key=jax.random.key(0))
            return segcam.from_equinox(Convolved(conv), **said), "conv"
        fn = lambda params, x: jax.nn.softmax(x @ params, axis=-1)  # noqa: E731
        return segcam.from_function(fn, jnp.ones((2, 3)), **said), "input"

    for said, expected in (({}, "probabilities"), ({"outputs": "logits"}, "logits")):
        (fn, params), tap = adapted(**said)
        assert segcam.split(fn, tap, params, x).outputs == expected
    with pytest.raises(InputError, match="outputs='odds'"):
        adapted(outputs="odds")


def test_predicted_pixels_of_a_sigmoid_are_those_of_its_logits():
    np.testing.assert_array_equal(segcam.targets.predicted_mask(LOGIT, 0), BLOB)
    np.testing.assert_array_equal(segcam.targets.predicted_mask(LOGIT, 0, outputs="logits"), BLOB)
    assert int(segcam.targets.predicted(SIGMOID, 0, outputs="probabilities").mask.sum()) == 512
    confident = segcam.targets.predicted(SIGMOID, 0, min_probability=0.75, outputs="probabilities")
    assert int(confident.mask.sum()) == 512
    assert int(segcam.targets.component(SIGMOID, 0, outputs="probabilities").mask.sum()) == 512


def test_predicted_pixels_of_a_softmax_are_those_of_its_logits():
    confident = segcam.targets.predicted_mask(
        BOTH, 1, min_probability=0.75, outputs="probabilities"
    )
    np.testing.assert_array_equal(confident, BLOB)
    np.testing.assert_array_equal(segcam.targets.predicted_mask(BOTH, 1), BLOB)


def test_a_doubt_is_said_where_predictions_depend_on_it():
    for values, options in ((SIGMOID, {}), (BOTH, {"class_index": 1, "min_probability": 0.6})):
        with pytest.raises(TargetError, match="may be probabilities or logits"):
            segcam.targets.predicted(values, **{"class_index": 0, **options})
    both = np.where(BLOB, 1.0, 0.0)[..., None]  # 1 is more, 0 is not, as a logit or a probability.
    np.testing.assert_array_equal(segcam.targets.predicted_mask(both, 0), BLOB)
    small = np.where(BLOB, 0.4, -0.1)[..., None]
    np.testing.assert_array_equal(segcam.targets.predicted_mask(small, 0), BLOB)
    assert segcam.targets.predicted_mask(SIGMOID, 0, outputs="logits").all()
    traced = jax.jit(lambda y: segcam.targets.predicted_mask(y, 0, outputs="probabilities"))
    np.testing.assert_array_equal(traced(SIGMOID), BLOB)


def test_values_that_contradict_the_declaration_are_an_error():
    with pytest.raises(
        TargetError, match="declared to be probabilities, but has values from -6 to 6"
    ):
        segcam.targets.predicted(LOGIT, 0, outputs="probabilities")
    with pytest.raises(TargetError, match="declared to be probabilities"):
        segcam.targets.predicted_mask(3 * BOTH, 1, outputs="probabilities")
    with pytest.raises(TargetError, match="choose 'logits' or 'probabilities'"):
        segcam.targets.predicted(LOGIT, 0, outputs="odds")  # pyright: ignore
    rounded = jnp.asarray(BOTH, jnp.bfloat16) * jnp.bfloat16(1.004)
    assert int(segcam.targets.predicted_mask(rounded, 1, outputs="probabilities").sum()) == 512


def test_probabilities_are_read_once():
    output, expected = jnp.asarray(BOTH), BOTH[24, 24, 1]
    for make in (
        lambda **said: segcam.targets.region(1, BLOB, of="probabilities", reduce="mean", **said),
        lambda **said: segcam.targets.pixel(1, (24, 24), BLOB.shape, of="probabilities", **said),
    ):
        np.testing.assert_allclose(make(outputs="probabilities")(output), expected, rtol=1e-6)
    again = segcam.targets.pixel(1, (24, 24), BLOB.shape, of="probabilities", outputs="logits")
    np.testing.assert_allclose(again(output), 0.73, atol=0.01)


@pytest.mark.parametrize("activation", [jax.nn.softmax, jax.nn.sigmoid])
def test_methods_tell_their_target_what_the_output_holds(activation):
    params, x = make_params(), make_input()
    fn = ends_in(activation)
    split = segcam.split(fn, "bottleneck", params, x)
    mask = np.zeros(x.shape[:-1], bool)
    mask[2:5, 3:6] = True
    found = segcam.methods.grad_cam(
        split, params, x, segcam.targets.region(1, mask, of="probabilities")
    )
    given = segcam.methods.grad_cam(split, params, x, segcam.targets.region(1, mask))
    np.testing.assert_allclose(found.score, np.asarray(fn(params, x))[mask][:, 1].sum(), rtol=1e-5)
    np.testing.assert_allclose(found.map, given.map, rtol=1e-5)
    finer = segcam.methods.finer_cam(
        split, params, x, segcam.targets.region(1, mask, of="probabilities")
    )
    np.testing.assert_allclose(finer.score, found.score, rtol=1e-5)
    both = [segcam.targets.region(k, mask, of="probabilities") for k in (1, 0)]
    differing = segcam.methods.grad_cam(split, params, x, segcam.targets.Difference(*both))
    other = segcam.methods.grad_cam(split, params, x, both[1])
    np.testing.assert_allclose(differing.score, found.score - other.score, rtol=1e-5)
    np.testing.assert_allclose(
        differing.weights, found.weights - other.weights, rtol=1e-4, atol=1e-6
    )
    one = segcam.targets.Difference(*both)
    each = segcam.targets.Difference(*(segcam.targets.stack([target] * 2) for target in both))
    for given in (one, [one, one], each):
        batch = segcam.explain_batch(
            segcam.methods.grad_cam, split, params, jnp.stack([x, x]), given
        )
        np.testing.assert_allclose(batch.weights[1], differing.weights, rtol=1e-4, atol=1e-6)
    beyond = segcam.targets.Difference(both[0], segcam.targets.region(99, mask))
    with pytest.raises(TargetError, match="99"):
        segcam.methods.grad_cam(split, params, x, beyond)
    beyond = segcam.targets.Difference(
        each.first, dataclasses.replace(each.second, class_index=np.array([1, 99]))
    )
    with pytest.raises(TargetError, match="99"):
        segcam.explain_batch(segcam.methods.grad_cam, split, params, jnp.stack([x, x]), beyond)


@pytest.mark.parametrize("name", ["heads, stacked", "resized", "mean of two"])
def test_what_is_made_of_probabilities_is_scored_as_it_is(name):
    function, x = ENDINGS[name][0], jax.random.normal(jax.random.key(0), (4, 4, 3))
    output = np.asarray(function(x))
    split = segcam.split(lambda params, x: function(x @ params), "input", jnp.eye(3), x)
    target = segcam.targets.region(1, np.ones(output.shape[:2]), of="probabilities", reduce="mean")
    found = segcam.methods.gradient(split, jnp.eye(3), x, target)
    np.testing.assert_allclose(found.score, output[..., 1].mean(), rtol=1e-5)


def convolved(x):
    return jax.lax.conv(x.transpose(2, 0, 1)[None], jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")[0]


def dense(x):
    return x @ x.mean(0)[:3] + x.mean((0, 1), keepdims=True)


LOGITS = {
    "convolved": (lambda x: convolved(x).transpose(1, 2, 0), True),
    "with a bias": (dense, True),
    "classified": (lambda x: dense(x).mean((0, 1)), True),
    "resized": (lambda x: jax.image.resize(dense(x), (8, 6, 3), "linear"), True),
    "residual": (lambda x: jax.nn.relu(x) + dense(x), True),
    "normalised": (lambda x: (dense(x) - x.mean()) / jnp.sqrt(x.var() + 1e-5) * x.max() + 1, True),
    "tempered": (lambda x: dense(x) / 3, True),
    "bounded": (lambda x: jnp.clip(dense(x), -10, 10), True),
    "log_softmax": (lambda x: jax.nn.log_softmax(dense(x)), True),
    "joined": (lambda x: jnp.concatenate([dense(x)[..., :1], dense(x)[..., 1:]], -1), True),
    "relu": (lambda x: jax.nn.relu(dense(x)), False),
    "in [0, 1]": (lambda x: jnp.clip(dense(x), 0, 1), False),
    "hard sigmoid": (lambda x: jax.nn.hard_sigmoid(dense(x)), False),
    "over its sum": (lambda x: dense(x) / dense(x).sum(-1, keepdims=True), False),
    "of softplus": (lambda x: jax.nn.softplus(dense(x)), False),
    "sharpened": (lambda x: jax.nn.softmax(dense(x)) ** 2, False),
    "resized power": (lambda x: jax.image.resize(jnp.exp(dense(x)), (8, 6, 3), "linear"), False),
    "heads of two kinds": (
        lambda x: jnp.concatenate([jax.nn.sigmoid(x[..., :1]), dense(x)[..., 1:]], -1),
        False,
    ),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_known_by_what_makes_them(name):
    function, expected = LOGITS[name]
    traced, _ = graph.trace(function, naming.PREFIX, jax.ShapeDtypeStruct((3, 3, 3), np.float32))
    assert probabilities.ending(traced) is None
    assert logits.are_made(traced) == expected


def test_probabilities_of_an_output_in_doubt_are_refused():
    x, params = jax.random.normal(jax.random.key(0), (4, 4, 3)), jnp.eye(3)
    target = segcam.targets.region(1, np.ones((4, 4)), of="probabilities", reduce="mean")

    def model(params, x):
        return jax.nn.hard_sigmoid(x @ params)

    split = segcam.split(model, "input", params, x)
    assert split.outputs is None
    with pytest.raises(TargetError, match="give outputs='logits' or outputs='probabilities'"):
        segcam.methods.gradient(split, params, x, target)
    output = np.clip(np.asarray(x) / 6 + 0.5, 0, 1)
    said = segcam.split(model, "input", params, x, outputs="probabilities")
    found = segcam.methods.gradient(said, params, x, target)
    np.testing.assert_allclose(found.score, output[..., 1].mean(), rtol=1e-5)
    plain = segcam.methods.gradient(
        split, params, x, segcam.targets.region(1, np.ones((4, 4)), reduce="mean")
    )
    np.testing.assert_allclose(plain.score, found.score, rtol=1e-6)


def test_what_an_output_means_is_checked():
    with pytest.raises(TargetError, match="threshold 1.5; give a probability"):
        Meaning(threshold=1.5).checked()
    with pytest.raises(TargetError, match=r"2 thresholds for 3 classes"):
        segcam.targets.predicted_mask(np.zeros((2, 3)), 0, exclusive=False, threshold=(0.5, 0.4))


def test_probabilities_that_do_not_sum_to_1_are_of_no_exclusive_classes():
    """The argmax of three sigmoid heads was taken without a word."""
    heads = np.array([[[0.9, 0.8, 0.1], [0.2, 0.6, 0.3]]], np.float32)
    for outputs in (None, "probabilities"):
        with pytest.raises(TargetError, match=r"sum to 1.1 to 1.8: give exclusive=False"):
            segcam.targets.predicted_mask(heads, 1, outputs=outputs)
    kept = segcam.targets.predicted_mask(heads, 1, outputs="probabilities", exclusive=False)
    np.testing.assert_array_equal(kept, [[True, True]])
    np.testing.assert_array_equal(
        segcam.targets.predicted_mask(heads, 0, outputs="logits"), [[True, False]]
    )
    softmax = heads / heads.sum(-1, keepdims=True)
    np.testing.assert_array_equal(segcam.targets.predicted_mask(softmax, 1), [[False, True]])
