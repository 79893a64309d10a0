"""`tap`, `list_taps`, `split`: exact, under every transform, in every kind of call."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, TapError, tap
from tests.support.networks import convolve, make_input, make_params, skip_net


def whole_equals_parts(fn, name, params, x, **layout):
    split = segcam.split(fn, name, params, x, **layout)
    expected = fn(params, x)
    outputs = split.decode(*split.encode(params, x))
    jax.tree.map(np.testing.assert_array_equal, outputs, expected)
    return split


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["input", "encoder", "bottleneck", "decoder"])
def test_decode_of_encode_is_the_whole_model(ndim, dtype, name):
    params, x = make_params(ndim, dtype=dtype), make_input(ndim, dtype=dtype)
    split = whole_equals_parts(skip_net, name, params, x)
    assert split.activation == segcam.list_taps(skip_net, params, x)[name]


def test_list_taps_in_order_of_evaluation():
    taps = segcam.list_taps(skip_net, make_params(), make_input())
    assert list(taps) == ["input", "encoder", "bottleneck", "decoder"]
    assert taps["bottleneck"].shape == (4, 6, 8)
    assert segcam.bottleneck(taps) == "bottleneck"


def test_list_taps_needs_no_values():
    structs = jax.eval_shape(lambda: (make_params(), make_input()))
    assert list(segcam.list_taps(skip_net, *structs)) == list(
        segcam.list_taps(skip_net, make_params(), make_input())
    )


def test_split_under_jit_vmap_and_grad():
    params = make_params()
    xs = jnp.stack([make_input(seed=seed) for seed in range(3)])
    split = segcam.split(skip_net, "bottleneck", params, xs[0])

    def through(x):
        return split.decode(*split.encode(params, x))

    expected = jax.vmap(lambda x: skip_net(params, x))(xs)
    np.testing.assert_allclose(jax.jit(jax.vmap(through))(xs), expected, atol=1e-5)
    slope = jax.grad(lambda x: skip_net(params, x).sum())(xs[0])
    np.testing.assert_allclose(jax.grad(lambda x: through(x).sum())(xs[0]), slope, atol=1e-5)


def test_gradient_at_the_tap_by_finite_differences():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    activation, carry = split.encode(params, x)
    slope = jax.grad(lambda a: (split.decode(a, carry) ** 2).sum())(activation)
    direction = jax.random.normal(jax.random.key(5), activation.shape)

    def score(step):
        return (skip_net(params, x, change=step * direction) ** 2).sum()

    step = 1e-2
    numeric = (score(step) - score(-step)) / (2 * step)
    np.testing.assert_allclose((slope * direction).sum(), numeric, rtol=2e-3)


@jax.custom_jvp
def doubled(x):
    return tap(2 * x, "custom_jvp")


doubled.defjvps(lambda t, _, x: 2 * t)


@jax.custom_vjp
def tripled(x):
    return tap(3 * x, "custom_vjp")


tripled.defvjp(lambda x: (tripled(x), None), lambda _, t: (3 * t,))


def nested(params, x):
    x = jax.jit(lambda p, y: tap(jnp.tanh(y @ p), "jit"))(params, x)
    x = jax.checkpoint(lambda y: tap(jnp.sin(y), "remat"))(x)
    x = jax.jit(lambda y: jax.jit(lambda z: tap(z + 1, "jit in jit"))(y))(x)
    return {"logits": tripled(doubled(x)) @ params, "norm": jnp.sum(x**2)}


@pytest.mark.parametrize("name", ["jit", "remat", "jit in jit", "custom_jvp", "custom_vjp"])
@pytest.mark.parametrize("remat3", [False, True])
def test_taps_inside_calls(name, remat3):
    if not hasattr(jax.config, "jax_remat3"):
        pytest.skip("this jax has one kind of remat")
    before = jax.config.jax_remat3
    jax.config.update("jax_remat3", remat3)
    try:
        # A new function: splits are cached by identity, traces too.
        whole_equals_parts(lambda p, x: nested(p, x), name, jnp.eye(3) * 0.3, jnp.ones((2, 3)))
    finally:
        jax.config.update("jax_remat3", before)


def test_one_body_called_twice_is_two_computations():
    layer = jax.jit(lambda p, x: jnp.tanh(x @ p))

    def fn(params, x):
        x = tap(layer(params, layer(params, x)), "hidden")
        return jax.jit(lambda y: tap(y * 2, "doubled") + 1)(layer(params, x))

    params, x = jnp.arange(9.0).reshape(3, 3) / 10, jnp.ones((2, 3))
    whole_equals_parts(fn, "hidden", params, x)
    whole_equals_parts(fn, "doubled", params, x)


def test_closed_over_arrays_and_literal_outputs():
    constant = jnp.arange(3.0)

    def fn(params, x):
        hidden = tap(x * params, "hidden")
        return hidden + constant.reshape(1, 3), constant, 7.0

    whole_equals_parts(fn, "hidden", jnp.ones(()), jnp.ones((2, 3)))


def test_carry_holds_a_bias_not_its_broadcast():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "input", params, x)
    _, carry = split.encode(params, x)
    assert sum(v.size for v in carry) == sum(v.size for v in jax.tree.leaves(params))


def test_debug_callbacks_and_weakly_typed_parameters():
    def fn(params, x):
        jax.debug.callback(lambda y: None, x.sum())
        return tap(x * params["scale"], "hidden") * params["gain"]

    params = {"scale": 0.5, "gain": jnp.asarray(2, jnp.bfloat16)}
    x = jnp.ones((2, 3), jnp.bfloat16)
    split = whole_equals_parts(fn, "hidden", params, x)
    assert split.output.dtype == jnp.bfloat16


def test_memory_inside_of_loops_is_counted():
    def fn(params, x):
        hidden = tap(x * params, "hidden")

        def step(carry, _):
            large = jnp.broadcast_to(carry, (1000, *carry.shape))
            return carry + jnp.sin(large).mean(0), None

        return jax.lax.scan(step, hidden, None, length=2)[0]

    from segcam_jax._jaxpr import cost

    split = segcam.split(fn, "hidden", jnp.ones(()), jnp.ones((4, 4)))
    jaxpr = split._slice.decode_jaxpr
    assert cost.live_bytes(jaxpr) > 1000 * 16 * 4
    assert cost.total_bytes(jaxpr) > 2 * 1000 * 16 * 4


def test_ablated_equals_the_model_with_the_mask_inside():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    mask = jnp.ones((1, 1, 8)).at[..., 3].set(0)
    expected = skip_net(params, x, mask=mask)
    np.testing.assert_array_equal(split.ablated(params, x, mask), expected)


def test_splits_are_cached_per_function_tap_and_shape():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    assert segcam.split(skip_net, "bottleneck", params, x + 1) is split
    assert segcam.split(skip_net, "decoder", params, x) is not split
    assert segcam.split(skip_net, "bottleneck", params, x[:, :8]) is not split


def channels_first(params, x):
    hidden = tap(jnp.maximum(jnp.einsum("chw,cd->dhw", x, params), 0), "hidden")
    return jnp.moveaxis(hidden, 0, -1)


def insists_on_a_batch(params, x):
    hidden = tap(jnp.einsum("nhwc,cd->nhwd", x[None], params), "hidden")
    return hidden[0]


def test_layouts_are_made_channels_last():
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))
    params = jax.random.normal(jax.random.key(1), (2, 3))
    moved = jnp.moveaxis(x, -1, 0)
    split = whole_equals_parts(channels_first, "hidden", params, moved, channel_axis=0)
    assert split.activation.shape == split.encode(params, moved)[0].shape == (4, 5, 3)
    split = whole_equals_parts(insists_on_a_batch, "hidden", params, x, batch_axis=0)
    assert split.activation.shape == (4, 5, 3)
    with pytest.raises(InputError, match="expected size 1 at batch_axis=1"):
        segcam.split(insists_on_a_batch, "hidden", params, x, batch_axis=1)


def inside(kind):
    def body(y):
        return tap(y * 2, "within")

    def fn(params, x):
        x = tap(x * params, "before")
        if kind == "scan":
            return jax.lax.scan(lambda c, _: (body(c), None), x, None, length=2)[0]
        if kind == "while":
            return jax.lax.while_loop(lambda c: c.sum() < 10, body, x)
        return jax.lax.cond(x.sum() > 0, body, lambda y: y, x)

    return fn


@pytest.mark.parametrize("kind", ["scan", "while", "cond"])
def test_a_tap_in_control_flow(kind):
    fn, one, x = inside(kind), jnp.ones(()), jnp.ones((2, 3))
    with pytest.raises(TapError, match=rf"inside `{kind}`.*before \(2, 3\)"):
        segcam.split(fn, "within", one, x)
    assert "within" not in segcam.list_taps(fn, one, x)
    whole_equals_parts(fn, "before", one, x)


def test_an_unknown_tap_names_the_nearest_first():
    with pytest.raises(TapError, match=r"unknown tap 'botleneck'. Taps: bottleneck \(4, 6, 8\), "):
        segcam.split(skip_net, "botleneck", make_params(), make_input())


def test_a_name_given_twice():
    def fn(params, x):
        return tap(tap(x, "same") * params, "same")

    with pytest.raises(TapError, match="'same' is used more than once"):
        segcam.list_taps(fn, jnp.ones(()), jnp.ones(3))


def test_a_tap_that_reaches_no_output():
    def fn(params, x):
        tap(x * 2, "unused")
        return x * params

    with pytest.raises(TapError, match="reaches no output"):
        segcam.split(fn, "unused", jnp.ones(()), jnp.ones(3))


def test_other_shapes_are_refused():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    with pytest.raises(InputError, match=r"x has shape \(4, 12, 2\).*split for \(8, 12, 2\)"):
        split.encode(params, x[:4])
    with pytest.raises(InputError, match="have structure"):
        split.encode({}, x)
    activation, carry = split.encode(params, x)
    with pytest.raises(InputError, match=r"has shape \(2, 6, 8\); expected \(4, 6, 8\)"):
        split.decode(activation[:2], carry)


def test_a_batch_is_no_example():
    """Its examples would share their channels' weights: Grad-CAM is of one example at a time."""
    params, xs = make_params(), jnp.stack([make_input(seed=seed) for seed in range(3)])
    batched = jax.vmap(skip_net, (None, 0))
    for fn, x in ((batched, xs), (jax.vmap(batched, (None, 0)), jnp.stack([xs, xs]))):
        with pytest.raises(InputError, match=r"x has shape .*, a batch: .*`explain_batch`"):
            segcam.list_taps(fn, params, x)
        with pytest.raises(InputError, match=r"x has shape .*, a batch: .*`explain_batch`"):
            segcam.split(fn, "encoder", params, x)
    split = segcam.split(skip_net, "bottleneck", params, xs[0])
    with pytest.raises(InputError, match=r"x has shape \(3, 8, 12, 2\).*it is a batch: use"):
        segcam.methods.grad_cam(split, params, xs, segcam.targets.whole_image(1))
    activation, carry = split.encode(params, xs[0])
    with pytest.raises(InputError, match="it is a batch: use `explain_batch`, or `jax.vmap`"):
        split.decode(jnp.stack([activation, activation]), carry)
    many = jax.vmap(
        lambda x: segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(1)).map
    )(xs)
    one = segcam.methods.grad_cam(split, params, xs[1], segcam.targets.whole_image(1)).map
    np.testing.assert_allclose(many[1], one, rtol=1e-5, atol=1e-6)


