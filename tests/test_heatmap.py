"""Heatmap steps against independent implementations, and the ranges of every profile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.heatmap import PROFILES, cropped_heatmap, heatmap, resize, smooth

RAW = jax.random.normal(jax.random.key(0), (4, 6))


def interpolated(values, size):
    """Linear interpolation at half-pixel centres, borders clamped, by hand in numpy."""
    for axis, new in enumerate(size):
        old = values.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


@pytest.mark.parametrize("size", [(8, 12), (10, 13), (3, 4), (4, 6)])
def test_linear_resize(size):
    expected = interpolated(np.asarray(RAW), size)
    np.testing.assert_allclose(resize(RAW, size), expected, atol=1e-6)


def test_trilinear_resize_and_nearest():
    volume = jax.random.normal(jax.random.key(1), (2, 3, 4))
    expected = interpolated(np.asarray(volume), (5, 6, 7))
    np.testing.assert_allclose(resize(volume, (5, 6, 7)), expected, atol=1e-6)
    nearest = resize(jnp.arange(3.0), (6,), kind="nearest")
    np.testing.assert_array_equal(nearest, [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_smoothing_is_scipys(sigma):
    values = jax.random.normal(jax.random.key(2), (20, 30))
    expected = ndimage.gaussian_filter(np.asarray(values), sigma)
    np.testing.assert_allclose(smooth(values, sigma), expected, atol=1e-5)


def test_profiles_by_hand():
    raw, size = np.asarray(RAW), (8, 12)
    shifted = np.append(raw.ravel()[1:], raw.ravel()[0]).reshape(raw.shape)
    large = interpolated(raw, size)
    rectified = interpolated(np.maximum(raw, 0), size)

    def min_max(values):
        values = values - values.min()
        return values / (1e-7 + values.max())

    expected = {
        "segcam_jax": rectified / rectified.max(),
        "signed": large / np.abs(large).max(),
        "raw": large,
        "pytorch_grad_cam": min_max(interpolated(min_max(np.maximum(raw, 0)), size)),
        "captum": raw.repeat(2, 0).repeat(2, 1),
        "seg_grad_cam": np.maximum(large, 0) / large.max(),
        "fast_ablation_cam": interpolated(np.maximum(raw, 0) / raw.max(), size),
        "fast_ablation_cam_legacy": interpolated(np.maximum(shifted, 0) / raw.max(), size),
        "ablation_eurocon": rectified,
        "monai": 1 - min_max(rectified),
    }
    assert expected.keys() == PROFILES.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(segcam.heatmap(RAW, size, name), value, atol=1e-5)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("raw", [RAW, -jnp.abs(RAW), jnp.zeros((4, 6)), jnp.ones((4, 6))])
def test_heatmaps_are_finite_and_in_range(profile, raw):
    heatmap = jax.jit(lambda r: segcam.heatmap(r, (8, 12), profile, smoothing=1.0))(raw)
    assert heatmap.shape == (8, 12)
    assert jnp.isfinite(heatmap).all()
    if not PROFILES[profile].signed:
        assert heatmap.min() >= 0
    if not raw.any():
        assert not heatmap.any()


def test_errors():
    with pytest.raises(InputError, match="unknown profile 'pytorch-gradcam'; choose from pytorch_"):
        segcam.heatmap(RAW, (8, 12), "pytorch-gradcam")
    with pytest.raises(InputError, match=r"size \(8, 12, 3\) is not for a map of shape"):
        segcam.heatmap(RAW, (8, 12, 3))
    with pytest.raises(InputError, match=r"shape \(7,\); .*map\[1:\].reshape\(rows, columns\)"):
        segcam.heatmap(jnp.arange(7.0), (8, 12))
    with pytest.raises(InputError, match="sigma=-1"):
        smooth(RAW, -1.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
@pytest.mark.parametrize("values", [[[0, 0], [0, 0]], [[1, 2], [3, 4]], [[1e-7, 0], [0, 2e-7]]])
def test_no_profile_gives_nan_whatever_the_dtype(dtype, values):
    raw = jnp.asarray(values, dtype)
    for profile in PROFILES:
        shown = heatmap(raw, (3, 3), profile)
        assert shown.dtype == jnp.float32
        assert jnp.isfinite(shown).all(), profile


def test_a_narrow_map_over_padding_is_made_wide_first():
    narrow = RAW.astype(jnp.float16)
    found = cropped_heatmap(narrow, (8, 12), (7, 11))
    assert found.dtype == jnp.float32
    wide = cropped_heatmap(narrow.astype(jnp.float32), (8, 12), (7, 11))
    np.testing.assert_array_equal(found, wide)


def test_a_map_of_negative_evidence_alone_is_told():
    raw = -jnp.ones((2, 2))
    with pytest.warns(UserWarning, match="is negative.*profile='signed'"):
        shown = heatmap(raw, (4, 4))
    np.testing.assert_array_equal(shown, 0)
    heatmap(raw, (4, 4), "signed")
    heatmap(raw.at[0, 0].set(0.1), (4, 4))
    heatmap(jnp.zeros((2, 2)), (4, 4))
    jax.jit(lambda raw: heatmap(raw, (4, 4)))(raw)


def test_maps_that_are_not_finite_are_refused():
    for value in (jnp.nan, jnp.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            heatmap(jnp.full((2, 2), value), (4, 4))
        with pytest.raises(InputError, match="NaN or infinite"):
            cropped_heatmap(jnp.full((2, 2), value), (4, 4), (3, 4))
