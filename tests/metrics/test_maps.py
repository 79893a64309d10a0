"""Metrics of the map alone, on a mask, under noise and under random parameters."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from skimage.metrics import structural_similarity
from sklearn.metrics import roc_auc_score

import segcam_jax as segcam
from segcam_jax import engine, metrics
from segcam_jax.metrics.randomisation import layers_of
from segcam_jax.metrics.readings import reader
from segcam_jax.metrics.robustness import Neighbours, _relative
from segcam_jax.types import Explanation, InputError, TargetError
from tests.support import planted
from tests.support.networks import make_input, make_params, skip_net

KEY = jax.random.key(3)
MAP = jnp.array([[4.0, 1.0, 0.0], [3.0, -2.0, 2.0]])
MASK = np.array([[True, False, False], [True, True, False]])


def test_localisation_by_hand():
    assert float(metrics.pointing_game(MAP, MASK)) == 1
    assert float(metrics.pointing_game(-MAP, ~MASK)) == 0
    np.testing.assert_allclose(metrics.rank_accuracy(MAP, MASK), 2 / 3)
    np.testing.assert_allclose(metrics.mass_accuracy(MAP, MASK), 7 / 10)
    np.testing.assert_allclose(metrics.attribution_localisation(MAP, MASK), 9 / 12)
    np.testing.assert_allclose(metrics.top_k_intersection(MAP, MASK, k=2), 1)
    np.testing.assert_allclose(metrics.top_k_intersection(MAP, MASK, k=100), 0.5)
    of_itself = metrics.rank_accuracy(jnp.asarray(MASK, jnp.float32), MASK)
    assert float(of_itself) == 1
    labels = jnp.array([[1, 0, 0], [2, 2, 0]])
    shares = metrics.per_instance(metrics.mass_accuracy, MAP, labels, 3)
    np.testing.assert_allclose(shares, [0.4, 0.3, np.nan])
    many = metrics.per_instance(metrics.mass_accuracy, MAP, labels.astype(jnp.uint8), 258)
    np.testing.assert_allclose(many, [0.4, 0.3, *[np.nan] * 256])


def test_equal_values_count_as_an_order_by_chance_does():
    """In float64: the mean over many orders of the ties, drawn at random."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (5, 6)).astype(np.float32)
    mask = np.zeros((5, 6), bool)
    mask[:2, :4] = True
    inside = mask.ravel()
    orders = [np.lexsort((rng.random(30), -values.ravel())) for _ in range(20000)]
    for found, count in (
        (metrics.rank_accuracy(values, mask), 8),
        (metrics.top_k_intersection(values, mask, k=14), 14),
    ):
        want = np.mean([inside[order[:count]].mean() for order in orders])
        np.testing.assert_allclose(found, want, atol=5e-3)
    # A map of one value above zeros knows no corner from another.
    peak = jnp.zeros((6, 6)).at[5, 5].set(1.0)
    corners = np.zeros((2, 6, 6), bool)
    corners[0, :2, :2] = corners[1, :2, 3:5] = True
    found = [float(metrics.rank_accuracy(peak, corner)) for corner in corners]
    np.testing.assert_allclose(found, 3 * (4 / 35) / 4, rtol=1e-6)


def test_the_pointing_game_may_miss_by_some_pixels_and_ties_are_an_option():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    near = jnp.zeros((9, 9)).at[2, 3].set(1.0)  # sqrt(5) away
    assert [float(metrics.pointing_game(near, mask, tolerance=n)) for n in (0, 2, 3)] == [0, 0, 1]
    both = near.at[4, 4].set(1.0)
    assert float(metrics.pointing_game(both, mask)) == 1
    assert float(metrics.pointing_game(both, mask, ties=False)) == 0


def test_auc_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    values = random.integers(0, 5, (6, 7)).astype(np.float32)  # With ties.
    mask = random.random((6, 7)) < 0.3
    want = roc_auc_score(mask.ravel(), values.ravel())
    np.testing.assert_allclose(metrics.auc(jnp.asarray(values), mask), want, rtol=1e-6)
    assert np.isnan(jax.jit(metrics.auc)(jnp.asarray(values), jnp.zeros((6, 7), bool)))