def test_a_batch_of_one_is_no_volume_of_one_slice():
    params, x = make_params(), make_input()
    batched = jax.vmap(skip_net, (None, 0))
    for fn in (batched, lambda params, x: batched(params, x)[0]):
        for name in ("bottleneck", "input"):
            with pytest.raises(InputError, match=r"x has shape \(1, 8, 12, 2\), a batch of one: "):
                segcam.split(fn, name, params, x[None])
            one = segcam.split(fn, name, params, x[None], batch_axis=0)
            assert len(one.activation.shape) == 3
        told = segcam.split(fn, "bottleneck", params, x[None], one_example=True)
        assert told.activation.shape == (1, 4, 6, 8)

    def volumes(params, x):
        return tap(convolve(x, params), "hidden") * 2

    split = segcam.split(volumes, "hidden", jnp.ones((3, 3, 3, 2, 4)), x[None])
    assert split.activation.shape == (1, 8, 12, 4)
    assert split.activation.on_grid


def test_an_image_of_integers_is_asked_about():
    """Values of 0 to 255 went into a network that was trained on [0, 1]."""

    def promotes(params, x):
        return tap(convolve(jnp.asarray(x[None], jnp.float32)[0], params), "hidden") * 2

    def embeds(params, x):
        return tap(convolve(params["table"][x], params["kernel"]), "hidden") * 2

    kernel = jnp.ones((3, 3, 3, 4))
    for x in (np.full((6, 8, 3), 200, np.uint8), jnp.full((6, 8, 3), 200)):
        for call in (segcam.list_taps, lambda fn, *given: segcam.split(fn, "hidden", *given)):
            with pytest.raises(InputError, match=r"x has dtype u?int.*: x / 255 for \[0, 1\]"):
                call(promotes, kernel, x)
    split = segcam.split(promotes, "hidden", kernel, x / np.float32(255))
    with pytest.raises(InputError, match=r"dtype uint8, .*; give floats: x / 255"):
        split.encode(kernel, np.full((6, 8, 3), 200, np.uint8))
    tokens, params = jnp.zeros((6, 8), jnp.int32), {"table": jnp.ones((5, 3)), "kernel": kernel}
    assert segcam.split(embeds, "hidden", params, tokens).activation.shape == (6, 8, 4)


