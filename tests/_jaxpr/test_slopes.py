"""Gradients without what the activation does not change: the model's own, also at ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import segcam_jax as segcam
from segcam_jax import Execution, TargetError, engine, tap
from segcam_jax._jaxpr import cost, graph, slopes
from tests._jaxpr.test_difference import ANY, POSITIVE
from tests.engine.test_engine import Recipe, random_net
from tests.support.networks import convolve, make_input, make_params, skip_net


@jax.custom_jvp
def doubled(x):
    """Twice its input, by its own rule three times as steep where it is 0."""
    return 2 * x


@doubled.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return doubled(x), jnp.where(x == 0, 6.0, 2.0) * t


@jax.custom_vjp
def clipped(x):
    return jnp.maximum(x, 0.0)


clipped.defvjp(lambda x: (jnp.maximum(x, 0.0), x), lambda x, g: (jnp.where(x > 0, g, 5 * g),))


def looped(x):
    x = lax.fori_loop(0, 2, lambda _, c: jnp.abs(c) - 0.5, x)
    x = lax.cond(x.sum() > -100, jnp.square, jnp.sin, x)
    return lax.scan(lambda c, row: (c + row, c * row), x[0], x)[1]


OTHERS = {
    "maximum of itself": lambda x: jnp.maximum(x, x[::-1]),
    "clamp": lambda x: lax.clamp(-1.0, x, 1.0),
    "own rule": doubled,
    "own backward rule": clipped,
    "loops": looped,
    "sorted": lambda x: jnp.sort(x, 1),
    "rounded": lambda x: jnp.round(x) * x + lax.stop_gradient(x) * x,
    "norm": lambda x: jnp.sqrt(jnp.square(x).sum(1) + 1e-3),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
}


def test_every_derivative_is_the_primitives_own_at_ties_too():
    """Ties everywhere: rows of zeros, ones, and what repeats."""
    x = jnp.array([[0.0, 1, -1, 0, 6, 2, 2, -0.5], [0, 1, -1, 0, 6, 2, 2, -0.5]])
    x = jnp.concatenate([x, jnp.zeros((1, 8)), x[::-1], jnp.linspace(-1, 1, 8)[None]])
    functions = ANY | {name: lambda x, f=f: f(jnp.abs(x) + 0.5) for name, f in POSITIVE.items()}

    def gradient(fn, x, ours):
        value, pull = jax.vjp(fn, x)
        cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        if not ours:
            return value, pull(cotangent)[0]
        (value,), pull = slopes.slope(graph.closed(fn, x)[0], x)
        return value, pull(cotangent)

    for name, fn in (functions | OTHERS).items():
        found, true = (gradient(fn, x, ours) for ours in (True, False))
        np.testing.assert_array_equal(found[0], true[0], err_msg=name)
        np.testing.assert_array_equal(found[1], true[1], err_msg=name)


def test_facts():
    def facts(fn):
        struct = jax.ShapeDtypeStruct((3,), jnp.float32)
        _, jaxpr = graph.closed(fn, struct)
        return slopes.depends(jaxpr), slopes.has_slope(jaxpr)

    assert facts(lambda x: x.sum()) == (True, True)
    assert facts(lambda x: (x > 0).sum()) == (True, False)
    assert facts(lambda x: jnp.floor(x) + lax.stop_gradient(x)) == (True, False)
    assert facts(lambda x: jnp.argmax(x).astype(x.dtype)) == (True, False)
    assert facts(lambda x: jnp.ones(3)) == (False, False)
    assert facts(lambda x: jnp.where(x > 0, x, 0.0)) == (True, True)


def joined(params, x):
    """Two skips around the activation, norms, attention and a pooling behind them."""
    skip = jnp.tanh(convolve(x, params["down"], params["bias"]))
    hidden = tap(jax.nn.relu(convolve(skip, params["same"])), "hidden")
    both = jnp.concatenate([skip, jax.nn.relu6(hidden), skip[..., :2]], -1)
    both = jax.nn.leaky_relu(both - both.mean()) * params["scale"]
    mixed = jax.nn.gelu(convolve(both, params["mix"]))
    pooled = lax.reduce_window(mixed, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    flat = pooled.reshape(-1, pooled.shape[-1])
    mixed = (jax.nn.softmax(flat @ flat.T) @ flat).reshape(pooled.shape)
    mixed = jax.image.resize(mixed, (*x.shape[:-1], mixed.shape[-1]), "linear")
    return convolve(mixed, params["head"])


def joined_params():
    keys = iter(jax.random.split(jax.random.key(3), 4))
    draw = lambda *shape: jax.random.normal(next(keys), shape) / 4  # noqa: E731
    return {
        **make_params(),
        "same": draw(3, 3, 4, 5),
        "scale": jnp.linspace(0.5, 1.5, 11).reshape(1, 1, 11),
        "mix": draw(3, 3, 11, 4),
        "head": draw(1, 1, 4, 3),
    }


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_gradients_through_networks(of):
    params, x = joined_params(), make_input()
    split = segcam.split(joined, "hidden", params, x)
    mask = np.zeros((8, 12), bool)
    mask[:3, 5:9] = True
    for target in (segcam.targets.whole_image(1, of=of), segcam.targets.region(2, mask, of=of)):
        found = segcam.methods.hires_cam(split, params, x, target)
        true = segcam.methods.hires_cam(split, params, x, target, execution=segcam.NAIVE)
        scale = np.abs(true.map).max()
        np.testing.assert_allclose(found.map / scale, true.map / scale, atol=2e-6)
        np.testing.assert_allclose(found.score, true.score, rtol=1e-5)


@pytest.mark.parametrize("upsample", ["linear", "transposed"])
def test_gradients_on_windows_of_random_networks(upsample):
    fn, params, x = random_net(Recipe(upsample=upsample, pool="max", skip_first=True))
    split = segcam.split(fn, "hidden", params, x)
    mask = np.zeros(jax.eval_shape(fn, params, x).shape[:-1], bool)
    mask[:2, 3:5] = True
    for target in (segcam.targets.region(1, mask), lambda y: jnp.square(y).sum()):
        found = segcam.methods.hires_cam(split, params, x, target)
        true = segcam.methods.hires_cam(split, params, x, target, execution=segcam.NAIVE)
        scale = np.abs(true.map).max()
        np.testing.assert_allclose(found.map / scale, true.map / scale, atol=2e-6)


def test_the_way_back_leaves_out_the_skip():
    """Of `skip_net`: forwards all of decode, backwards the 8 of 12 channels that change."""
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    activation, carry = split.encode(params, x)

    def flops(target, execution):
        def run(activation, carry, target):
            return engine.value_and_gradient(split, activation, carry, target, execution)

        return cost.flops(graph.closed(run, activation, carry, target)[1])

    plain = Execution(lowering=False)
    conv, head = 2 * 96 * 9 * 12 * 4, 2 * 96 * 4 * 3
    assert flops(segcam.targets.whole_image(1), plain) == 2 * head + conv + conv * 8 // 12
    assert flops(segcam.targets.whole_image(1), segcam.NAIVE) == 2 * (head + conv)
    mask = np.zeros((8, 12), bool)
    mask[2:4, 3:5] = True
    share = flops(segcam.targets.region(1, mask), plain) / (2 * head + conv + conv * 8 // 12)
    assert share < 0.1


def test_forward_mode_and_hessians_through_methods():
    """By default, on CPUs too, where slow equations are rewritten."""
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)

    def total(scale, method, execution):
        found = method(
            split, {**params, "up": params["up"] * scale}, x, target, execution=execution
        )
        return (found.map**2).sum()

    target = lambda y: jnp.tanh(y[..., 1]).sum()  # noqa: E731
    scale = jnp.asarray(1.1)
    for method in (segcam.methods.hires_cam, segcam.methods.ablation_cam):
        ours = jax.jit(jax.jacfwd(jax.grad(total)), static_argnums=(1, 2))
        slow = jax.grad(jax.grad(lambda s, m=method: total(s, m, segcam.NAIVE)))(scale)
        np.testing.assert_allclose(ours(scale, method, Execution()), slow, rtol=1e-4)
        first = jax.jvp(lambda s, m=method: total(s, m, Execution()), (scale,), (scale,))[1]
        true = scale * jax.grad(total)(scale, method, segcam.NAIVE)
        np.testing.assert_allclose(first, true, rtol=1e-4)


def test_a_score_without_a_slope_is_told():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    for execution in (Execution(), segcam.NAIVE):
        with pytest.raises(TargetError, match="does not depend smoothly"):
            segcam.methods.grad_cam(
                split, params, x, lambda y: jnp.round(y).sum(), execution=execution
            )
        with pytest.raises(TargetError, match="does not depend on tap"):
            segcam.methods.grad_cam(split, params, x, lambda y: jnp.ones(()), execution=execution)


def test_gradients_in_blocks_are_those_of_the_whole():
    """Skips over blocks, integers and what is known on the way, a result that is not asked for."""

    def fn(x):
        order = jnp.argsort(x[0])
        skip = jnp.tanh(x) * jnp.arange(4.0)[None]
        y = jax.jit(jnp.sin)(skip @ jnp.ones((4, 4)))[:, order]
        y = jnp.concatenate([lax.fori_loop(0, 2, lambda _, v: v * jnp.cos(v), y + skip), skip * 0])
        return (y[:3] * skip).sum(), y[0], order

    x = jax.random.normal(jax.random.key(0), (3, 4))
    closed = jax.make_jaxpr(fn)(x)
    one, row = jnp.float32(2), jnp.arange(4.0)
    wanted, turned = jax.vjp(lambda x: fn(x)[:2], x)
    for count, mapped in ((3, False), (50, True)):

        def both(x, count=count):
            (score, first, _), pull = slopes.slope(closed, x, count)
            return score, first, pull(one, row, np.zeros(4, jax.dtypes.float0))

        run = jax.jit(jax.vmap(both) if mapped else both)
        *found, gradient = (each[0] for each in run(x[None])) if mapped else run(x)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        np.testing.assert_allclose(gradient, turned((one, row))[0], rtol=1e-5, atol=1e-6)


def deep_net(params, x):
    x = tap(x, "first")
    for weight in params:
        x = jnp.tanh(x @ weight)
    return x


def test_a_gradient_that_keeps_too_much_runs_in_blocks():
    """In less memory by XLA's own account, and to the same values."""
    params = list(jnp.eye(8)[None] + 0.1 * jax.random.normal(jax.random.key(2), (24, 8, 8)))
    x = jax.random.normal(jax.random.key(1), (64, 64, 8))
    split = segcam.split(deep_net, "first", params, x)
    target = segcam.targets.region(1, np.ones((64, 64), bool))
    options = {"key": jax.random.key(0), "samples": 2}
    small = Execution(memory_limit=3 * 2**20, chunk_size=1)
    held, found = [], []
    for execution in (Execution(chunk_size=1), small):
        given = (split, params, x, target)
        program = segcam.methods.smooth_grad.program(*given, **options, execution=execution)
        held.append(program.temporaries)
        found.append(segcam.methods.smooth_grad(*given, **options, execution=execution).attribution)
    assert held[1] < 0.6 * held[0]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
