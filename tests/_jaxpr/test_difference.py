"""The difference form against float64: a change keeps its digits however large the values are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import segcam_jax as segcam
from segcam_jax import Execution, tap
from segcam_jax._jaxpr import difference, graph
from tests.engine.test_engine import Recipe, random_net
from tests.support.networks import make_input, make_params, skip_net


def _window(kind, initial, width, step):
    return lambda x: lax.reduce_window(x, initial, kind, (width, width), (step, step), "SAME")


KERNEL = jnp.linspace(-1, 1, 3 * 3 * 8 * 5).reshape(3, 3, 8, 5)


def _convolved(stride=1, spread=1, dilation=1):
    def fn(x):
        kernel = KERNEL.astype(x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        image = x.reshape(1, 6, 1, 8)
        around = ((2, 2), (2, 2))
        return lax.conv_general_dilated(
            image, kernel, (stride, 1), around, (spread, 1), (dilation, 1), numbers
        )

    return fn


def _normalised(x):
    centred = x - x.mean(1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + 1e-5)


def _attention(x):
    mask = jnp.tril(jnp.ones((6, 6), bool))
    return jax.nn.softmax(jnp.where(mask, x @ x.T, -jnp.inf)) @ x


ANY = {
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "gelu with erf": lambda x: jax.nn.gelu(x, approximate=False),
    "softplus": jax.nn.softplus,
    "softmax": jax.nn.softmax,
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1),
    "abs": jnp.abs,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": lax.erf,
    "square": jnp.square,
    "cube": lambda x: x**3,
    "inverse square": lambda x: (x + 5.0) ** -2,
    "quotient": lambda x: x / (3.0 + jnp.cos(x)),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
    "largest": lambda x: x.max(0),
    "smallest": lambda x: x.min(1),
    "maximum": lambda x: jnp.maximum(x, x[::-1]),
    "max pooling": _window(lax.max, -np.inf, 3, 2),
    "min pooling": _window(lax.min, np.inf, 2, 2),
    "average pooling": _window(lax.add, 0.0, 3, 1),
    "cumsum": lambda x: jnp.cumsum(x, 0),
    "filled": lambda x: x.at[np.array([1, 9])].get(mode="fill", fill_value=5.0),
    "scatter": lambda x: x.at[np.array([1, 3])].set(2 * x[:2]).at[np.array([0, 0])].add(x[2:4]),
    "update": lambda x: lax.dynamic_update_slice(x, jnp.sin(x[:2, :3]), (2, 1)),
    "barrier": lambda x: jnp.add(*lax.optimization_barrier((x, x[::-1] * 0 + 3.0))),
    "known barrier": lambda x: jnp.multiply(*lax.optimization_barrier((x, 3.0))),
    "take": lambda x: jnp.take(x, np.array([3, 0, 0, 5]), 0),
    "resize": lambda x: jax.image.resize(x, (12, 16), "linear"),
    "pad and slice": lambda x: jnp.pad(x, 2)[1::2, ::3],
    "convolution": _convolved(),
    "strided": _convolved(stride=2),
    "transposed": _convolved(spread=2),
    "dilated": _convolved(dilation=2),
    "normalisation": _normalised,
    "attention": _attention,
    "product": lambda x: x * jnp.sin(x) - x,
}
POSITIVE = {
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "power": lambda x: x**1.7,
    "cbrt": jnp.cbrt,
}


def in_double(tree):
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)) if hasattr(leaf, "dtype") else leaf,
        tree,
    )


def inputs():
    x = jax.random.normal(jax.random.key(0), (6, 8))
    step = jnp.clip(jax.random.normal(jax.random.key(1), (6, 8)), -0.9, 2)
    return x, jnp.abs(x) + 0.1, step


def every(found):
    """The result of every function, of any input."""
    return {name: found(fn, name in POSITIVE) for name, fn in (ANY | POSITIVE).items()}


def relative(found, true):
    found, true = (np.asarray(each, np.float64) for each in (found, true))
    return np.abs(found - true).max() / np.abs(true).max()


def test_every_rule_is_accurate_relative_to_the_change():
    x, positive, step = inputs()

    @jax.jit
    def propagated(pair, changes):
        return every(lambda fn, at: difference.change_of(fn, [pair[at]], [changes[at]])[0])

    @jax.jit
    def subtracted(pair, changes):
        return every(lambda fn, at: fn(pair[at] + changes[at]) - fn(pair[at]))

    for scale in (1e-6, 1e-2, 1.0):
        given = (x, positive), (x * step * scale, positive * step * scale)
        found, plain = propagated(*given), subtracted(*given)
        with jax.enable_x64(True):
            true = subtracted(*in_double(given))
        errors = {name: relative(found[name], true[name]) for name in true}
        assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}
        if scale == 1e-6:
            assert relative(plain["exp"], true["exp"]) > 1e-3


def test_nothing_changes_where_nothing_does():
    x, positive, _ = inputs()

    @jax.jit
    def unchanged(pair):
        return every(
            lambda fn, at: difference.change_of(fn, [pair[at]], [jnp.zeros_like(pair[at])])[0]
        )

    assert not any(np.asarray(value).any() for value in unchanged((x, positive)).values())


def test_what_has_no_rule_is_subtracted_and_named():
    def fn(x):
        looped = lax.scan(lambda c, _: (jnp.tanh(c), None), x, None, length=2)[0]
        return jnp.sort(looped, 0) + jnp.floor(x)

    x, _, step = inputs()
    found, names = difference.change_of(fn, [x], [step])
    assert names == ("scan", "sort")
    np.testing.assert_allclose(found, fn(x + step) - fn(x), atol=1e-5)


def test_a_changed_part_of_a_concatenation_reads_its_weights_only():
    from segcam_jax._jaxpr import cost

    known, weights = jnp.ones((5, 12)), jnp.ones((20, 3))

    def fn(x):
        joined = jnp.concatenate([known, x], 1) * 2.0
        return jnp.where(joined > 0, joined, 0.1 * joined) @ weights

    x = -jnp.arange(40, dtype=jnp.float32).reshape(5, 8)
    _, jaxpr = graph.closed(lambda c: difference.change_of(fn, [x], [c])[0], x)
    # The product of what is known is here too: it falls to what runs once.
    assert cost.flops(jaxpr) == 2 * 5 * 3 * (20 + 8)
    found, _ = difference.change_of(fn, [x], [-x])
    np.testing.assert_allclose(found, fn(x * 0) - fn(x), rtol=1e-6)


def far_from_zero(recipe, ratio):
    """A random network whose score is `ratio` times the largest drop, and what ablates it."""
    fn, params, x = random_net(recipe)
    split = segcam.split(fn, "hidden", params, x)
    mask = np.zeros(split.output.shape[:-1], bool)
    mask[:3, 2:5] = True
    target = segcam.targets.region(1, mask)
    drops = segcam.methods.ablation_cam(split, params, x, target).drops
    offset = float(ratio * np.abs(drops).max() / mask.sum())
    return lambda params, x: fn(params, x) + offset, params, x, target


def largest_error(recipe, name, execution, ratio=1e6):
    """Of the drops, and of a map of positions that are kept alone."""
    fn, params, x, target = far_from_zero(recipe, ratio)
    method = segcam.methods.METHODS[name].function
    found = method(segcam.split(fn, "hidden", params, x), params, x, target, execution=execution)
    with jax.enable_x64(True):
        params, x = in_double((params, x))
        split = segcam.split(fn, "hidden", params, x)
        true = method(split, params, x, target, execution=segcam.NAIVE)
    if name == "recipro_cam":
        return relative(found.map, true.map)
    return relative(found.drops, true.score - true.scores)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (Recipe(upsample="linear", pool="max", extents=(5, 6)), "ablation_cam"),
        (Recipe(upsample="transposed", pool="average", extents=(5, 6)), "fast_ablation_cam"),
        (Recipe(3, upsample="nearest", pool="same", extents=(3, 4, 3)), "ablation_cam"),
        (Recipe(upsample="nearest", pool="max", extents=(5, 6)), "recipro_cam"),
    ],
)
def test_drops_a_million_times_smaller_than_the_score(recipe, name):
    assert largest_error(recipe, name, Execution()) <= 1e-5


def test_rounded_operands_are_an_error_of_the_drop():
    recipe = Recipe(upsample="linear", pool="max", extents=(5, 6))
    assert 1e-5 < largest_error(recipe, "ablation_cam", Execution(precision="bfloat16")) <= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nearest", "linear", "transposed", "transposed3"])
@pytest.mark.parametrize("pool", ["none", "max", "average", "same"])
@pytest.mark.parametrize("rank", [2, 3])
def test_drops_of_many_networks(rank, pool, kind):
    recipe = Recipe(rank, 1 + (pool == "max"), upsample=kind, pool=pool, extents=(5, 6, 5))
    for name in ("ablation_cam", "fast_ablation_cam"):
        assert largest_error(recipe, name, Execution()) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_derivatives_do_not_depend_on_what_is_skipped(chunk):
    """Black background: an ablation of zeros changes nothing, but its derivative is there."""
    kernels = [jax.random.normal(jax.random.key(k), (3, 3)) for k in (1, 2)]

    def model(params, x):
        hidden = tap(jax.nn.silu(x @ kernels[0] * params), "hidden")
        return jnp.tanh(hidden @ kernels[1])

    x = jnp.zeros((3, 3, 3)).at[1:, 1:].set(1.0)
    scale = jnp.ones(())
    target = segcam.targets.whole_image(0)
    split = segcam.split(model, "hidden", scale, x)

    def weight(x, value, execution):
        found = segcam.methods.fast_ablation_cam(
            split, scale, x, target, ablation_value=value, execution=execution
        )
        return found.map[0, 0]

    for value in (0.0, 1.0):
        found = jax.grad(weight, (0, 1))(x, jnp.asarray(value), Execution(chunk_size=chunk))
        true = jax.grad(weight, (0, 1))(x, jnp.asarray(value), segcam.NAIVE)
        np.testing.assert_allclose(found[0], true[0], atol=1e-6)
        np.testing.assert_allclose(found[1], true[1], atol=1e-6)
        assert np.abs(true[0][0, 0]).max() > 0.1 or value == 1.0


def test_closed_form_of_an_infinity_that_the_target_does_not_see():
    x = jnp.ones((4, 4, 3)).at[0, 0, 1].set(jnp.inf)
    weights = jnp.ones((3, 2))
    split = segcam.split(lambda w, x: tap(x, "hidden") @ w, "hidden", weights, x)
    target = segcam.targets.pixel(0, (2, 2), (4, 4))
    found = segcam.methods.ablation_cam(split, weights, x, target)
    np.testing.assert_allclose(found.scores, [2.0, 2.0, 2.0])
    np.testing.assert_allclose(found.drops, [1.0, 1.0, 1.0])


def test_rounding_behind_an_activation_that_multiplies():
    """silu is x sigmoid(x): the products before it are rounded too."""
    params, x = make_params(), make_input()

    def model(params, x):
        hidden = tap(skip_net(params, x), "hidden")
        return jax.nn.silu(hidden @ jnp.ones((3, 4))) @ jnp.ones((4, 2))

    split = segcam.split(model, "hidden", params, x)
    exact, rounded = (
        segcam.methods.ablation_cam(
            split, params, x, segcam.targets.whole_image(0), execution=each
        ).drops
        for each in (Execution(), Execution(precision="bfloat16"))
    )
    assert 1e-5 < np.abs(exact - rounded).max() / np.abs(exact).max() < 1e-2


@pytest.mark.parametrize("hot", [1e4, 1e8])
@pytest.mark.parametrize("name", ["ablation_cam", "fast_ablation_cam"])
def test_what_drowns_the_rest_leaves_the_rest_when_it_is_ablated(name, hot):
    """One channel, or position, so many times the others before a tanh."""
    keys = jax.random.split(jax.random.key(3), 3)
    place = (slice(None), slice(None), 0) if name == "ablation_cam" else (2, 3)
    x = jnp.abs(jax.random.normal(keys[0], (4, 5, 6))).at[place].mul(hot)
    weights = jax.random.normal(keys[1], (4, 5, 6, 8)) * 0.1
    index = 0 if name == "ablation_cam" else 2 * 5 + 3

    def model(params, x):
        mixed = jnp.tanh(jnp.einsum("hwc,hwck->k", tap(x, "hidden"), weights.astype(x.dtype)))
        return mixed @ params

    def drops(params, x, execution):
        split = segcam.split(model, "hidden", params, x)
        method = segcam.methods.METHODS[name].function
        return method(split, params, x, segcam.targets.whole_image(0), execution=execution).drops

    params = jax.random.normal(keys[2], (8, 2))
    found = drops(params, x, Execution())
    with jax.enable_x64(True):
        true = np.asarray(drops(*in_double((params, x)), segcam.NAIVE))
    scale = np.abs(true).max()
    np.testing.assert_allclose(found / scale, true / scale, atol=1e-3 if hot == 1e4 else 1e-5)
    assert abs(true[index]) > 0.1
    slope = jax.grad(lambda x, execution: drops(params, x, execution)[index])
    np.testing.assert_allclose(slope(x, Execution()), slope(x, segcam.NAIVE), rtol=1e-4, atol=1e-6)


def test_a_dead_channel_falls_by_exactly_nothing():
    params, x = make_params(), make_input()
    params = {**params, "deep": params["deep"].at[..., ::2].set(0)}
    split = segcam.split(skip_net, "bottleneck", params, x)
    for skip in (True, False):
        found = segcam.methods.ablation_cam(
            split, params, x, segcam.targets.whole_image(1), execution=Execution(skip_dead=skip)
        )
        assert not np.asarray(found.drops)[::2].any()
        assert (found.scores[::2] == found.score).all()


@jax.custom_vjp
def clipped(x):
    return jnp.maximum(x, 0.0)


clipped.defvjp(lambda x: (jnp.maximum(x, 0.0), x), lambda x, g: (jnp.where(x > 0, g, 0.0),))


def test_a_target_is_differentiated_through_a_model_with_a_backward_rule_alone():
    params, x = make_params(), make_input()

    def model(params, x):
        return clipped(jnp.square(tap(skip_net(params, x), "hidden")) - 0.1)

    split = segcam.split(model, "hidden", params, x)

    def total(scale, execution):
        found = segcam.methods.ablation_cam(
            split, params, x, lambda y: (y * scale).sum() * scale, execution=execution
        )
        return found.drops.sum()

    ours, true = (jax.grad(total)(jnp.asarray(2.0), each) for each in (Execution(), segcam.NAIVE))
    np.testing.assert_allclose(ours, true, rtol=1e-5)
