"""Score-CAM and Recipro-CAM against loops of whole forwards; their masks by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.masks import ActivationMasks, KeepMasks
from tests.support.networks import make_input, make_params, skip_net


@functools.cache
def case(ndim=2):
    params, x = make_params(ndim), make_input(ndim)
    logits = skip_net(params, x)
    target = segcam.targets.predicted(
        logits, int(np.bincount(np.ravel(logits.argmax(-1))).argmax())
    )
    return segcam.split(skip_net, "bottleneck", params, x), params, x, target


def resized(channel, size, *, corners):
    """Linear, by interpolating at coordinates."""
    at = [
        np.arange(new) * (old - 1) / (new - 1)
        if corners
        else ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        for old, new in zip(channel.shape, size, strict=True)
    ]
    grid = np.stack(np.meshgrid(*at, indexing="ij"))
    return ndimage.map_coordinates(channel.astype(np.float64), grid, order=1, mode="nearest")


def scaled(mask):
    return (mask - mask.min()) / (np.ptp(mask) + 1e-8)


def input_mask(channel, size, kind):
    if kind == "torchcam":
        return resized(scaled(channel), size, corners=False)
    return scaled(resized(channel, size, corners=True))


@pytest.mark.parametrize(
    ("ndim", "kind"), [(2, "torchcam"), (2, "pytorch_grad_cam"), (3, "torchcam")]
)
def test_score_cam_against_a_loop_of_whole_forwards(ndim, kind):
    split, params, x, target = case(ndim)
    activation = np.asarray(split.encode(params, x)[0])
    whole = jax.jit(skip_net)
    scores = []
    for k in range(activation.shape[-1]):
        mask = input_mask(activation[..., k], x.shape[:-1], kind)
        scores.append(float(target(whole(params, x * jnp.asarray(mask, x.dtype)[..., None]))))
    scores = np.array(scores)
    for per_position, area in ((True, np.asarray(target.mask).sum()), (False, 1)):
        found = segcam.methods.score_cam(
            split, params, x, target, masks=kind, per_position=per_position, temperature=2.0
        )
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)
        power = np.exp((scores - scores.max()) / (2 * area))
        np.testing.assert_allclose(found.weights, power / power.sum(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.map, activation @ found.weights, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.score, target(whole(params, x)), rtol=1e-5)


def test_the_mean_score_is_the_same_however_the_target_reduces():
    split, params, x, target = case()
    for other in (
        segcam.targets.region(target.class_index, target.mask, reduce="mean"),
        lambda output: segcam.targets.region(target.class_index, target.mask, reduce="mean")(
            output
        ),
    ):
        np.testing.assert_allclose(
            segcam.methods.score_cam(split, params, x, other).weights,
            segcam.methods.score_cam(split, params, x, target).weights,
            rtol=1e-4,
        )
    rather, mean_rather = (
        segcam.targets.Difference(
            *(segcam.targets.region(k, target.mask, reduce=reduce) for k in (0, 1))
        )
        for reduce in ("sum", "mean")
    )
    np.testing.assert_allclose(
        segcam.methods.score_cam(split, params, x, rather).weights,
        segcam.methods.score_cam(split, params, x, mean_rather).weights,
        rtol=1e-4,
    )
    everywhere = [
        segcam.methods.score_cam(
            split, params, x, segcam.targets.whole_image(1, reduce=reduce)
        ).weights
        for reduce in ("sum", "mean")
    ]
    np.testing.assert_allclose(*everywhere, rtol=1e-4)
    saturated = segcam.methods.score_cam(split, params, x, target, per_position=False)
    mean = segcam.methods.score_cam(split, params, x, target)
    assert saturated.weights.max() > mean.weights.max()


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_chunks_change_nothing(chunk_size):
    split, params, x, target = case()
    for method in (segcam.methods.score_cam, segcam.methods.recipro_cam):
        whole = method(split, params, x, target, execution=segcam.NAIVE)
        execution = segcam.Execution(chunk_size=chunk_size)
        chunked = method(split, params, x, target, execution=execution)
        scale = np.abs(whole.scores).max()
        np.testing.assert_allclose(chunked.scores / scale, whole.scores / scale, atol=1e-6)


def test_score_cam_under_channels_first_and_at_the_input():
    _, params, x, target = case()

    def channels_first(params, x):
        hidden = jnp.moveaxis(x, 0, -1) @ params
        return jnp.moveaxis(segcam.tap(jnp.moveaxis(jax.nn.relu(hidden), -1, 0), "hidden"), 0, -1)

    def channels_last(params, x):
        return segcam.tap(jax.nn.relu(x @ params), "hidden")

    weight = jax.random.normal(jax.random.key(0), (2, 3))
    first = jnp.moveaxis(x, -1, 0)
    goal = segcam.targets.whole_image(1)
    one = segcam.split(channels_first, "hidden", weight, first, channel_axis=0)
    other = segcam.split(channels_last, "hidden", weight, x)
    np.testing.assert_allclose(
        segcam.methods.score_cam(one, weight, first, goal).map,
        segcam.methods.score_cam(other, weight, x, goal).map,
        rtol=1e-5,
    )
    at_input = segcam.split(skip_net, "input", params, x)
    assert at_input.at_input is at_input
    assert segcam.methods.score_cam(at_input, params, x, target).weights.shape == (2,)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("soft", [True, False])
def test_recipro_cam_against_a_loop_of_whole_forwards(ndim, soft):
    split, params, x, target = case(ndim)
    shape = split.activation.shape[:-1]
    whole = jax.jit(skip_net)
    found = segcam.methods.recipro_cam(split, params, x, target, soft=soft)
    nothing = target(whole(params, x, jnp.zeros((*shape, 1))))
    scale = abs(float(found.score))
    for position in [(0,) * ndim, tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)]:
        mask = np.zeros(shape, np.float32)
        mask[position] = 1
        if soft:
            for axis in range(ndim):
                mask = ndimage.convolve1d(mask, [0.25, 0.5, 0.25], axis, mode="constant")
        alone = target(whole(params, x, jnp.asarray(mask)[..., None]))
        index = np.ravel_multi_index(position, shape)
        np.testing.assert_allclose(found.scores[index] / scale, alone / scale, atol=1e-5)
        np.testing.assert_allclose(
            found.map[position] / scale, (alone - nothing) / scale, atol=1e-5
        )


def test_recipro_cam_of_a_linear_head_is_gradient_times_activation():
    def linear(params, x):
        return segcam.tap(x, "hidden") @ params + 3.0

    params, x = jnp.array([[1.0, -2.0], [0.5, 0.25]]), make_input()
    split = segcam.split(linear, "hidden", params, x)
    found = segcam.methods.recipro_cam(split, params, x, segcam.targets.whole_image(1), soft=False)
    np.testing.assert_allclose(found.map, (x * params[:, 1].reshape(1, 1, 2)).sum(-1), atol=1e-3)


@pytest.mark.parametrize("masks", [KeepMasks((3, 4), soft=True), KeepMasks((2, 3, 2), soft=False)])
def test_keep_masks(masks):
    built = np.asarray(jax.vmap(masks)(jnp.arange(len(masks))))
    assert len(built) == np.prod(masks.shape)
    for index, place in enumerate(np.ndindex(masks.shape)):
        assert built[index][place] == (0.5 ** len(masks.shape) if masks.soft else 1)
    values = np.random.default_rng(0).random((*masks.shape, 2)).astype(np.float32)
    removed = (-built * values).reshape(len(masks), -1).sum(1)
    np.testing.assert_allclose(masks.removed(jnp.asarray(values)), removed, rtol=1e-5)


def test_activation_masks_of_constant_and_single_channels():
    activation = jnp.stack([jnp.full((2, 3), 4.0), jnp.arange(6.0).reshape(2, 3)], -1)
    for corners in (False, True):
        masks = ActivationMasks(activation, (5, 1), corners, corners)
        built = np.asarray(jax.vmap(masks)(jnp.arange(2)))
        assert built.shape == (2, 5, 1, 1)
        assert not built[0].any()
        assert built.min() >= 0
        assert built.max() <= 1
        values = np.random.default_rng(0).random((5, 1, 3)).astype(np.float32)
        removed = ((1 - built) * values).reshape(2, -1).sum(1)
        np.testing.assert_allclose(masks.removed(jnp.asarray(values)), removed, rtol=1e-5)


def test_faults_in_one_line():
    split, params, x, target = case()
    with pytest.raises(InputError, match="choose torchcam or pytorch_grad_cam"):
        segcam.methods.score_cam(split, params, x, target, masks="paper")

    def pooled(params, x):
        return segcam.tap(x.mean((0, 1)), "pooled") @ params

    weight = jnp.ones((2, 3))
    flat = segcam.split(pooled, "pooled", weight, x)
    with pytest.raises(InputError, match="both need positions"):
        segcam.methods.score_cam(flat, weight, x, segcam.targets.whole_image(0))
    with pytest.raises(InputError, match="needs positions"):
        segcam.methods.recipro_cam(flat, weight, x, segcam.targets.whole_image(0))

    def two_inputs(params, x):
        return segcam.tap(x["a"] + x["b"], "sum") @ params

    both = {"a": x, "b": x}
    pair = segcam.split(two_inputs, "sum", weight, both)
    with pytest.raises(InputError, match="must be one array"):
        segcam.methods.score_cam(pair, weight, both, segcam.targets.whole_image(0))
