"""Deep feature factorization: planted concepts, scikit-learn's error, ablated concepts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import NMF

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.methods.factorization import deep_feature_factorization, factorized
from tests.support.networks import make_input, make_params, skip_net


def case(ndim=2):
    params, x = make_params(ndim), make_input(ndim)
    return segcam.split(skip_net, "bottleneck", params, x), params, x, segcam.targets.whole_image(1)


def test_planted_concepts_are_found():
    random = np.random.default_rng(0)
    maps = random.random((60, 3)) * (random.random((60, 3)) > 0.6)
    concepts = random.random((3, 20)) * (random.random((3, 20)) > 0.5)
    found, directions = factorized(
        jnp.asarray(maps @ concepts, jnp.float32), components=3, iterations=2000
    )
    planted = concepts / np.linalg.norm(concepts, axis=1, keepdims=True)
    likeness = np.asarray(directions) @ planted.T
    assert (likeness.max(1) > 0.995).all()
    assert sorted(likeness.argmax(1)) == [0, 1, 2]
    np.testing.assert_allclose(found @ directions, maps @ concepts, atol=0.03)


@pytest.mark.parametrize("components", [2, 4])
def test_error_is_no_larger_than_scikit_learn(components):
    values = np.maximum(np.random.default_rng(1).normal(size=(40, 12)), 0).astype(np.float32)
    maps, concepts = factorized(jnp.asarray(values), components=components, iterations=500)
    assert maps.min() >= 0
    assert concepts.min() >= 0
    peer = NMF(components, init="nndsvd", max_iter=5000).fit(values)
    assert np.linalg.norm(values - maps @ concepts) <= 1.001 * peer.reconstruction_err_


def test_one_component_is_the_best_there_is():
    values = np.maximum(np.random.default_rng(1).normal(size=(40, 12)), 0).astype(np.float32)
    maps, concepts = factorized(jnp.asarray(values), components=1, iterations=500)
    best = np.linalg.norm(np.linalg.svd(values, compute_uv=False)[1:])
    np.testing.assert_allclose(np.linalg.norm(values - maps @ concepts), best, rtol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_concepts_are_ablated_by_their_share(ndim):
    split, params, x, target = case(ndim)
    found = deep_feature_factorization(split, params, x, target, components=3)
    activation, _ = split.encode(params, x)
    assert found.maps.shape == (*activation.shape[:-1], 3)
    np.testing.assert_allclose(np.linalg.norm(found.concepts, axis=1), 1, rtol=1e-5)
    parts = np.asarray(found.maps)[..., None] * np.asarray(found.concepts)
    whole = parts.sum(-2)
    left = np.linalg.norm(activation - whole) / np.linalg.norm(activation)
    np.testing.assert_allclose(found.error, left, rtol=1e-3)
    for m in range(3):
        share = np.divide(parts[..., m, :], whole, out=np.zeros_like(whole), where=whole > 0)
        score = target(jax.jit(skip_net)(params, x, jnp.asarray(1 - share)))
        scale = abs(float(found.score))
        np.testing.assert_allclose(found.scores[m] / scale, score / scale, atol=1e-4)
        np.testing.assert_allclose(found.drops[m] / scale, (found.score - score) / scale, atol=1e-4)


def test_negative_activations_have_an_offset():
    def linear(params, x):
        return segcam.tap(x - 1.0, "hidden") @ params

    weight, x = jnp.ones((2, 3)), make_input()
    split = segcam.split(linear, "hidden", weight, x)
    found = deep_feature_factorization(
        split, weight, x, segcam.targets.whole_image(0), components=2
    )
    activation = np.asarray(x - 1.0)
    np.testing.assert_allclose(found.offset, activation.min((0, 1)), rtol=1e-5)
    assert found.error < 1e-2
    built = np.asarray(found.maps @ found.concepts) + np.asarray(found.offset)
    np.testing.assert_allclose(built, activation, atol=0.1)


def test_a_dead_activation_and_faults():
    split, params, x, target = case()
    dead = {**params, "deep": jnp.zeros_like(params["deep"])}
    found = deep_feature_factorization(split, dead, x, target, components=2)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert not found.drops.any()
    with pytest.raises(InputError, match="components=9; tap 'bottleneck' allows 1 to 8"):
        deep_feature_factorization(split, params, x, target, components=9)
    with pytest.raises(InputError, match="iterations=0"):
        deep_feature_factorization(split, params, x, target, iterations=0)