def test_maps_of_other_extents_are_resized_to_the_mask():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    map = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    large = jax.image.resize(map, (4, 4), "linear")
    np.testing.assert_allclose(
        metrics.mass_accuracy(map, mask), metrics.mass_accuracy(large, mask), rtol=1e-6
    )


def test_complexity_by_hand():
    one, even = jnp.zeros(8).at[3].set(-2.0), jnp.full(8, 0.3)
    np.testing.assert_allclose(metrics.sparseness(one), 7 / 8)
    np.testing.assert_allclose(metrics.sparseness(even), 0, atol=1e-6)
    np.testing.assert_allclose(metrics.entropy(one), 0, atol=1e-6)
    np.testing.assert_allclose(metrics.entropy(even), np.log(8), rtol=1e-6)
    np.testing.assert_allclose(metrics.entropy(even, relative=True), 1, rtol=1e-6)
    # Sums over maps of float16 leave its range.
    many = jnp.full((300, 300), 1.0, jnp.float16).at[:150].set(0.5)
    values = np.sort(np.asarray(many, np.float64).ravel())
    gini = ((2 * np.arange(1, 90001) - 90001) * values).sum() / (90000 * values.sum())
    np.testing.assert_allclose(metrics.sparseness(many), gini, rtol=1e-4)
    share = values / values.sum()
    np.testing.assert_allclose(metrics.entropy(many), -(share * np.log(share)).sum(), rtol=1e-4)
    assert float(metrics.effective_complexity(one)) == 1
    assert float(metrics.effective_complexity(jnp.array([1.0, 1e-3, 1e-6]))) == 2


def test_similarity_by_hand():
    a = jax.random.normal(KEY, (12, 13))
    np.testing.assert_allclose(metrics.ssim(a, a), 1, rtol=1e-5)
    other = a + jax.random.normal(jax.random.key(2), a.shape)
    reach = float(jnp.maximum(a, other).max() - jnp.minimum(a, other).min())
    like = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": reach}
    _, full = structural_similarity(np.asarray(a), np.asarray(other), full=True, **like)
    np.testing.assert_allclose(metrics.ssim(a, other), full.mean(), rtol=1e-4)
    for scale in (1e-24, 1e24):
        small = metrics.ssim(a * scale, other * scale)
        np.testing.assert_allclose(small, full.mean(), rtol=1e-4)
    far = (np.asarray(each, np.float32) + np.float32(3000) for each in (a, other))
    far = [each.astype(np.float64) for each in far]
    like["data_range"] = np.max(far) - np.min(far)
    _, full = structural_similarity(*far, full=True, **like)
    found = metrics.ssim(*(jnp.asarray(each, jnp.float32) for each in far))
    np.testing.assert_allclose(found, full.mean(), rtol=1e-4)
    b = a + 0.5 * jax.random.normal(jax.random.key(1), a.shape)
    want = np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]
    np.testing.assert_allclose(metrics.correlation(a, b), want, rtol=1e-5)
    np.testing.assert_allclose(metrics.correlation(a * 1e-30, b * 1e-30), want, rtol=1e-4)
    assert np.isnan(metrics.correlation(a, jnp.full_like(a, 0.1)))
    np.testing.assert_allclose(
        metrics.correlation(np.arange(4), np.array([0, 1, 2, 5])), 8 / 70**0.5
    )


@engine.compiled
def constant(split, params, x, target):
    """A map that knows no image."""
    return Explanation(MAP, target(split.decode(*split.encode(params, x))))


@engine.compiled
def edges(split, params, x, target):
    """A map of the image alone: it knows no network."""
    return Explanation(jnp.abs(jnp.diff(x[..., 0], axis=0)), jnp.zeros(()))


@engine.compiled
def itself(split, params, x, target):
    """The image as the map: its change is the noise."""
    return Explanation(x[..., 0], jnp.zeros(()))


@pytest.fixture(scope="module")
def simple():
    x = planted.image()
    split = segcam.split(planted.classifier, "hidden", planted.params(), x, outputs="logits")
    return split, planted.params(), x, segcam.targets.whole_image(0)


