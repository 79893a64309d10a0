"""FEM, KPCA-CAM, ShapleyCAM and Finer-CAM against their formulas in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import KernelPCA
from sklearn.metrics.pairwise import pairwise_kernels

import segcam_jax as segcam
from segcam_jax import InputError, methods, tap
from segcam_jax.methods.augmented import _columns, _mirrored
from segcam_jax.methods.contrast_cams import _shares
from segcam_jax.methods.feature_cams import _kernel
from segcam_jax.methods.principal_component import centred, first_component
from tests.support.networks import make_input, make_params, skip_net


@functools.cache
def case(ndim=2, **options):
    params, x = make_params(ndim), make_input(ndim)
    logits = skip_net(params, x)
    chosen = int(np.bincount(np.ravel(logits.argmax(-1))).argmax())
    target = segcam.targets.predicted(logits, chosen, **options)
    return segcam.split(skip_net, "bottleneck", params, x), params, x, target


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("deviations", [2.0, 0.5])
def test_fem(ndim, deviations):
    split, params, x, target = case(ndim)
    a = np.asarray(split.encode(params, x)[0])
    space = tuple(range(ndim))
    weights = (a > a.mean(space) + deviations * a.std(space)).mean(space)
    found = segcam.methods.fem(split, params, x, target, deviations=deviations)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    np.testing.assert_allclose(found.map, a @ weights, atol=1e-5)
    assert not segcam.methods.METHODS["fem"].uses_target


@pytest.mark.parametrize("name", ["grad_cam", "xgrad_cam", "ablation_cam"])
def test_eigen_smooth_is_the_first_component_of_weighted_channels(name):
    split, params, x, _ = case()
    method = segcam.methods.METHODS[name].function
    plain, found = method(*case()), method(*case(), eigen_smooth=True)
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-5)
    a = np.asarray(split.encode(params, x)[0], np.float64)
    rows = (a * np.asarray(plain.weights)).reshape(-1, a.shape[-1])
    rows -= rows.mean(0)
    expected = rows @ np.linalg.svd(rows)[2][0]  # As pytorch-grad-cam has it, but for the sign.
    expected *= np.sign(expected @ rows.sum(-1))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.map.ravel() / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 2, 7)])
@pytest.mark.parametrize("scale", [1e-24, 1e24])
def test_the_first_component_is_of_the_same_direction_at_any_scale(shape, scale):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = values.reshape(-1, shape[-1]).astype(np.float64)
    rows -= rows.mean(0)
    expected = np.linalg.svd(rows)[2][0]
    expected *= np.sign((rows @ expected) @ rows.sum(-1))
    projection, direction = first_component(jnp.asarray(values * np.float32(scale)))
    np.testing.assert_allclose(direction, expected, atol=1e-4)
    np.testing.assert_allclose(projection.ravel() / scale, rows @ expected, atol=1e-4)


@pytest.mark.parametrize("positions", [(7, 5), (14, 14), (31, 3)])
def test_an_activation_that_is_the_same_everywhere_has_no_component(positions):
    """The mean of equal numbers is rounded: a map of the rest would look like evidence."""
    values = jnp.broadcast_to(jnp.array([0.1, 0.7, 1.3]).reshape(1, 1, 3), (*positions, 3))
    np.testing.assert_array_equal(first_component(values)[0], 0)
    split = segcam.split(lambda params, x: tap(x, "hidden") * params, "hidden", 2.0, values)
    given = (split, 2.0, values, segcam.targets.whole_image(0))
    np.testing.assert_array_equal(segcam.methods.kpca_cam(*given).map, 0)


@pytest.mark.parametrize(("kernel", "more"), [("sigmoid", {"coef0": 1}), ("rbf", {})])
def test_kernels_of_small_activations_are_not_rounded_away(kernel, more):
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) * np.float32(1e-3)
    rows -= rows.mean(0)
    whole = pairwise_kernels(rows.astype(np.float64), metric=kernel, gamma=0.25, **more)
    middle = np.eye(9) - 1 / 9
    found = middle @ np.asarray(_kernel(jnp.asarray(rows), kernel, 0.25), np.float64) @ middle
    expected = middle @ whole @ middle
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_given_weights_make_the_map_that_they_are_of():
    split, params, x, target = case()
    method, cam = segcam.methods.given_weights, segcam.methods.ablation_cam(*case())
    found = method(split, params, x, target, weights=cam.weights)
    np.testing.assert_allclose(found.map, cam.map, rtol=1e-6)
    alike = method(split, params, x, target, weights=tuple(np.asarray(cam.weights).tolist()))
    np.testing.assert_array_equal(alike.map, found.map)
    a = np.asarray(split.encode(params, x)[0])
    np.testing.assert_allclose(method(split, params, x, target).map, a.sum(-1), rtol=1e-5)
    with pytest.raises(segcam.InputError, match=r"shape \(3,\), and tap 'bottleneck' has 8"):
        method(split, params, x, target, weights=jnp.ones(3))


@pytest.mark.parametrize("gamma", [None, 0.05])
@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
def test_kpca_cam_equals_scikit_learn(kernel, gamma):
    split, params, x, target = case()
    rows = np.asarray(split.encode(params, x)[0]).reshape(-1, split.activation.shape[-1])
    rows = (rows - rows.mean(0)).astype(np.float64)
    expected = KernelPCA(1, kernel=kernel, gamma=gamma).fit_transform(rows)[:, 0]
    expected *= np.sign(expected @ rows.sum(-1))
    found = segcam.methods.kpca_cam(split, params, x, target, kernel=kernel, gamma=gamma)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.map.ravel() / scale, expected / scale, atol=1e-4)
    if kernel == "linear":
        eigen = segcam.methods.eigen_cam(split, params, x, target)
        np.testing.assert_allclose(found.map / scale, eigen.map / scale, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shapley_cam_of_logits_is_grad_cam(ndim):
    split, params, x, target = case(ndim)
    plain = segcam.methods.grad_cam(split, params, x, target)
    found = segcam.methods.shapley_cam(split, params, x, target)
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-4, atol=1e-5)


def test_shapley_cam_of_a_quadratic_and_of_probabilities():
    def squared(params, x):
        return (segcam.tap(x, "hidden") * params) ** 2

    params, x = jnp.array([[[1.0, 0.5]]]), make_input()
    split = segcam.split(squared, "hidden", params, x)
    target = segcam.targets.whole_image(0)
    # S = sum a^2: g = 2 a, H a = 2 a, and half of that is taken away.
    found = segcam.methods.shapley_cam(split, params, x, target)
    np.testing.assert_allclose(found.weights, [x[..., 0].mean(), 0], atol=1e-5)

    split, params, x, target = case(of="probabilities")
    activation, carry = split.encode(params, x)
    slope = jax.grad(lambda a: target(split.decode(a, carry)))
    curved = jax.jvp(slope, (activation,), (activation,))[1]
    expected = (slope(activation) - curved / 2).mean((0, 1))
    found = segcam.methods.shapley_cam(split, params, x, target)
    np.testing.assert_allclose(found.weights, expected, rtol=1e-3, atol=1e-5)
    plain = segcam.methods.grad_cam(split, params, x, target)
    assert not np.allclose(found.weights, plain.weights, rtol=1e-2)


@pytest.mark.parametrize(
    ("reduce", "of", "comparisons", "alpha"),
    [("sum", "logits", 1, 1.0), ("mean", "logits", 9, 0.5), ("sum", "probabilities", 2, 1.0)],
)
def test_finer_cam(reduce, of, comparisons, alpha):
    split, params, x, target = case(reduce=reduce, of=of)
    activation, carry = split.encode(params, x)
    read = {"logits": lambda y: y, "probabilities": lambda y: jax.nn.softmax(y, -1)}[of]
    mask = np.asarray(target.mask)
    means = np.asarray(read(split.decode(activation, carry)))[mask].mean(0)
    others = [k for k in range(3) if k != target.class_index]
    others.sort(key=lambda k: abs(means[k] - means[target.class_index]))
    others = jnp.array(others[:comparisons])

    def contrast(a):
        y = split.decode(a, carry)
        share = jax.nn.softmax(y, -1)[..., others]
        y = read(y)
        own = y[..., target.class_index, None]
        each = (share * (own - alpha * y[..., others])).sum(-1) / share.sum(-1)
        return (each * mask.astype(np.float32)).sum() / (int(mask.sum()) if reduce == "mean" else 1)

    weights = jax.grad(contrast)(activation).mean((0, 1))
    found = segcam.methods.finer_cam(split, params, x, target, comparisons=comparisons, alpha=alpha)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.score, target(split.decode(activation, carry)), rtol=1e-5)


@pytest.mark.parametrize("margin", [20.0, 200.0])
def test_finer_cam_of_a_class_that_is_certain(margin):
    """q_i / sum_i q_i of the other classes is theirs alone, however small they all are."""
    rng = np.random.default_rng(0)
    x, weight = np.abs(rng.normal(size=(3, 4, 5))), rng.normal(size=(5, 3))
    params = (jnp.asarray(weight, jnp.float32), jnp.array([[[margin, 0.0, 0.0]]]))
    given = jnp.asarray(x, jnp.float32)
    split = segcam.split(lambda p, x: tap(x, "hidden") @ p[0] + p[1], "hidden", params, given)
    target = segcam.targets.whole_image(0, reduce="mean", outputs="logits")
    found = segcam.methods.finer_cam(split, params, given, target)

    others = (x @ weight)[..., 1:]
    share = np.exp(others) / np.exp(others).sum(-1, keepdims=True)
    mean = (share * others).sum(-1, keepdims=True)
    # Of sum_i q_i (y_c - y_i): its slope in y_i is -q_i (1 + y_i - sum_j q_j y_j).
    slope = weight[:, 0] - (share * (1 + others - mean)) @ weight[:, 1:].T
    np.testing.assert_allclose(found.weights, slope.mean((0, 1)) / x[..., 0].size, rtol=1e-4)


@pytest.mark.parametrize(
    ("outputs", "exclusive", "given", "odds"),
    [
        ("logits", True, [90.0, 0.0, 1.0], [1, np.e]),
        ("logits", False, [90.0, -60.0, -61.0], [np.e, 1]),
        ("probabilities", True, [1.0, 1e-30, 3e-30], [1, 3]),
        ("probabilities", True, [1.0, 0.0, 0.0], [1, 1]),
    ],
)
def test_shares_of_classes_that_are_all_improbable(outputs, exclusive, given, odds):
    target = segcam.targets.whole_image(0, outputs=outputs, exclusive=exclusive)
    others = jnp.array([1, 2])
    found = _shares(target, jnp.array(given), others)
    np.testing.assert_allclose(found, np.array(odds) / sum(odds), rtol=1e-5)
    slope = jax.grad(lambda y: _shares(target, y, others)[0])(jnp.array(given))
    assert np.isfinite(slope).all()


def test_finer_cam_without_comparison_is_grad_cam():
    split, params, x, target = case()
    plain = segcam.methods.grad_cam(split, params, x, target)
    found = segcam.methods.finer_cam(split, params, x, target, alpha=0.0)
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-3, atol=1e-5)


def test_finer_cam_of_a_classifier_with_a_traced_class():
    def classifier(params, x):
        return jax.nn.relu(segcam.tap(x, "hidden")).mean((0, 1)) @ params

    params, x = jax.random.normal(jax.random.key(0), (2, 5)), make_input()
    split = segcam.split(classifier, "hidden", params, x)
    targets = segcam.targets.stack([segcam.targets.whole_image(k) for k in range(5)])
    batched = jax.vmap(lambda t: segcam.methods.finer_cam(split, params, x, t))(targets)
    for k in range(5):
        one = segcam.methods.finer_cam(split, params, x, segcam.targets.whole_image(k))
        np.testing.assert_allclose(batched.map[k], one.map, atol=1e-6)


def test_faults_in_one_line():
    split, params, x, target = case()
    for method, given, options, words in (
        (segcam.methods.kpca_cam, target, {"kernel": "cosine"}, "choose sigmoid, rbf or linear"),
        (segcam.methods.finer_cam, lambda y: y.sum(), {}, "give a Target"),
        (segcam.methods.finer_cam, target, {"comparisons": 0}, "comparisons=0"),
    ):
        with pytest.raises(InputError, match=words):
            method(split, params, x, given, **options)

    def single(params, x):
        return segcam.tap(x, "hidden") @ params

    weight, large = jnp.ones((1, 1)), jnp.ones((80, 80, 1))
    split = segcam.split(single, "hidden", weight, large)
    with pytest.raises(InputError, match="only one"):
        segcam.methods.finer_cam(split, weight, large, segcam.targets.whole_image(0))
    with pytest.raises(InputError, match="6400 positions, more than 4096"):
        segcam.methods.kpca_cam(split, weight, large, segcam.targets.whole_image(0))


def test_aug_smooth_is_the_mean_of_six_heatmaps():
    """By a loop over pytorch-grad-cam's formula on the classifier written out; region mirrored."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))
    head = jax.random.normal(jax.random.key(1), (4, 2))
    x = jax.random.normal(jax.random.key(2), (6, 8, 3))

    def activation(x):
        return jax.nn.relu(jax.lax.conv(x.transpose(2, 0, 1)[None], kernel.T, (2, 2), "SAME"))[0]

    def classifier(params, x):
        return tap(activation(x).transpose(1, 2, 0), "a").mean((0, 1)) @ head

    def normalised(values):
        values = values - values.min()
        return values / (1e-7 + values.max())

    def cam(x):
        """Grad-CAM: weights are the head's, by the number of positions, which falls out."""
        raw = np.maximum(
            np.einsum("chw,c->hw", np.asarray(activation(x)), np.asarray(head[:, 1])), 0
        )
        large = np.asarray(segcam.heatmap(raw, (6, 8), profile="pytorch_grad_cam"))
        assert (large.min(), large.max()) == pytest.approx((0, 1), abs=1e-6)
        return large

    split = segcam.split(classifier, "a", None, x)
    found = methods.aug_smooth(methods.grad_cam, split, None, x, lambda logits: logits[1])
    expected = np.mean(
        [
            each
            for factor in (0.9, 1.0, 1.1)
            for each in (cam(x * factor), cam(x[:, ::-1] * factor)[:, ::-1])
        ],
        axis=0,
    )
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert np.abs(found.map - cam(x)).max() > 0.01
    assert found.score == pytest.approx(float(classifier(None, x)[1]), rel=1e-5)

    # A pointwise network and its region know no left and right: all mirror images are the same.
    pointwise = segcam.split(lambda params, x: tap(x @ head[:3], "b") ** 2, "b", None, x)
    mask = np.zeros((6, 8), bool)
    mask[1:4, 5:] = True
    target = segcam.targets.region(1, mask)
    found = methods.aug_smooth(methods.hires_cam, pointwise, None, x, target)
    maps = [methods.hires_cam(pointwise, None, x * f, target).map for f in (0.9, 1.0, 1.1)]
    expected = np.mean([segcam.heatmap(m, (6, 8), profile="pytorch_grad_cam") for m in maps], 0)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert not np.asarray(found.map)[:, :5].any()

    # A function of the output in any form: its columns are mirrored back.
    for form, score in (
        (lambda y: y[None], lambda y: y[0, 1:4, 5:, 1].sum()),
        (lambda y: y[..., 1], lambda y: y[1:4, 5:].sum()),
        (lambda y: jnp.moveaxis(y, -1, 0)[None], lambda y: y[0, 1, 1:4, 5:].sum()),
    ):
        other = segcam.split(
            lambda params, x, form=form: form(tap(x @ head[:3], "b") ** 2), "b", None, x
        )
        alike = methods.aug_smooth(methods.hires_cam, other, None, x, score)
        np.testing.assert_allclose(alike.map, found.map, atol=1e-5)