def test_a_batch_whose_statistics_are_shared_is_no_example():
    """A norm left in training mixes the examples, and they are examples of a convolution still."""

    def fn(params, xs):
        ys = tap(jax.vmap(convolve, (0, None))(xs, params["down"]), "hidden")
        return jax.nn.relu(ys - ys.mean((0, 1, 2), keepdims=True))

    params, xs = make_params(), jnp.stack([make_input(seed=seed) for seed in range(3)])
    with jax.numpy_rank_promotion("allow"), pytest.raises(InputError, match="a batch"):
        segcam.split(fn, "hidden", params, xs)


def mean_of_frames(params, x):
    return skip_net_of(x, params).mean((0, 1, 2))


def skip_net_of(frames, params):
    return jax.vmap(skip_net, (None, 0))(params, frames)


def spectra(params, x):
    """A convolution along the channels of each pixel: no position reads another."""
    return jax.vmap(jax.vmap(lambda s: convolve(s[:, None], params).mean(0)))(x)


def once_along_rows(params, x):
    """Rows are a convolution's batch, and are convolved themselves after it."""
    across = jax.vmap(convolve, (0, None))(x, params)
    return jnp.swapaxes(jax.vmap(convolve, (0, None))(jnp.swapaxes(across, 0, 1), params), 0, 1)


