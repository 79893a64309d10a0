"""What is left of an ablated value is computed of what is left, not as known + change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import segcam_jax as segcam
from segcam_jax import tap

WEIGHTS = jnp.linspace(-1, 1, 8 * 5).reshape(8, 5)


def _over_norm(h, floor):
    return h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + floor)


def _unpooled(h):
    windows = h.reshape(3, 2, 3, 2, 8)
    most = windows.max((1, 3), keepdims=True)
    return jnp.where(windows == most, windows, 0).reshape(6, 6, 8)


def _standardised(h):
    spread = jnp.sqrt(h.var((0, 1), keepdims=True) + 1e-5)
    return (h - h.mean((0, 1), keepdims=True)) / spread


def _projected(h):
    return h @ WEIGHTS.astype(h.dtype)


def _cosine(h):
    norm = jnp.linalg.norm(h, axis=-1, keepdims=True)
    return _projected(h) / (3 * norm + 1e-8)


GONE = {
    "over its norm": lambda h: _over_norm(h, 1e-6),
    "over its norm, at least": lambda h: (
        h / jnp.maximum(jnp.linalg.norm(h, axis=-1, keepdims=True), 1e-12)
    ),
    "over the root of squares": lambda h: (
        h * lax.rsqrt(jnp.square(h).sum(-1, keepdims=True) + 1e-12)
    ),
    "cosine": _cosine,
    "over a root": lambda h: (
        (h - h.mean((0, 1), keepdims=True)) / jnp.sqrt(h.var((0, 1), keepdims=True) + 1e-5)
    ),
    "over its sum": lambda h: h / (h.sum(-1, keepdims=True) + 1e-8),
    "beside its squares": lambda h: _over_norm(jnp.concatenate([h, h * h], -1), 1e-6),
    "in another order": lambda h: _over_norm(h[..., np.arange(8)[::-1]], 1e-12),
    "narrow before": lambda h: _over_norm(h.astype(jnp.bfloat16).astype(h.dtype), 1e-6),
    "projected": lambda h: (
        _projected(h) / jnp.maximum(jnp.linalg.norm(_projected(h), axis=-1, keepdims=True), 1e-12)
    ),
    "projected, over the root of squares": lambda h: (
        _projected(h) * lax.rsqrt(jnp.square(_projected(h)).sum(-1, keepdims=True) + 1e-12)
    ),
    "modulo": lambda h: jnp.mod(3 * h, 1.0),
    "unpooled": _unpooled,
}


@pytest.mark.parametrize("name", GONE)
def test_nothing_is_left_of_what_is_ablated(name):
    """Where all of a position or channel goes, known + change is rounding, and the value is 0."""
    kernel = jax.random.normal(jax.random.key(3), (3, 8))

    def model(scale, x):
        hidden = tap(jax.nn.relu(x @ kernel.astype(x.dtype)) * scale, "hidden")
        return GONE[name](hidden)

    x = jax.random.uniform(jax.random.key(4), (6, 6, 3)) + 0.1
    region = np.zeros((6, 6), bool)
    region[1:4, 2:5] = True
    target = segcam.targets.region(1, region)
    split = segcam.split(model, "hidden", jnp.float32(1), x, outputs="logits")
    with jax.enable_x64(True):
        one, wide = jnp.ones((), jnp.float64), jnp.asarray(np.asarray(x), jnp.float64)
        exact = segcam.split(model, "hidden", one, wide, outputs="logits")
        activation, carry = exact.encode(one, wide)
        read = lambda a: exact.decode(a, carry)[..., 1][region].sum()  # noqa: E731
        if name == "over a root":
            rows = [activation.at[..., c].set(0) for c in range(8)]
        else:
            rows = [activation.at[place].set(0) for place in np.ndindex(6, 6)]
        true = np.asarray([read(activation) - read(row) for row in rows])
    if name == "over a root":
        found = segcam.methods.ablation_cam(split, jnp.float32(1), x, target)
    else:
        found = segcam.methods.fast_ablation_cam(split, jnp.float32(1), x, target, window=1)
    np.testing.assert_allclose(np.ravel(found.drops), true, atol=1e-5 * np.abs(true).max())
