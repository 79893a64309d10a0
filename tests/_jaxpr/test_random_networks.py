"""Drops of ablations on networks drawn at random, held to float64: minutes, so they are slow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings

import segcam_jax as segcam
from segcam_jax.masks import ChannelMasks, WindowMasks, ablate
from tests.support.random_networks import networks

EXAMPLES = 200
# Of the largest sum of the magnitudes of a drop's terms: what float32 keeps of a change.
BOUND = 1e-5
# A ReLU or a maximum whose operands lie within rounding of its switch may choose the other.
MOST_SWITCHED = 0.01


@pytest.fixture(autouse=True)
def _optimised():
    """Compiled and promoted as users have it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def exact(network, x, region, masks):
    """The drops in float64 by whole evaluations, and the sums of the magnitudes of their terms."""
    with jax.enable_x64(True):
        offset = jnp.zeros((), jnp.float64)
        x = jnp.asarray(np.asarray(x), jnp.float64)
        split = segcam.split(network, "hidden", offset, x)

        @jax.jit
        def pixels(x):
            activation, carry = split.encode(offset, x)
            read = lambda a: split.decode(a, carry)[..., 1][region]  # noqa: E731
            known = read(activation)
            return jax.lax.map(
                lambda index: known - read(ablate(activation, masks(index))), jnp.arange(len(masks))
            )

        found = np.asarray(pixels(x))
    return found.sum(1), np.abs(found).sum(1)


def drops(network, x, region, masks_of, offset):
    offset = jnp.float32(offset)
    split = segcam.split(network, "hidden", offset, x, outputs="logits")
    target = segcam.targets.region(1, region)
    if masks_of == "channels":
        found = segcam.methods.ablation_cam(split, offset, x, target)
    else:
        found = segcam.methods.fast_ablation_cam(split, offset, x, target)
    return np.asarray(found.drops, np.float64)


def all_masks(network, width):
    rank = len(network.extents)
    return {
        "channels": ChannelMasks(width),
        "positions": WindowMasks(network.extents, (1,) * rank, (1,) * rank),
    }


@pytest.mark.slow
def test_drops_of_two_hundred_networks():
    rows, switched, relative = 0, [], []

    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate])
    @given(networks())
    def check(network):
        nonlocal rows
        x, region = network.image(), network.region()
        for name, masks in all_masks(network, 5).items():
            true, magnitudes = exact(network, x, region, masks)
            largest = np.abs(true).max()
            if largest == 0:
                continue
            found = drops(network, x, region, name, network.ratio * largest / region.sum())
            error = np.abs(found - true)
            rows += len(true)
            relative.append(error.max() / largest)
            bad = int((error > BOUND * magnitudes.max()).sum())
            if bad:
                switched.append((network, name, bad, error.max() / magnitudes.max()))
        jax.clear_caches()

    check()
    assert rows > 10 * EXAMPLES
    print(f"{rows} rows; of the largest drop: median {np.median(relative):.1e}")
    for each in switched:
        print(each)
    assert sum(bad for _, _, bad, _ in switched) <= MOST_SWITCHED * rows, switched
    assert np.median(relative) < BOUND
