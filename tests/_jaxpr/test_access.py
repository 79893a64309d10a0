"""What each primitive reads: windows of outputs and of changes, everywhere, against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segcam_jax._jaxpr import changes, constants, graph, spans, windows
from segcam_jax._jaxpr.spans import Span, Windowed

NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolution(shape, strides=(1, 1), padding="SAME", left=(1, 1), right=(1, 1), groups=1):
    def fn(x):
        kernel = jnp.cos(jnp.arange(float(np.prod(shape)))).reshape(shape)
        numbers = lax.conv_dimension_numbers((1, *x.shape), shape, NUMBERS)
        return lax.conv_general_dilated(
            x[None], kernel, strides, padding, left, right, numbers, groups
        )[0]

    return fn


def pooling(kind, initial, width, strides, padding="VALID", **dilation):
    return lambda x: lax.reduce_window(
        x, initial, kind, (width, width, 1), (*strides, 1), padding, **dilation
    )


def shuffled(x):
    """Channels become positions, as a pixel shuffle has it."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)


# Functions `h w 4 -> h w 4`, of any extents.
ANY = {
    "convolution": convolution((3, 3, 4, 4)),
    "strided": convolution((3, 2, 4, 4), (2, 1), ((1, 2), (0, 0))),
    "dilated": convolution((2, 3, 4, 4), right=(2, 1)),
    "transposed": convolution((3, 3, 4, 4), (1, 1), ((1, 2), (2, 1)), (2, 2)),
    "transposed and strided": convolution((3, 3, 4, 4), (2, 1), ((1, 2), (2, 1)), (3, 1)),
    "depthwise": convolution((3, 3, 1, 4), groups=4),
    "grouped": convolution((3, 3, 2, 4), groups=2),
    "largest": pooling(lax.max, -np.inf, 2, (2, 1)),
    "average": pooling(lax.add, 0.0, 3, (1, 2), "SAME"),
    "spread pooling": pooling(lax.add, 0.0, 2, (1, 1), window_dilation=(2, 2, 1)),
    "spread values": pooling(lax.add, 0.0, 2, (1, 1), base_dilation=(2, 1, 1)),
    "padded": lambda x: lax.pad(x, jnp.float32(2), ((2, -1, 0), (-1, 3, 1), (0, 0, 0))),
    "reflected": lambda x: jnp.pad(x, ((2, 1), (1, 2), (0, 0)), mode="reflect"),
    "every second": lambda x: x[1::2, :-1],
    "turned": lambda x: x[::-1],
    "swapped": lambda x: jnp.swapaxes(x, 0, 1),
    "shuffled": lambda x: jnp.tile(shuffled(x), (1, 1, 4)),
    "repeated": lambda x: jnp.repeat(x, 3, 1),
    "folded": lambda x: x.reshape(-1, x.shape[1] * 2, 2) @ jnp.ones((2, 4)),
    "summed up": lambda x: jnp.cumsum(x, 0),
    "split": lambda x: jnp.concatenate(jnp.split(x, [1, 3], 2)[::-1], 2),
    "linear": lambda x: jax.image.resize(x, (5, 11, x.shape[-1]), "linear"),
    "nearest": lambda x: jax.image.resize(x, (11, 5, x.shape[-1]), "nearest"),
    "taken": lambda x: jnp.take(x, np.array([3, 0, 0, 2]), 1),
    "one row taken": lambda x: x * jnp.take(x, 2, 1)[:, None],
    "indexed": lambda x: x[
        np.array([0, 2, 1, 3])[:, None, None], np.arange(3), np.arange(4)[:, None]
    ].swapaxes(1, 2),
    "normalised": lambda x: jax.nn.softmax(x),
    "centred": lambda x: x - x.mean(0, keepdims=True) + x.max((0, 1), keepdims=True),
    "squared": lambda x: jnp.einsum("hwc,hwd->hwd", x, jnp.cos(x)),
    "cut": lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x[0, 0]) // 2, 3, 0),
}
EXTENTS = (8, 7, 4)


def chains():
    """Each function, and some one after the other, drawn at random."""
    names, drawn = list(ANY), np.random.default_rng(0)
    yield from ([name] for name in names)
    yield from (list(drawn.choice(names, 3)) for _ in range(4))