@pytest.mark.parametrize("scale", [1e-24, 1e24])
def test_sensitivity_does_not_depend_on_the_scale_of_maps(scale):
    maps = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32) * np.float32(scale)
    none: Any = None
    first, both = jnp.asarray(maps[0]), jnp.asarray(maps)
    found = Neighbours(none, none, none, none, first, both, engine.Execution())
    np.testing.assert_allclose(found.sensitivities, [0, np.sqrt(10) / 5], rtol=1e-6)


def test_relative_changes_of_narrow_activations_are_those_of_wide_ones():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(300, 300)).astype(np.float16)
    moved = (whole + np.float16(0.01) * rng.normal(size=whole.shape)).astype(np.float16)
    wide = [each.astype(np.float64) for each in (moved, whole)]
    want = np.linalg.norm((wide[0] - wide[1]) / np.where(wide[1] == 0, np.inf, wide[1]))
    found = _relative(jnp.asarray(moved)[None], jnp.asarray(whole))
    np.testing.assert_allclose(found[0], want, rtol=1e-4)


def test_robustness_by_hand(simple):
    names = ("max_sensitivity", "average_sensitivity", "local_lipschitz")
    stable = ("input", "output", "representation")
    for name in (*names, *(f"relative_{each}_stability" for each in stable)):
        assert float(getattr(metrics, name)(*simple, constant, key=KEY, samples=3)) == 0, name
    most, mean = (
        float(getattr(metrics, name)(*simple, itself, key=KEY, samples=6, radius=0.1))
        for name in names[:2]
    )
    # Even noise of 0.1 has a deviation of 0.058; the root mean square of the values is 2.
    assert 0.02 < mean < most < 0.04
    np.testing.assert_allclose(
        metrics.local_lipschitz(*simple, itself, key=KEY, samples=3), 1, rtol=1e-4
    )
    same = metrics.relative_input_stability(*simple, itself, key=KEY, samples=3)
    np.testing.assert_allclose(same, 1, rtol=1e-4)
    same = metrics.relative_representation_stability(*simple, itself, key=KEY, samples=3)
    np.testing.assert_allclose(same, 1, rtol=1e-4)  # What is tapped is the image.


def test_layers_stand_in_the_order_in_which_they_are_computed():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "bottleneck", params, x)
    names = [name for name in layers_of(split, params) if name != "['bias']"]
    assert names == [f"['{name}']" for name in ("down", "deep", "up", "head")]

    def nested(params, x):
        for layer in ("second", "first", "last"):
            x = x @ params[layer]["kernel"] + params[layer]["bias"][None]
        return x[0]

    layer = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    many = dict.fromkeys(("first", "last", "second"), layer)
    cut = segcam.split(nested, "input", many, jnp.ones((1, 3)))
    assert list(layers_of(cut, many)) == ["['second']", "['first']", "['last']"]
    with pytest.raises(InputError, match="no parameters"):
        layers_of(segcam.split(lambda p, x: x[0], "input", {}, jnp.ones((1, 3))), {})


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, lambda fn: jax.jit(jax.jit(fn))])
def test_layers_in_calls_come_in_the_order_of_computation(call):
    weights = {"a_head": jnp.ones((2, 2)), "m_scale": jnp.ones((2, 2)), "z_stem": jnp.ones((2, 2))}

    def fn(params, x):
        hidden = jax.nn.relu(x @ (params["z_stem"] * params["m_scale"]))
        return hidden @ params["a_head"]

    cut = segcam.split(lambda *given: call(fn)(*given), "input", weights, jnp.ones((3, 2)))
    assert list(layers_of(cut, weights)) == ["['m_scale']", "['z_stem']", "['a_head']"]


class _Signed:
    sign = 1.0

    def explain(self, split, params, x, target):
        return edges(split, params, self.sign * jnp.maximum(self.sign * x, 0), target)

    __call__ = explain


