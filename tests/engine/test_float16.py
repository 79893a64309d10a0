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
    "target", [segcam.targets.whole_image(1, of="probabilities", reduce="mean"), mean_probability]
)
def test_maps_of_a_mean_probability_are_those_of_float32(name, target):
    method = getattr(segcam.methods, name)
    exact, ours = (explained(method, dtype, target) for dtype in ("float32", "float16"))
    assert ours.map.dtype == jnp.float32
    np.testing.assert_allclose(ours.score, exact.score, rtol=1e-3)
    assert np.corrcoef(exact.map.ravel(), ours.map.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(ours.map, exact.map, atol=0.01 * float(jnp.abs(exact.map).max()))


def test_sums_of_functions_are_float32():
    found = explained(
        segcam.methods.grad_cam, "float16", lambda output: (output[..., 0] + 100).sum()
    )
    assert 4e5 < float(found.score) < 4.2e5  # float16 ends at 65,504.


REGION = np.zeros((20, 20), np.float32)
REGION[10:18, 3:8] = 1
RARE = {
    "full_grad": ("input", {"rescale": "none"}),
    "shapley_cam": ("hidden", {}),
    "eigen_cam": ("hidden", {}),
    "eigen_grad_cam": ("hidden", {}),
    "guided_backprop": ("input", {}),
    "instance_smooth_grad": ("input", {"key": jax.random.key(3), "samples": 2}),
    "instance_smooth_grad of single positions": (
        "input",
        {"key": jax.random.key(3), "samples": 2, "aggregation": "max"},
    ),
}


@pytest.mark.parametrize("name", RARE)
def test_maps_of_a_rare_class_are_those_of_float32(name):
    """A probability of 1e-6: its gradients lie below what float16 holds."""

    def rare(params, x):
        return net(params, x) - jnp.asarray([0, 12, 0, 0], x.dtype)

    tap, options = RARE[name]
    target = segcam.targets.region(1, REGION, of="probabilities", reduce="mean")
    # Exact in float16 up to the ReLU, so that none is on the other side of it.
    given = jax.tree.map(lambda leaf: jnp.round(8 * leaf) / 8, (PARAMS, X[:20, :20]))
    maps = []
    for dtype in ("float32", "float16"):
        params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), given)  # noqa: B023
        with jax.numpy_rank_promotion("allow"):
            split = segcam.split(rare, tap, params, x)
        method = getattr(segcam.methods, name.split()[0])
        maps.append(np.asarray(method(split, params, x, target, **options).map))
    exact, ours = maps
    assert ours.dtype == np.float32
    assert np.corrcoef(exact.ravel(), ours.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(ours, exact, atol=0.01 * np.abs(exact).max())
