"""Computing only what an ablation changes, against brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import segcam_jax as segcam
from segcam_jax import Execution, tap
from segcam_jax._jaxpr import changes
from segcam_jax._jaxpr.spans import Span
from segcam_jax.engine import fall
from segcam_jax.engine.score import scoring
from segcam_jax.masks import ChannelMasks, WindowMasks
from tests.engine.test_engine import random_net, recipes
from tests.support.networks import convolve, make_input, make_params, skip_net

# Each optimisation but the one that is tested is off.
ALONE = dataclasses.replace(segcam.NAIVE, difference=True)


def in_double(network):
    fn, *arrays = network
    return fn, *jax.tree.map(lambda leaf: leaf.astype(jnp.float64), arrays)


def by_change(split, params, x, target, masks):
    """All scores computed by change, whether that is cheaper or not."""

    @jax.jit
    def run(params, x, target):
        activation, carry = split.encode(params, x)
        found = fall.falls(split, activation, activation, carry, target, masks, ALONE)
        indices = jnp.arange(len(masks), dtype=jnp.int32)
        return found.score() - jax.vmap(found.fall)(indices)

    return run(params, x, target)


def brute_force(split, params, x, target, masks):
    """One whole forward after the other."""

    @jax.jit
    def run(params, x, target):
        def score(index):
            return target(split.ablated(params, x, masks(index)))

        return jax.lax.map(score, jnp.arange(len(masks), dtype=jnp.int32))

    return run(params, x, target)


@settings(max_examples=3)
@given(recipes, st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, -0.5]))
def test_every_window_equals_brute_force(recipe, window, stride, value):
    with jax.enable_x64(True):
        fn, params, x = in_double(random_net(recipe))
        split = segcam.split(fn, "hidden", params, x)
        shape = split.activation.shape[:-1]
        sizes = tuple(min(window, n) for n in shape)
        masks = WindowMasks(shape, sizes, tuple(min(stride, n) for n in sizes), value)
        target = segcam.targets.whole_image(1)
        fast = by_change(split, params, x, target, masks)
        slow = brute_force(split, params, x, target, masks)
        np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10)


@settings(max_examples=3)
@given(recipes)
def test_every_channel_equals_brute_force(recipe):
    with jax.enable_x64(True):
        fn, params, x = in_double(random_net(recipe))
        split = segcam.split(fn, "hidden", params, x)
        masks = ChannelMasks(split.activation.shape[-1])
        target = segcam.targets.whole_image(0)
        fast = by_change(split, params, x, target, masks)
        slow = brute_force(split, params, x, target, masks)
        np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("name", ["ablation_cam", "fast_ablation_cam"])
def test_methods_with_regions_at_the_border(name, chunk):
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    mask = np.zeros((8, 12), bool)
    mask[6:, :3] = True
    target = segcam.targets.region(1, mask)
    method = segcam.methods.METHODS[name].function
    naive = method(split, params, x, target, execution=segcam.NAIVE)
    for execution in (Execution(chunk_size=chunk), dataclasses.replace(ALONE, chunk_size=chunk)):
        fast = method(split, params, x, target, execution=execution)
        np.testing.assert_allclose(fast.score, naive.score, rtol=1e-5)
        np.testing.assert_allclose(fast.scores, naive.scores, rtol=1e-5, atol=1e-5)


def test_what_the_target_does_not_see_is_known():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    mask = np.zeros((8, 12), bool)
    mask[0, 0] = True
    target = segcam.targets.region(1, mask)
    _, carry = split.encode(params, x)
    seen = scoring(split, carry, target, Execution()).seen
    naive = segcam.methods.fast_ablation_cam(split, params, x, target, execution=segcam.NAIVE)
    fast = segcam.methods.fast_ablation_cam(
        split, params, x, target, execution=Execution(chunk_size=1)
    )
    np.testing.assert_allclose(fast.map, naive.map, atol=1e-5)
    assert seen[..., 0].sum() == 4 < naive.map.size
    assert not naive.map[~seen[..., 0]].any()
    assert (fast.scores.reshape(naive.map.shape)[~seen[..., 0]] == fast.score).all()


def test_changes_save_the_operations_they_promise():
    """On the classic U-Net at 256x256: steady counts, no timing."""
    from flax import nnx

    from segcam_jax.models.unet import UNet, UNetConfig

    config = UNetConfig(in_channels=3, width=64, upsample="transposed", halve="upsample")
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((256, 256, 3), "float32")
    shares = {}

    def count(split, target, params, x):
        activation, carry = split.encode(params, x)
        how = scoring(split, carry, target, Execution())
        shape = activation.shape
        for masks in (ChannelMasks(shape[-1]), WindowMasks(shape[:-1], (1, 1), (1, 1))):
            found = fall.falls(split, activation, activation, carry, target, masks, Execution())
            flops = found.flops
            shares[type(masks).__name__] = flops / how.flops
        return activation

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        split = segcam.split(fn, "bottleneck", params, x)
        jax.eval_shape(lambda *a: count(split, segcam.targets.whole_image(1), *a), params, x)
    # A channel: but for the first transposed convolution; a position: windows until 78 of 256.
    assert shares["ChannelMasks"] < 0.98
    assert shares["WindowMasks"] < 0.06


def quantised(params, x):
    """A product of 8-bit integers with a 32-bit result, and a pooling of 8-bit ones."""
    hidden = tap(jnp.abs(x @ params), "hidden")
    small = jnp.clip(jnp.round(hidden * 9), 0, 255).astype(jnp.uint8)
    window = ((3, 3, 1), (1, 1, 1))
    signed = (small // 2).astype(jnp.int8) - jnp.int8(100)
    pooled = jax.lax.reduce_window(signed, jnp.int8(-128), jax.lax.max, *window, "SAME")
    weights = jnp.arange(9, dtype=jnp.uint8).reshape(3, 3)
    numbers = (((2,), (0,)), ((), ()))
    mixed = jax.lax.dot_general(small, weights, numbers, preferred_element_type=jnp.int32)
    return mixed.astype(jnp.float32) + pooled.astype(jnp.float32)


def half(params, x):
    hidden = tap(jax.nn.relu(x @ params), "hidden").astype(jnp.float16)
    return (jax.nn.relu(hidden @ jnp.ones((3, 3), jnp.float16))).astype(jnp.float32)


@pytest.mark.parametrize("model", [quantised, half])
@pytest.mark.parametrize("name", ["ablation_cam", "fast_ablation_cam"])
def test_narrow_and_integer_values(model, name):
    x = jax.random.normal(jax.random.key(0), (9, 9, 2))
    params = jax.random.normal(jax.random.key(1), (2, 3))
    split = segcam.split(model, "hidden", params, x)
    mask = np.zeros((9, 9), bool)
    mask[7:, 7:] = True
    method = segcam.methods.METHODS[name].function
    for target in (segcam.targets.whole_image(1), segcam.targets.region(1, mask)):
        naive = method(split, params, x, target, execution=segcam.NAIVE)
        fast = method(split, params, x, target)
        np.testing.assert_allclose(fast.scores, naive.scores, rtol=1e-6)


def test_channels_too_small_for_single_precision_are_alive():
    with jax.enable_x64(True):
        weights = jnp.array([[1e50, 1.0, 1.0]]).T
        x = jnp.ones((4, 4, 1), jnp.float64)

        def model(params, x):
            hidden = tap(x * jnp.array([[[1e-50, 1.0, 1.0]]]), "hidden")
            return jax.nn.relu(hidden @ params)

        split = segcam.split(model, "hidden", weights, x)
        scores = segcam.methods.ablation_cam(
            split, weights, x, segcam.targets.whole_image(0)
        ).scores
        np.testing.assert_allclose(scores, jnp.full(3, 32.0))


def test_empty_arrays_are_computed_whole():
    def model(params, x):
        hidden = tap(jax.nn.relu(x @ params), "hidden")
        nothing = hidden[:0].reshape(0, 2, 6)
        return hidden + nothing.sum() * 0

    x = jax.random.normal(jax.random.key(0), (4, 4, 2))
    params = jnp.ones((2, 3))
    split = segcam.split(model, "hidden", params, x)
    naive = segcam.methods.fast_ablation_cam(
        split, params, x, segcam.targets.whole_image(0), execution=segcam.NAIVE
    )
    fast = segcam.methods.fast_ablation_cam(
        split, params, x, segcam.targets.whole_image(0), execution=Execution(closed_form=False)
    )
    np.testing.assert_allclose(fast.scores, naive.scores, rtol=1e-6)


ROWS, COLUMNS = np.arange(16) // 2, np.arange(24) // 2
NEAREST = {
    "take": lambda x: jnp.take(jnp.take(x, ROWS, 0), jnp.asarray(COLUMNS), 1),
    "index": lambda x: x[ROWS[:, None], COLUMNS],
    "torch": lambda x: jnp.moveaxis(
        jnp.moveaxis(x, -1, 0)[None][..., ROWS[:, None], COLUMNS], 1, -1
    )[0],
    "resize": lambda x: jax.image.resize(x, (16, 24, x.shape[-1]), "nearest"),
}


def upsampled(upsample):
    """A network that upsamples in its own way, split before it."""

    def fn(params, x):
        hidden = tap(jax.nn.relu(convolve(x, params["down"])), "hidden")
        hidden = jax.nn.relu(convolve(hidden, params["bottom"]))
        return convolve(upsample(hidden), params["up"])

    shapes = {"down": (3, 3, 2, 4), "bottom": (3, 3, 4, 3), "up": (3, 3, 3, 2)}
    keys = jax.random.split(jax.random.key(0), 3)
    named = zip(keys, shapes.items(), strict=True)
    params, x = {name: jax.random.normal(key, shape) for key, (name, shape) in named}, make_input()
    return segcam.split(fn, "hidden", params, x), params, x


def test_indices_that_are_known_while_tracing_say_what_is_read():
    """Nearest upsampling by indexing costs what `jnp.repeat` does; backwards and forwards."""
    repeated = upsampled(lambda x: jnp.repeat(jnp.repeat(x, 2, 0), 2, 1))[0]
    one = (Span(0, np.arange(8), 1), Span(1, np.arange(12), 1), None)
    expected = repeated.changes.plan((2, 2, 2)).flops()
    for kind, upsample in NEAREST.items():
        split, *_ = upsampled(upsample)
        plan = split.changes.plan((2, 2, 2))
        assert plan.fallbacks == ()
        assert plan.flops() == expected, kind
        change = changes.plan(split.changes.jaxpr, one)
        (out,) = split.changes.jaxpr.outvars
        assert [span and span.size for span in change.changed[out]] == [8, 8, None]


PADDINGS = {
    **{
        mode: lambda x, mode=mode: jnp.pad(x, ((2, 1), (1, 3), (0, 0)), mode=mode)
        for mode in ("reflect", "symmetric", "edge", "wrap")
    },
    "roll": lambda x: jnp.roll(x, (2, -3), (0, 1)),
    "by hand": lambda x: jnp.concatenate([x[:, 2:0:-1], x, x[:, -1:].repeat(2, 1)], 1),
}


@pytest.mark.parametrize("kind", PADDINGS)
def test_what_is_padded_by_parts_of_itself_says_what_it_reads(kind):
    """Windows backwards and forwards are those of a convolution, but where they go round."""

    def fn(params, x):
        hidden = tap(jax.nn.relu(convolve(x, params["down"])), "hidden")
        return convolve(PADDINGS[kind](hidden), params["up"])

    x = make_input()
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = {"down": (3, 3, 2, 4), "up": (3, 3, 4, 3)}
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    split = segcam.split(fn, "hidden", params, x)
    mask = np.zeros(split.output.shape[:-1], bool)
    mask[4:6, 5:7] = True
    target = segcam.targets.region(1, mask)
    plan = split.changes.plan((2, 2, 3))
    assert plan.fallbacks == ()
    reads = plan.windows[plan.jaxpr.invars[0]]
    goes_round = kind in ("wrap", "roll")
    assert [span and span.size for span in reads] == [*[None if goes_round else 4] * 2, None]
    one = tuple(Span(at, np.arange(n), 1) for at, n in enumerate(split.activation.shape[:2]))
    (out,) = split.changes.jaxpr.outvars
    reached = changes.plan(split.changes.jaxpr, (*one, None)).changed[out]
    assert goes_round or None not in reached[:2]
    methods = (segcam.methods.ablation_cam, segcam.methods.fast_ablation_cam)
    given = (split, params, x, target)
    for method in methods if kind in ("reflect", "by hand") else ():
        fast, naive = (method(*given, execution=how).drops for how in (Execution(), segcam.NAIVE))
        np.testing.assert_allclose(fast, naive, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_that_upsamples_by_taking_equals_brute_force():
    split, params, x = upsampled(NEAREST["take"])
    mask = np.zeros((16, 24), bool)
    mask[3:5, 20:22] = True
    target = segcam.targets.region(1, mask)
    plan = segcam.explain_plan(split, params, x, target)
    assert plan.fallbacks == plan.subtracted == ()
    assert plan.seen == (5, 5)
    for name in ("ablation_cam", "fast_ablation_cam"):
        method = segcam.methods.METHODS[name].function
        naive = method(split, params, x, target, execution=segcam.NAIVE)
        fast = method(split, params, x, target)
        np.testing.assert_allclose(fast.map, naive.map, atol=1e-5 * np.abs(naive.map).max())
