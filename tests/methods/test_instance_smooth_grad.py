"""Instance SmoothGrad against its definition, one voxel and one sample at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import Execution
from segcam_jax.types import InputError, TargetError
from tests.support.networks import make_input, make_params, skip_net

KEY = jax.random.key(7)
SAMPLES, SIGMA, CLASS = 3, 0.2, 1
HOW = Execution()


def case(ndim):
    params = make_params(ndim)
    x = make_input(ndim)
    mask = np.zeros(x.shape[:-1], bool)
    mask[(slice(0, 2), slice(1, 4), slice(2, 4))[-ndim:]] = True
    mask[(slice(0, 1), slice(1, 2), slice(2, 3))[-ndim:]] = False
    split = segcam.split(skip_net, "input", params, x)
    return split, params, x, mask


def by_hand(params, x, mask, aggregation, channel=0):
    measured = x if channel is None else x[..., channel]
    scale = SIGMA * (measured.max() - measured.min())
    gradient = jax.jit(
        jax.grad(lambda x, at: jnp.vdot(skip_net(params, x)[..., CLASS].ravel(), at))
    )
    maps = []
    for sample in range(SAMPLES):
        noise = jax.random.normal(jax.random.fold_in(KEY, sample), x.shape)
        noisy = x + scale * noise
        if aggregation == "mean":
            maps.append(gradient(noisy, jnp.asarray(mask.ravel() / mask.sum(), x.dtype)))
            continue
        largest = np.zeros(x.shape)
        for voxel in np.flatnonzero(mask):
            found = np.asarray(gradient(noisy, jnp.zeros(mask.size, x.dtype).at[voxel].set(1)))
            largest = np.where(np.abs(found) > np.abs(largest), found, largest)
        maps.append(largest)
    return np.mean(maps, 0)


def explained(split, params, x, target, aggregation, execution=HOW, **options):
    options = {"key": KEY, "samples": SAMPLES, "sigma": SIGMA, **options}
    return segcam.methods.instance_smooth_grad(
        split, params, x, target, aggregation=aggregation, execution=execution, **options
    )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_equals_the_definition(ndim, aggregation):
    split, params, x, mask = case(ndim)
    target = segcam.targets.region(CLASS, mask)
    expected = by_hand(params, x, mask, aggregation)
    tolerance = {"atol": 1e-6 * np.abs(expected).max(), "rtol": 0}
    found = explained(split, params, x, target, aggregation)
    np.testing.assert_allclose(found.attribution, expected, **tolerance)
    np.testing.assert_allclose(found.map, expected.sum(-1), atol=1e-5)
    np.testing.assert_allclose(found.score, skip_net(params, x)[..., CLASS][mask].mean(), rtol=1e-5)
    others = (Execution(windows=False), Execution(chunk_size=2, lowering=False))
    for execution in others if ndim == 2 else ():
        again = explained(split, params, x, target, aggregation, execution)
        np.testing.assert_allclose(again.attribution, expected, **tolerance)


def test_noise_follows_the_chosen_channel():
    split, params, x, mask = case(2)
    x = x.at[..., 1].multiply(5)
    target = segcam.targets.region(CLASS, mask)
    for channel in (1, None):
        found = explained(split, params, x, target, "mean", channel=channel)
        expected = by_hand(params, x, mask, "mean", channel)
        np.testing.assert_allclose(found.attribution, expected, atol=1e-6)
    sigma = SIGMA * float(np.ptp(x[..., 1]))
    found = explained(split, params, x, target, "mean", sigma=sigma, sigma_unit="absolute")
    expected = by_hand(params, x, mask, "mean", 1)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-6)


def test_parts_of_a_run_make_up_the_whole():
    split, params, x, mask = case(2)
    target = segcam.targets.region(CLASS, mask)
    whole = explained(split, params, x, target, "max")
    parts = [
        explained(split, params, x, target, "max", samples=1, first=jnp.asarray(n)).attribution
        for n in range(SAMPLES)
    ]
    np.testing.assert_allclose(np.mean(parts, 0), whole.attribution, atol=1e-6)


def test_the_divisor_of_the_authors():
    split, params, x, mask = case(2)
    target = segcam.targets.region(CLASS, mask)
    ours = explained(split, params, x, target, "mean").attribution
    theirs = explained(split, params, x, target, "mean", divisor=4.0).attribution
    np.testing.assert_allclose(theirs, ours * (float(mask.sum()) / 4), rtol=1e-4, atol=1e-6)


def test_instances_vmap():
    aggregation = "max"
    split, params, x, mask = case(2)
    other = np.roll(mask, (4, 5), (0, 1))
    targets = [segcam.targets.region(CLASS, each) for each in (mask, other)]
    together = jax.vmap(lambda t: explained(split, params, x, t, aggregation).attribution)(
        segcam.targets.stack(targets)
    )
    for target, found in zip(targets, together, strict=True):
        alone = explained(split, params, x, target, aggregation)
        np.testing.assert_allclose(found, alone.attribution, atol=1e-6)


def test_an_input_larger_than_what_the_instance_sees():
    """The window's gradient is put in its place, 0 around it."""
    params = make_params(2)
    x = jax.random.normal(jax.random.key(2), (48, 40, 2))
    split = segcam.split(skip_net, "input", params, x)
    mask = np.zeros((48, 40), bool)
    mask[30:32, 9:12] = True
    target = segcam.targets.region(CLASS, mask)
    found = np.asarray(explained(split, params, x, target, "max").attribution)
    np.testing.assert_allclose(found, by_hand(params, x, mask, "max"), atol=1e-6)
    assert not found[:16].any()
    assert not found[:, 28:].any()
    assert found[30:32, 9:12].all()


def test_bad_input():
    split, params, x, mask = case(2)
    target = segcam.targets.region(CLASS, mask)
    for fault, message in (
        ({"channel": 2}, r"channel=2; tap 'input' has 2, 0 to 1"),
        ({"aggregation": "sum"}, "aggregation='sum'; choose mean or max"),
        ({"aggregation": "max", "divisor": 2.0}, "divisor is for aggregation='mean'"),
        ({"sigma_unit": "mm"}, "sigma_unit='mm'; choose range or absolute"),
        ({"samples": 0}, "samples=0; at least 1"),
        ({"key": 3}, "key=3; give a key of jax.random"),
    ):
        options = {"aggregation": "mean", **fault}
        with pytest.raises(InputError, match=message):
            explained(split, params, x, target, **options)
    with pytest.raises(TargetError, match="the target is a function; an instance is"):
        explained(split, params, x, lambda y: y.sum(), "mean")
    assert target.reduce == "sum"
