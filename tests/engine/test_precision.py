"""Products in bfloat16 and tf32: on request, with a bounded error, scores and maps in float32."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import Execution, InputError, tap
from segcam_jax._jaxpr import graph, precision
from tests.support.networks import convolve, make_input, make_params, skip_net, upsample

METHODS = ["ablation_cam", "fast_ablation_cam", "grad_cam", "hires_cam", "integrated_gradients"]


def a_target(size=3):
    mask = np.zeros((8, 12), bool)
    mask[2 : 2 + size, 4 : 4 + size] = True
    return segcam.targets.region(1, mask)


def explained(name, execution, target):
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    return segcam.methods.METHODS[name].function(split, params, x, target, execution=execution)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_rounds_and_stays_near(name):
    for target in (a_target(), segcam.targets.whole_image(1)):
        exact = explained(name, Execution(), target)
        rounded = explained(name, Execution(precision="bfloat16"), target)
        for field in ("map", "score", "weights", "scores", "attribution"):
            one, other = getattr(exact, field), getattr(rounded, field)
            if one is not None:
                assert other.dtype == jnp.float32
        error = np.abs(rounded.map - exact.map).max() / np.abs(exact.map).max()
        assert 1e-5 < error < 0.1
        np.testing.assert_allclose(rounded.score, exact.score, rtol=0.02)


@pytest.mark.parametrize("switches", [{}, {"difference": False, "windows": False, "chunk_size": 2}])
def test_a_channel_without_effect_has_no_weight_in_bfloat16(switches):
    params, x = make_params(), make_input()
    params = {**params, "deep": params["deep"].at[..., ::2].set(0)}
    split = segcam.split(skip_net, "bottleneck", params, x)
    execution = Execution(precision="bfloat16", skip_dead=False, **switches)
    explanation = segcam.methods.ablation_cam(split, params, x, a_target(), execution=execution)
    weights = np.asarray(explanation.weights)
    assert not weights[::2].any()
    assert weights[1::2].any()


def products(jaxpr):
    """(dtype, precision) of the products of a jaxpr, in order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            dtype = equation.invars[0].aval.dtype.name
            found.append((dtype, equation.params["precision"]))
        for body in graph.bodies(equation):
            found += products(body)
    return found


def rewritten(fn, wanted, *arrays):
    closed, _ = graph.closed(fn, *arrays)
    return graph.closed(precision.with_precision(closed, wanted), *arrays)[1]


def resized_head(params, x):
    """Two products, a nonlinearity, a head whose logits are resized, and a softmax."""
    hidden = jax.nn.relu(convolve(x, params["down"], params["bias"]))
    hidden = jax.jit(lambda h: jax.nn.relu(convolve(h, params["deep"])))(hidden)
    both = jnp.concatenate([hidden, x], -1)
    logits = both @ jnp.ones((both.shape[-1], 3)) + 0.5
    big = jax.image.resize(logits, (16, 24, 3), "linear")
    return jax.nn.softmax(big)


def test_the_last_linear_piece_stays_float32():
    params, x = make_params(), make_input()
    with jax.numpy_rank_promotion("allow"):
        found = products(rewritten(lambda x: resized_head(params, x), "bfloat16", x))
    narrow = [dtype == "bfloat16" for dtype, _ in found]
    assert narrow[:2] == [True, True]
    assert len(narrow) > 3
    assert not any(narrow[2:])


@pytest.mark.parametrize("act", ["relu", "silu", "gelu", "tanh"])
def test_a_product_of_two_values_that_vary_is_no_linear_piece(act):
    """silu is x sigmoid(x): what precedes it is rounded; a scale that is known is passed."""
    params, x = make_params(inputs=4), make_input(inputs=4)
    act = jnp.tanh if act == "tanh" else getattr(jax.nn, act)

    def chain(params, x):
        x = act(convolve(tap(x, "hidden"), params["down"], params["bias"]))
        x = jax.jit(lambda x, w: act(convolve(x, w)))(x, params["down"]) * 2.0
        return (x @ jnp.ones((4, 3)) * jnp.ones(3)) @ jnp.ones((3, 3))

    with jax.numpy_rank_promotion("allow"):
        found = products(rewritten(lambda x: chain(params, x), "bfloat16", x))
        split = segcam.split(chain, "hidden", params, x)
        for target in (segcam.targets.whole_image(1), a_target()):
            exact, rounded = (
                segcam.methods.hires_cam(split, params, x, target, execution=each).map
                for each in (Execution(), Execution(precision="bfloat16"))
            )
            assert 1e-5 < np.abs(rounded - exact).max() / np.abs(exact).max() < 0.1
    assert [dtype for dtype, _ in found] == ["bfloat16", "bfloat16", "float32", "float32"]