def test_what_can_be_called_is_a_method_and_is_read_anew():
    x = jnp.array([[[1.0], [-2.0]], [[3.0], [-4.0]]])
    split = segcam.split(lambda params, x: x * params, "input", jnp.ones(()), x)
    target, signed = segcam.targets.whole_image(0, outputs="logits"), _Signed()

    def kept(split, params, x, target):  # Reads what changes, and is the same object.
        return signed(split, params, x, target)

    def of(method, key=KEY):
        options = {"key": key, "samples": 1, "radius": 1e-3}
        return float(metrics.average_sensitivity(split, jnp.ones(()), x, target, method, **options))

    before = of(kept)
    assert [of(signed), of(signed.explain)] == [before] * 2
    assert of(jax.jit(edges, static_argnums=0)) > 0
    signed.sign = -1.0
    after = of(lambda *given: signed(*given))
    assert after != before
    assert of(kept) == of(signed) == after
    inside = jax.jit(
        lambda key: metrics.average_sensitivity(
            split, jnp.ones(1), x, target, functools.partial(_keyed, key=key), key=KEY, samples=1
        )
    )
    assert [float(inside(jax.random.key(seed))) for seed in (1, 1)] == [0, 0]


def _keyed(split, params, x, target, *, key):
    return edges(split, params, jax.random.normal(key, x.shape), target)


def test_a_metric_gives_its_program():
    x, target = jnp.ones((2, 2, 1)), segcam.targets.whole_image(0, outputs="logits")
    split = segcam.split(lambda params, x: x * params, "input", jnp.ones(()), x)
    map = jnp.arange(4.0).reshape(2, 2)
    program = metrics.deletion.program(split, jnp.ones(()), x, target, map, steps=4)
    assert program.executable is not None


def test_randomisation_finds_maps_that_know_no_network():
    params, x = make_params(), make_input()
    split = segcam.split(skip_net, "decoder", params, x, outputs="logits")
    target = segcam.targets.whole_image(1)
    traces = []

    @engine.compiled
    def counted(split, params, x, target):
        traces.append(1)
        return segcam.methods.grad_cam(split, params, x, target)

    found = metrics.parameter_randomisation(split, params, x, target, counted, key=KEY)
    assert len(traces) == 1  # One program for all layers.
    assert found.layers[0] == "['head']"
    assert len(found.spearman) == len(found.layers) == 5
    assert float(found.last) < 0.9
    head = metrics.parameter_randomisation(
        split, params, x, target, counted, key=KEY, independent=True
    )
    np.testing.assert_array_equal(head.maps[0], found.maps[0])
    np.testing.assert_allclose(found.fractions, [0.2, 0.4, 0.6, 0.8, 1])
    assert head.fractions is None
    assert not np.array_equal(head.maps[1], found.maps[1])
    blind = metrics.parameter_randomisation(split, params, x, target, edges, key=KEY)
    np.testing.assert_allclose(blind.spearman, 1, rtol=1e-6)
    np.testing.assert_allclose(blind.ssim, 1, rtol=1e-5)
    assert float(metrics.efficient_mprt(split, params, x, target, edges, key=KEY)) == 0
    assert float(metrics.random_class(split, params, x, target, edges, key=KEY)) > 0.999
    assert float(metrics.random_class(split, params, x, target, counted, key=KEY)) < 0.9
    zeros = metrics.parameter_randomisation(
        split, params, x, target, counted, key=KEY, draw=lambda key, values: values
    )
    np.testing.assert_allclose(zeros.spearman, 1, rtol=1e-6)
    with pytest.raises(TargetError, match="no other class"):
        metrics.random_class(split, params, x, lambda y: y.sum(), edges, key=KEY)


def test_arrays_of_a_layer_lie_together_in_boxes_too():
    made = {"norm": nnx.BatchNorm(2, rngs=nnx.Rngs(0)), "head": nnx.Linear(2, 3, rngs=nnx.Rngs(0))}
    params: Any = {name: nnx.state(module) for name, module in made.items()}
    split: Any = SimpleNamespace(parameter_order=tuple(range(len(jax.tree.leaves(params)))))
    found = {name: len(members) for name, members in layers_of(split, params).items()}
    assert found == {"['head']": 2, "['norm']": 4}
    alone: Any = SimpleNamespace(parameter_order=(0,))
    assert layers_of(alone, [jnp.ones(2)]) == {"[0]": [0]}


def test_arcc_by_its_parts(simple):
    split, params, x, _ = simple
    target = segcam.targets.whole_image(0, of="probabilities")
    found = metrics.arcc(split, params, x, target, segcam.methods.grad_cam, key=KEY)
    parts = [found.coherency, 1 - found.complexity, found.road]
    assert 0 < float(found.arcc) < 1
    np.testing.assert_allclose(found.arcc, 3 / sum(1 / (float(p) + 1e-8) for p in parts), rtol=1e-5)


