"""Networks in float16: small gradients do not underflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam

X = jax.random.normal(jax.random.key(0), (64, 64, 3))
PARAMS = [
    0.5 * jax.random.normal(jax.random.key(k), shape) for k, shape in ((1, (3, 8)), (2, (8, 4)))
]


def net(params, x):
    hidden = segcam.tap(jax.nn.relu(x @ params[0]), "hidden")
    return jnp.tanh(hidden) @ params[1]


def explained(method, dtype, target):
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (PARAMS, X))
    return method(segcam.split(net, "hidden", params, x), params, x, target)


def mean_probability(output):
    return jax.nn.softmax(output)[..., 1].mean()


@pytest.mark.parametrize("name", ["hires_cam", "grad_cam", "grad_cam_pp", "xgrad_cam"])
@pytest.mark.parametrize(
    "target", [segcam.whole_image(1, of="probabilities", reduce="mean"), mean_probability]
)
def test_maps_of_a_mean_probability_are_those_of_float32(name, target):
    method = getattr(segcam, name)
    exact, ours = (explained(method, dtype, target) for dtype in ("float32", "float16"))
    assert ours.map.dtype == jnp.float32
    np.testing.assert_allclose(ours.score, exact.score, rtol=1e-3)
    assert np.corrcoef(exact.map.ravel(), ours.map.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(ours.map, exact.map, atol=0.01 * float(jnp.abs(exact.map).max()))


def test_sums_of_functions_are_float32():
    found = explained(segcam.grad_cam, "float16", lambda output: (output[..., 0] + 100).sum())
    assert 4e5 < float(found.score) < 4.2e5  # float16 ends at 65,504.
