"""Targets: values by hand, batches, signs, and errors where a region is empty."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import TargetError
from tests.support.networks import make_input, make_params, skip_net

LOGITS = jax.random.normal(jax.random.key(0), (5, 7, 3))
MASK = np.zeros((5, 7), bool)
MASK[1:3, 2:6] = True


def test_values_by_hand():
    logits = np.asarray(LOGITS)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    checks = [
        (segcam.targets.whole_image(1), logits[..., 1].sum()),
        (segcam.targets.whole_image(1, reduce="mean"), logits[..., 1].mean()),
        (segcam.targets.pixel(2, (4, 6), (5, 7)), logits[4, 6, 2]),
    ]
    for target, expected in checks:
        np.testing.assert_allclose(target(LOGITS), expected, rtol=1e-5)
    region = segcam.targets.region(0, MASK)
    np.testing.assert_allclose(region(LOGITS), logits[MASK][:, 0].sum(), rtol=1e-5)
    region = segcam.targets.region(0, MASK, of="probabilities", reduce="mean")
    np.testing.assert_allclose(region(LOGITS), probabilities[MASK][:, 0].mean(), rtol=1e-5)


def test_a_region_is_the_sum_of_its_pixels():
    pixels = segcam.targets.stack([segcam.targets.pixel(1, at, (5, 7)) for at in np.argwhere(MASK)])
    scores = jax.vmap(lambda target: target(LOGITS))(pixels)
    np.testing.assert_allclose(scores.sum(), segcam.targets.region(1, MASK)(LOGITS), rtol=1e-5)


def test_a_classifier_and_a_single_class():
    assert segcam.targets.whole_image(2)(jnp.array([1.0, 2.0, 5.0])) == 5
    single = segcam.targets.whole_image(0, of="probabilities", reduce="mean")
    np.testing.assert_allclose(single(jnp.zeros((2, 2, 1))), 0.5)
    np.testing.assert_array_equal(
        segcam.targets.predicted_mask(jnp.array([[-1.0], [1.0]]), 0), [False, True]
    )


def test_predicted_region_and_its_confidence():
    logits = jnp.array([[[0.0, 3.0], [0.0, 0.0001], [2.0, 0.0]]])
    np.testing.assert_array_equal(segcam.targets.predicted_mask(logits, 1), [[True, True, False]])
    three = jnp.array([[[1.0, 1.1, 1.0], [0.0, 9.0, 0.0]]])
    confident = segcam.targets.predicted_mask(three, 1, min_probability=0.5)
    np.testing.assert_array_equal(confident, [[False, True]])
    np.testing.assert_array_equal(segcam.targets.predicted(three, 1).mask, [[True, True]])


BLOBS = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=bool)


def test_components():
    assert segcam.targets.component_mask(BLOBS, "largest").sum() == 4
    assert segcam.targets.component_mask(BLOBS, 1).sum() == 3
    assert segcam.targets.component_mask(BLOBS, "smallest").sum() == 2
    assert segcam.targets.component_mask(BLOBS, "smallest", connectivity=1).sum() == 1
    assert segcam.targets.component_mask(BLOBS, at=(1, 3))[0, 4]
    logits = jnp.stack([jnp.zeros(BLOBS.shape), jnp.where(BLOBS, 1.0, -1.0)], axis=-1)
    target = segcam.targets.component(logits, 1, "largest")
    np.testing.assert_allclose(target(logits), 4)
    volume = np.zeros((3, 3, 3), bool)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 1, 1] = True
    assert segcam.targets.component_mask(volume, connectivity=2).sum() == 2
    assert segcam.targets.component_mask(volume).sum() == 3


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_an_empty_region_that_is_traced_scores_zero(of, reduce):
    def score(mask, logits):
        return segcam.Target(1, mask, of, reduce)(logits)

    empty = jnp.zeros((5, 7), bool)
    value, slope = jax.jit(jax.value_and_grad(score, argnums=1))(empty, LOGITS)
    assert value == 0
    assert not slope.any()


def test_infinite_logits_outside_of_the_region_do_not_matter():
    logits = LOGITS.at[0, 0].set(-jnp.inf)
    assert jnp.isfinite(segcam.targets.region(1, MASK)(logits))


def test_a_window_is_known_under_jit_and_never_stale():
    extents = []

    @jax.jit
    def score(logits):
        target = segcam.targets.region(1, MASK)
        extents.append(target.extent)
        return target(logits)

    assert jnp.isfinite(score(LOGITS))
    assert extents == [(2, 4)]
    moved = dataclasses.replace(segcam.targets.region(1, MASK), mask=np.roll(MASK, 3, axis=1))
    with pytest.raises(TargetError, match="reaches out of its window"):
        moved.check(jax.ShapeDtypeStruct((5, 7, 3), jnp.float32))


def test_errors():
    with pytest.raises(TargetError, match="class 3 .* has 3, 0 to 2"):
        segcam.targets.whole_image(3).check(jax.ShapeDtypeStruct((5, 7, 3), jnp.float32))
    with pytest.raises(TargetError, match="the region for class 1 is empty"):
        segcam.targets.region(1, np.zeros((5, 7), bool))
    with pytest.raises(TargetError, match=r"no position is predicted as class 1.*\[0\]"):
        segcam.targets.predicted(jnp.zeros((2, 2, 2)), 1)
    with pytest.raises(TargetError, match=r"\(5, 0\) lies outside of the image \(5, 7\)"):
        segcam.targets.pixel(0, (5, 0), (5, 7))
    with pytest.raises(TargetError, match=r"component 3; the region has 3"):
        segcam.targets.component_mask(BLOBS, 3)
    with pytest.raises(TargetError, match="no connected component"):
        segcam.targets.component_mask(np.zeros((2, 2), bool))
    with pytest.raises(TargetError, match="the label map has no instances: it is 0 everywhere"):
        segcam.targets.instances(1, np.zeros((2, 2), int))
    with pytest.raises(TargetError, match="`only` is empty"):
        segcam.targets.instances(1, np.ones((2, 2), int), only=[])
    with pytest.raises(TargetError, match="is not in the region"):
        segcam.targets.component_mask(BLOBS, at=(2, 2))
    with pytest.raises(TargetError, match="connectivity=3"):
        segcam.targets.component_mask(BLOBS, connectivity=3)
    with pytest.raises(TargetError, match="holds NaN"):
        segcam.targets.predicted(jnp.full((2, 2, 2), jnp.nan), 1)
    with pytest.raises(TargetError, match="NaN or infinite weights"):
        segcam.targets.region(1, np.full((2, 2), np.nan))
    with pytest.raises(TargetError, match="found on the host"):
        jax.jit(segcam.targets.component_mask)(BLOBS)
    with pytest.raises(TargetError, match="differ in"):
        segcam.targets.stack(
            [segcam.targets.whole_image(0), segcam.targets.whole_image(1, of="probabilities")]
        )


def test_whole_numbers_are_no_weights_and_fractions_no_labels():
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, 1:3] = 255
    with pytest.raises(TargetError, match="whole numbers from 0 to 255; give `mask > 0`"):
        segcam.targets.region(1, mask)
    with pytest.raises(TargetError, match="whole numbers from -1 to 0"):
        segcam.targets.region(1, -(mask > 0).astype(int), reduce="mean")
    output = jnp.arange(32.0).reshape(4, 4, 2)
    same = [
        segcam.targets.region(1, kind)(output) for kind in (mask > 0, (mask > 0) * 1, mask / 255)
    ]
    np.testing.assert_allclose(same, same[0])
    assert segcam.targets.region(1, mask / 510)(output) == same[0] / 2
    with pytest.raises(TargetError, match="the label map holds fractions"):
        segcam.targets.instances(1, np.random.default_rng(0).random((4, 4)))
    assert len(segcam.targets.instances(1, mask / 255).class_index) == 1


def test_an_output_without_an_axis_of_classes_has_no_classes():
    params, x = make_params(), make_input()
    flat = segcam.split(lambda p, x: skip_net(p, x)[..., 0], "bottleneck", params, x)
    with pytest.raises(TargetError, match=r"return logits\[..., None\], whose one class is 0"):
        segcam.methods.grad_cam(flat, params, x, segcam.targets.whole_image(0))
    split = segcam.split(lambda p, x: skip_net(p, x)[..., :1], "bottleneck", params, x)
    one = segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(0))
    whole = segcam.methods.grad_cam(flat, params, x, lambda output: output.sum())
    np.testing.assert_allclose(one.map, whole.map, rtol=1e-6)


def test_a_batch_of_targets_is_no_target():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    masks = np.zeros((2, 8, 12), bool)
    masks[:, 2:4, 2:4] = True
    many = segcam.targets.stack(
        [segcam.targets.region(1, masks[0]), segcam.targets.region(2, masks[1])]
    )
    whole = segcam.Target(np.array([0, 1]))
    for target in (many, whole, segcam.Target(1, masks)):
        with pytest.raises(TargetError, match="a batch of targets; give one, or use"):
            segcam.methods.grad_cam(split, params, x, target)
    with pytest.raises(TargetError, match="a batch of targets"):
        jax.jit(lambda masks: segcam.methods.grad_cam(split, params, x, segcam.Target(1, masks)))(
            masks
        )
    maps = jax.vmap(lambda target: segcam.methods.grad_cam(split, params, x, target).map)(many)
    one = segcam.methods.grad_cam(split, params, x, segcam.targets.region(2, masks[1])).map
    np.testing.assert_allclose(maps[1], one, rtol=1e-5, atol=1e-6)


OUTPUT: Any = np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "weights", [[[1, -3, 0], [0, 0, 0]], [[0.5, 0, -2], [1, 0, 0.25]], [[2, -1, 0], [0, 0, 0]]]
)
def test_a_mean_is_weighted_by_its_weights_whatever_their_sign(weights: Any):
    weights = np.array(weights, np.float32)
    expected = np.average(OUTPUT[..., 2], weights=weights)
    target = segcam.targets.region(2, weights, reduce="mean")
    np.testing.assert_allclose(target(OUTPUT), expected, rtol=1e-5)
    traced = jax.jit(lambda w: segcam.targets.region(2, w, reduce="mean")(OUTPUT))(weights)
    np.testing.assert_allclose(traced, expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [[[1, -1, 0], [0, 0, 0]], [[0.1, 0.2, -0.3], [0, 0, 0]]])
def test_weights_that_cancel_out_have_no_mean(weights):
    weights = np.array(weights, np.float32)
    with pytest.raises(TargetError, match="sum to .* no mean"):
        segcam.targets.region(2, weights, reduce="mean")
    traced = jax.jit(lambda w: segcam.targets.region(2, w, reduce="mean")(OUTPUT))(weights)
    assert np.isnan(traced)
    total = (OUTPUT[..., 2] * weights).sum()
    np.testing.assert_allclose(
        segcam.targets.region(2, weights)(OUTPUT), total, rtol=1e-5, atol=1e-6
    )


def test_the_name_of_a_class_is_none():
    for make in (
        segcam.targets.whole_image,
        lambda name: segcam.targets.region(name, np.ones((2, 2))),
    ):
        with pytest.raises(TargetError, match="class 'disc' is a name; give its index, counted"):
            make("disc")


@pytest.mark.parametrize("class_index", [-1, 4, 99])
def test_a_traced_class_that_is_none_scores_nan(class_index):
    score = jax.value_and_grad(lambda output, k: segcam.targets.whole_image(k)(output))
    value, slope = jax.jit(score)(OUTPUT, class_index)
    assert np.isnan(value)
    assert np.isnan(slope).any()
    value, slope = jax.jit(score)(OUTPUT, 3)
    np.testing.assert_allclose(value, OUTPUT[..., 3].sum(), rtol=1e-5)
    assert np.isfinite(slope).all()