@pytest.mark.parametrize(
    ("fn", "params", "shape"),
    [
        (skip_net, make_params(3), (4, 6, 8, 2)),
        (skip_net, make_params(3), (2, 2, 2, 2)),
        (lambda p, x: convolve(x, p), jnp.ones((1, 3, 3, 2, 2)), (4, 6, 8, 2)),  # flat kernels
        (lambda p, x: convolve(x, p), jnp.ones((1, 1, 1, 3)), (4, 6, 1)),
        (
            lambda p, x: jnp.tanh(x @ p),
            jnp.ones((3, 4)),
            (5, 3),
        ),  # positions, or a batch of vectors
        (lambda p, x: jnp.tanh(x @ p), jnp.ones((3, 4)), (5, 6, 3)),
        (lambda p, x: jax.nn.softmax(x @ p @ x.T, axis=-1) @ x, jnp.ones((3, 3)), (5, 3)),
        (lambda p, x: jnp.einsum("chw,cd->hwd", x, p), jnp.ones((3, 4)), (3, 5, 6)),
        (lambda p, x: jax.lax.scan(lambda c, y: (c + y, c), p, x)[1], jnp.ones(3), (5, 3)),
        (mean_of_frames, make_params(), (3, 8, 12, 2)),
        (spectra, jnp.ones((3, 1, 4)), (5, 4, 30)),
        (once_along_rows, jnp.ones((3, 2, 2)), (5, 4, 2)),
        (lambda p, x: x.reshape(-1) @ p, jnp.ones((60, 3)), (5, 4, 3)),
    ],
)
def test_one_example_with_an_odd_network(fn, params, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    whole_equals_parts(fn, "input", params, x)


def adds_a_batch(params, x):
    return jax.vmap(skip_net, (None, 0))(params, x[None])[0]


def test_models_that_take_a_batch_themselves():
    params, x = make_params(), make_input()
    batched = jax.vmap(skip_net, (None, 0))
    split = whole_equals_parts(batched, "bottleneck", params, x[None], batch_axis=0)
    assert split.activation.shape == (4, 6, 8)
    assert split.at_input.activation.shape == (8, 12, 2)
    split = whole_equals_parts(adds_a_batch, "bottleneck", params, x, batch_axis=0)
    at_input = segcam.split(adds_a_batch, "input", params, x, batch_axis=0)
    for each in (split.at_input, at_input):
        assert each.activation.shape == each.encode(params, x)[0].shape == (8, 12, 2)
    fn, same = segcam.from_function(lambda p, x: batched(p, x), params, batch_axis=0)
    np.testing.assert_allclose(fn(same, x), skip_net(params, x), rtol=1e-5, atol=1e-5)


def test_masks_of_another_rank():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    for shape in [(2, 4, 6, 8), (6, 8), (4, 6, 1, 8), (3,)]:
        with pytest.raises(InputError, match=r"the mask has shape .*expected as many axes"):
            split.ablated(params, x, jnp.ones(shape))
    for shape in [(), (8,), (4, 6, 1), (1, 1, 8)]:
        np.testing.assert_array_equal(
            split.ablated(params, x, jnp.ones(shape)), split.ablated(params, x, jnp.ones(()))
        )


def test_leaves_must_be_arrays():
    with pytest.raises(InputError, match=r"params\['name'\] is str, expected an array"):
        segcam.split(skip_net, "input", {"name": "unet"}, make_input())


def drawn(params, x):
    """Depends on the settings of 64-bit types, products and random numbers alone."""
    noise = jax.random.uniform(jax.random.key(0), (4096,)).sum()
    hidden = tap(jnp.arange(3) * x, "hidden") * noise
    return hidden, jnp.dot(hidden, hidden)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable),
        ("jax_default_matmul_precision", "float32"),
    ],
)
def test_a_split_is_made_again_for_other_settings(setting, value):
    """0.1.0 went on with what it had traced before."""
    params, x = jnp.ones(()), jnp.arange(3.0)
    with jax.numpy_dtype_promotion("standard"):
        before = segcam.split(drawn, "hidden", params, x)
        old = getattr(jax.config, setting)
        jax.config.update(setting, value)
        try:
            split = segcam.split(drawn, "hidden", params, x)
            expected = jax.jit(drawn)(params, x)
            found = split.decode(*split.encode(params, x))
            jax.tree.map(np.testing.assert_array_equal, found, expected)
            assert jax.tree.map(lambda v: v.dtype, found) == jax.tree.map(
                lambda v: v.dtype, expected
            )
            if setting == "jax_default_matmul_precision":  # CPUs have one precision.
                assert "HIGHEST" in str(split._slice.decode_jaxpr)
            assert segcam.split(drawn, "hidden", params, x) is split is not before
        finally:
            jax.config.update(setting, old)
        assert segcam.split(drawn, "hidden", params, x) is before


