"""Faithfulness metrics: by hand, by brute force over whole forwards, and on planted evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

import segcam_jax as segcam
from segcam_jax import Execution, metrics
from segcam_jax.masks import ablate
from segcam_jax.metrics.infidelity import squared_error
from segcam_jax.metrics.rank import rank_correlation
from segcam_jax.metrics.registry import is_defined
from segcam_jax.metrics.removal import RandomMasks, RankMasks, brought, ranks, touched
from segcam_jax.metrics.robustness import Neighbours
from segcam_jax.metrics.segments import patches
from segcam_jax.types import InputError, TargetError
from tests import goldens
from tests.support import planted
from tests.support.networks import convolve, make_input, make_params, skip_net

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def net():
    """A network with a skip, its split at the bottleneck, an image, a region, and a map there."""
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x, outputs="logits")
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:8] = True
    target = segcam.targets.region(1, mask, reduce="mean")
    return split, params, x, target, jax.random.normal(jax.random.key(5), (4, 6))


def _score(params, x, mask):
    return float(np.asarray(skip_net(params, x))[..., 1][mask].mean())


def _order(map):
    return np.argsort(-np.asarray(map).ravel(), kind="stable")


def _brute_deletion(score_of, values, order, empty, ends, *, insert=False):
    """Scores with the first so many positions of an order replaced, or the others."""
    found = []
    for end in ends:
        gone = np.zeros(values.shape[:-1], bool).ravel()
        gone[order[:end]] = True
        gone = (~gone if insert else gone).reshape(values.shape[:-1])
        found.append(score_of(np.where(gone[..., None], empty, values)))
    return np.array(found)


def test_deletion_and_insertion_are_those_of_whole_forwards(net):
    split, params, x, target, map = net
    mask = np.asarray(target.mask)
    large = jax.image.resize(map, x.shape[:-1], "linear")
    ends = [0, 16, 32, 48, 64, 80, 96]
    given = (split, params, x, target, map)
    blurred = gaussian_filter(np.asarray(x), (5, 5, 0), truncate=1.0)

    def score(image):
        return _score(params, jnp.asarray(image, jnp.float32), mask)

    for metric, baseline, empty in (
        (metrics.deletion, "zeros", 0),
        (metrics.deletion, "mean", np.asarray(x).mean((0, 1))),
        (metrics.insertion, "blur", blurred),
        (metrics.insertion, 0.5, 0.5),
    ):
        insert = metric is metrics.insertion
        found = metric(*given, steps=6, baseline=baseline)
        want = _brute_deletion(score, np.asarray(x), _order(large), empty, ends, insert=insert)
        np.testing.assert_allclose(found.scores, want, atol=2e-6)
        np.testing.assert_allclose(found.area, np.trapezoid(want, np.array(ends) / 96), 1e-5)
        whole, nothing = (want[-1], want[0]) if insert else (want[0], want[-1])
        share = (found.area - nothing) / (whole - nothing) if whole > nothing else np.nan
        np.testing.assert_allclose(found.normalised, share, rtol=1e-4)


def test_deletion_at_a_tap_is_a_row_of_masked_decodes(net):
    split, params, x, target, map = net
    activation, carry = split.encode(params, x)

    def score(value):
        return float(target(split.decode(jnp.asarray(value, jnp.float32), carry)))

    found = metrics.deletion(split, params, x, target, map, at="tap", steps=5)
    ends = [0, 5, 10, 15, 20, 24]  # The last step is the shortest.
    want = _brute_deletion(score, np.asarray(activation), _order(map), 0, ends)
    np.testing.assert_allclose(found.scores, want, atol=2e-6)
    np.testing.assert_allclose(found.fractions, np.array(ends) / 24, rtol=1e-6)

    weights = jax.random.normal(KEY, (8,))
    by_channel = metrics.deletion(split, params, x, target, weights, at="tap", steps=8).scores
    kept = np.ones(8, np.float32)
    want = [score(np.asarray(activation))]
    for channel in _order(weights):
        kept[channel] = 0
        want.append(score(np.asarray(activation) * kept))
    np.testing.assert_allclose(by_channel, want, atol=2e-6)


def test_what_may_be_removed(net):
    split, params, x, target, map = net
    mask = np.asarray(target.mask)
    large = np.asarray(jax.image.resize(map, x.shape[:-1], "linear"))

    def score(image):
        return _score(params, jnp.asarray(image, jnp.float32), mask)

    for metric, where, allowed in (
        (metrics.deletion, "inside", mask),
        (metrics.insertion, "outside", ~mask),
    ):
        order = [p for p in _order(large) if allowed.ravel()[p]]
        found = metric(split, params, x, target, map, steps=2, where=where)
        ends = [0, len(order) // 2, len(order)]
        if metric is metrics.insertion:  # The last positions go first.
            order, ends = order[::-1], ends[::-1]
        want = _brute_deletion(score, np.asarray(x), order, 0, ends)
        np.testing.assert_allclose(found.scores, want, atol=2e-6)
    one = metrics.deletion(split, params, x, target, map, steps=2, channel=1)
    without = np.asarray(x).copy()
    without[..., 1] = 0
    np.testing.assert_allclose(one.scores[-1], _score(params, without, mask), atol=2e-6)
    # Of a map with channels, those of this one order its positions, whatever lies in the others.
    both = jnp.stack([100 + 0 * map, map], -1)
    alike = metrics.deletion(split, params, x, target, both, steps=2, channel=1)
    np.testing.assert_array_equal(alike.scores, one.scores)
    np.testing.assert_array_equal(alike.fractions, one.fractions)


def test_a_region_on_another_grid_is_the_cells_that_it_touches(net):
    square = np.zeros((8, 8), bool)
    square[2:4, 2:4] = True
    want = np.zeros((4, 4), bool)
    want[1, 1] = True
    np.testing.assert_array_equal(touched(jnp.asarray(square), (4, 4)), want)
    np.testing.assert_array_equal(touched(jnp.asarray(want), (8, 8)), square)
    for pixel in range(7):  # Cells of 7/3 pixels.
        here = np.arange(7) == pixel
        cells = [7 * c / 3 < pixel + 1 and pixel < 7 * (c + 1) / 3 for c in range(3)]
        np.testing.assert_array_equal(touched(jnp.asarray(here), (3,)), cells)
    with pytest.raises(TargetError, match="give where='all'"):
        touched(jnp.asarray(square), (64,))

    split, params, x, target, map = net  # The region is rows 2 to 5 and columns 3 to 7 of 8 x 12.
    found = metrics.deletion(split, params, x, target, map, at="tap", where="inside", steps=1)
    activation, carry = split.encode(params, x)
    without = activation.at[1:3, 1:4].set(0)
    np.testing.assert_allclose(found.scores[-1], target(split.decode(without, carry)), atol=2e-6)


def linear(params, x):
    """Logits of two classes at every position, or of tokens."""
    return x @ params


@pytest.fixture(scope="module")
def tokens():
    """A network on 4 tokens of 4 channels, which scores their sum by the first weights."""
    params, x = (jax.random.normal(jax.random.key(n), (4, 4)) for n in (1, 2))
    fn = lambda params, x: linear(params, x).mean(0)  # noqa: E731
    return segcam.split(fn, "input", params, x, outputs="logits"), params, x


def test_a_map_of_one_axis_is_of_positions_or_of_channels(tokens):
    split, params, x = tokens
    target, map = segcam.targets.whole_image(0), jnp.array([0.5, 3.0, -1.0, 2.0])
    for by, shape in (("positions", (4, 1)), ("channels", (1, 4))):
        found = metrics.deletion(split, params, x, target, map, steps=4, by=by)
        place = np.argsort(_order(map)).reshape(shape)
        want = [(jnp.where(place >= end, x, 0) @ params).mean(0)[0] for end in range(5)]
        np.testing.assert_allclose(found.scores, want, atol=1e-6)
    with pytest.raises(InputError, match="give by='positions' or by='channels'"):
        metrics.deletion(split, params, x, target, map, steps=4)
    assert brought(map, (9, 4)).shape == (1, 4)
    assert brought(map, (9, 4), "positions").shape == (9,)
    assert brought(map, (4, 3)).shape == (4,)
    assert brought(map, (5, 6, 4)).shape == (1, 1, 4)
    with pytest.raises(InputError, match="expected 2 axes of positions, as"):
        brought(map, (5, 6, 4), "positions")
    with pytest.raises(InputError, match="by='rows'; choose positions or channels"):
        brought(map, (5, 6, 4), "rows")  # pyright: ignore


def test_slopes_of_channels_are_those_of_every_position():
    x, slopes = jax.random.normal(KEY, (3, 2, 2)), jnp.array([1.0, -2.0])
    split = segcam.split(lambda p, x: (x @ p).sum()[None], "input", slopes, x, outputs="logits")
    given = (split, slopes, x, segcam.targets.whole_image(0), slopes)
    np.testing.assert_allclose(metrics.infidelity(*given, key=KEY, samples=5), 0, atol=1e-9)


def test_what_cannot_be_ordered_has_no_area():
    params, x = jnp.array([[1.0, -1.0]]), 1 + jax.random.uniform(KEY, (4, 4, 1))
    split = segcam.split(linear, "input", params, x, outputs="logits")
    whole, some = (segcam.targets.region(0, np.tri(4, k=k) > 0) for k in (3, 0))
    down = -1 - jax.random.uniform(KEY, (4, 4))
    flat = jnp.where(np.tri(4) > 0, 0, down)
    for target, map, options in (
        (whole, down, {"where": "outside"}),  # There is no outside.
        (some, down, {"order": "positive"}),
        (some, flat, {"where": "inside"}),
    ):
        found = metrics.deletion(split, params, x, target, map, steps=2, **options)
        assert np.isnan([*map_leaves(found)]).all(), options
    found = metrics.deletion(split, params, x, some, flat, steps=2, where="outside")
    assert np.isfinite(found.area)
    dense = metrics.dice_deletion(split, params, x, whole, down, steps=2, where="outside")
    assert np.isnan(dense.dice)
    assert not is_defined(metrics.mask_shaped(np.ones((4, 4), bool)), False)  # But for rounding.


def map_leaves(found):
    return (value for leaf in jax.tree.leaves(found) for value in np.ravel(leaf).tolist())


def test_scores_that_are_nan_have_no_value():
    params, x = jnp.ones(()), 1 + jax.random.uniform(KEY, (3, 4, 1))

    def fn(params, x):  # Defined on the untouched image alone.
        return jnp.where(x.min() > 0, x.sum() * params, jnp.nan)[None]

    split = segcam.split(fn, "input", params, x, outputs="logits")
    given = (split, params, x, segcam.targets.whole_image(0), jnp.arange(12.0).reshape(3, 4))
    assert np.isnan(metrics.average_drop(*given).increase)
    assert np.isnan(metrics.mu_fidelity(*given, key=KEY, samples=6))
    found = metrics.sensitivity_n(*given, key=KEY, sizes=(1, 12), samples=3)
    assert np.isnan(found.mean)


def test_masks_say_what_they_remove():
    values = jax.random.normal(KEY, (3, 4, 2))
    places = ranks(values.sum(-1))[..., None]
    ends = jnp.array([0, 5, 12, 12])
    random = RandomMasks(KEY, jnp.array([1, 4]), (3, 4), (3, 4))
    cells = RandomMasks(KEY, jnp.array([2]), (4, 6), (2, 2))
    assert float((1 - cells(jnp.int32(0))).sum()) == 12
    for masks in (
        RankMasks(places, ends),
        RankMasks(places, ends, 0.0),
        RankMasks(places, jnp.array([3, 8, 12]), 1.0, False),
        RankMasks(jnp.array([1, 0]), jnp.array([1, 2])),
        random,
    ):
        base = getattr(masks, "around", 1.0)
        kept = [ablate(values, masks(jnp.int32(i))) for i in range(len(masks))]
        want = [(base * values - each).sum() for each in kept]
        np.testing.assert_allclose(masks.removed(values), want, atol=1e-5)


def _solved(image, hole):
    """The imputer's equations written one by one, in float64, by a direct solver."""
    rank = hole.ndim
    steps = [s for s in np.ndindex(*(3,) * rank) if s != (1,) * rank]
    weight = {s: 1 / sum((v - 1) ** 2 for v in s) for s in steps}
    places = [tuple(p) for p in np.argwhere(hole)]
    number = {place: i for i, place in enumerate(places)}
    matrix, right = lil_matrix((len(places),) * 2), np.zeros((len(places), image.shape[-1]))
    for place, i in number.items():
        for step in steps:
            other = tuple(p + s - 1 for p, s in zip(place, step, strict=True))
            if not all(0 <= o < n for o, n in zip(other, hole.shape, strict=True)):
                continue
            matrix[i, i] += weight[step]
            if other in number:
                matrix[i, number[other]] -= weight[step]
            else:
                right[i] += weight[step] * image[other]
    filled = np.array(image, np.float64)
    solved = spsolve(matrix.tocsr(), right).reshape(right.shape)
    for place, i in number.items():
        filled[place] = solved[i]
    return filled


