"""Which taps are maps of the image: their axes are followed through the traced model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import models, tap
from segcam_jax.adapters import adapted
from segcam_jax.networks.layers import stages
from tests.support import own_networks
from tests.support.networks import convolve, make_input, make_params, pool, skip_net, upsample


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def maps(fn, params, x):
    taps = segcam.list_taps(fn, params, x)
    return [name for name, struct in taps.items() if struct.on_grid]


def test_tokens_and_heads_are_no_image():
    """0.1.0 took 65 tokens x 4 heads for an image of 65 x 4."""
    fn, params = adapted(own_networks.transformer(), batch=True)
    x = jnp.ones((32, 32, 3))
    taps = segcam.list_taps(fn, params, x)
    assert taps["attention/query"].shape == (65, 4, 4)
    assert maps(fn, params, x) == ["input", "patches", "grid"]
    assert segcam.bottleneck(taps) == "grid"
    assert stages(taps) == ["patches", "grid"]
    split = segcam.split(fn, "grid", params, x)
    assert split.activation.on_grid
    assert segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(0)).map.shape == (
        8,
        8,
    )
    assert not segcam.split(fn, "attention/query", params, x).activation.on_grid


def turned(params, x):
    return tap(jnp.swapaxes(x, 0, 1) * params, "turned") + 1


def pieces(params, x):
    """Patches cut out, shuffled into tokens, put back; learned tokens in place of positions."""
    h, w, c = x.shape
    cut = tap(x.reshape(h // 2, 2, w // 2, 2, c), "cut")
    tokens = tap(cut.transpose(0, 2, 1, 3, 4).reshape(h * w // 4, 4 * c), "tokens")
    more = jnp.concatenate([jnp.zeros((1, 4 * c)), tokens])
    back = tap(more[1:].reshape(h // 2, w // 2, 4 * c), "back")
    learned = tap(jnp.einsum("hwc,hk->kwc", back, params), "learned")
    strips = tap(back.mean(1), "strips")
    nearest = tap(jax.image.resize(back, (h, w, 4 * c), "nearest"), "nearest")
    linear = tap(jax.image.resize(back, (h, w, 4 * c), "linear"), "linear")
    up = tap(upsample(back), "up")
    parts = tap(jnp.stack(jnp.split(back, 2, axis=-1)), "parts")
    rest = learned.sum() + strips.sum() + parts.sum()
    return nearest + linear + up + rest


def test_what_is_done_to_axes():
    x, params = jnp.ones((8, 12, 2)), jnp.ones((4, 5))
    assert maps(pieces, params, x) == ["input", "back", "nearest", "linear", "up"]
    assert maps(turned, jnp.ones(()), x) == ["input", "turned"]


def test_channels_are_read_from_the_program_and_positions_put_in_order():
    def inside(params, x):
        """Rows and columns turned, channels first, in the middle, and of one."""
        y = convolve(x, params)
        first = tap(jnp.moveaxis(y, -1, 0), "first")
        middle = tap(jnp.swapaxes(first, 0, 1) * 2, "middle")
        turned = tap(jnp.transpose(middle, (2, 0, 1)), "turned")
        one = tap(turned.sum(-1, keepdims=True), "one")
        tokens = tap(y.reshape(-1, y.shape[-1]).T, "tokens")
        scores = tap(jnp.stack([tokens.T @ tokens] * 3), "heads")
        mixed = tap(jnp.einsum("hwc,hk->kwc", y, jnp.ones((len(y), 5))), "mixed")
        return y + one.swapaxes(0, 1) + scores.sum() + mixed.sum()

    x = jax.random.normal(jax.random.key(1), (8, 12, 2))
    params = jax.random.normal(jax.random.key(2), (3, 3, 2, 4))
    taps = segcam.list_taps(inside, params, x)
    assert {name: struct.shape for name, struct in taps.items()} == {
        "input": (8, 12, 2),
        **dict.fromkeys(("first", "middle", "turned"), (8, 12, 4)),
        "one": (8, 12, 1),
        "tokens": (96, 4),
        "heads": (96, 96, 3),
        "mixed": (5, 12, 4),  # Two axes are of weights: as it lies.
    }
    want = convolve(x, params)
    for name, factor in {"first": 1, "middle": 2, "turned": 2}.items():
        split = segcam.split(inside, name, params, x)
        activation, carry = split.encode(params, x)
        np.testing.assert_allclose(activation, factor * want, rtol=1e-6)
        np.testing.assert_array_equal(split.canonical(split.native(activation)), activation)
        np.testing.assert_allclose(split.decode(activation, carry), inside(params, x), rtol=1e-5)
    said = segcam.split(inside, "first", params, x, channel_axis=-1)
    assert said.activation.shape == (4, 8, 12)


def test_what_says_which_axis_the_channels_are():
    def inside(params, x):
        kernel, dense, mixing = params
        y = tap(jax.lax.conv_general_dilated(x.T[None], kernel, (1, 1), "SAME"), "convolved")
        y = tap(jnp.tanh(y - y.mean((2, 3), keepdims=True))[0], "normed")
        tokens = tap(y.reshape(4, -1), "tokens")
        made = tap(dense @ tokens, "made")
        several = tap(jnp.einsum("cp,pk->ck", tokens, mixing), "several")
        return jnp.moveaxis(y, 0, -1) * made.sum() + several.sum()

    x = jnp.ones((8, 12, 2))
    params = (jnp.ones((4, 2, 3, 3)), jnp.ones((6, 4)), jnp.ones((96, 5)))
    taps = segcam.list_taps(inside, params, x)
    found = {name: (taps[name].inside, taps[name].evidence) for name in taps}
    assert found == {
        "input": ("hwc", "the input's"),
        "convolved": ("cwh", "made by a convolution"),  # x.T turns rows and columns
        "normed": ("cwh", "made by a convolution"),
        "tokens": ("cn", "made by a convolution"),
        "made": ("cn", "made by a product"),
        "several": ("nc", "the last axis: several axes could be channels"),
    }
    assert taps["made"].shape == (96, 6)
    said = segcam.list_taps(inside, params, x, channel_axes={"several": 0, "normed": 1})
    assert said["several"].shape == (5, 4)
    assert said["several"].evidence.startswith("as given; otherwise the last axis")
    assert said["normed"].shape == (4, 8, 12)
    split = segcam.split(inside, "several", params, x, channel_axis=0)
    assert (split.activation.shape, split.activation.inside) == ((5, 4), "cn")


def test_one_channel_stays_last():
    """An input without channels, and scores of learned queries."""

    def of_grey(params, x):
        return tap(convolve(x[..., None], params), "conv")

    def scored(params, x):
        queries, weights = params
        read = jax.nn.softmax(queries @ x.T) @ x
        return tap(read @ weights, "scores")

    x, kernel = jnp.ones((8, 12)), jnp.ones((3, 3, 1, 1))
    assert segcam.split(of_grey, "conv", kernel, x).activation.shape == (8, 12, 1)
    params = (jnp.ones((5, 6)), jnp.ones((6, 1)))
    assert segcam.split(scored, "scores", params, jnp.ones((20, 6))).activation.shape == (5, 1)


def carried(params, x):
    """The body of a loop, a branch, a call with its own derivative, a pooling."""
    y, _ = jax.lax.scan(lambda c, _: (convolve(c, params), None), x, None, length=2)
    y = jax.lax.cond(y.sum() > 0, jnp.tanh, lambda v: v, tap(y, "loop"))
    y = tap(pool(jax.nn.gelu(jax.nn.relu(tap(y, "branch")))), "pooled")
    return jnp.fft.ifft(jnp.fft.fft(y, axis=0), axis=0).real.astype(y.dtype)


@pytest.mark.parametrize("shape", [(8, 12, 2), (4, 6, 8, 2)])
def test_grids_of_images_and_volumes(shape):
    ndim = len(shape) - 1
    x, kernel = jnp.ones(shape), jnp.ones((3,) * ndim + (2, 2))
    assert maps(carried, kernel, x) == ["input", "loop", "branch", "pooled"]
    params = make_params(ndim)
    assert len(maps(skip_net, params, make_input(ndim))) == 4


def test_channels_first_and_a_batch():
    x, kernel = jnp.ones((8, 12, 2)), jnp.ones((3, 3, 2, 2))

    def first(params, x):
        y = convolve(jnp.moveaxis(x, 0, -1), params)
        return jnp.moveaxis(tap(jnp.moveaxis(y, -1, 0), "hidden"), 0, -1)

    split = segcam.split(first, "hidden", kernel, jnp.moveaxis(x, -1, 0), channel_axis=0)
    assert split.activation.on_grid
    batched = jax.vmap(convolve, (0, None))
    split = segcam.split(
        lambda p, x: tap(batched(x[None], p), "hidden")[0], "hidden", kernel, x, batch_axis=0
    )
    assert split.activation.on_grid
    split = segcam.split(
        lambda p, x: tap(batched(x, p), "hidden"), "hidden", kernel, x[None], batch_axis=0
    )
    assert split.activation.on_grid


@pytest.mark.parametrize("name", ["resnet18", "inception_v3"])
def test_maps_of_the_classifiers(name):
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: models.classifier(name)))
    x = jax.ShapeDtypeStruct((96, 96, 3), jnp.float32)
    taps = segcam.list_taps(fn, params, x)
    assert all(struct.on_grid == (len(struct.shape) == 3) for struct in taps.values())


def fixed_indices(x):
    return jnp.take(x, jnp.array([0, 2, 1, 3, 3, 0]), axis=1)


def pieces_of_each(x):
    return jax.vmap(lambda v, i: jax.lax.dynamic_slice(v, (i, 0, 0), (3, 8, 3)))(x, jnp.arange(5))


def rows_added(x):
    return jax.vmap(lambda v, i: v.at[i].add(v[0]))(x, jnp.arange(5))


# What is done to a batch of five, each of its examples by itself.
APART = {
    "stack": lambda x: jnp.stack([x, x], 1),
    "stack last": lambda x: jnp.stack([x, 2 * x], -1),
    "unstack": lambda x: sum(jnp.unstack(x, axis=1)),
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 1)),
    "tile, one more axis": lambda x: jnp.tile(x, (2, 1, 1, 3, 1))[0],
    "concatenate": lambda x: jnp.concatenate([x, x], 2),
    "split": lambda x: sum(jnp.split(x, 2, axis=1)),
    "flip": lambda x: jnp.flip(x, 1),
    "roll": lambda x: jnp.roll(x, 1, 2),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "repeat": lambda x: jnp.repeat(x, 2, axis=1),
    "moveaxis": lambda x: jnp.moveaxis(x, -1, 1),
    "squeeze": lambda x: jnp.squeeze(jnp.expand_dims(x, 2), 2),
    "swapaxes": lambda x: jnp.swapaxes(x, 1, 2),
    "broadcast_to": lambda x: jnp.broadcast_to(x[:, None], (5, 2, 6, 8, 3)),
    "rot90": lambda x: jnp.rot90(x, axes=(1, 2)),
    "take": fixed_indices,
    "take_along_axis": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "dynamic_slice": pieces_of_each,
    "set": lambda x: x.at[:, 0].set(0),
    "add": rows_added,
    "top_k": lambda x: jax.lax.top_k(x, 2)[0],
    "map": lambda x: jax.lax.map(jnp.tanh, x),
    "fft2": lambda x: jnp.abs(jnp.fft.fft2(x, axes=(1, 2))),
}


@pytest.mark.parametrize("name", APART)
def test_a_batch_is_found_whatever_is_done_to_its_examples(name):
    """Stacked, tiled, scattered to, mapped over: such batches passed for one example."""

    def fn(params, x):
        return APART[name](jax.vmap(convolve, (0, None))(x, params))

    x, kernel = jnp.ones((5, 6, 8, 3)), jnp.ones((3, 3, 3, 3))
    with pytest.raises(segcam.InputError, match="a batch"):
        segcam.list_taps(fn, kernel, x)


# What makes the first axis one of a single example.
MIXED = {
    "stack": lambda x: jnp.stack([x, x[::-1]], 1),
    "unstack": lambda x: sum(jnp.unstack(x, axis=0)),
    "take": lambda x: x[jnp.array([1, 0, 2, 4, 3])],
    "set": lambda x: x.at[0].set(x[1]),
    "scan": lambda x: jax.lax.scan(lambda c, v: (c + v, c), jnp.zeros_like(x[0]), x)[1],
    "fft": lambda x: jnp.abs(jnp.fft.fft(x, axis=0)),
    "top_k": lambda x: jax.lax.top_k(x.T, 2)[0].T,
}


@pytest.mark.parametrize("name", MIXED)
def test_entries_that_read_each_other_are_no_batch(name):
    def fn(params, x):
        return MIXED[name](jax.vmap(convolve, (0, None))(x, params))

    x, kernel = jnp.ones((5, 6, 8, 3)), jnp.ones((3, 3, 3, 3))
    assert list(segcam.list_taps(fn, kernel, x)) == ["input"]


def test_rows_stacked_between_rows_stay_a_map():
    def fn(params, x):
        h = convolve(x, params)
        return tap(jnp.stack([h, h], 1).reshape(16, 12, 2), "rows") + 1

    assert maps(fn, jnp.ones((3, 3, 2, 2)), jnp.ones((8, 12, 2))) == ["input", "rows"]


def test_a_pixel_shuffle_keeps_the_grid():
    """Channels between positions do not make it another one."""

    def shuffled(params, x):
        h, w = x.shape[0], x.shape[1]
        parts = convolve(x, params).reshape(h, w, 2, 2, 2)
        finer = tap(parts.transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, 2), "finer")
        tokens = tap(parts.transpose(2, 3, 0, 1, 4).reshape(4, h * w, 2), "tokens")
        return finer * 2 + tokens.sum()

    x, kernel = jnp.ones((8, 12, 3)), jnp.ones((3, 3, 3, 8))
    assert maps(shuffled, kernel, x) == ["input", "finer"]


def attend(tokens):
    """Every token by all others of its example, `b t c`."""
    weights = jax.nn.softmax(jnp.einsum("btc,bsc->bts", tokens, tokens), axis=-1)
    return jnp.einsum("bts,bsc->btc", weights, tokens)


def recur(tokens):
    """A recurrence over the tokens, `b t c`."""
    steps = jnp.moveaxis(tokens, 1, 0)

    def step(state, x):
        state = jnp.tanh(state + x)
        return state, state

    _, states = jax.lax.scan(step, steps[0], steps)
    return jnp.moveaxis(states, 0, 1)


def written_for_a_batch(mixer):
    """A convolution, which takes one image as well, and a mixer of what `x.shape[0]` flattens."""

    def fn(params, x):
        y = tap(nnx.relu(convolve(x, params) if x.ndim == 3 else convolve(x[0], params)[None]), "y")
        return mixer(y.reshape(y.shape[0], -1, y.shape[-1])).reshape(y.shape)

    return fn


@pytest.mark.parametrize("mixer", [attend, recur])
def test_rows_that_are_taken_for_examples(mixer):
    """An image given to a model that flattens by `x.shape[0]`: each row was attended by itself."""
    fn, x, kernel = written_for_a_batch(mixer), make_input()[:6, :8], jnp.ones((3, 3, 2, 2)) / 9
    with pytest.raises(segcam.InputError, match=r"x has shape \(6, 8, 2\), .*Give batch_axis=0"):
        segcam.list_taps(fn, kernel, x)
    with pytest.raises(segcam.InputError, match="give one_example=True"):
        segcam.split(fn, "y", kernel, x)
    whole, _ = segcam.from_function(fn, kernel, batch_axis=0)
    split = segcam.split(whole, "y", kernel, x)
    found = split.decode(*split.encode(kernel, x))
    expected = mixer(nnx.relu(convolve(x, kernel)).reshape(1, 48, 2)).reshape(x.shape)
    assert jnp.allclose(found, expected, atol=1e-5)
    rows = segcam.split(fn, "y", kernel, x, one_example=True)
    by_row = mixer(nnx.relu(convolve(x, kernel)))
    assert jnp.allclose(rows.decode(*rows.encode(kernel, x)), by_row, atol=1e-5)
    assert not jnp.allclose(found, by_row, atol=1e-3)


def by_columns(x):
    return jnp.swapaxes(attend(jnp.swapaxes(x, 0, 1)), 0, 1)


def in_windows(x):
    h, w, c = x.shape
    parts = x.reshape(h // 2, 2, w // 2, 2, c).transpose(0, 2, 1, 3, 4).reshape(-1, 4, c)
    return attend(parts).reshape(h // 2, w // 2, 2, 2, c).transpose(0, 2, 1, 3, 4).reshape(h, w, c)


# What keeps rows apart in some place, and means it.
TRUE_IMAGES = {
    "global": lambda x: attend(x.reshape(1, -1, x.shape[-1])).reshape(x.shape),
    "axial": lambda x: attend(x) + by_columns(x),
    "columns": by_columns,
    "windows": in_windows,
    "bilinear": lambda x: jnp.einsum("hwc,hwd->cd", x, x)[0] + x,
    "gated": lambda x: x * jax.nn.sigmoid(x.mean((0, 1))),
    "1x1": lambda x: jnp.tanh(x @ jnp.eye(2)),
    "resized": lambda x: jax.image.resize(x, (6, 16, 2), "linear"),
    "steps": lambda x: jax.lax.scan(
        lambda y, _: (convolve(y, jnp.ones((3, 3, 2, 2))), None), x, None, 2
    )[0],
}


@pytest.mark.parametrize("name", TRUE_IMAGES)
def test_images_of_which_rows_are_no_examples(name):
    def fn(params, x):
        first = x * params.mean() if name == "1x1" else convolve(x, params)
        return TRUE_IMAGES[name](first)

    segcam.list_taps(fn, jnp.ones((3, 3, 2, 2)), jnp.ones((6, 8, 2)))
