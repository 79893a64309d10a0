"""The values that captum's own tests assert (tests/metrics, version 0.9), of its small models.

Theirs are asserted to 0.05, which many wrong values pass: beside each stands the value by hand.
`infidelity` takes slopes here: what captum's maps are before they are multiplied by the input (less
the baseline). What is added or taken away is given, as in captum's tests, and no value depends on
their random numbers. Left out are `test_basic_sensitivity_max_multiple_gradshap`, whose maps are
draws of GradientShap (all 0: the network is 0 around the inputs, so every map is), and those that
repeat a test in other batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import metrics
from segcam_jax.types import Explanation
from tests.support.networks import convolve

KEY = jax.random.key(0)
WITHIN, DIGIT = 0.05, 1e-3  # Theirs, and the last digit of what they assert.
ROWS = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)
# Which output each row explains: the first or second of two, times 2 * 4.
CLASSES = (0, 0, 1, 0)
SHIFT = np.array([-0.02, -0.01, 0.0])


def two_inputs(params, x):
    """BasicModel2."""
    one, other = jax.nn.relu(x[:, 0])
    return jax.nn.relu(one - 1 - other)[None]


def with_arguments(params, x):
    """BasicModel4_MultiArgs; `params` is its third input."""
    one, other = x[:, :, 0]
    return jax.nn.relu(jax.nn.relu(one - 1) - jax.nn.relu(other) / params)


def layers(params, x):
    """BasicModel_MultiLayer; `params` is added to the input."""
    hidden = jax.nn.relu((x[:, 0] + params).sum() + jnp.array([-10.0, 1.0, 1.0, 1.0]))
    return hidden.sum() + jnp.array([-1.0, 1.0])


def convolution(params, x):
    """BasicModel_ConvNet_One_Conv: its four outputs are one."""
    sums = convolve(x, jnp.ones((3, 3, 1, 2)), jnp.array([-50.0, -75.0]))[1:-1, 1:-1]
    hidden = jnp.moveaxis(jax.nn.relu(sums), -1, 0).ravel()
    return jax.nn.relu(jnp.concatenate([hidden[:5], -hidden[5:]]).sum())[None]


def _given(fn, x, params=0.0, score=lambda output: output[0]):
    params, x = jnp.asarray(params), jnp.asarray(x)
    return segcam.split(fn, "input", params, x, outputs="logits"), params, x, score


def _row(index, added):
    """A row of the input with what is added, and the output that is explained."""
    return _given(layers, ROWS[index][:, None], added, lambda out: 8 * out[CLASSES[index]])


def saliency(*given):
    """Theirs is of absolute values; all slopes here are positive but those of `two_inputs`."""
    return segcam.methods.gradient(*given)


def integrated(*given):
    return segcam.methods.integrated_gradients(*given)


def _infidelity(given, slopes, *changes, **options):
    """The mean over what is taken away, each alone."""
    found = [
        metrics.infidelity(
            *given,
            jnp.asarray(slopes),
            key=KEY,
            samples=1,
            perturbation=lambda key, x, change=change: jnp.asarray(change).reshape(x.shape),
            **options,
        )
        for change in changes
    ]
    return float(np.mean(found))


def test_infidelity_of_two_inputs():
    """test_basic_infidelity_single, ..._multiple and ..._multiple_with_normalize: 0."""
    given, change = _given(two_inputs, [[3.0], [1.0]]), [0.0009, 0.0121]
    slopes = integrated(*given).map  # Theirs, with the input as a factor.
    np.testing.assert_allclose(slopes, [1.5, -0.5], rtol=0.02)  # The kink is half way.
    found = _infidelity(given, slopes, change)
    assert abs(found) < WITHIN
    fall = 0.0009 - 0.0121
    want = (0.0009 * slopes[0] + 0.0121 * slopes[1] - fall) ** 2
    np.testing.assert_allclose(found, want, rtol=1e-3)
    for scale in (1, 100):
        scaled = _infidelity(given, scale * slopes, change, normalise=True)
        np.testing.assert_allclose(scaled, 0, atol=1e-9)


def test_infidelity_with_further_arguments():
    """test_basic_infidelity_additional_forward_args1: 0, as the output is 0 on the whole path.

    So is the map, of which there is no value here.
    """
    x = np.array([[1.5, 2.0, 3.3], [3.0, 3.5, 2.2]], np.float32)[..., None]
    given = _given(with_arguments, x, [1.0, 3.0, 4.0])
    slopes = integrated(*given).map / x[..., 0]
    assert float(jnp.abs(slopes).max()) == 0
    assert np.isnan(_infidelity(given, slopes, x))


def test_infidelity_of_a_convolution():
    """test_classification_infidelity_convnet_multi_targets: 0.

    Theirs explains by DeepLift's multipliers, which are no slopes here: 2.4 % off at most. Of the
    gradient it is exactly 0, as nothing crosses a kink.
    """
    given = _given(convolution, np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4, 1))
    change = np.full((4, 4), 0.0009)
    np.testing.assert_allclose(_infidelity(given, saliency(*given).map, change), 0, atol=1e-8)
    assert _infidelity(given, 2 * saliency(*given).map, change) > 1e-4


def test_infidelity_of_one_output_of_many():
    """test_classification_infidelity_tpl_target: 0 of the gradient, far from the kink."""
    for index in range(4):
        given = _row(index, ROWS[index])
        found = _infidelity(given, saliency(*given).map, np.full(3, 0.0009))
        np.testing.assert_allclose(found, 0, atol=1e-6)


def test_infidelity_to_a_baseline_is_the_error_of_the_quadrature():
    """test_classification_infidelity_tpl_target_w_baseline: 0.10686, 0, 0, 0."""
    for index, want in enumerate((0.10686, 0, 0, 0)):
        given, change = _row(index, ROWS[index]), ROWS[index] - 1
        parts = segcam.methods.integrated_gradients(*given, baseline=1.0).map
        slopes = np.where(change == 0, 0, parts / np.where(change == 0, 1, change))
        found = _infidelity(given, slopes, change)
        np.testing.assert_allclose(found, want, rtol=2e-3, atol=1e-5)
        _, params, x, score = given
        fall = score(layers(params, x)) - score(layers(params, jnp.ones_like(x)))
        np.testing.assert_allclose(found, (parts.sum() - fall) ** 2, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("explained", ["integrated gradients", "ablation"])
def test_infidelity_is_sensitivity_n(explained):
    """test_sensitivity_n_ig and ..._fa: 0 of all pairs, all single values, and all together."""
    x = np.array([1.0, 2.5, 3.3], np.float32)
    given = _given(layers, x[:, None])
    parts = integrated(*given).map
    if explained == "ablation":
        whole = layers(0.0, given[2])[0]
        parts = jnp.array([whole - layers(0.0, given[2].at[i].set(0))[0] for i in range(3)])
    for kept in (np.eye(3), 1 - np.eye(3), np.ones((1, 3))):
        found = _infidelity(given, parts / x, *(mask * x for mask in kept))
        np.testing.assert_allclose(found, 0, atol=1e-9)


def _sensitivity(given, method, added):
    def shift(key, x):
        return jnp.asarray(added, x.dtype).reshape(x.shape)

    return float(metrics.max_sensitivity(*given, method, key=KEY, samples=2, added=shift))


def test_sensitivity_is_zero_where_the_slope_stays():
    """test_basic_sensitivity_max_single and ..._multiple, test_convnet_multi_target,
    test_convnet_multi_target_and_default_pert_func and test_sensitivity_max_multi_dim_batching: 0.
    """
    assert _sensitivity(_given(two_inputs, [[3.0], [1.0]]), saliency, [-0.01, -0.01]) == 0
    image = np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4, 1)
    given = _given(convolution, image)
    assert _sensitivity(given, saliency, np.arange(-8, 8) / 100) == 0
    guided = segcam.methods.guided_backprop
    assert float(metrics.max_sensitivity(*given, guided, key=KEY, radius=0.02)) == 0
    for row in np.arange(1.0, 16.0, dtype=np.float32).reshape(5, 3):
        assert _sensitivity(_given(layers, row[:, None], 1.0), saliency, SHIFT) == 0


def test_sensitivity_of_integrated_gradients():
    """test_sensitivity_max_multi_dim: 0.006, 0.01, 0.001, 0.008."""
    found = [_sensitivity(_row(index, 0.0), integrated, SHIFT) for index in range(4)]
    np.testing.assert_allclose(found, [0.006, 0.01, 0.001, 0.008], atol=DIGIT)
    points, weights = np.polynomial.legendre.leggauss(50)

    def by_hand(row):  # Of the path from 0, the part behind the kink has another slope.
        return row * (3 + (weights / 2 * ((1 + points) / 2 * row.sum() > 10)).sum())

    for row, value in zip(ROWS, found, strict=True):
        moved = np.linalg.norm(by_hand(row + SHIFT) - by_hand(row))
        np.testing.assert_allclose(value, moved / np.linalg.norm(by_hand(row)), rtol=2e-3)


def rescaled(split, params, x, target):
    """DeepLift's rescale rule from a baseline of ones, of `layers`."""
    sums = [(row + params).sum() for row in (x[:, 0], jnp.ones(3))]
    through = jax.nn.relu(sums[0] - 10) - jax.nn.relu(sums[1] - 10)
    differ = sums[0] != sums[1]
    slope = jnp.where(differ, through / jnp.where(differ, sums[0] - sums[1], 1), 0)
    return Explanation((x[:, 0] - 1) * 8 * (3 + slope), jnp.zeros(()))


def test_sensitivity_of_deep_lift_to_a_baseline():
    """test_classification_sensitivity_tpl_target_w_baseline: 0.01, 0.003, 0.001, 0.001.

    And test_sensitivity_additional_forward_args_multi_args: of a map of zeros theirs is 0, and NaN
    here.
    """
    found = [_sensitivity(_row(index, ROWS[index]), rescaled, SHIFT) for index in range(4)]
    np.testing.assert_allclose(found, [0.01, 0.003, 0.001, 0.001], atol=DIGIT)
    x = np.array([[1.5, 2.0, 3.3], [3.0, 3.5, 2.2]], np.float32)[..., None]
    given = _given(with_arguments, x, [1.0, 3.0, 4.0])
    assert np.isnan(_sensitivity(given, integrated, np.tile(SHIFT, 2)))