@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)])
def test_imputation_is_that_of_a_direct_solver(shape):
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    hole = np.random.default_rng(1).random(shape) < 0.7
    found = metrics.impute(jnp.asarray(image), jnp.asarray(hole))
    np.testing.assert_allclose(found, _solved(image, hole), atol=1e-4)
    assert (np.asarray(found)[~hole] == image[~hole]).all()
    for dtype in (jnp.float16, jnp.bfloat16):  # Solved in float32, known values as they are.
        narrow = jnp.asarray(image + 5, dtype)
        want = _solved(np.asarray(narrow.astype(jnp.float32)), hole)
        found = metrics.impute(narrow, jnp.asarray(hole))
        assert found.dtype == dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), want, rtol=float(jnp.finfo(dtype).eps)
        )
        assert (found == narrow)[~hole].all()
    ramp = sum(
        np.arange(n).reshape([-1 if a == i else 1 for a in range(len(shape))])
        for i, n in enumerate(shape)
    ).astype(np.float32)[..., None]
    inner = np.zeros(shape, bool)
    inner[tuple(slice(1, -1) for _ in shape)] = True
    np.testing.assert_allclose(
        metrics.impute(jnp.asarray(ramp), jnp.asarray(inner)), ramp, atol=1e-4
    )
    assert np.isnan(metrics.impute(jnp.asarray(ramp), jnp.ones(shape, bool))).all()


