"""Models of Flax NNX, Flax Linen and Equinox, explained as they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import segcam_jax as segcam
from segcam_jax import tap


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(6, (3, 3))(x)
        x = linen.BatchNorm(use_running_average=True)(x)
        x = tap(linen.relu(x), "hidden")
        x = linen.Dropout(0.5, deterministic=True)(x)
        return linen.Conv(3, (1, 1))(x)


class EquinoxNet(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Conv2d(2, 6, 3, padding=1, key=one)
        self.second = eqx.nn.Conv2d(6, 3, 1, key=two)

    def __call__(self, x):
        return self.second(tap(jax.nn.relu(self.first(x)), "hidden"))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Conv(6, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(tap(nnx.relu(self.norm(self.first(x))), "hidden")))


def explained(fn, params, x, target, **layout):
    """Parts equal the framework's own model; ablations equal a loop over decode."""
    split = segcam.split(fn, "hidden", params, x, **layout)
    activation, carry = split.encode(params, x)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), split.decode(activation, carry), fn(params, x))
    )
    explanation = segcam.methods.ablation_cam(split, params, x, target)
    for channel in range(activation.shape[-1]):
        mask = jnp.ones_like(activation).at[..., channel].set(0)
        score = target(split.decode(activation * mask, carry))
        np.testing.assert_allclose(explanation.scores[channel], score, rtol=1e-5, atol=1e-5)
    assert segcam.methods.grad_cam(split, params, x, target).map.shape == activation.shape[:-1]


X = jax.random.normal(jax.random.key(0), (6, 8, 2))


def test_linen():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = LinenNet()
        variables = model.init(jax.random.key(1), X[None])

        def fn(params, x):
            return model.apply(params, x[None])[0]

        explained(fn, variables, X, segcam.targets.whole_image(1), batch_axis=0)


def test_equinox():
    model = EquinoxNet(jax.random.key(1))
    params, static = eqx.partition(model, eqx.is_array)

    def fn(params, x):
        return jnp.moveaxis(eqx.combine(params, static)(jnp.moveaxis(x, -1, 0)), 0, -1)

    explained(fn, params, X, segcam.targets.whole_image(1), channel_axis=0)


def test_nnx_in_eval_mode_without_touching_the_model():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = NnxNet(nnx.Rngs(0))
        fn, params = segcam.from_nnx(model)
        explained(fn, params, X, segcam.targets.whole_image(1))
        assert not model.norm.use_running_average
        assert not model.dropout.deterministic
        again, _ = segcam.from_nnx(model)
        assert segcam.split(again, "hidden", params, X) is segcam.split(fn, "hidden", params, X)
