"""The engine's shortcuts against brute force, alone and together, on networks drawn at random."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import segcam_jax as segcam
from segcam_jax import Execution, engine, tap
from segcam_jax._jaxpr import cost
from tests.support.networks import convolve, make_input, make_params, skip_net


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A random decoder: what it is made of, and where its target lies."""

    ndim: int = 2
    stride: int = 1
    dilation: int = 1
    kernel: int = 3
    upsample: str = "nearest"
    pool: str = "none"
    skip_first: bool = False
    add_skip: bool = False
    extents: tuple[int, ...] = (7, 10)


recipes = st.builds(
    Recipe,
    ndim=st.sampled_from([2, 2, 3]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 2, 3]),
    upsample=st.sampled_from(["nearest", "linear", "transposed", "transposed3"]),
    pool=st.sampled_from(["none", "max", "average", "same"]),
    skip_first=st.booleans(),
    add_skip=st.booleans(),
    extents=st.tuples(*[st.integers(4, 9)] * 3),
)


def _conv(x, kernel, stride=1, dilation=1, padding="SAME"):
    letters = "DHW"[-(x.ndim - 1) :]
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (stride,) * (x.ndim - 1),
        padding,
        rhs_dilation=(dilation,) * (x.ndim - 1),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )[0]


def _up(x, kernel, kind):
    rank = x.ndim - 1
    if kind == "nearest":
        for axis in range(rank):
            x = jnp.repeat(x, 2, axis=axis)
        return x
    if kind == "linear":
        shape = (*(2 * n for n in x.shape[:-1]), x.shape[-1])
        return jax.image.resize(x, shape, "linear", antialias=False)
    letters = "DHW"[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_transpose(x[None], kernel, (2,) * rank, "SAME", dimension_numbers=numbers)[
        0
    ]


def _pooled(x, kind):
    if kind == "none":
        return x
    window, ones = (2,) * (x.ndim - 1) + (1,), (1,) * x.ndim
    if kind == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, ones, "SAME")
    window = (3,) * (x.ndim - 1) + (1,)
    summed = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, ones, "SAME")
    return summed / 9 if kind == "average" else jnp.tanh(summed)