def test_precision_where_the_model_left_it_open():
    highest, high = jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGH
    chosen = (jax.lax.Precision.DEFAULT,) * 2

    def fn(x):
        return jnp.dot(jnp.tanh(x @ x), x, precision=jax.lax.Precision.DEFAULT)

    x = jnp.ones((3, 3))
    exact = [setting for _, setting in products(rewritten(fn, "float32", x))]
    assert exact == [(highest, highest), chosen]
    fast = [setting for _, setting in products(rewritten(fn, "tf32", x))]
    assert fast == [(high, high)] * 2


def test_tf32_is_float32_where_there_is_none():
    exact = explained("ablation_cam", Execution(), a_target())
    fast = explained("ablation_cam", Execution(precision="tf32"), a_target())
    np.testing.assert_allclose(fast.map, exact.map, rtol=1e-6, atol=1e-7)


def test_weights_are_rounded_once_and_what_is_added_is_not_rounded():
    first, last = jnp.ones((3, 3, 2, 2)), jnp.ones((1, 1, 2, 2))
    known, bias = jnp.ones((8, 12, 2)), jnp.ones(2)

    def fn(x):
        y = jax.nn.relu(convolve(x, first, bias) + known)
        return convolve(y, last)

    with jax.numpy_rank_promotion("allow"):
        closed, jaxpr = graph.closed(fn, make_input())
        run = precision.with_precision(closed, "bfloat16")
        _, whole = graph.closed(lambda x: jax.lax.map(lambda x: run(x)[0], x), make_input()[None])
    assert len(jaxpr.constvars) == 4
    (loop,) = [e for e in whole.eqns if e.primitive.name == "scan"]
    shared = {(v.aval.shape, v.aval.dtype.name) for v in loop.invars}
    assert shared >= {
        ((3, 3, 2, 2), "bfloat16"),
        ((1, 1, 2, 2), "float32"),
        ((8, 12, 2), "float32"),
    }


def test_control_flow_and_integers_are_left_alone():
    def fn(x):
        looped = jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, None, length=2)[0]
        counts = jnp.ones((3, 3), jnp.int32) @ jnp.ones((3, 3), jnp.int32)
        return jnp.tanh(looped @ looped) @ x + counts.astype(x.dtype)

    x = jax.random.normal(jax.random.key(0), (3, 3))
    run = precision.with_precision(graph.closed(fn, x)[0], "bfloat16")
    np.testing.assert_allclose(run(x)[0], fn(x), rtol=0.05, atol=0.05)


def net_in_bfloat16(params, x):
    hidden = tap(jax.nn.relu(convolve(x, params["down"])), "hidden")
    return convolve(upsample(hidden), params["head"]).astype(jnp.float32)


def test_a_model_that_is_bfloat16_itself():
    params, x = make_params(dtype=jnp.bfloat16), make_input(dtype=jnp.bfloat16)
    split = segcam.split(net_in_bfloat16, "hidden", params, x)
    for wanted in ("float32", "tf32", "bfloat16"):
        execution = Execution(precision=wanted)
        explanation = segcam.methods.ablation_cam(
            split, params, x, segcam.targets.whole_image(0), execution=execution
        )
        assert explanation.map.dtype == jnp.float32


def test_an_unknown_precision():
    with pytest.raises(InputError, match="precision='half'; choose from float32, tf32, bfloat16"):
        Execution(precision=cast(Any, "half"))