def test_road_removes_by_percentiles(net):
    split, params, x, target, map = net
    mask, large = np.asarray(target.mask), np.asarray(jax.image.resize(map, x.shape[:-1], "linear"))
    found = metrics.road(split, params, x, target, map, key=KEY, percentiles=(30, 80), noise=0.0)
    for place, percentile in enumerate((30, 80)):
        for values, change in ((large, found.most_changes), (1 - large, found.least_changes)):
            hole = values >= np.percentile(values, percentile)  # As pytorch-grad-cam's.
            filled = jnp.asarray(_solved(np.asarray(x), hole), jnp.float32)
            want = _score(params, filled, mask) - _score(params, x, mask)
            np.testing.assert_allclose(change[place], want, atol=2e-4)
    np.testing.assert_allclose(found.combined, (found.least - found.most) / 2, rtol=1e-6)


def test_segments_go_whole():
    labels, count = patches((5, 7), 3)
    assert count == 6
    np.testing.assert_array_equal(labels[0], [0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(labels[:, 0], [0, 0, 0, 3, 3])
    params, x = planted.params(), planted.image()
    split = segcam.split(planted.classifier, "hidden", params, x, outputs="logits")
    target, map = segcam.targets.whole_image(0), planted.truth(x)
    labels, count = patches((8, 8), 4)
    sums = np.array([np.asarray(map)[np.asarray(labels) == k].sum() for k in range(count)])
    falls = np.concatenate([[0], np.cumsum(np.sort(sums)[::-1])])
    given = (split, params, x, target, map)
    aopc = metrics.region_perturbation(*given, patch=4, regions=100)
    np.testing.assert_allclose(aopc, falls.mean(), rtol=1e-5)
    left = sums.sum() - falls
    selected = metrics.selectivity(*given, patch=4)
    np.testing.assert_allclose(selected.area, np.trapezoid(left, np.arange(5) / 4), rtol=1e-5)
    # Two of the numbers have no pixel.
    segments = jnp.where(labels == 3, 5, labels)
    found = metrics.irof(*given, segments=segments, count=6, baseline="zeros")
    np.testing.assert_allclose(
        found, 1 - np.trapezoid(left / sums.sum(), np.arange(5) / 4), rtol=1e-5
    )


_OF_A_LINEAR_SCORE = (
    "sensitivity_n",
    "faithfulness_correlation",
    "mu_fidelity",
    "faithfulness_estimate",
)


def test_a_linear_score_is_told_by_its_weights():
    x = jax.random.normal(KEY, (5, 6, 2))
    weights = jax.random.normal(jax.random.key(8), (5, 6, 2))

    def fn(params, x):
        return (x * params).sum()[None]

    split = segcam.split(fn, "input", weights, x, outputs="logits")
    target = segcam.targets.whole_image(0)
    effect = (weights * x).sum(-1)
    given = (split, weights, x, target)
    for name in _OF_A_LINEAR_SCORE:
        metric = metrics.METRICS[name]
        options = {"key": KEY, "samples": 20} if metric.needs_key else {"steps": 30}
        assert metric.higher_is_better
        for map, want in ((effect, 1), (-effect, -1)):
            found = metric.values(metric.function(*given, map, **options))[name]
            np.testing.assert_allclose(found, want, atol=1e-5)
    for kind in ("noise", "squares"):
        found = metrics.infidelity(*given, weights, key=KEY, perturbation=kind, samples=5)
        np.testing.assert_allclose(found, 0, atol=1e-9)
    twice = metrics.infidelity(*given, 2 * weights, key=KEY, samples=5)
    assert twice > 1e-2
    again = metrics.infidelity(*given, 2 * weights, key=KEY, samples=5, normalise=True)
    np.testing.assert_allclose(again, 0, atol=1e-9)
    np.testing.assert_allclose(metrics.completeness(*given, effect), 0, atol=1e-5)
    np.testing.assert_allclose(metrics.completeness(*given, 3 * effect), 2, rtol=1e-4)
    sums, falls = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])  # beta = 4 / 5
    for scale in (1, 1e-24, 1e24):  # beta takes up the scale of the map
        found = squared_error(sums * scale, falls, normalise=True)
        np.testing.assert_allclose(found, (1.44 + 0.36) / 2, 1e-5)