def random_net(recipe):
    def fn(params, x):
        skip = jax.nn.relu(convolve(x, params["in"]))
        hidden = _conv(skip, params["deep"], recipe.stride, recipe.dilation)
        hidden = tap(jax.nn.relu(hidden), "hidden")
        up = _up(hidden, params["up"], recipe.upsample)
        up = _pooled(up, recipe.pool)
        room = tuple(
            slice(0, min(n, m)) for n, m in zip(up.shape[:-1], skip.shape[:-1], strict=True)
        )
        up, side = up[room], skip[room]
        both = [side, up] if recipe.skip_first else [up, side]
        joined = jax.jit(lambda *parts: jnp.concatenate(parts, -1))(*both)
        scaled = joined * params["scale"] - params["shift"]
        x = jax.nn.relu(_conv(scaled, params["mix"]))
        if recipe.add_skip:
            x = x + side
        return jnp.einsum("...c,ck->...k", x, params["head"])

    rank = recipe.ndim
    kernel = (3 if recipe.upsample == "transposed3" else 2,) * rank
    shapes = {
        "in": (*(3,) * rank, 2, 3),
        "deep": (*(recipe.kernel,) * rank, 3, 4),
        "up": (*kernel, 4, 4),
        "mix": (*(3,) * rank, 7, 3),
        "head": (3, 2),
    }
    keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
    params = {
        name: jax.random.normal(key, shape) / np.prod(shape[:-1]) ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    space = (1,) * rank
    params["scale"] = jnp.linspace(0.5, 1.5, 7).reshape(*space, 7)
    params["shift"] = jnp.linspace(-0.3, 0.2, 7).reshape(*space, 7)
    extents = tuple(2 * n for n in recipe.extents[:rank])
    x = jax.random.normal(keys[-1], (*extents, 2))
    return fn, params, x


def a_region(shape, at, size):
    """A box that may lie at any border, with a hole."""
    mask = np.zeros(shape, bool)
    low = [min(int(f * n), n - 1) for f, n in zip(at, shape, strict=False)]
    mask[tuple(slice(i, i + size) for i in low)] = True
    if mask.sum() > 2:
        mask[tuple(i for i in low)] = False
    return mask


SWITCHES = {
    "windows": dataclasses.replace(segcam.NAIVE, windows=True),
    "difference": dataclasses.replace(segcam.NAIVE, difference=True),
    "dead": dataclasses.replace(segcam.NAIVE, skip_dead=True, chunk_size=1),
    "all": Execution(chunk_size=3),
}


@settings(max_examples=4)
@given(recipes, st.tuples(*[st.floats(0, 1)] * 3), st.integers(1, 5))
def test_ablation_and_gradient_on_random_networks(recipe, at, size):
    with jax.enable_x64(True):
        fn, params, x = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if hasattr(leaf, "astype") else leaf,
            random_net(recipe),
        )
        output = jax.eval_shape(fn, params, x)
        target = segcam.targets.region(1, a_region(output.shape[:-1], at, size))
        split = segcam.split(fn, "hidden", params, x)
        naive = segcam.methods.ablation_cam(split, params, x, target, execution=segcam.NAIVE)
        activation, _ = split.encode(params, x)
        channel = activation.shape[-1] // 2
        brute = target(split.ablated(params, x, jnp.ones(activation.shape[-1]).at[channel].set(0)))
        np.testing.assert_allclose(naive.scores[channel], brute, rtol=1e-10, atol=1e-12)
        scale = np.abs(naive.map).max() + 1e-12
        fast = segcam.methods.ablation_cam(split, params, x, target, execution=SWITCHES["all"])
        np.testing.assert_allclose(fast.map / scale, naive.map / scale, atol=1e-10)
        slow = segcam.methods.hires_cam(split, params, x, target, execution=segcam.NAIVE)
        quick = segcam.methods.hires_cam(split, params, x, target)
        np.testing.assert_allclose(quick.map, slow.map, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", ["ablation_cam", "fast_ablation_cam"])
def test_each_switch_alone(switch, name):
    fn, params, x = random_net(Recipe(extents=(5, 8, 1)))
    split = segcam.split(fn, "hidden", params, x)
    method = segcam.methods.METHODS[name].function
    target = segcam.targets.region(0, a_region((10, 16), (0.9, 0.0), 3))
    naive = method(split, params, x, target, execution=segcam.NAIVE)
    fast = method(split, params, x, target, execution=SWITCHES[switch])
    scale = np.abs(naive.map).max()
    np.testing.assert_allclose(fast.map / scale, naive.map / scale, atol=1e-5)


def with_what_has_no_rule(params, x):
    """A cumulative sum, a gather, a scan and attention over positions after the tap."""
    hidden = tap(jax.nn.relu(x @ params), "hidden")
    summed = jnp.cumsum(hidden, axis=0)
    mirrored = summed[::-1]
    flat = mirrored.reshape(-1, mirrored.shape[-1])
    mixed = jax.nn.softmax(flat @ flat.T) @ flat
    looped = jax.lax.scan(lambda c, _: (jnp.tanh(c), None), mixed, None, length=2)[0]
    return looped.reshape(hidden.shape) + hidden


def test_equations_without_a_rule_are_computed_whole():
    params, x = jax.random.normal(jax.random.key(0), (2, 3)), make_input()
    split = segcam.split(with_what_has_no_rule, "hidden", params, x)
    target = segcam.targets.region(1, a_region((8, 12), (0.3, 0.9), 2))
    assert split.on_window((2, 2, 3)).fallbacks
    for method in (segcam.methods.ablation_cam, segcam.methods.hires_cam):
        naive = method(split, params, x, target, execution=segcam.NAIVE)
        fast = method(split, params, x, target)
        np.testing.assert_allclose(fast.map, naive.map, rtol=1e-4, atol=1e-5)


def test_one_program_for_all_regions_of_a_size_class():
    params, x = make_params(), make_input()
    traces = []
    split = segcam.split(skip_net, "bottleneck", params, x)

    @jax.jit
    def kernel(params, x, target):
        traces.append(1)
        return segcam.methods.grad_cam(split, params, x, target)

    for row in range(0, 8, 3):
        for column in range(0, 10, 4):
            mask = np.zeros((8, 12), bool)
            mask[row : row + 2, column : column + 2] = True
            target = segcam.targets.region(1, mask)
            fast = kernel(params, x, target)
            slow = segcam.methods.grad_cam(split, params, x, target, execution=segcam.NAIVE)
            np.testing.assert_allclose(fast.map, slow.map, atol=1e-5)
    assert len(traces) == 1


def test_a_batch_of_instances_runs_on_windows():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    corners = [(0, 0), (6, 9), (3, 5), (7, 0)]
    masks = []
    for row, column in corners:
        mask = np.zeros((8, 12), bool)
        mask[row : row + 2, column : column + 3] = True
        masks.append(mask)
    targets = segcam.targets.stack([segcam.targets.region(2, mask) for mask in masks])
    assert targets.extent == (2, 3)
    explain = functools.partial(segcam.methods.ablation_cam, split, params, x)
    batched = jax.vmap(explain)(targets)
    for index, mask in enumerate(masks):
        one = explain(segcam.targets.region(2, mask), execution=segcam.NAIVE)
        np.testing.assert_allclose(batched.scores[index], one.scores, atol=1e-4)


def linear_after(params, x):
    hidden = tap(jax.nn.relu(x @ params["in"]), "hidden")
    pooled = hidden.mean((0, 1))
    return pooled @ params["out"] + 1.0


def test_linear_scores_in_closed_form():
    params = {
        "in": jax.random.normal(jax.random.key(0), (2, 6)),
        "out": jax.random.normal(jax.random.key(1), (6, 3)),
    }
    x = jax.random.normal(jax.random.key(2), (5, 7, 2))
    split = segcam.split(linear_after, "hidden", params, x)
    target = segcam.targets.whole_image(1)
    for name, options in {
        "ablation_cam": {"ablation_value": -0.5},
        "fast_ablation_cam": {"window": 2, "stride": 2, "ablation_value": 2.0},
    }.items():
        method = segcam.methods.METHODS[name].function
        naive = method(split, params, x, target, execution=segcam.NAIVE, **options)
        closed = method(split, params, x, target, **options)
        np.testing.assert_allclose(closed.scores, naive.scores, atol=1e-5)


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_linearity_is_detected_not_assumed(of):
    from segcam_jax.engine.fall import is_linear

    params = {"in": jnp.ones((2, 6)), "out": jnp.ones((6, 3))}
    x = jnp.ones((5, 7, 2))
    split = segcam.split(linear_after, "hidden", params, x)
    assert is_linear(split, segcam.targets.whole_image(1, of=of)) == (of == "logits")
    deep = segcam.split(skip_net, "bottleneck", make_params(), make_input())
    assert not is_linear(deep, segcam.targets.whole_image(1))


def test_dead_channels_are_not_run():
    """A callback counts the rows that are evaluated; jaxprs alone would not show it."""
    params, x = make_params(), make_input()
    params = {**params, "deep": params["deep"].at[..., ::2].set(0)}
    split = segcam.split(skip_net, "bottleneck", params, x)
    seen = []

    def target(output):
        score = output[..., 1].sum()
        jax.debug.callback(lambda s: seen.append(float(s)), score)
        return score

    execution = Execution(chunk_size=1, closed_form=False)
    explanation = segcam.methods.ablation_cam(split, params, x, target, execution=execution)
    jax.effects_barrier()
    assert len(seen) == 1 + 4
    assert not explanation.weights[::2].any()
    assert (explanation.scores[::2] == explanation.score).all()
    naive = segcam.methods.ablation_cam(
        split, params, x, segcam.targets.whole_image(1), execution=segcam.NAIVE
    )
    np.testing.assert_allclose(explanation.weights, naive.weights, atol=1e-6)


def test_changes_and_windows_save_the_operations_they_promise():
    """On the CSBDeep U-Net at 256x256: steady counts, no timing."""
    from flax import nnx

    from segcam_jax.models.unet import UNet, UNetConfig

    config = UNetConfig(in_channels=3, classes=2, width=64)
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        split = segcam.split(
            fn, "bottleneck", params, jax.ShapeDtypeStruct((256, 256, 3), "float32")
        )
        decode = split.flops()
        assert cost.flops(split.changes.jaxpr) < 0.65 * decode
        for size, most in {1: 0.02, 16: 0.03, 32: 0.06, 64: 0.13}.items():
            plan = split.on_window((size, size, 2))
            assert plan.fallbacks == ()
            assert plan.flops() < most * decode
            assert split.changes.plan((size, size, 2)).flops() < 0.65 * most * decode


def test_windows_pass_through_linear_interpolation():
    """On a U-Net that upsamples so at 64x64: no fallback, and a small share of decode."""
    from flax import nnx

    from segcam_jax.models.unet import UNet, UNetConfig

    config = UNetConfig(in_channels=1, classes=2, width=8, depth=3, upsample="linear")
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        split = segcam.split(fn, "bottleneck", params, jax.ShapeDtypeStruct((64, 64, 1), "float32"))
        plan = split.on_window((2, 2, 2))
    assert plan.fallbacks == ()
    assert plan.flops() < 0.1 * split.flops()


def test_functions_of_rooms_above_compile_once_for_each_static_option():
    traced = []

    @engine.compiled_function
    def scaled(x, *, by):
        traced.append((x.shape, by))
        return by * x

    for by, size in ((2, 3), (5, 3), (2, 3), (2, 4), (5, 3)):
        np.testing.assert_array_equal(scaled(np.ones(size, np.float32), by=by), [by] * size)
    assert traced == [((3,), 2), ((3,), 5), ((4,), 2)]
    double = jax.jit(lambda x: scaled(x, by=2) + 1)
    np.testing.assert_array_equal(double(jnp.ones(3)), [3, 3, 3])
