"""Ablation masks by index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from segcam_jax import InputError
from segcam_jax.masks import ChannelMasks, WindowMasks


def test_channel_masks():
    masks = ChannelMasks(4, -2.0)
    built = jax.vmap(masks)(jnp.arange(len(masks)))
    np.testing.assert_array_equal(built, np.ones((4, 4)) - 3 * np.eye(4))


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_windows_cover_every_position_inside_the_map(shape, window, stride):
    window = tuple(np.minimum(window, shape).tolist())
    stride = tuple(np.minimum(stride, window).tolist())
    masks = WindowMasks(shape, window, stride)
    masks.check()
    covered = np.asarray(jax.vmap(masks.covers)(jnp.arange(len(masks))))
    assert (covered.sum((1, 2)) == np.prod(window)).all()
    assert covered.any(0).all()
    scores = np.random.default_rng(0).normal(size=len(masks)).astype(np.float32)
    expected = (covered * scores[:, None, None]).sum(0) / covered.sum(0)
    np.testing.assert_allclose(masks.spread(jnp.asarray(scores)), expected, atol=1e-5)


def test_windows_in_3d():
    masks = WindowMasks((2, 3, 4), (1, 2, 2), (1, 1, 2), 0.5)
    assert masks.grid == (2, 2, 2)
    first = masks(jnp.asarray(0))
    assert first.shape == (2, 3, 4, 1)
    assert (first == 0.5).sum() == 4
    assert (first[0, :2, :2] == 0.5).all()


def test_windows_that_do_not_fit():
    for window, stride in [((3, 3), (4, 1)), ((9, 1), (1, 1)), ((1,), (1,)), ((0, 1), (1, 1))]:
        with pytest.raises(InputError):
            WindowMasks((5, 6), window, stride).check()
