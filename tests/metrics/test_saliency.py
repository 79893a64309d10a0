"""Shares of saliency by region, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segcam_jax.metrics.saliency import region_shares
from segcam_jax.types import InputError


def test_region_shares():
    saliency = jnp.array([[4.0, 0.0, 1.0], [2.0, 2.0, 9.0]])
    regions = jnp.array(
        [
            [[1, 0, 0], [0, 0, 0]],
            [[0, 1, 1], [0, 0, 0]],
            [[0, 0, 0], [1, 1, 0]],
            [[0, 0, 0], [0, 0, 0]],
        ],
        bool,
    )
    mass, density = region_shares(saliency, regions)
    np.testing.assert_allclose(mass, np.array([4, 1, 4, 0]) / 9, rtol=1e-6)
    np.testing.assert_allclose(density, np.array([4, 0.5, 2, 0]) / 6.5, rtol=1e-6)
    mass, density = region_shares(jnp.ones((2, 3)), regions[:3])
    np.testing.assert_allclose(density, 1 / 3, rtol=1e-6)
    narrow = region_shares(jnp.ones((300, 300), jnp.float16), jnp.ones((1, 300, 300), bool))
    np.testing.assert_array_equal(narrow, 1)  # Its sum, 90,000, is infinite in float16.
    mass, density = region_shares(jnp.zeros((2, 3)), regions)
    assert not mass.any()
    assert not density.any()


def test_signed_maps_have_no_shares():
    signed = jnp.array([[3.0, -1.0]])
    regions = jnp.array([[[True, False]], [[False, True]]])
    with pytest.raises(InputError, match="negative values, down to -1"):
        region_shares(signed, regions)
    traced, _ = jax.jit(region_shares)(signed, regions)
    assert np.isnan(traced).all()
    for part, expected in ((signed, [1, 0]), (-signed, [0, 1])):
        np.testing.assert_allclose(region_shares(jnp.maximum(part, 0), regions)[0], expected)
