"""Atlases: what is read off them is what a study says."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, TargetError
from tests.support.networks import make_input, make_params, skip_net

SHAPE = (8, 12)
METHODS = {"channels": segcam.methods.ablation_cam, "positions": segcam.methods.fast_ablation_cam}


def box(rows, columns, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def difference(output):
    return (output[2:6, 4:8, 1] - output[2:6, 4:8, 0]).sum() + 3.0


TARGETS = {
    "pixel": segcam.targets.pixel(1, (3, 5), SHAPE),
    "region": segcam.targets.region(2, box((2, 6), (4, 8)), reduce="mean"),
    "whole": segcam.targets.whole_image(0),
    "difference": difference,
}


@pytest.fixture(scope="module")
def case():
    params, x = make_params(), make_input()
    return segcam.split(skip_net, "bottleneck", params, x, outputs="logits"), params, x


@pytest.mark.parametrize("ablate", ["channels", "positions"])
def test_targets_read_off_equal_their_studies(case, ablate):
    kept = segcam.methods.ablation_atlas(*case, ablate=ablate)
    for name, target in TARGETS.items():
        found, true = kept.explain(target), METHODS[ablate](*case, target)
        for field in ("map", "score", "scores", "drops"):
            value, expected = getattr(found, field), getattr(true, field)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=name)
        assert (found.weights is None) == (true.weights is None)


def test_devices_share_the_ablations_of_an_atlas(case):
    alone = segcam.methods.ablation_atlas(*case)
    mesh = segcam.device_mesh(3)
    dealt = segcam.methods.ablation_atlas(*case, execution=segcam.Execution(mesh=mesh))
    assert len(dealt.changes.sharding.device_set) == 3
    np.testing.assert_array_equal(dealt.rows, alone.rows)
    np.testing.assert_allclose(dealt.changes, alone.changes, rtol=1e-5, atol=1e-6)
    target = TARGETS["region"]
    np.testing.assert_allclose(dealt.drops(target), alone.drops(target), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_blocks_are_exact_for_regions_made_of_them(case, dtype):
    kept = segcam.methods.ablation_atlas(*case, block=2, dtype=dtype)
    assert kept.changes.shape[1:] == (4, 6, 3)
    bound = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    for name in ("region", "whole", "difference"):
        true = segcam.methods.ablation_cam(*case, TARGETS[name]).drops
        size = np.abs(true).max()
        np.testing.assert_allclose(kept.drops(TARGETS[name]), true, atol=bound * size)
    # A pixel of a block counts as a quarter of it.
    whole = segcam.methods.ablation_cam(*case, segcam.targets.region(1, box((2, 4), (4, 6)))).drops
    found = kept.drops(segcam.targets.pixel(1, (3, 5), SHAPE))
    np.testing.assert_allclose(found, whole / 4, atol=bound * np.abs(whole).max())


def test_blocks_that_do_not_divide_the_output(case):
    kept = segcam.methods.ablation_atlas(*case, block=5)
    assert kept.changes.shape[1:] == (2, 3, 3)
    for target in (
        segcam.targets.whole_image(1, reduce="mean"),
        segcam.targets.region(1, box((5, 8), (10, 12))),
    ):
        true = segcam.methods.ablation_cam(*case, target).drops
        np.testing.assert_allclose(kept.drops(target), true, atol=1e-5 * np.abs(true).max())


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_regions_read_the_blocks_that_they_reach_wherever_they_lie(case, block):
    kept = segcam.methods.ablation_atlas(*case, block=block)
    places = [((0, 1), (0, 1)), ((7, 8), (11, 12)), ((1, 4), (2, 9)), ((4, 8), (5, 12))]
    for place in places:
        target = segcam.targets.region(1, box(*place))
        assert target.extent is not None
        everywhere = dataclasses.replace(target, extent=None, corner=None)
        found, true = kept.drops(target), kept.drops(everywhere)
        np.testing.assert_allclose(found, true, atol=1e-5 * np.abs(true).max(), err_msg=str(place))


def test_dead_channels_take_no_room_and_small_changes_keep_their_digits(case):
    split, params, x = case
    kernel = params["deep"].at[..., 2].set(-9.0).at[..., 3].multiply(1e-9)
    given = {**params, "deep": jnp.where(jnp.arange(8) == 2, -jnp.abs(kernel), kernel)}
    given["down"] = jnp.abs(params["down"])
    kept = segcam.methods.ablation_atlas(split, given, jnp.abs(x), dtype="float16")
    assert 2 not in np.asarray(kept.rows)
    true = segcam.methods.ablation_cam(split, given, jnp.abs(x), TARGETS["pixel"]).drops
    found = kept.drops(TARGETS["pixel"])
    assert found[2] == 0
    assert 0 < abs(float(true[3])) < 1e-6
    np.testing.assert_allclose(found[3], true[3], rtol=2e-2)


def test_in_3d():
    params, x = make_params(3), make_input(3)
    split = segcam.split(skip_net, "bottleneck", params, x, outputs="logits")
    target = segcam.targets.pixel(1, (1, 2, 3), (4, 6, 8))
    found = segcam.methods.ablation_atlas(split, params, x).explain(target)
    true = segcam.methods.ablation_cam(split, params, x, target)
    np.testing.assert_allclose(found.map, true.map, atol=1e-5 * np.abs(true.map).max())


def test_bad_input(case):
    _, params, x = case
    kept = segcam.methods.ablation_atlas(*case)
    for target in (
        segcam.targets.whole_image(1, of="probabilities"),
        lambda output: jnp.square(output).sum(),
        lambda output: output.max(),
    ):
        with pytest.raises(TargetError, match="not linear in the output.*an atlas cannot answer"):
            kept.drops(target)
    with pytest.raises(TargetError, match="is not a class of the model"):
        kept.drops(segcam.targets.whole_image(9))
    with pytest.raises(InputError, match="ablate='pixels'; choose 'channels' or 'positions'"):
        segcam.methods.ablation_atlas(*case, ablate="pixels")
    with pytest.raises(InputError, match="block=0; expected an extent"):
        segcam.methods.ablation_atlas(*case, block=0)
    with pytest.raises(InputError, match="dtype='int8'; choose from float32"):
        segcam.methods.ablation_atlas(*case, dtype="int8")
    several = segcam.split(lambda p, x: (skip_net(p, x), x), "bottleneck", params, x)
    with pytest.raises(InputError, match="more than one array"):
        segcam.methods.ablation_atlas(several, params, x)


def test_an_atlas_that_does_not_fit_says_how_large_it_is_and_what_would(case):
    # 8 channels of 8 x 12 x 3 float32 are 9,216 bytes.
    small = segcam.Execution(memory_limit=1000)
    with pytest.raises(InputError, match=r"8 ablations of \(8, 12, 3\) float32.*block=4 would fit"):
        segcam.methods.ablation_atlas(*case, execution=small)
    half = segcam.Execution(memory_limit=5000)
    with pytest.raises(InputError, match=r"dtype='float16' or block=2 would fit"):
        segcam.methods.ablation_atlas(*case, execution=half)