def _segmented(seed=0):
    x, params = planted.image(seed), planted.params()
    split = segcam.split(planted.segmentation, "hidden", params, x, outputs="logits")
    return split, params, x, segcam.targets.region(1, planted.REGION)


def test_dice_curves_read_each_output_in_four_ways():
    split, params, x, target = _segmented()
    truth = planted.truth(x)
    order = np.argsort(-np.ravel(truth), kind="stable")
    found = metrics.dice_deletion(split, params, x, target, truth, steps=8)
    rows = {name: [] for name in found.curves}
    for end in range(0, 65, 8):
        image = np.ravel(x).copy()
        image[order[:end]] = 0
        out = np.asarray(planted.segmentation(params, jnp.asarray(image.reshape(x.shape))))
        share = np.asarray(jax.nn.softmax(jnp.asarray(out), -1))
        now = out.argmax(-1) == 1
        rows["logit"].append(out[..., 1][planted.REGION].mean())
        rows["probability"].append(share[..., 1][planted.REGION].mean())
        both = (now & planted.REGION).sum()
        rows["dice"].append(2 * both / (now.sum() + planted.REGION.sum()))
        rows["others"].append(share[..., 0][~planted.REGION].mean())
    for name, want in rows.items():
        np.testing.assert_allclose(found.curves[name].scores, want, atol=1e-6)
        np.testing.assert_allclose(
            getattr(found, name), np.trapezoid(want, np.linspace(0, 1, 9)), atol=1e-6
        )
    assert min(rows["dice"]) == 0
    assert max(rows["dice"]) == 1
    # The evidence lies outside: inside nothing is lost.
    mixed = truth + x[..., 0]
    inside = metrics.dice_deletion(split, params, x, target, mixed, steps=4, where="inside")
    np.testing.assert_allclose(inside.curves["dice"].scores, 1)
    outside = metrics.dice_deletion(split, params, x, target, truth, steps=4, where="outside")
    assert float(outside.dice) < 0.5
    shown = metrics.dice_insertion(split, params, x, target, truth, steps=8)
    np.testing.assert_allclose(shown.curves["dice"].scores[-1], 1)
    assert float(shown.dice) > 1 - float(found.dice) - 0.5


def test_what_is_predicted_is_above_the_threshold():
    """A sigmoid's 0.27 inside and 0.02 outside."""
    x, params = jnp.where(planted.REGION, -1.0, -4.0)[..., None], jnp.ones((1, 1))
    split = segcam.split(lambda p, x: x @ p, "input", params, x, outputs="logits")
    target = segcam.targets.predicted(x, 0, exclusive=False, threshold=0.15, outputs="logits")
    given = (split, params, x, target, jnp.asarray(planted.REGION, jnp.float32))
    found = reader(x, target, 0.15)(x)
    assert float(found.dice) == 1
    assert np.isnan(found.others)  # Elsewhere nothing is predicted.
    assert np.isnan(reader(x, target)(x).dice)
    dense = metrics.dice_deletion(*given, steps=2, baseline=-4.0, threshold=0.15)
    np.testing.assert_allclose(dense.curves["dice"].scores, [1, 0, 0])
    # Under the map, what lies outside is 0: a probability of 0.5 everywhere.
    np.testing.assert_allclose(metrics.iou_drop(*given, threshold=(0.15,)), 1 - 8 / 64, rtol=1e-6)
    for threshold, said in ((1.5, "threshold 1.5; give a probability"), ((0.1, 0.2), "2 thresh")):
        with pytest.raises(TargetError, match=said):
            metrics.iou_drop(*given, threshold=threshold)
    assert np.isnan(reader(x, target, 0.15)(x.at[0, 0].set(jnp.nan)).dice)