def test_masking_by_the_map():
    """Two pixels that score 3 and 1; the map keeps the second half."""
    x = jnp.array([[[3.0], [1.0]]])
    split = segcam.split(lambda p, x: x.sum()[None] * p, "input", jnp.ones(()), x, outputs="logits")
    target = segcam.targets.whole_image(0)
    found = metrics.average_drop(split, jnp.ones(()), x, target, jnp.array([[0.0, 2.0]]))
    assert float(found.drop) == 0.75
    assert float(found.increase) == 0
    assert float(found.shown) == 0.5
    assert np.isnan(found.gain)  # The score is no probability.
    negative = metrics.average_drop(split, -jnp.ones(()), x, target, jnp.array([[0.0, 2.0]]))
    assert float(negative.drop) == 0
    assert float(negative.increase) == 1
    share = metrics.average_drop(split, jnp.float32(0.125), x, target, jnp.array([[-4.0, 1.0]]))
    np.testing.assert_allclose(share.drop, 0.75)


def test_the_values_of_torch_cams_own_tests():
    """Sums of pixels, each of which is its own map: torch-cam f44afef, tests/test_metrics.py."""

    def given(x):
        def fn(params, x):
            return params * x.sum()[None]

        split = segcam.split(fn, "input", jnp.ones(()), x[..., None], outputs="logits")
        return split, jnp.ones(()), x[..., None], segcam.targets.whole_image(0)

    four, five = jnp.array([[0.4, 0.3], [0.2, 0.1]]), jnp.array([[0.3, 0.25, 0.2, 0.15, 0.1]])
    for x, steps, fractions, left, area in (
        (four, 2, [0, 0.5, 1], [1, 0.3, 0], 0.4),
        (five, 3, [0, 0.4, 0.8, 1], [1, 0.45, 0.1, 0], 0.41),
    ):
        deleted = metrics.deletion(*given(x), x, steps=steps)
        inserted = metrics.insertion(*given(x), x, steps=steps)
        np.testing.assert_allclose(deleted.fractions, fractions, rtol=1e-6)
        np.testing.assert_allclose(deleted.scores, left, atol=1e-6)
        np.testing.assert_allclose(inserted.scores, 1 - np.array(left), atol=1e-6)
        np.testing.assert_allclose([deleted.area, inserted.area], [area, 1 - area], rtol=1e-6)
    drop = metrics.average_drop(*given(four), jnp.array([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose([drop.drop, drop.increase], [0.6, 0], atol=1e-6)


def test_other_libraries_agree():
    """torch-cam, pytorch-grad-cam and captum on given maps; see goldens/generate_metrics.py."""
    golden = dict(np.load(goldens.FOLDER / "metrics.npz"))
    params = {name: jnp.asarray(golden[name]) for name in ("kernel", "bias", "head")}

    def fn(params, x):
        hidden = jax.nn.relu(convolve(x, params["kernel"], params["bias"]))
        return hidden.mean((0, 1)) @ params["head"]

    x, small = jnp.asarray(golden["image"]), jnp.asarray(golden["small"])
    split = segcam.split(fn, "input", params, x, outputs="logits")
    logit = segcam.targets.whole_image(2)
    share = segcam.targets.whole_image(2, of="probabilities")
    of_share, of_logit = (split, params, x, share), (split, params, x, logit)

    def close(found, name, tolerance=1e-5):
        np.testing.assert_allclose(found, np.squeeze(golden[name]), rtol=1e-5, atol=tolerance)

    close(metrics.deletion(*of_share, small).area, "torchcam/deletion")
    close(metrics.insertion(*of_share, small).area, "torchcam/insertion")
    masked = metrics.average_drop(*of_logit, golden["map"] / golden["map"].max())
    # Theirs is masked by the map as it is resized, whose largest value is below 1.
    by_hand = fn(params, x * golden["map"][..., None])[2]
    whole = fn(params, x)[2]
    close(jnp.maximum(whole - by_hand, 0), "pgc/drop")
    close(jnp.maximum(whole - by_hand, 0) / jnp.abs(whole), "torchcam/drop")
    other = fn(params, x * golden["map"][..., None] / golden["map"].max())[2]
    np.testing.assert_allclose(masked.masked, other, rtol=1e-5)
    filled = metrics.road(*of_share, golden["map"], key=KEY, noise=0.0)
    close(filled.most, "pgc/road_most", 2e-5)
    close(filled.least, "pgc/road_least", 2e-5)
    close(filled.combined, "pgc/road", 2e-5)
    noise = jnp.asarray(golden["captum/perturbations"])
    sums = (noise * golden["captum/gradient"][None]).sum((1, 2, 3))
    falls = whole - jax.vmap(lambda change: fn(params, x - change)[2])(noise)
    close(squared_error(sums, falls, normalise=False), "captum/infidelity")
    close(squared_error(sums, falls, normalise=True), "captum/infidelity_normalised")

    def product(x):
        return segcam.methods.input_x_gradient(split, params, x, logit).map

    moved = jnp.stack([product(x - change) for change in noise])
    near = Neighbours(split, params, x, -noise, product(x), moved, Execution())
    close(near.sensitivities.max(), "captum/sensitivity")


def test_quantus_agrees():
    """On one map of one channel in one batch, as it is; see goldens/generate_quantus.py."""
    golden = dict(np.load(goldens.FOLDER / "quantus.npz"))
    params = {name: jnp.asarray(golden[name]) for name in ("kernel", "bias", "head")}

    def fn(params, x):
        hidden = jax.nn.relu(convolve(x, params["kernel"], params["bias"]))
        return hidden.mean((0, 1)) @ params["head"]

    x, map, mask = golden["image"], golden["map"], golden["mask"]
    split = segcam.split(fn, "input", params, x, outputs="logits")
    given = (split, params, x, segcam.targets.whole_image(2), map)
    falls = {
        first: metrics.region_perturbation(*given, patch=4, regions=6, first=first)
        for first in ("most", "least")
    }
    found = {
        "pixel_flipping": metrics.deletion(*given, steps=24).scores[1:],
        "selectivity": metrics.selectivity(*given, patch=4).scores[1:],
        "faithfulness_estimate": metrics.faithfulness_estimate(*given, steps=24),
        "top_k_intersection": metrics.top_k_intersection(map, mask, k=50),
        "sparseness": metrics.sparseness(map),
        "entropy": metrics.entropy(map),
        "spearman": rank_correlation(map, golden["other"]),
    }
    of_mask = ("pointing_game", "rank_accuracy", "mass_accuracy", "attribution_localisation", "auc")
    found |= {name: metrics.find(name).function(map, mask) for name in of_mask}
    for name, values in found.items():
        np.testing.assert_allclose(values, golden[name], rtol=1e-5, atol=1e-5, err_msg=name)
    # Theirs leaves out the image itself, of which the score has not fallen.
    for first, value in falls.items():
        np.testing.assert_allclose(value, golden[first].sum() / 7, rtol=1e-5, atol=1e-6)


def _better(metric, good, bad):
    good, bad = (float(metric.values(each)[metric.name]) for each in (good, bad))
    assert np.isfinite([good, bad]).all(), metric.name
    return good > bad if metric.higher_is_better else good < bad


def test_planted_evidence_wins_and_a_random_map_loses():
    """By all metrics of a map but those for which a linear score has more exact values, above."""
    params, x = planted.params(), planted.image()
    target = segcam.targets.whole_image(0, of="probabilities")
    split = segcam.split(planted.classifier, "hidden", params, x, outputs="logits")
    truth = planted.truth(x)
    evidence = jnp.asarray(planted.WEIGHTS[..., 0] > 0)
    region = segcam.targets.region(1, planted.REGION)
    dense = segcam.split(planted.segmentation, "hidden", params, x, outputs="logits")
    random = metrics.random_map(KEY, (8, 8)) * truth.mean()
    left_out = {"completeness", *_OF_A_LINEAR_SCORE}
    for metric in metrics.METRICS.values():
        if {"method", "labels"} & {*metric.needs} or metric.name in left_out:
            continue
        options = {"key": KEY} if metric.needs_key else {}
        if "superpixels" in metric.needs:
            options |= {"segments": patches((8, 8), 2)[0], "count": 16}
        options |= {"patch": 2} if metric.name in ("region_perturbation", "selectivity") else {}
        options |= {"k": 12} if metric.name == "top_k_intersection" else {}
        if metric.name == "infidelity":
            slopes = jnp.asarray(planted.WEIGHTS / planted.WEIGHTS.sum())
            logit = segcam.targets.whole_image(0)
            of = lambda map: metric.function(split, params, x, logit, map, **options)  # noqa: B023, E731
            assert _better(metric, of(slopes), of(random[..., None]))
        elif "network" in metric.needs:
            cut, aim = (dense, region) if "region" in metric.needs else (split, target)
            of = lambda map: metric.function(cut, params, x, aim, map, **options)  # noqa: B023, E731
            assert _better(metric, of(truth), of(random)), metric.name
        else:
            more = (evidence,) if "mask" in metric.needs else ()
            of = lambda map: metric.function(map, *more, **options)  # noqa: B023, E731
            assert _better(metric, of(truth), of(random)), metric.name


def test_maps_that_order_nothing_have_no_value(net):
    split, params, x, target, map = net
    broken = map.at[0, 0].set(jnp.nan)
    for metric in (metrics.deletion, metrics.average_drop):
        for bad in (jnp.ones_like(map), broken):
            found = metric(split, params, x, target, bad)
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.isnan(metrics.auc(broken, jnp.ones((4, 6), bool)))
    assert np.isnan(metrics.sparseness(jnp.zeros((4, 6))))
    none = metrics.average_drop(split, params, x, target, -jnp.abs(map))
    assert np.isnan(none.drop)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 97}, "there are only 96 positions to remove; give fewer"),
        ({"steps": 0}, "steps=0; give at least 1"),
        ({"baseline": "grey"}, "choose zeros, mean, blur"),
        ({"order": "up"}, "choose signed, positive or absolute"),
        ({"at": "output"}, "choose input or tap"),
        ({"where": "near"}, "choose all, inside or outside"),
        ({"channel": 2}, "channel=2; there are 2, 0 to 1"),
        ({"map": jnp.ones((3,))}, "expected 2 axes of positions, as"),
    ],
)
def test_wrong_options_are_said(net, options, said):
    split, params, x, target, map = net
    with pytest.raises(InputError, match=said):
        metrics.deletion(split, params, x, target, **{"map": map, **options})


