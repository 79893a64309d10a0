"""Features of instances against values by hand, and against a loop over neighbours."""

import itertools

import numpy as np
import pytest
from scipy import stats

from segcam_jax import InputError
from segcam_jax.metrics import FIRST_ORDER, TEXTURE, instance_features


def test_first_order_by_hand():
    values = np.array([[1.0, 2, 3], [4, 90, 90]])
    mask = np.array([[True, True, True], [True, False, False]])
    found = instance_features(values, mask, levels=2)
    assert tuple(found) == (*FIRST_ORDER, *TEXTURE)
    assert [found[n] for n in ("mean", "minimum", "median", "maximum")] == [2.5, 1, 2.5, 4]
    assert found["standard_deviation"] == pytest.approx(np.sqrt(1.25))
    assert found["percentile_10"] == pytest.approx(1.3)
    assert (found["energy"], found["entropy"]) == (30, 1)  # Two bins of two.
    skewed = np.random.default_rng(0).gamma(1.0, size=(5, 6, 7))
    found = instance_features(skewed, skewed > 0)
    assert found["skewness"] == pytest.approx(stats.skew(skewed, None))
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(skewed, None, fisher=False))


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_texture_by_a_loop_over_neighbours(shape):
    """All that differ by at most 1 along two axes, of both inside, in both directions."""
    rng = np.random.default_rng(1)
    values, mask = rng.normal(size=shape), rng.random(shape) < 0.7
    inside, levels = values[mask], 4
    edges = np.linspace(inside.min(), inside.max(), levels + 1)[1:-1]
    bins, pairs = np.digitize(values, edges), []
    for position in np.argwhere(mask):
        for step in itertools.product((-1, 0, 1), repeat=len(shape)):
            moved = np.count_nonzero(step)
            other = position + step
            if moved in (1, 2) and ((other >= 0) & (other < shape)).all() and mask[tuple(other)]:
                # A neighbour along an axis lies in two of the slices of a volume.
                times = 2 if moved == 1 and len(shape) == 3 else 1
                pairs += [(bins[tuple(position)], bins[tuple(other)])] * times
    one, other = np.array(pairs).T
    found = instance_features(values, mask, levels=levels)
    assert found["contrast"] == pytest.approx(((one - other) ** 2).mean())
    assert found["dissimilarity"] == pytest.approx(abs(one - other).mean())
    assert found["homogeneity"] == pytest.approx((1 / (1 + (one - other) ** 2)).mean())
    assert found["correlation"] == pytest.approx(np.corrcoef(one, other)[0, 1])
    shares = np.bincount(one * levels + other) / len(one)
    assert found["uniformity"] == pytest.approx((shares**2).sum())


def test_what_has_no_features_is_nan_and_what_makes_no_sense_is_refused():
    values, mask = np.full((3, 4, 5), 2.0), np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = True
    found = instance_features(values, mask)
    assert (found["mean"], found["entropy"], found["energy"]) == (2, 0, 4)
    assert np.isnan([found[name] for name in ("skewness", *TEXTURE)]).all()
    tenths = instance_features(np.full((2, 5), 0.1), np.ones((2, 5), bool))
    assert np.isnan([tenths[name] for name in ("skewness", "kurtosis")]).all()
    flat = instance_features(values, mask | True)
    assert (flat["contrast"], flat["homogeneity"], flat["correlation"]) == (0, 1, 1)
    for wrong, levels in ((mask & False, 16), (mask[0], 16), (mask, 1), (mask, 256)):
        with pytest.raises(InputError):
            instance_features(values, wrong, levels=levels)
