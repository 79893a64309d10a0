"""A map that would be zero for a reason that is known says so."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax.types import TargetError

X = jax.random.normal(jax.random.key(0), (4, 5, 3))
PARAMS = jax.random.normal(jax.random.key(1), (3, 2))


def network(ending):
    def net(params, x):
        return ending(segcam.tap(jnp.maximum(x, 0), "hidden") @ params)

    return segcam.split(net, "hidden", PARAMS, X)


FLAT = {
    "threshold": lambda y: (y > 0).astype(jnp.float32),
    "one-hot": lambda y: jax.nn.one_hot(jnp.argmax(y, -1), 2),
    "stop_gradient": jax.lax.stop_gradient,
    "round": lambda y: jnp.round(jax.nn.sigmoid(y)),
}
SMOOTH = {
    "softmax": jax.nn.softmax,
    "relu": jax.nn.relu,
    "gate": lambda y: jnp.where(y > 0, y, 0.0),
    "straight through": lambda y: y + jax.lax.stop_gradient(jnp.round(y) - y),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("method", [segcam.methods.grad_cam, segcam.methods.integrated_gradients])
def test_flat_outputs_are_refused_by_gradients(name, method):
    with pytest.raises(TargetError, match="does not depend smoothly on tap 'hidden'"):
        method(network(FLAT[name]), PARAMS, X, segcam.targets.whole_image(0))


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (lambda y: jax.lax.while_loop(lambda z: z.max() > 1, lambda z: z / 2, y), "while_loop"),
        (lambda y: jax.pure_callback(np.square, y, y, vmap_method="sequential"), "callbacks"),
    ],
)
def test_what_has_no_derivative_is_ablated(ending, said):
    target = segcam.targets.whole_image(0)
    with pytest.raises(TargetError, match=rf"cannot be differentiated: .*{said}.*ablation_cam"):
        segcam.methods.grad_cam(network(ending), PARAMS, X, target)
    hidden = jnp.maximum(X, 0)
    full = target(ending(hidden @ PARAMS))
    without = [target(ending(hidden.at[..., c].set(0) @ PARAMS)) for c in range(3)]
    found = segcam.methods.ablation_cam(network(ending), PARAMS, X, target)
    np.testing.assert_allclose(found.score - found.scores, full - jnp.stack(without), atol=1e-4)


def test_flat_outputs_are_ablated():
    split = network(FLAT["threshold"])
    found = segcam.methods.ablation_cam(split, PARAMS, X, segcam.targets.whole_image(0))
    assert jnp.abs(found.map).max() > 0


@pytest.mark.parametrize("name", SMOOTH)
def test_others_have_a_map(name):
    assert (
        jnp.abs(
            segcam.methods.grad_cam(
                network(SMOOTH[name]), PARAMS, X, segcam.targets.whole_image(0)
            ).map
        ).max()
        > 0
    )


@pytest.mark.parametrize("method", [segcam.methods.grad_cam, segcam.methods.integrated_gradients])
def test_a_score_without_the_tap_is_no_threshold(method):
    def two_heads(params, x):
        return {"a": segcam.tap(x, "hidden") @ params, "b": jnp.maximum(x, 0) @ params}

    split = segcam.split(two_heads, "hidden", PARAMS, X)
    for target in (
        lambda output: output["b"].sum(),
        lambda output: output["b"].argmax().astype(jnp.float32),
    ):
        with pytest.raises(TargetError, match="the target does not depend on tap 'hidden'"):
            method(split, PARAMS, X, target)
    with pytest.raises(TargetError, match="does not depend smoothly"):
        method(split, PARAMS, X, lambda output: output["a"].argmax().astype(jnp.float32))


def test_a_negative_map_is_told_once_per_line():
    """Python shows a warning once per line and text; the text held the least value."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for least in (-1.0, -2.0, -3.0):
            segcam.heatmap(jnp.full((2, 2), least), (4, 4))
    assert len(told) == 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("method", [segcam.methods.layer_cam, segcam.methods.grad_cam])
def test_an_image_that_is_not_finite_has_no_map(method, bad):
    """The maximum keeps it to a position: the others looked like a map."""

    def deep(params, x):
        pooled = jnp.maximum(x @ params, 0).reshape(2, 2, 5, 2).max(1)
        return jnp.abs(segcam.tap(pooled, "deep") @ params.T).mean((0, 1))

    split = segcam.split(deep, "deep", PARAMS, X)
    images = jnp.stack([X, X.at[2, 3, 0].set(bad)])
    whole, broken = (method(split, PARAMS, x, segcam.targets.whole_image(1)) for x in images)
    assert jnp.isfinite(whole.map).all()
    assert not jnp.isfinite(broken.score)
    assert jnp.isnan(broken.map).all()
    with pytest.raises(segcam.InputError, match="NaN and infinite values in the image and the par"):
        segcam.heatmap(broken.map, (4, 5))
    many = segcam.explain_batch(method, split, PARAMS, images, segcam.targets.whole_image(1))
    np.testing.assert_array_equal(jnp.isnan(many.map).all((1, 2)), [False, True])