def traced(names):
    def fn(x):
        for name in names:
            x = jnp.tanh(ANY[name](x))
        return x

    whole, jaxpr = graph.flattened(fn, jax.ShapeDtypeStruct(EXTENTS, jnp.float32))
    consts = graph.constants_of(whole)
    equations = constants.as_literals(jaxpr.eqns, jaxpr.constvars, consts)
    return fn, jaxpr.replace(eqns=equations), consts


def places_of(shape, sizes):
    """Every corner of a window of two of three axes, `n 3`."""
    grid = [np.arange(n - size + 1) for n, size in zip(shape[:2], sizes, strict=True)]
    return np.array([[*corner, 0] for corner in itertools.product(*grid)], np.int32)


def compared(case):
    """What a case finds and what is right, for every function and chain, in one program."""
    x = jax.random.normal(jax.random.key(0), EXTENTS)
    pairs = jax.jit(lambda x: {" ".join(names): case(x, *traced(names)) for names in chains()})(x)
    for name, (found, expected) in pairs.items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_window_of_the_output_needs_what_it_reads_and_no_more():
    """Windows of 2 by 3 positions, each from its part of the input alone."""

    def case(x, fn, jaxpr, consts):
        shape = jaxpr.outvars[0].aval.shape
        sizes = (min(2, shape[0]), min(3, shape[1]))
        opened = jaxpr.replace(constvars=(), invars=[*jaxpr.invars, *jaxpr.constvars])
        plan, whole = windows.plan(opened, (*sizes, 4)), fn(x)

        def both(corner):
            part = plan.narrowed(x, corner)
            return plan.run([part, *consts], corner), lax.dynamic_slice(whole, corner, (*sizes, 4))

        return jax.vmap(both)(places_of(shape, sizes))

    compared(case)


@pytest.mark.parametrize("sizes", [(2, 1, 4), (8, 7, 1)])
def test_a_window_of_the_input_changes_what_reads_it_and_no_more(sizes):
    """Windows of positions, and of channels: 0 around, and whatever results of that."""

    def case(x, fn, jaxpr, consts):
        starts = [np.arange(n - size + 1) for n, size in zip(EXTENTS, sizes, strict=True)]
        axes = zip(range(3), starts, sizes, EXTENTS, strict=True)
        window = tuple(Span(a, at, size) if size < n else None for a, at, size, n in axes)
        plan = changes.plan(jaxpr, window)
        record = plan.record(consts, [])

        def both(*corner):
            places = dict(enumerate(corner))
            patch = spans.narrow(spans.all_of(x), window, places)
            around = spans.widened(Windowed(patch, window, EXTENTS), (None,) * 3, places)
            return plan.run(record, patch, places)[0], fn(around.array)

        return jax.vmap(both)(*np.array([*itertools.product(*starts)], np.int32).T)

    compared(case)


def test_windows_of_what_is_in_the_table_are_small():
    """How many rows of the input 2 rows of the output need, and 2 rows of it change; 0: all."""
    expected = {
        "convolution": (4, 4),
        "strided": (5, 2),
        "dilated": (4, 4),
        "transposed": (2, 5),
        "depthwise": (4, 4),
        "largest": (4, 2),
        "average": (4, 4),
        "every second": (3, 1),
        "turned": (2, 2),
        "shuffled": (2, 4),
        "repeated": (2, 2),
        "folded": (2, 2),
        "summed up": (0, 0),
        "split": (2, 2),
        "nearest": (2, 3),
        "normalised": (2, 2),
        "centred": (0, 0),
    }
    found = {}
    for name in expected:
        _, jaxpr, _ = traced([name])
        (first, *_), (out,) = jaxpr.invars, jaxpr.outvars
        needs = windows.plan(jaxpr, (2, *out.aval.shape[1:])).windows[first][0]
        window = (Span(0, np.arange(7), 2), None, None)
        change = changes.plan(jaxpr, window).changed[out][0]
        found[name] = tuple(0 if span is None else span.size for span in (needs, change))
    assert found == expected
