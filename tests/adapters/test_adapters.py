"""Plain functions in their own layout, names of submodules, models told apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import segcam_jax as segcam
from segcam_jax import InputError, tap
from segcam_jax._jaxpr import naming
from segcam_jax.adapters import adapted
from tests.support.networks import make_input, make_params, skip_net


def native_net(params, x, *, scale=1.0):
    """`skip_net` with a batch and channels first: `1 c h w`."""
    assert x.ndim == 4
    x = tap(x * scale, "scaled")
    y = skip_net(params, jnp.moveaxis(x[0], 0, -1))
    return jnp.moveaxis(tap(jnp.moveaxis(y, -1, 0)[None], "logits"), 0, 0)


def test_functions_in_their_own_layout():
    params, x = make_params(), make_input()
    fn, same = segcam.from_function(native_net, params, batch_axis=0, channel_axis=0, scale=1.0)
    assert same is params
    np.testing.assert_allclose(fn(params, x), skip_net(params, x), rtol=1e-5, atol=1e-5)
    taps = segcam.list_taps(fn, params, x)
    assert taps["scaled"].shape == x.shape
    assert taps["logits"].shape == fn(params, x).shape
    again, _ = segcam.from_function(native_net, params, batch_axis=0, channel_axis=0, scale=1.0)
    assert fn == again
    assert hash(fn) == hash(again)
    assert (
        fn != segcam.from_function(native_net, params, batch_axis=0, channel_axis=0, scale=2.0)[0]
    )
    split = segcam.split(fn, "scaled", params, x)
    plain = segcam.split(skip_net, "input", params, x)
    target = segcam.targets.whole_image(1)
    np.testing.assert_allclose(
        segcam.methods.grad_cam(split, params, x, target).map,
        segcam.methods.grad_cam(plain, params, x, target).map,
        rtol=1e-4,
        atol=1e-5,
    )


def test_one_of_several_outputs():
    def fn(params, x):
        return {"logits": x * params, "auxiliary": x}

    x = jnp.ones((2, 3))
    chosen, params = segcam.from_function(fn, jnp.full((), 2.0), output=lambda out: out["logits"])
    np.testing.assert_array_equal(chosen(params, x), 2 * x)


def test_what_is_no_function():
    with pytest.raises(InputError, match="`fn` is int, expected a function"):
        segcam.from_function(3, {})


def test_names_are_numbered_in_order_of_evaluation():
    @jax.jit
    def called(x):
        return naming.mark_module(x * 2, "body")

    def fn(params, x):
        return called(called(tap(x * params, "body#2")))

    one, x = jnp.ones(()), jnp.ones((3,))
    taps = segcam.list_taps(fn, one, x)
    assert list(taps) == ["input", "body#2", "body", "body#2#module"]
    split = segcam.split(fn, "body#2#module", one, x)
    np.testing.assert_array_equal(split.encode(one, x)[0], 4 * x)


def test_a_submodule_inside_a_function_with_its_own_gradient_leaves_it_be():
    @jax.custom_vjp
    def flipped(x):
        return naming.mark_module(x * 2, "inner")

    flipped.defvjp(lambda x: (flipped(x), None), lambda _, g: (-g,))

    def fn(params, x):
        return flipped(naming.mark_module(x * params, "outer")).sum(keepdims=True)

    one, x = jnp.ones(()), jnp.ones((3,))
    assert list(segcam.list_taps(fn, one, x)) == ["input", "outer"]
    split = segcam.split(fn, "outer", one, x)
    activation, carry = split.encode(one, x)
    gradient = jax.grad(lambda a: split.decode(a, carry)[0])(activation)
    np.testing.assert_array_equal(gradient, -jnp.ones(3))


class Linear(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x)


def test_models_are_told_apart():
    x = jnp.ones((4, 5, 3))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        module = linen.Dense(2)
        variables = module.init(jax.random.key(0), x)
        conv = eqx.nn.Conv2d(3, 2, 1, key=jax.random.key(0))
        for made in (
            Linear(),
            (module, variables),
            conv,
            (lambda p, x: x[..., :2] * p, x[0, 0, 0]),
        ):
            fn, params = adapted(made)
            assert fn(params, x).shape == (4, 5, 2)
        fn, params = adapted(Linear(), batch=True)
        assert segcam.list_taps(fn, params, x)["linear"].shape == (4, 5, 2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "a value of type NoneType is not a model"),
        (jnp.sin, "is not a model; expected an nnx.Module"),
        ((), "a tuple of nothing is not a model"),
        ((1, 2), "a tuple of int, int is not a model"),
        ((jnp.sin, 1, 2), "a tuple of .*, int, int is not a model"),
    ],
)
def test_what_is_no_model(made, message):
    with pytest.raises(InputError, match=message):
        adapted(made)


def test_a_function_with_further_inputs():
    def fn(params, x, scale):
        return x * params * scale

    with pytest.raises(InputError, match="call needs the argument 'scale'"):
        segcam.list_taps(*segcam.from_function(fn, jnp.ones(())), jnp.ones((2, 3)))