def test_wrong_arguments_are_said(net):
    split, params, x, target, map = net
    whole = segcam.targets.whole_image(1)
    with pytest.raises(TargetError, match="the target has no region"):
        metrics.dice_deletion(split, params, x, whole, map)
    explanation = segcam.Explanation(map, jnp.zeros(()))
    with pytest.raises(InputError, match="not an Explanation; give explanation.map"):
        metrics.deletion(split, params, x, target, explanation)
    with pytest.raises(InputError, match="the mask is empty"):
        metrics.auc(map, jnp.zeros((4, 6), bool))
    with pytest.raises(InputError, match="give booleans"):
        metrics.auc(map, jnp.zeros((4, 6)))
    with pytest.raises(InputError, match="choose from deletion"):
        metrics.find("deletions")
    assert metrics.find("Dice Deletion").name == "dice_deletion"
    with pytest.raises(InputError, match="each leaves a part"):
        metrics.road(split, params, x, target, map, key=KEY, percentiles=(0,))
    labels = jnp.arange(96).reshape(8, 12) // 24 + 1
    for segments, said in ((labels, "numbered 1 to 4; with count=4 give 0 to 3"), (labels / 4, "")):
        with pytest.raises(InputError, match=said or "give integers from 0"):
            metrics.irof(split, params, x, target, map, segments=segments, count=4)
    method = segcam.methods.grad_cam
    share = segcam.targets.region(1, target.mask, of="probabilities")
    for bad, said in (
        (target, "is of logits"),
        (share, "is a sum over positions"),
        (lambda y: y.max(), "is no Target"),
    ):
        with pytest.raises(TargetError, match=f"{said}.*of='probabilities'"):
            metrics.arcc(split, params, x, bad, method, key=KEY)
    with pytest.raises(InputError, match="give at='input' or at='tap'"):
        metrics.completeness(split, params, x, target, map, at="input")


