"""Screened and grouped Ablation-CAM against the exact one; rank correlation against SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.masks import ChosenChannels, GroupMasks
from segcam_jax.metrics.approximation import approximation_error
from segcam_jax.metrics.rank import rank_correlation
from tests.support.networks import make_input, make_params, skip_net

SCREENED, GROUPED, EXACT = (
    segcam.methods.screened_ablation_cam,
    segcam.methods.group_ablation_cam,
    segcam.methods.ablation_cam,
)


@functools.cache
def case(ndim=2, width=4):
    params, x = make_params(ndim, width=width), make_input(ndim)
    logits = skip_net(params, x)
    target = segcam.targets.predicted(
        logits, int(np.bincount(np.ravel(logits.argmax(-1))).argmax())
    )
    return segcam.split(skip_net, "bottleneck", params, x), params, x, target


@functools.cache
def linear_case():
    """No ReLU after the tap: the score is linear in the activation."""

    def linear(params, x):
        hidden = segcam.tap(jax.nn.relu(x @ params["in"]), "hidden")
        return hidden @ params["out"]

    keys = jax.random.split(jax.random.key(0), 3)
    params = {"in": jax.random.normal(keys[0], (2, 7)), "out": jax.random.normal(keys[1], (7, 3))}
    x = jax.random.normal(keys[2], (4, 6, 2))
    return segcam.split(linear, "hidden", params, x), params, x, segcam.targets.whole_image(1)


def same(approximate, exact, tolerance=1e-5):
    scale = np.abs(exact.weights).max()
    np.testing.assert_allclose(approximate.weights / scale, exact.weights / scale, atol=tolerance)
    scale = np.abs(exact.map).max()
    np.testing.assert_allclose(approximate.map / scale, exact.map / scale, atol=tolerance)
    np.testing.assert_allclose(approximate.score, exact.score, rtol=1e-6)


@pytest.mark.parametrize(
    ("ndim", "options", "screen", "by"),
    [
        (2, {}, "taylor", "spread"),
        (2, {"relative": False, "ablation_value": -0.5}, "magnitude", "order"),
        (3, {}, "taylor", "spread"),
    ],
)
def test_all_channels_is_ablation_cam(ndim, options, screen, by):
    split, params, x, target = case(ndim)
    exact = EXACT(split, params, x, target, **options)
    screened = SCREENED(split, params, x, target, exact=99, screen=screen, **options)
    same(screened, exact)
    assert screened.exact.all()
    np.testing.assert_allclose(screened.scores, exact.scores, rtol=1e-5)
    grouped = GROUPED(split, params, x, target, groups=99, by=by, **options)
    same(grouped, exact)
    assert grouped.exact.all()


@pytest.mark.parametrize("execution", [segcam.Execution(), segcam.NAIVE])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_linear_network_needs_no_exact_channel(execution, value):
    split, params, x, target = linear_case()
    options = {"ablation_value": value, "execution": execution}
    exact = EXACT(split, params, x, target, **options)
    for count in (0, 1, 3, 7):
        same(SCREENED(split, params, x, target, exact=count, **options), exact)
        same(GROUPED(split, params, x, target, groups=max(count, 1), **options), exact)


def test_which_channels_are_exact():
    split, params, x, target = case()
    exact = EXACT(split, params, x, target, relative=False)
    slope = segcam.methods.gradient(split, params, x, target).attribution
    activation, _ = split.encode(params, x)
    products = np.asarray(slope * activation)
    first_order = products.sum((0, 1))
    for screen, importance in (
        ("taylor", np.abs(first_order)),
        ("magnitude", np.abs(products).sum((0, 1))),
    ):
        found = SCREENED(split, params, x, target, exact=3, screen=screen, relative=False)
        assert set(np.flatnonzero(found.exact)) == set(np.argsort(-importance)[:3])
        expected = np.where(found.exact, exact.weights, first_order)
        np.testing.assert_allclose(found.weights, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scores, found.score - found.weights, rtol=1e-5)


def test_groups_are_ablated_together():
    split, params, x, target = case()
    found = GROUPED(split, params, x, target, groups=3, by="order", relative=False)
    slope = segcam.methods.gradient(split, params, x, target).attribution
    activation, _ = split.encode(params, x)
    first_order = np.asarray(slope * activation).sum((0, 1))
    for group, members in enumerate(([0, 1, 2], [3, 4, 5], [6, 7])):
        mask = jnp.ones(8).at[jnp.array(members)].set(0)
        fall = found.score - target(split.ablated(params, x, mask))
        np.testing.assert_allclose(found.score - found.scores[group], fall, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.weights[jnp.array(members)].sum(), fall, rtol=1e-4)
        values = first_order[members]
        shared = values + (fall - values.sum()) * np.abs(values) / np.abs(values).sum()
        np.testing.assert_allclose(found.weights[jnp.array(members)], shared, rtol=1e-3, atol=1e-4)
    assert not found.exact.any()


def test_spread_puts_the_strongest_channels_into_different_groups():
    split, params, x, target = case()
    found = GROUPED(split, params, x, target, groups=3, relative=False)
    slope = segcam.methods.gradient(split, params, x, target).attribution
    activation, _ = split.encode(params, x)
    ranked = np.argsort(-np.abs(np.asarray(slope * activation).sum((0, 1))))
    for group in range(3):
        members = jnp.asarray(ranked[group::3])
        fall = found.score - target(split.ablated(params, x, jnp.ones(8).at[members].set(0)))
        np.testing.assert_allclose(found.weights[members].sum(), fall, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_correlation_rises_with_exact_channels():
    split, params, x, target = case(width=16)
    counts = (0, 8, 16, 24, 32)
    errors = [
        approximation_error(SCREENED, EXACT, split, params, x, target, exact=n) for n in counts
    ]
    by_weights = [float(each.weight_rank_correlation) for each in errors]
    assert by_weights[0] < 0.999
    assert by_weights == sorted(by_weights)
    np.testing.assert_allclose(by_weights[-1], 1, atol=1e-6)
    by_map = [float(each.map_error) for each in errors]
    assert by_map[-1] < 1e-5 < by_map[0]


def test_approximation_error_of_a_group_study():
    split, params, x, target = case(width=16)
    coarse, fine = (
        approximation_error(GROUPED, EXACT, split, params, x, target, groups=n, relative=False)
        for n in (2, 32)
    )
    assert coarse.weight_rank_correlation < fine.weight_rank_correlation
    assert fine.map_error < 1e-5 < coarse.map_error
    np.testing.assert_allclose(
        coarse.exact.weights, EXACT(split, params, x, target, relative=False).weights, rtol=1e-5
    )
    by_map = approximation_error(segcam.methods.layer_cam, EXACT, split, params, x, target)
    assert by_map.weight_rank_correlation is None
    assert -1 <= by_map.map_rank_correlation <= 1


def test_the_registry_names_the_exact_method():
    for name in ("screened_ablation_cam", "group_ablation_cam"):
        method = segcam.methods.METHODS[name]
        assert method.approximates == "ablation_cam"
        assert method.ablates
        assert "approximates ablation_cam" in method.notes


@pytest.mark.parametrize("chunk_size", [1, 5])
def test_chunks_change_nothing(chunk_size):
    split, params, x, target = case()
    for method, options in ((SCREENED, {"exact": 5}), (GROUPED, {"groups": 3})):
        whole = method(split, params, x, target, **options)
        execution = segcam.Execution(chunk_size=chunk_size)
        same(method(split, params, x, target, execution=execution, **options), whole, 1e-6)


def test_faults_in_one_line():
    split, params, x, target = case()
    for method, options, words in (
        (SCREENED, {"exact": -1}, "exact=-1"),
        (SCREENED, {"screen": "hessian"}, "choose taylor or magnitude"),
        (GROUPED, {"groups": 0}, "groups=0"),
        (GROUPED, {"by": "size"}, "choose spread or order"),
    ):
        with pytest.raises(InputError, match=words):
            method(split, params, x, target, **options)
    with pytest.raises(InputError, match="must be the same"):
        rank_correlation(np.zeros(3), np.zeros(4))


def test_masks_of_chosen_channels_and_groups():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
    chosen = ChosenChannels(jnp.array([3, 1]), 5, 0.5)
    groups = GroupMasks(jnp.array([0, 2, 0, 1, 1]), 3, -1.0)
    for masks, members, value in (
        (chosen, [[3], [1]], 0.5),
        (groups, [[0, 2], [3, 4], [1]], -1.0),
    ):
        built = np.ones((len(masks), 5), np.float32)
        for row, channels in enumerate(members):
            built[row, channels] = value
        np.testing.assert_array_equal(jax.vmap(masks)(jnp.arange(len(masks))), built)
        expected = ((1 - built) * np.asarray(values).sum((0, 1))).sum(-1)
        np.testing.assert_allclose(masks.removed(values), expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_rank_correlation_equals_scipy(pairs):
    a, b = np.array(pairs, np.float32).T
    ours = rank_correlation(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(ours)
        return
    np.testing.assert_allclose(ours, stats.spearmanr(a, b).statistic, atol=1e-6)
