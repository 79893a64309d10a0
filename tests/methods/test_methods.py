"""Methods against values by hand, brute force, and each other; under every transform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

import segcam_jax as segcam
from segcam_jax import InputError, TargetError, tap
from segcam_jax.methods import registry
from tests.support.networks import make_input, make_params, skip_net

KEY = jax.random.key(3)
CAMS = [name for name, method in segcam.methods.METHODS.items() if method.explains == "activation"]
OPTIONS = {
    "smooth_grad": {"key": KEY, "samples": 6},
    "instance_smooth_grad": {"key": KEY, "samples": 2, "aggregation": "max"},
    "integrated_gradients": {"steps": 6},
}


@functools.cache
def case(ndim=2, tap_name="bottleneck"):
    """Split, parameters, input, and a target over a region of the predicted class."""
    params, x = make_params(ndim), make_input(ndim)
    logits = skip_net(params, x)
    counts = np.bincount(np.asarray(logits.argmax(-1)).ravel())
    target = segcam.targets.predicted(logits, int(counts.argmax()))
    return segcam.split(skip_net, tap_name, params, x), params, x, target


def run(name, split, params, x, target, **options):
    return segcam.methods.METHODS[name].function(
        split, params, x, target, **OPTIONS.get(name, {}), **options
    )


def linear_head(params, x):
    """Logits that are linear in the tapped activation, so that every method has a closed form."""
    hidden = tap(jax.nn.relu(x @ params["in"]), "hidden")
    return hidden @ params["out"]


@functools.cache
def linear_case():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (2, 5)),
        "out": jax.random.normal(keys[1], (5, 3)),
    }
    x = jax.random.normal(keys[2], (4, 6, 2))
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    activation = np.maximum(np.asarray(x) @ np.asarray(params["in"]), 0)
    split = segcam.split(linear_head, "hidden", params, x)
    return split, params, x, segcam.targets.region(1, mask), activation, mask


def test_closed_forms_of_a_linear_head():
    split, params, x, target, a, mask = linear_case()
    slope = mask[..., None] * np.asarray(params["out"])[:, 1]
    score = (slope * a).sum()
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    maps = {
        name: run(name, split, params, x, target) for name in segcam.methods.METHODS if name in CAMS
    }

    weights = slope.mean((0, 1))
    close(maps["grad_cam"].weights, weights)
    close(maps["grad_cam"].map, a @ weights)
    close(maps["hires_cam"].map, (slope * a).sum(-1))
    close(maps["layer_cam"].map, (np.maximum(slope, 0) * a).sum(-1))
    total = a.sum((0, 1))
    close(maps["xgrad_cam"].weights, (slope * a).sum((0, 1)) / total)
    plus = (np.maximum(slope, 0) / (2 + np.maximum(slope, 0) * total)).sum((0, 1))
    close(maps["grad_cam_pp"].weights, plus)
    drops = (slope * a).sum((0, 1))
    close(maps["ablation_cam"].scores, score - drops)
    close(maps["ablation_cam"].weights, drops / abs(score))
    close(maps["fast_ablation_cam"].map, (slope * a).sum(-1))
    for explanation in maps.values():
        close(explanation.score, score)

    absolute = segcam.methods.grad_cam(split, params, x, target, absolute_weights=True)
    close(absolute.weights, np.abs(weights))
    positive = segcam.methods.seg_grad_cam(split, params, x, target, positive_weights=True)
    close(positive.weights, np.maximum(weights, 0))
    raw = segcam.methods.ablation_cam(split, params, x, target, relative=False)
    close(raw.weights, drops)
    twice = segcam.methods.fast_ablation_cam(
        split, params, x, target, ablation_value=2.0, relative=True
    )
    close(twice.map, -(slope * a).sum(-1) / abs(score))


def test_eigen_cams_are_the_first_principal_component_with_a_fixed_sign():
    split, params, x, target, a, mask = linear_case()
    slope = mask[..., None] * np.asarray(params["out"])[:, 1]
    for name, values in {"eigen_cam": a, "eigen_grad_cam": a * slope}.items():
        rows = values.reshape(-1, 5)
        rows = rows - rows.mean(0)
        expected = (rows @ np.linalg.svd(rows)[2][0]).reshape(4, 6)
        expected *= np.sign(expected.ravel() @ rows.sum(-1))
        np.testing.assert_allclose(run(name, split, params, x, target).map, expected, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["ablation_cam", "fast_ablation_cam"])
def test_ablation_against_a_loop_of_whole_forwards(name, ndim):
    split, params, x, target = case(ndim)
    shape = split.activation.shape
    whole = jax.jit(skip_net)
    explanation = run(name, split, params, x, target)
    places = (
        [(..., k) for k in range(shape[-1])]
        if name == "ablation_cam"
        else list(np.ndindex(shape[:-1]))
    )
    expected = [target(whole(params, x, jnp.ones(shape).at[place].set(0))) for place in places]
    scale = abs(explanation.score)
    np.testing.assert_allclose(explanation.scores / scale, np.array(expected) / scale, atol=1e-6)
    assert explanation.map.shape == shape[:-1]


def test_windows_against_a_loop_of_whole_forwards():
    split, params, x, target = case()
    explanation = segcam.methods.fast_ablation_cam(
        split, params, x, target, window=(2, 3), stride=(2, 2), ablation_value=-1.0
    )
    total, count = np.zeros((4, 6)), np.zeros((4, 6))
    for row in (0, 2):
        for column in (0, 2, 3):
            mask = np.ones((4, 6, 1), np.float32)
            mask[row : row + 2, column : column + 3] = -1
            drop = explanation.score - target(skip_net(params, x, mask))
            total[row : row + 2, column : column + 3] += drop
            count[row : row + 2, column : column + 3] += 1
    np.testing.assert_allclose(explanation.map, total / count, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ndim"),
    [
        *((name, 2) for name in segcam.methods.METHODS),
        *((name, 3) for name in ("grad_cam", "ablation_cam", "instance_smooth_grad", "score_cam")),
    ],
)
def test_every_method_under_vmap_and_jit_equals_eager(name, ndim):
    split, params, x, target = case(ndim)
    if name not in CAMS:
        split = segcam.split(skip_net, "input", params, x)
    other = segcam.targets.whole_image(0).mask is None and segcam.targets.region(
        0, np.ones_like(target.mask)
    )
    targets = segcam.targets.stack([target, other])
    batched = jax.jit(jax.vmap(lambda t: run(name, split, params, x, t)))(targets)
    for index, one in enumerate((target, other)):
        single = run(name, split, params, x, one)
        scale = np.abs(single.map).max()
        np.testing.assert_allclose(batched.map[index] / scale, single.map / scale, atol=2e-5)
    shown = split.at_input if name == "guided_grad_cam" else split
    assert single.map.shape == shown.activation.shape[:-1]
    assert single.map.dtype == jnp.float32


@pytest.mark.parametrize("name", segcam.methods.METHODS)
def test_bfloat16_activations_give_float32_maps(name):
    params, x = make_params(dtype=jnp.bfloat16), make_input(dtype=jnp.bfloat16)
    split = segcam.split(skip_net, "bottleneck", params, x)
    explanation = run(name, split, params, x, segcam.targets.whole_image(1))
    assert explanation.map.dtype == explanation.score.dtype == jnp.float32
    assert jnp.isfinite(explanation.map).all()


@pytest.mark.parametrize("name", segcam.methods.METHODS)
def test_an_empty_traced_region_gives_a_finite_map(name):
    split, params, x, target = case()

    @jax.jit
    def explain(mask):
        return run(name, split, params, x, segcam.Target(0, mask))

    explanation = explain(jnp.zeros_like(target.mask))
    assert jnp.isfinite(explanation.map).all()
    # Scores that are all the same are no reason for Score-CAM to prefer a channel.
    if segcam.methods.METHODS[name].uses_target and name != "score_cam":
        assert not explanation.map.any()


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam", "xgrad_cam"])
def test_a_negative_score_keeps_the_sign_of_importance(name):
    split, params, x, target = case()

    def shifted(params, x):
        return skip_net(params, x) - 100

    low = segcam.split(shifted, "bottleneck", params, x)
    high = run(name, split, params, x, target)
    weights = run(name, low, params, x, target)
    assert weights.score < 0 < high.score
    ours, theirs = np.asarray(weights.weights), np.asarray(high.weights)
    strong = np.abs(theirs) > 0.05 * np.abs(theirs).max()
    assert (np.sign(ours)[strong] == np.sign(theirs)[strong]).all()


@given(st.integers(1, 9), st.sampled_from(["ablation_cam", "integrated_gradients", "smooth_grad"]))
def test_chunks_change_nothing(chunk_size, name):
    split, params, x, target = case()
    whole = run(name, split, params, x, target, execution=segcam.Execution(chunk_size=1000))
    chunked = run(name, split, params, x, target, execution=segcam.Execution(chunk_size=chunk_size))
    scale = np.abs(whole.map).max()
    np.testing.assert_allclose(chunked.map / scale, whole.map / scale, atol=1e-6)


def permuted(params, order):
    inner = {"deep": params["deep"][..., order], "up": params["up"]}
    width = len(order)
    up = params["up"]
    inner["up"] = jnp.concatenate([up[..., :width, :][..., order, :], up[..., width:, :]], axis=-2)
    return {**params, **inner}


@pytest.mark.parametrize("name", ["grad_cam", "ablation_cam", "grad_cam_pp", "xgrad_cam"])
def test_permuted_channels_permute_weights(name):
    split, params, x, target = case()
    order = jax.random.permutation(KEY, split.activation.shape[-1])
    ours = run(name, split, permuted(params, order), x, target)
    straight = run(name, split, params, x, target)
    np.testing.assert_allclose(ours.weights, straight.weights[order], rtol=1e-3, atol=1e-5)
    scale = np.abs(straight.map).max()
    np.testing.assert_allclose(ours.map / scale, straight.map / scale, atol=1e-4)


def test_gradient_by_finite_differences_in_float64():
    with jax.enable_x64(True):
        params = make_params(dtype=jnp.float64)
        x = make_input(dtype=jnp.float64)
        split = segcam.split(skip_net, "input", params, x)
        target = segcam.targets.whole_image(1)
        slope = segcam.methods.gradient(split, params, x, target).attribution
        direction = jax.random.normal(KEY, x.shape, jnp.float64)
        step = 1e-6
        scores = [target(skip_net(params, x + sign * step * direction)) for sign in (1, -1)]
        numeric = (scores[0] - scores[1]) / (2 * step)
        np.testing.assert_allclose((slope * direction).sum(), numeric, rtol=1e-6)


def test_integrated_gradients_are_complete():
    split, params, x, target = case(tap_name="input")
    baseline = target(skip_net(params, jnp.full_like(x, 0.5)))
    for rule, steps in [("gauss_legendre", 100), ("midpoint", 200), ("left", 400)]:
        explanation = segcam.methods.integrated_gradients(
            split, params, x, target, baseline=0.5, steps=steps, rule=rule
        )
        gap = explanation.attribution.sum() - (explanation.score - baseline)
        assert abs(gap) < 0.01 * abs(explanation.score)


def test_integrated_gradients_at_a_hidden_tap_start_from_an_activation():
    """A number was taken for an activation of that value everywhere, as if it were a grey image."""
    split, params, x, target = case(tap_name="bottleneck")
    activation, carry = split.encode(params, x)
    other, _ = split.encode(params, x[::-1])
    for baseline, start in ((None, jnp.zeros_like(activation)), (other, other)):
        explanation = segcam.methods.integrated_gradients(
            split, params, x, target, baseline=baseline, steps=100
        )
        fall = explanation.score - target(split.decode(start, carry))
        assert abs(explanation.attribution.sum() - fall) < 0.01 * abs(explanation.score)
    for baseline, told in (
        (0.5, "the baseline is a number, but tap 'bottleneck'"),
        (x, "has shape"),
    ):
        with pytest.raises(InputError, match=told):
            segcam.methods.integrated_gradients(split, params, x, target, baseline=baseline)


def test_smooth_grad_statistics():
    split, params, x, target = case(tap_name="input")
    scale = 0.3 * (x.max() - x.min())

    def slope(index):
        noise = scale * jax.random.normal(jax.random.fold_in(KEY, index), x.shape)
        return jax.grad(lambda y: target(skip_net(params, y)))(x + noise)

    slopes = np.stack([slope(index) for index in range(5)])
    expected = {
        "mean": slopes.mean(0),
        "squared": (slopes**2).mean(0),
        "variance": slopes.var(0),
    }
    for statistic, value in expected.items():
        explanation = segcam.methods.smooth_grad(
            split, params, x, target, key=KEY, samples=5, sigma=0.3, statistic=statistic
        )
        np.testing.assert_allclose(explanation.attribution, value, atol=1e-4 * np.abs(value).max())
    absolute = segcam.methods.smooth_grad(
        split, params, x, target, key=KEY, samples=5, sigma=float(scale), sigma_unit="absolute"
    )
    np.testing.assert_allclose(absolute.attribution, expected["mean"], atol=1e-4)
    straight = segcam.methods.gradient(split, params, x, target)
    still = segcam.methods.smooth_grad(split, params, x, target, key=KEY, samples=2, sigma=0.0)
    np.testing.assert_allclose(still.map, straight.map, atol=1e-5)


def test_compiled_once_for_all_inputs_targets_and_float_options():
    params, x = make_params(), make_input()
    traces = []

    def counted(params, x):
        traces.append(1)
        return skip_net(params, x)

    split = segcam.split(counted, "bottleneck", params, x)
    calls = []

    def target(output):
        calls.append(1)
        return output[..., 1].sum()

    first = jax.tree_util.Partial(target)
    for value in (0.0, 0.5, 1.0):
        segcam.methods.ablation_cam(split, params, x + value, first, ablation_value=value)
    assert len(traces) == 1
    assert len(calls) <= 3


def test_tiny_gradients_do_not_underflow_to_nan():
    def faint(params, x):
        return tap(x, "hidden") * params

    x = jax.random.normal(KEY, (3, 4, 2))
    split = segcam.split(faint, "hidden", jnp.float32(1e-20), x)
    for epsilon in (0.0, 1e-6):
        explanation = segcam.methods.grad_cam_pp(
            split, jnp.float32(1e-20), x, segcam.targets.whole_image(1), epsilon=epsilon
        )
        assert jnp.isfinite(explanation.map).all()
        assert (explanation.weights[1] > 0) == (epsilon == 0)


def test_options_and_targets_in_other_forms():
    split, params, x, target = case()
    expected = segcam.methods.fast_ablation_cam(
        split, params, x, target, window=(2, 2), stride=2
    ).map
    for window in ([2, 2], np.int64(2), np.array([2, 2])[0]):
        ours = segcam.methods.fast_ablation_cam(
            split, params, x, target, window=window, stride=2
        ).map
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    mask = np.asarray(target.mask, np.float32)[..., None]
    partial = jax.tree_util.Partial(lambda mask, output: (mask * output).sum(), mask)
    whole = segcam.methods.grad_cam(split, params, x, partial)
    plain = segcam.methods.grad_cam(split, params, x, lambda output: (mask * output).sum())
    np.testing.assert_allclose(whole.map, plain.map, rtol=1e-6)


def test_integers_are_refused():
    image = jnp.ones((4, 4, 2), jnp.uint8)

    def fn(params, x):
        return x.astype(jnp.float32) * params

    with pytest.raises(InputError, match="uint8"):
        segcam.split(fn, "input", jnp.ones(()), image)


def test_ablating_with_one_changes_nothing():
    split, params, x, target = case()
    explanation = segcam.methods.ablation_cam(split, params, x, target, ablation_value=1.0)
    np.testing.assert_allclose(explanation.weights, 0, atol=1e-6)


def test_memory_limits():
    split, params, x, target = case()
    unlimited = segcam.methods.ablation_cam(split, params, x, target)
    limited = segcam.methods.ablation_cam(
        split, params, x, target, execution=segcam.Execution(memory_limit=50_000)
    )
    np.testing.assert_allclose(limited.weights, unlimited.weights, atol=1e-6)
    with pytest.raises(InputError, match="memory_limit=10 bytes; one evaluation alone needs"):
        segcam.methods.ablation_cam(
            split, params, x, target, execution=segcam.Execution(memory_limit=10)
        )


def test_bad_arguments():
    split, params, x, target = case()
    with pytest.raises(InputError, match="expected a Split"):
        segcam.methods.grad_cam(skip_net, params, x, target)
    with pytest.raises(TargetError, match="expected a Target or a function"):
        segcam.methods.grad_cam(split, params, x, 3)
    with pytest.raises(TargetError, match="class 9 is not a class"):
        segcam.methods.grad_cam(split, params, x, segcam.targets.whole_image(9))
    with pytest.raises(TargetError, match=r"region has shape \(2, 2\)"):
        segcam.methods.grad_cam(split, params, x, segcam.targets.region(0, np.ones((2, 2), bool)))
    with pytest.raises(InputError, match="grad_cam has no option 'samples'; its options are "):
        segcam.methods.grad_cam(split, params, x, target, samples=3)
    with pytest.raises(InputError, match="smooth_grad has no option 'sampels'.* are samples, "):
        segcam.methods.smooth_grad(split, params, x, target, sampels=3)
    with pytest.raises(InputError, match=r"smooth_grad needs the option key=.*jax.random.key\(0"):
        segcam.methods.smooth_grad(split, params, x, target)
    with pytest.raises(TargetError, match=r"returns an array of shape \(8, 12\); expected one"):
        segcam.methods.grad_cam(split, params, x, lambda output: output[..., 0])
    with pytest.raises(InputError, match="key=0; give a key of jax.random"):
        segcam.methods.smooth_grad(split, params, x, target, key=0)
    with pytest.raises(InputError, match="give explanation.map"):
        segcam.heatmap(segcam.methods.grad_cam(split, params, x, target), (8, 12))
    with pytest.raises(InputError, match="chunk_size=0"):
        segcam.Execution(chunk_size=0)
    with pytest.raises(InputError, match="rule='right'"):
        segcam.methods.integrated_gradients(split, params, x, target, rule="right")
    for option in ({"samples": 0}, {"statistic": "mode"}, {"sigma_unit": "pixels"}):
        with pytest.raises(InputError, match=next(iter(option))):
            segcam.methods.smooth_grad(split, params, x, target, key=KEY, **option)
    with pytest.raises(InputError, match="unknown method 'gradcamm'; choose from grad_cam"):
        segcam.methods.find("gradcamm")
    assert segcam.methods.find("Grad-CAM").name == "grad_cam"


@pytest.mark.parametrize(
    ("known_as", "name"),
    [
        ("seg_grad_cam", "grad_cam"),
        ("Seg-Grad-CAM", "grad_cam"),
        ("GradCAM++", "grad_cam_pp"),
        ("ablation-cam", "ablation_cam"),
        ("ScoreCAM", "score_cam"),
        ("smoothgrad", "smooth_grad"),
        ("Input x Gradient", "input_x_gradient"),
    ],
)
def test_methods_are_found_by_the_names_that_they_are_known_by(known_as, name):
    assert registry.find(known_as).name == name


def test_no_name_or_alias_is_of_two_methods():
    for name, method in segcam.methods.METHODS.items():
        for known_as in (name, method.title, *method.aliases):
            assert registry.find(known_as) is method


def test_titles_are_those_that_people_know():
    titles = {name: method.title for name, method in segcam.methods.METHODS.items()}
    assert titles["grad_cam_pp"] == "Grad-CAM++"
    assert titles["fast_ablation_cam"] == "FastAblationCAM"
    assert titles["integrated_gradients"] == "Integrated gradients"


def test_what_methods_say_of_their_maps():
    def having(field):
        return {name for name, method in segcam.methods.METHODS.items() if getattr(method, field)}

    of_input = {name for name, each in segcam.methods.METHODS.items() if each.explains == "input"}
    assert having("pixelwise") == of_input | {"guided_grad_cam"}
    assert having("per_channel") == of_input - {"full_grad"}
    assert having("needs_key") == {"smooth_grad", "instance_smooth_grad"}
    assert having("contrasts") == {"finer_cam"}
    assert having("slope") == {"gradient", "smooth_grad", "instance_smooth_grad"}
    assert segcam.methods.METHODS.keys() - having("signed") == {"layer_cam", "grad_cam_pp"}


def test_options_in_words_fit_every_method():
    def parsed(words, *names):
        calls = registry.parse_calls(registry.find_all(names), words)
        return {call.method.name: dict(call.options) for call in calls}

    having = [name for name, method in segcam.methods.METHODS.items() if "window" in method.options]
    read = parsed(["window=2x3", "recipro_cam.soft=false"], *having, "recipro_cam")
    assert read["fast_ablation_cam"] == {"window": (2, 3)}
    assert read["recipro_cam"] == {"soft": False}
    with pytest.raises(InputError, match="give a number or none"):
        parsed(["kpca_cam.gamma=inf"], "kpca_cam")
    assert parsed(["gamma=none"], "kpca_cam") == {"kpca_cam": {"gamma": None}}
    assert parsed(["rescale=none"], "full_grad") == {"full_grad": {"rescale": "none"}}


def test_a_call_has_the_options_of_all_and_its_own():
    both = registry.find_all(["Grad-CAM", "smoothgrad", "grad_cam"])
    words = ["samples=9", "sigma=1", "smooth_grad.samples=3"]
    plain, noisy = registry.parse_calls(both, words)
    assert (plain.method.name, plain.arguments()) == ("grad_cam", {})
    assert dict(noisy.options) == {"samples": 3, "sigma": 1}
    assert noisy.arguments(seed=1).keys() == {"samples", "sigma", "key"}
    with pytest.raises(InputError, match="no method was given"):
        registry.find_all([])