def test_metrics_run_under_jit_and_vmap(net):
    split, params, x, target, map = net
    images, maps = jnp.stack([x, x[::-1]]), jnp.stack([map, map[:, ::-1]])

    def both(x, map):
        found = metrics.deletion(split, params, x, target, map, steps=3)
        return found, metrics.road(split, params, x, target, map, key=KEY, percentiles=(50,))

    found, one = jax.jit(jax.vmap(both))(images, maps), jax.jit(both)
    for index in range(2):
        alone = one(images[index], maps[index])
        jax.tree.map(
            lambda leaf, one, index=index: np.testing.assert_allclose(leaf[index], one, atol=1e-5),
            found,
            alone,
        )


def test_volumes():
    params, x = make_params(3), make_input(3)
    split = segcam.split(skip_net, "bottleneck", params, x, outputs="logits")
    mask = np.zeros(x.shape[:-1], bool)
    mask[1:3, 2:4, 2:6] = True
    target = segcam.targets.region(1, mask)
    map = jax.random.normal(KEY, (2, 3, 4))
    large = jax.image.resize(map, x.shape[:-1], "linear")

    def score(image):
        out = skip_net(params, jnp.asarray(image, jnp.float32))
        return float(np.asarray(out)[..., 1][mask].sum())

    found = metrics.deletion(split, params, x, target, map, steps=2)
    want = _brute_deletion(score, np.asarray(x), _order(large), 0, [0, 96, 192])
    np.testing.assert_allclose(found.scores, want, rtol=1e-4, atol=1e-4)
    filled = metrics.road(split, params, x, target, map, key=KEY, percentiles=(60,), noise=0.0)
    hole = np.asarray(large) >= np.percentile(large, 60)
    want = score(_solved(np.asarray(x), hole)) - score(x)
    np.testing.assert_allclose(filled.most_changes[0], want, rtol=1e-2, atol=1e-3)
