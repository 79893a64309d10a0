"""Sliding windows: MONAI's values, whole-volume prediction where windows cannot matter."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import Execution, InputError
from segcam_jax.engine.sliding import tiling
from tests.goldens.generate_sliding import CASES, ramp, volume
from tests.networks import convolve

GOLDEN = np.load(Path(__file__).parent / "goldens" / "sliding.npz")


def by_ramp(params, window):
    return window * params[..., None]


def pointwise(params, window):
    return jnp.tanh(window @ params)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_values_are_those_of_monai(number):
    extents, roi, overlap = CASES[number]
    found = segcam.engine.sliding_window(
        by_ramp, ramp(roi), volume(extents), roi=roi, overlap=overlap
    )
    np.testing.assert_allclose(found, GOLDEN[f"case{number}"], rtol=2e-6, atol=1e-6)


def test_a_pointwise_network_sees_no_windows():
    x, params = volume((9, 6, 7)), np.float32([[1, 2, -1], [0.5, -1, 2]])
    whole = pointwise(params, jnp.asarray(x))
    for options in ({"roi": 4}, {"roi": (4, 8, 5), "overlap": 0.6}):
        found = segcam.engine.sliding_window(pointwise, params, x, **options)
        np.testing.assert_allclose(found, whole, atol=1e-6)


def test_neither_chunks_nor_lowering_change_the_result():
    x = volume((10, 8, 6))
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 2))

    def fn(params, window):
        return convolve(window, params)

    usual = segcam.engine.sliding_window(fn, kernel, x, roi=(6, 4, 6))
    for execution in (Execution(chunk_size=4), Execution(memory_limit=30_000, lowering=False)):
        found = segcam.engine.sliding_window(fn, kernel, x, roi=(6, 4, 6), execution=execution)
        np.testing.assert_allclose(found, usual, rtol=1e-6, atol=5e-6)


def test_windows_cover_the_volume_and_end_with_it():
    tiles = tiling((160, 192, 100), 96)
    starts = tiles.starts()
    assert [sorted(set(starts[:, axis].tolist())) for axis in range(3)] == [
        [0, 64],
        [0, 72, 96],
        [0, 4],
    ]
    assert tiling((90, 96), 96).padding == ((3, 3), (0, 0))


def test_what_does_not_fit_is_refused():
    x, params = volume((6, 5)), np.eye(2, dtype=np.float32)
    for options, words in (
        ({"roi": (4, 4, 4)}, "one for each of 2 axes"),
        ({"roi": 0}, "positive extent"),
        ({"overlap": 1}, "overlap=1"),
        ({"sigma": 0}, "sigma=0"),
    ):
        with pytest.raises(InputError, match=words):
            segcam.engine.sliding_window(pointwise, params, x, **options)
    with pytest.raises(InputError, match="the window's positions"):
        segcam.engine.sliding_window(lambda _, window: window.mean((0, 1)), params, x, roi=4)
    with pytest.raises(InputError, match="memory_limit=8 bytes"):
        segcam.engine.sliding_window(
            pointwise, params, x, roi=4, execution=Execution(memory_limit=8)
        )
