"""The CPU rewrites against XLA's own convolutions, values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.lowering import lowered

KEYS = jax.random.split(jax.random.key(0), 2)


def compared(fn, *args):
    fast = jax.jit(lowered(jax.make_jaxpr(fn)(*args)))
    expected = jax.jit(fn)(*args)
    np.testing.assert_allclose(fast(*args)[0], expected, rtol=1e-4, atol=1e-4)

    def score(run):
        return lambda *a: (
            run(*a) * jnp.linspace(-1, 1, expected.size).reshape(expected.shape)
        ).sum()

    ours = jax.jit(jax.grad(score(lambda *a: fast(*a)[0]), argnums=(0, 1)))(*args)
    theirs = jax.jit(jax.grad(score(fn), argnums=(0, 1)))(*args)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("strides", "dilation", "padding"), list(itertools.product([1, 2], [1, 2], ["SAME", "VALID"]))
)
def test_convolutions_in_2d(strides, dilation, padding):
    x = jax.random.normal(KEYS[0], (2, 7, 9, 3))
    w = jax.random.normal(KEYS[1], (3, 2, 3, 4))

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (strides, 1),
            padding,
            rhs_dilation=(1, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    compared(fn, x, w)


def _padding_of(fn, *args):
    lowered_jaxpr = jax.make_jaxpr(lowered(jax.make_jaxpr(fn)(*args)))(*args).jaxpr
    (found,) = [e for e in lowered_jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    return tuple(found.params["padding"])


@pytest.mark.parametrize(
    ("extents", "kernel", "dilation", "padding"),
    [
        ((1, 4, 11), (3, 3), 1, ((0, 0), (0, 1))),
        ((1, 12, 9), (2, 1), 1, ((0, 1), (0, 0))),
        ((2, 12), (3,), 2, ((0, 1),)),
        ((1, 9, 9), (3, 3), 1, ((0, 0), (0, 0))),  # An eighth more would be too much.
        ((1, 11, 11), (1, 1), 1, None),  # A product: no convolution is left.
    ],
)
def test_convolutions_without_padding_get_some_along_their_longest_axis(
    extents, kernel, dilation, padding
):
    x = jax.random.normal(KEYS[0], (*extents, 3))
    w = jax.random.normal(KEYS[1], (*kernel, 3, 4))
    letters = "HW"[-len(kernel) :]

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (1,) * len(kernel),
            "VALID",
            rhs_dilation=(dilation,) * len(kernel),
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )

    compared(fn, x, w)
    if padding is not None:
        assert _padding_of(fn, x, w) == padding


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_convolutions_of_one_position(strides):
    x = jax.random.normal(KEYS[0], (2, 7, 9, 3))
    w = jax.random.normal(KEYS[1], (1, 1, 3, 4))

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x, w, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    compared(fn, x, w)


def test_transposed_and_channels_first():
    x = jax.random.normal(KEYS[0], (1, 3, 5, 6))
    w = jax.random.normal(KEYS[1], (4, 3, 2, 2))

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            [(1, 1), (1, 1)],
            lhs_dilation=(2, 2),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )

    compared(fn, x, w)


@pytest.mark.parametrize(("strides", "channels"), [(1, 2), (2, 2), (1, 17)])
def test_3d_over_depth(strides, channels):
    """Of few channels as one convolution of what the taps along depth read, else one a tap."""
    x = jax.random.normal(KEYS[0], (2, 5, 6, 4, channels))
    w = jax.random.normal(KEYS[1], (3, 3, 3, channels, 3)) / channels

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (strides,) * 3, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )

    compared(fn, x, w)
    fast = jax.make_jaxpr(lowered(jax.make_jaxpr(fn)(x, w)))(x, w).jaxpr
    count = sum(e.primitive.name == "conv_general_dilated" for e in fast.eqns)
    assert count == (1 if channels == 2 else 3)


@pytest.mark.parametrize("strides", [1, 2])
def test_depthwise(strides):
    x = jax.random.normal(KEYS[0], (2, 7, 8, 5))
    w = jax.random.normal(KEYS[1], (3, 3, 1, 5))

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (strides,) * 2,
            "SAME",
            feature_group_count=5,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    compared(fn, x, w)


def test_grouped_convolutions_calls_and_control_flow_are_left_as_they_are():
    x = jax.random.normal(KEYS[0], (1, 6, 6, 4))
    w = jax.random.normal(KEYS[1], (3, 3, 2, 4))

    def fn(x, w):
        y = jax.lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            "SAME",
            feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = jax.jit(jax.nn.relu)(y)
        return jax.lax.scan(lambda z, _: (jnp.sin(z), None), y, None, length=2)[0]

    compared(fn, x, w)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "channels"),
    [
        ((3, 3, 3), (2, 2, 2), ((1, 2), (1, 2), (1, 2)), 2),
        ((3, 2, 1), (2, 3, 2), ((0, 0), (2, -1), (1, 1)), 9),
        ((4, 3, 3), (1, 2, 1), ((3, 3), (-1, 4), (1, 1)), 2),
        ((4, 3, 3), (1, 2, 1), ((3, 3), (-1, 4), (1, 1)), 9),
    ],
)
def test_transposed_3d(kernel, dilation, padding, channels):
    x = jax.random.normal(KEYS[0], (2, 3, 4, 5, 3))
    w = jax.random.normal(KEYS[1], (*kernel, 3, channels))

    def fn(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1, 1), padding, dilation, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )

    compared(fn, x, w)


def _convolutions(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for body in graph.bodies(equation):
            yield from _convolutions(body)


def test_convolutions_inside_of_loops_and_branches():
    """In 3D, which become 2D: in a scan, its gradient too, a while loop and a condition."""
    x = jax.random.normal(KEYS[0], (1, 3, 4, 4, 2))
    w = 0.3 * jax.random.normal(KEYS[1], (2, 3, 3, 3, 2, 2))
    numbers = ("NDHWC", "DHWIO", "NDHWC")

    def step(x, w):
        y = jax.lax.conv_general_dilated(x, w, (1, 1, 1), "SAME", dimension_numbers=numbers)
        return jnp.tanh(y), None

    def scanned(x, w):
        return jax.lax.scan(jax.checkpoint(step), x, w)[0]

    def branched(x, w):
        y = jax.lax.cond(x.sum() < 1e3, lambda: step(x, w[0])[0], lambda: x)
        return jax.lax.fori_loop(0, 2, lambda at, y: step(y, w[at])[0], y)

    for fn in (jax.value_and_grad(lambda x, w: scanned(x, w).sum()), branched):
        traced = jax.make_jaxpr(fn)(x, w)
        fast = jax.make_jaxpr(lowered(traced))(x, w)
        ranks = {each.invars[0].aval.ndim for each in _convolutions(fast.jaxpr)}
        assert ranks == {4}
        assert {e.invars[0].aval.ndim for e in _convolutions(traced.jaxpr)} == {5}
        found, expected = jax.jit(lowered(traced))(x, w), jax.tree.leaves(jax.jit(fn)(x, w))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
