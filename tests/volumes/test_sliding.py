"""Sliding windows: MONAI's values, whole-volume prediction where windows cannot matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import Execution, InputError
from segcam_jax.engine.sliding import tiling
from segcam_jax.volumes import stitched
from tests import goldens
from tests.goldens.generate_sliding import CASES, ramp, volume
from tests.support.networks import convolve

GOLDEN = np.load(goldens.FOLDER / "sliding.npz")


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


@pytest.mark.parametrize("windows", ["monai", "nnunet"])
def test_windows_are_counted_without_a_list_of_them(windows):
    tiles = tiling((20, 9, 4), (6, 5, 8), overlap=0.6, windows=windows)
    starts = tiles.starts()
    assert tiles.counts == tuple(len(set(along)) for along in starts.T.tolist())
    middle = np.array([10, 4, 4])
    inside = ((starts <= middle) & (middle < starts + tiles.roi)).all(1)
    assert tiles.in_the_middle() == inside.sum() > 4


def test_what_does_not_fit_is_refused():
    x, params = volume((6, 5)), np.eye(2, dtype=np.float32)
    for options, words in (
        ({"roi": (4, 4, 4)}, "one for each of 2 axes"),
        ({"roi": 0}, "positive extent"),
        ({"overlap": 1}, "overlap=1"),
        ({"sigma": 0}, "sigma=0"),
        ({"overlap": 1 - 1e-9, "windows": "nnunet", "roi": 2}, r"makes 3e\+18 windows of 2 x 2"),
    ):
        with pytest.raises(InputError, match=words):
            segcam.engine.sliding_window(pointwise, params, x, **options)
    with pytest.raises(InputError, match="the window's positions"):
        segcam.engine.sliding_window(lambda _, window: window.mean((0, 1)), params, x, roi=4)
    with pytest.raises(InputError, match="memory_limit=8 bytes"):
        segcam.engine.sliding_window(
            pointwise, params, x, roi=4, execution=Execution(memory_limit=8)
        )


def smoothed(params, window):
    return jnp.tanh(convolve(window, params) + window.mean())


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_gradients_through_the_blended_windows_are_those_of_the_whole_volume(of):
    """Against `jax.grad` of all windows of the volume, blended in a plain loop."""
    extents, roi = (11, 8, 3), (6, 4, 5)
    x, tiles = volume(extents), tiling(extents, roi)
    params = 0.2 * jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 2))
    mask = np.zeros(extents, bool)
    mask[5:7, 3:5, 1] = True
    mass, weights = tiles.mass()[..., None], tiles.weights()[..., None]

    def plain(x):
        padded, total = jnp.pad(x, (*tiles.padding, (0, 0))), jnp.zeros((*tiles.padded, 2))
        for start in tiles.starts():
            found = smoothed(params, padded[tiles.at(start)]) * weights / mass[tiles.at(start)]
            total = total.at[tiles.at(start)].add(found)
        return total[:, :, 1:-1]

    def score(x):
        shares = jax.nn.softmax(plain(x)) if of == "probabilities" else plain(x)
        return shares[..., 1][mask].mean()

    np.testing.assert_allclose(
        plain(x), segcam.engine.sliding_window(smoothed, params, x, roi=roi), atol=1e-6
    )
    wanted, gradient = jax.value_and_grad(score)(x)
    part, windows = stitched.around(x, mask, tiles)
    assert windows[0].shape == (16, 3)  # nine, filled up
    given = (params, *windows)
    network = stitched.Stitched(smoothed, roi)
    split = segcam.split(network, "input", given, part.x, outputs="logits")
    target = segcam.targets.region(1, part.mask, of=of, reduce="mean")
    found = segcam.methods.gradient(split, given, part.x, target)
    np.testing.assert_allclose(found.score, wanted, rtol=1e-5)
    ours = np.zeros_like(x)
    ours[part.source] = part.inside(np.asarray(found.attribution))
    np.testing.assert_allclose(ours, gradient, atol=1e-5 * np.abs(gradient).max())
    # One window around the instance says something else.
    one, own = stitched.around(x, mask, tiling(extents, (11, 8, 3)))
    network = stitched.Stitched(smoothed, (11, 8, 3))
    alone = segcam.split(network, "input", (params, *own), one.x, outputs="logits")
    target = segcam.targets.region(1, one.mask, of=of, reduce="mean")
    other = segcam.methods.gradient(alone, (params, *own), one.x, target)
    assert np.abs(np.asarray(other.attribution) - gradient).max() > 0.1 * np.abs(gradient).max()


def test_windows_that_an_instance_lies_in():
    tiles, mask = tiling((20, 9), 8, overlap=0.25), np.zeros((20, 9), bool)
    mask[13, 8] = True  # windows start at 0, 6, 12 and at 0, 1
    starts, own = tiles.touching(mask)
    assert starts.tolist() == [[6, 1], [12, 1]]
    assert own.all()
    mask[6:] = True
    starts, own = tiles.touching(mask)
    assert own.tolist() == [True] * 6 + [False] * 2
    part, (starts, shares) = stitched.around(np.zeros((20, 9, 1), np.float32), mask, tiles)
    assert part.x.shape == (20, 9, 1)
    assert starts[-1].tolist() == [12, 1]
    assert not shares[6:].any()
    total = np.zeros((20, 9))
    for start, share in zip(starts, shares, strict=True):
        total[tiles.at(start)] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)
