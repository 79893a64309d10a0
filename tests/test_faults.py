"""What is wrong with an input, in one line: what was given, where it failed, what is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from PIL import Image

import segcam_jax as segcam
from segcam_jax import InputError, TapError, tap
from tests.support import own_networks
from tests.support.networks import convolve, make_input, make_params, pool, skip_net, upsample

X = np.linspace(0, 1, 6 * 8 * 3, dtype=np.float32).reshape(6, 8, 3)


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def fault(call, *arguments, **options) -> str:
    """The one line of an `InputError`."""
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    (line,) = str(raised.value).splitlines()
    return line


class Net(nnx.Module):
    """Halves its sides and doubles them."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs)])
        self.head = nnx.Conv(8, 2, (1, 1), rngs=rngs)

    def __call__(self, x):
        fine = self.layers[0](x)
        coarse = nnx.max_pool(fine, (2, 2), (2, 2))
        up = coarse.repeat(2, axis=-3).repeat(2, axis=-2)
        return self.head(jnp.concatenate([up, fine], axis=-1))


@pytest.fixture(scope="module")
def net():
    return segcam.from_nnx(Net(), batch_axis=0)


@pytest.mark.parametrize(
    ("shape", "submodule", "takes"),
    [
        ((6, 8, 1), "in the submodule 'layers/0'", "(6, 8, 3)"),
        ((5, 7, 3), "", "(6, 8, 3)"),
    ],
)
def test_channels_and_sides_that_a_model_does_not_take(net, shape, submodule, takes):
    """They were errors of Flax and of jax.lax, hundreds of frames deep."""
    told = fault(segcam.list_taps, *net, np.zeros(shape, np.float32))
    assert told.startswith(f"the model fails on x of shape {shape}")
    assert submodule in told
    assert "test_faults.py, line" in told
    assert told.endswith(f"; it takes shape {takes}")


def test_a_transparent_image_is_told_wherever_it_is_given(net):
    def split(fn, *given):
        return segcam.split(fn, "head", *given)

    for call in (lambda fn, *given: fn(*given), segcam.list_taps, split):
        told = fault(call, *net, np.zeros((6, 8, 4), np.float32))
        assert told.endswith("; it takes shape (6, 8, 3): an RGBA image without alpha, x[..., :3]")


def test_a_plain_function_is_asked_about_alike():
    def fn(params, x):
        fine = tap(convolve(x, params), "fine")
        return fine + upsample(pool(fine))

    kernel = jnp.ones((3, 3, 3, 2))
    assert fault(segcam.list_taps, fn, kernel, jnp.ones((6, 8, 5))).endswith("shape (6, 8, 3)")
    assert fault(segcam.list_taps, fn, kernel, jnp.ones((7, 8, 3))).endswith("shape (8, 8, 3)")

    def batched(params, x):
        return jax.vmap(fn, (None, 0))(params, x)

    told = fault(segcam.list_taps, batched, kernel, jnp.ones((6, 8, 3)))
    assert told.endswith(
        "(1, 6, 8, 3): a batch of one, by batch_axis=0 of `explain` or the adapter"
    )
    assert fault(segcam.list_taps, fn, kernel, jnp.ones((1, 6, 8, 3))).endswith(
        ": one example, x[0]"
    )
    nothing = fault(segcam.list_taps, lambda p, x: x["mask"], kernel, jnp.ones((6, 8, 3)))
    assert "it takes" not in nothing


def test_a_missing_entry_of_an_input():
    def fn(params, x):
        return tap(convolve(x["image"], params), "fine") * x["mask"]

    kernel, image = jnp.ones((3, 3, 3, 2)), jnp.ones((6, 8, 3))
    told = fault(segcam.list_taps, fn, kernel, {"image": image})
    assert "x['image'] of shape (6, 8, 3)" in told
    assert "KeyError: 'mask'" in told
    whole = {"image": image, "mask": image[..., :1]}
    with pytest.raises(TapError, match=r"x is 2 arrays, and the tap 'input' is one; .*fine \(6, 8"):
        segcam.split(fn, "input", kernel, whole)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (
            Image.fromarray((255 * X).astype(np.uint8)),
            "x is Image, expected an array; give np.asar",
        ),
        (X.tolist(), "x is a list of numbers, expected an array; give np.asarray(x, np.float32)"),
        ({"image": "photo.png"}, "x['image'] is str, expected an array"),
    ],
)
def test_what_is_no_array(net, x, told):
    for call in (segcam.list_taps, lambda fn, *given: fn(*given)):
        assert told in fault(call, *net, x)


def test_integers_in_any_input_are_asked_about(net):
    """Values of 0 to 255 passed for floats: padded before, in a dict, in the adapter's own call."""

    def fn(params, x):
        return tap(convolve(jnp.pad(x["image"], 1, mode="edge")[..., :3] / 1, params), "fine")[
            :6, :8
        ] * (x["label"] == 2)

    kernel, image = jnp.ones((3, 3, 3, 2)), (255 * X).astype(np.uint8)
    label = np.zeros((6, 8, 1), np.int32)
    x = {"image": image, "label": label}
    told = fault(segcam.list_taps, fn, kernel, x)
    assert told.startswith("x['image'] has dtype uint8, ")
    assert "x['image'] / 255 for [0, 1]" in told
    assert list(segcam.list_taps(fn, kernel, {**x, "image": X})) == ["fine"]
    fn, params = net
    assert fault(jax.jit(fn), params, image) == fault(segcam.split, fn, "input", params, image)
    assert jax.eval_shape(fn, params, X).shape == (6, 8, 2)


def test_an_adapter_that_was_forgotten():
    module = linen.Dense(2)
    variables = module.init(jax.random.key(0), X)
    for fn, told in (
        (module, "`fn` is Dense, a Module of flax.linen; .*from_linen"),
        (Net(), "`fn` is Net, a Module of flax.nnx; .*from_nnx"),
        (Net, "`fn` is the class Net; make a model from it, and adapt"),
    ):
        for call in (segcam.list_taps, lambda fn, *given: segcam.split(fn, "head", *given)):
            with pytest.raises(InputError, match=told):
                call(fn, variables, X)


def test_the_params_of_a_linen_module_alone():
    module, variables = own_networks.segmenter()
    fn, params = segcam.from_linen(module, variables["params"])
    told = fault(segcam.list_taps, fn, params, jnp.ones((8, 8, 1)))
    assert "without the collection 'params' (they have coarse, fine, head)" in told
    fn, params = segcam.from_linen(module, variables)
    assert jax.eval_shape(fn, params, jnp.ones((8, 8, 1))).shape == (8, 8, 3)


@pytest.mark.parametrize("axis", ["0", True, 0.0])
def test_axes_that_are_no_numbers(axis):
    told = fault(segcam.from_nnx, Net(), batch_axis=axis)
    assert told.startswith(f"batch_axis={axis!r}; give the number of an axis: batch_axis=0")
    params, x = make_params(), make_input()
    assert f"batch_axis={axis!r}; " in fault(
        segcam.split, skip_net, "encoder", params, x, batch_axis=axis
    )
    assert "channel_axis='c'" in fault(segcam.from_nnx, Net(), channel_axis="c")


def test_another_batch_axis_names_the_one_that_a_model_takes():
    model = own_networks.classifier()
    fn, params = segcam.from_nnx(model, batch_axis=1)
    assert "give batch_axis=0, or None to the adapter" in fault(
        segcam.list_taps, fn, params, jnp.ones((16, 16, 3))
    )