def test_columns_of_outputs():
    image = (224, 300)
    for shape, axis in (((7, 10, 21), 1), ((1, 28, 38, 2), 2), ((21, 224, 300), 2), ((9,), None)):
        assert _columns(shape, image) == axis
    assert _columns((1, 1000), image) is None
    with pytest.raises(InputError, match=r"the output \(196, 10\) runs along the columns"):
        _columns((196, 10), image)
    # One image of two or three classes has the form of a wide image, but no columns.
    assert _columns((1, 2), (100, 224)) is None
    assert _columns((1, 3), (64, 192)) is None
    assert _columns((1, 9), (1, 9)) == 1


@pytest.mark.parametrize("leading", [(), (1,)])
def test_mirrored_targets_are_of_the_same_kind(leading):
    """Score-CAM divides by the size of a difference's regions, which a function does not tell."""
    output = np.random.default_rng(0).normal(size=(*leading, 4, 6, 2)).astype(np.float32)
    masks = np.zeros((2, *leading, 4, 6), bool)
    masks[0, ..., 1:3, 4:], masks[1, ..., :1] = True, True
    first, second = (segcam.targets.region(k, mask) for k, mask in enumerate(masks))
    score = output[..., 0][masks[0]].sum() - output[..., 1][masks[1]].sum()
    found = _mirrored(segcam.targets.Difference(first, second), (4, 6))
    assert isinstance(found, segcam.targets.Difference)
    np.testing.assert_allclose(found(jnp.asarray(output[..., ::-1, :])), score, rtol=1e-5)
    found.first.check(jax.ShapeDtypeStruct(output.shape, np.float32))  # Its window holds it.


def test_nan_is_not_taken_for_equal_values():
    rows = jnp.array([[1.0, 0.1, 2.0], [jnp.nan, 0.1, 4.0], [1.0, 0.1, 3.0]])
    expected = np.array([[np.nan, 0, -1], [np.nan, 0, 1], [np.nan, 0, 0]])
    np.testing.assert_array_equal(centred(rows), expected)