def scaled(params, x):
    return tap(x * params["scale"], "hidden") * params["gain"]


def test_a_number_is_no_array_where_dtypes_depend_on_it():
    """bfloat16 times a Python number is bfloat16, times an array of float32 it is float32."""
    x = jnp.ones((2, 3), jnp.bfloat16)
    number = {"scale": 0.5, "gain": jnp.asarray(2, jnp.bfloat16)}
    array = {**number, "scale": jnp.full((), 0.5, jnp.float32)}
    with jax.numpy_dtype_promotion("standard"):
        split = segcam.split(scaled, "hidden", number, x)
        with pytest.raises(InputError, match=r"params\['scale'\] is an array of float32.*again"):
            split.encode(array, x)
        other = segcam.split(scaled, "hidden", array, x)
        assert other.decode(*other.encode(array, x)).dtype == jnp.float32
        with pytest.raises(InputError, match=r"params\['scale'\] is a Python number"):
            other.encode(number, x)
    wide = x.astype(jnp.float32)
    number["gain"] = array["gain"] = jnp.ones((), jnp.float32)
    split = segcam.split(scaled, "hidden", number, wide)
    np.testing.assert_array_equal(split.encode(array, wide)[0], split.encode(number, wide)[0])


def test_what_is_pickled():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    with pytest.raises(InputError, match="cannot be pickled; pickle the arguments of split"):
        pickle.dumps(split)
    explanation = segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(1))
    again = pickle.loads(pickle.dumps(explanation))
    jax.tree.map(np.testing.assert_array_equal, again, explanation)
    assert pickle.loads(pickle.dumps(split.activation)).on_grid