def test_what_is_predicted_elsewhere_is_what_else_may_be_lost():
    output = jnp.zeros((2, 2, 2)).at[0].set(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    mask = np.array([[False, True], [False, False]])
    read = reader(output, segcam.targets.region(1, mask, outputs="probabilities"))
    for other in (output, output.at[1].set(0.5)):  # Nothing is predicted in the second row.
        np.testing.assert_allclose(read(other).others, 0.9)
    np.testing.assert_allclose(read(output.at[0, 0].set(0.3)).others, 0.3)
    broken = reader(output.at[1].set(jnp.nan), segcam.targets.region(1, mask))
    assert np.isnan(broken(output).dice)


def test_nan_in_is_nan_out():
    some = jnp.array([1.0, 2.0, jnp.nan, 4.0])
    assert np.isnan(metrics.rank_correlation(some, jnp.arange(4.0)))
    assert np.isnan(metrics.rank_correlation(jnp.arange(4), some))
    x, params = 1 + jax.random.uniform(KEY, (4, 4, 1)), jnp.ones(2)
    split = segcam.split(lambda p, x: x.sum() * p, "input", params, x, outputs="logits")

    def method(split, params, x, target):
        return Explanation(x[..., 0] * params[0], jnp.zeros(()))

    given = (split, params, x, segcam.targets.whole_image(0), method)
    for value in (jnp.nan, 0.0):  # A map of NaN, and a constant one.
        draw = lambda key, values: values * value  # noqa: B023, E731
        assert np.isnan(metrics.efficient_mprt(*given, key=KEY, draw=draw))
        for independent in (True, False):
            found = metrics.parameter_randomisation(
                *given, key=KEY, draw=draw, independent=independent
            )
            assert np.isnan(found.last)

    @jax.jit
    def alike(x):
        return metrics.parameter_randomisation(*given[:2], x, *given[3:], key=KEY)

    found = alike(x)  # A pytree, whose layers are known.
    np.testing.assert_allclose(found.last, 1)
    assert len(found.layers) == 1


def test_controls_of_a_segmentation():
    """The mask shows where the object is; the evidence lies beside it, and wins."""
    split, params, x, target = _segmented()
    truth, mask = planted.truth(x), metrics.mask_shaped(planted.REGION)
    for metric in (metrics.dice_insertion, metrics.sufficiency):
        found = [metric(split, params, x, target, map) for map in (truth, mask)]
        field = "dice" if metric is metrics.dice_insertion else "area"
        areas = [float(getattr(each, field)) for each in found]
        assert areas[0] > areas[1], metric.__name__
    assert float(metrics.rank_accuracy(mask, planted.REGION)) == 1


def test_what_else_is_lost():
    split, params, x, target = _segmented()
    truth = planted.truth(x)
    drop = metrics.off_target_drop(split, params, x, target, truth)
    assert float(drop.target) > 0.5
    assert abs(float(drop.others)) < 0.1
    np.testing.assert_allclose(drop.specific, drop.target - drop.others, rtol=1e-6)
    assert float(metrics.iou_drop(split, params, x, target, jnp.ones((8, 8)) + truth)) == 0
    assert float(metrics.iou_drop(split, params, x, target, -truth)) != 0

    positive, negative = metrics.evidence_shares(
        jnp.array([[3.0, 1.0], [-2.0, 0.0]]), jnp.array([[0, 1], [2, 1]]), classes=3
    )
    np.testing.assert_allclose(positive, [0.75, 0.25, 0])
    np.testing.assert_allclose(negative, [0, 0, 1])
    with pytest.raises(InputError, match="give both at the same extents"):
        metrics.evidence_shares(jnp.ones((1, 2)), jnp.zeros((2, 2), jnp.int32), classes=2)
    labels = jnp.asarray(planted.segmentation(params, x).argmax(-1), jnp.int32)
    matrix = metrics.ablation_matrix(split, params, x, target, labels)
    np.testing.assert_allclose(matrix[1], 0, atol=1e-6)  # Nothing looks at segment 1 itself.
    assert float(matrix[0, 1]) > 0.9  # Without what is called 0, class 1 is lost.
    column = metrics.segment_ablation(split, params, x, target, labels)
    np.testing.assert_array_equal(column.scores, matrix[:, 1])
    assert float(column.itself) == float(matrix[1, 1])
    # All evidence for class 1 lies where 0 is predicted.
    found = metrics.segment_evidence(truth, labels, 1, classes=2)
    np.testing.assert_allclose(found.scores, [1, 0, 0, 0], atol=1e-6)
    assert float(found.inside) == 0
    assert np.isnan(metrics.segment_evidence(-truth, labels, 1, classes=2).inside)