def test_what_is_no_function():
    with pytest.raises(InputError, match=r"`fn` is dict, expected a function of \(params, x\)"):
        segcam.split({}, "input", jnp.ones(()), jnp.ones(3))


def by_slices(params, x):
    """A network of images on each slice of a volume `d h w c`."""
    return tap(jax.nn.relu(jax.vmap(convolve, (0, None))(x, params)), "hidden") * 2


def by_frames(params, x):
    """A network along each frame's `mel`, of `time mel 1`."""
    spread = jax.lax.conv_general_dilated(
        x, params, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return tap(jax.nn.relu(spread), "hidden") * 2


@pytest.mark.parametrize(
    ("fn", "x", "kernel"),
    [(by_slices, (4, 6, 8, 1), (3, 3, 1, 2)), (by_frames, (6, 8, 1), (3, 1, 2))],
)
def test_what_is_kept_apart_may_be_one_example(fn, x, kernel):
    """Slices, frames: refused as a batch, with no way out."""
    x = jax.random.normal(jax.random.key(0), x)
    params = jax.random.normal(jax.random.key(1), kernel)
    for call in (segcam.list_taps, lambda *given: segcam.split(given[0], "hidden", *given[1:])):
        with pytest.raises(InputError, match="If x is one example, .* else one_example=True"):
            call(fn, params, x)
    told, _ = segcam.from_function(fn, params, one_example=True)
    assert segcam.list_taps(told, params, x)["hidden"].on_grid
    assert "hidden" in segcam.list_taps(fn, params, x, one_example=True)
    one = segcam.split(fn, "hidden", params, x, one_example=True)
    for split in (one, segcam.split(told, "hidden", params, x)):
        output = split.decode(*split.encode(params, x))
        np.testing.assert_allclose(output, fn(params, x), rtol=1e-5, atol=1e-6)
        assert split.at_input.activation.shape == x.shape
    explained = segcam.methods.grad_cam(one, params, x, segcam.targets.whole_image(1))
    assert explained.map.shape == x.shape[:-1]
    with pytest.raises(InputError, match="a batch"):
        segcam.split(told, "hidden", params, x, one_example=False)
