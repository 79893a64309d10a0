"""FastAblationCAM: unshifted, at any layer, for any window and value, for all classes at once."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segcam_jax as segcam
from segcam_jax import InputError, TargetError, tap
from segcam_jax._jaxpr import cost
from segcam_jax.heatmap import shift_one_cell

SHAPE = (5, 7)
CELLS = list(np.ndindex(SHAPE))
CLASSES = 4


def classifier(params, x):
    """A residual block before BatchNorm, as the original's layer is; pooled; two dense layers."""
    x = tap(convolved(x, params["stem"]), "stem")
    y = jax.nn.relu(convolved(jax.nn.relu(x), params["block"]))
    x = tap(jnp.concatenate([x, y], axis=-1), "concat")
    x = tap(jax.nn.relu(x * params["scale"] + params["shift"]), "relu")
    return (x.mean((0, 1)) @ params["hidden"]) @ params["head"]


def convolved(x, kernel):
    y = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y[0]


@functools.cache
def parameters():
    keys = jax.random.split(jax.random.key(5), 7)
    normal = jax.random.normal
    params = {
        "stem": normal(keys[0], (3, 3, 2, 4)),
        "block": normal(keys[1], (3, 3, 4, 4)) / 3,
        "scale": 1 + 0.3 * normal(keys[2], (1, 1, 8)),
        "shift": 0.5 * normal(keys[3], (1, 1, 8)),
        "hidden": normal(keys[4], (8, 6)),
        "head": normal(keys[5], (6, CLASSES)),
    }
    return params, normal(keys[6], (*SHAPE, 2))


def case(tap_name, class_index=1, of="probabilities"):
    params, x = parameters()
    split = segcam.split(classifier, tap_name, params, x)
    return split, params, x, segcam.targets.whole_image(class_index, of=of)


@pytest.mark.parametrize(
    ("tap_name", "window", "stride", "value", "of", "relative"),
    [
        ("stem", 1, 1, 0.0, "probabilities", False),
        ("concat", 1, 1, 0.0, "probabilities", False),
        ("concat", (2, 3), (1, 2), -1.0, "logits", True),
        ("concat", 3, 2, 1.7, "probabilities", True),
        ("relu", (5, 1), 1, 0.0, "logits", False),
        ("relu", 2, 2, 0.5, "probabilities", True),
        ("input", (1, 4), (1, 3), 0.0, "logits", False),
    ],
)
def test_against_a_loop_of_whole_forwards(tap_name, window, stride, value, of, relative):
    split, params, x, target = case(tap_name, of=of)
    found = segcam.methods.fast_ablation_cam(
        *(split, params, x, target),
        window=window,
        stride=stride,
        ablation_value=value,
        relative=relative,
    )
    score = target(classifier(params, x))
    size, step = (np.broadcast_to(each, 2) for each in (window, stride))
    starts = [
        sorted({min(i, n - w) for i in range(0, n - w + s, s)})
        for n, w, s in zip(SHAPE, size, step, strict=True)
    ]
    total, count, scores = np.zeros(SHAPE), np.zeros(SHAPE), []
    whole = jax.jit(lambda mask: target(split.ablated(params, x, mask)))
    for row, column in itertools.product(*starts):
        place = np.s_[row : row + size[0], column : column + size[1]]
        mask = np.ones((*SHAPE, 1), np.float32)
        mask[place] = value
        scores.append(whole(mask))
        total[place] += score - scores[-1]
        count[place] += 1
    expected = total / count / (abs(score) if relative else 1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.map / scale, expected / scale, atol=1e-4)


def blob_case(cell):
    """An image whose score hangs on one cell, and a network that sees it with a nonlinear head."""
    x = np.full((*SHAPE, 2), 0.05, np.float32)
    x[cell] = 1.0

    def model(params, x):
        x = tap(jax.nn.relu(x), "map")
        return jnp.tanh(x.sum((0, 1)) @ params / 5)

    params = jnp.asarray([[1.0, -0.5], [0.8, 0.3]])
    split = segcam.split(model, "map", params, x)
    return split, params, jnp.asarray(x), segcam.targets.whole_image(0, of="probabilities")


def as_the_original_counts(split, params, x, target):
    """The original's loop: its counter has advanced once, while the graph was built."""
    counter = itertools.count()
    next(counter)
    score = target(split.ablated(params, x, jnp.ones(())))
    found = np.zeros(SHAPE, np.float32)
    for cell in CELLS:
        ablated = CELLS[next(counter) % len(CELLS)]
        mask = np.ones((*SHAPE, 1), np.float32)
        mask[ablated] = 0
        found[cell] = score - target(split.ablated(params, x, mask))
    return found


@pytest.mark.parametrize("cell", [(2, 3), (0, 0), (3, 0), (4, 6)])
def test_a_planted_blob_is_found_where_it_is_and_by_the_legacy_profile_one_cell_left(cell):
    split, params, x, target = blob_case(cell)
    raw = segcam.methods.fast_ablation_cam(split, params, x, target).map
    assert np.unravel_index(np.argmax(raw), SHAPE) == cell
    before = CELLS[(CELLS.index(cell) - 1) % len(CELLS)]
    original = as_the_original_counts(split, params, x, target)
    np.testing.assert_allclose(shift_one_cell(raw), original, atol=1e-6)
    assert np.unravel_index(np.argmax(original), SHAPE) == before

    # At the extent of an image, 32 pixels to a cell as in the source.
    size = tuple(32 * n for n in SHAPE)
    centres = {}
    for profile in ("fast_ablation_cam", "fast_ablation_cam_legacy"):
        shown = np.asarray(segcam.heatmap(raw, size, profile))
        peak = shown > shown.max() - 1e-6
        centres[profile] = tuple(np.argwhere(peak).mean(0) // 32)
    assert centres == {"fast_ablation_cam": cell, "fast_ablation_cam_legacy": before}


def test_a_map_without_a_positive_fall_is_zero_not_nan():
    split, params, x, _ = blob_case((2, 3))
    raw = segcam.methods.fast_ablation_cam(
        split, params, x, lambda output: -output[0] - 1e3, relative=True
    ).map
    assert raw.max() < 0
    for profile in ("fast_ablation_cam", "fast_ablation_cam_legacy"):
        with pytest.warns(UserWarning, match="all evidence in this map is negative"):
            heatmap = segcam.heatmap(raw, (10, 14), profile)
        assert not np.asarray(heatmap).any()


@pytest.mark.parametrize("tap_name", ["stem", "concat", "pooled head"])
@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_every_class_from_one_study(tap_name, of):
    split, params, x, target = case("relu" if tap_name == "pooled head" else tap_name, of=of)
    found = segcam.explain_classes(segcam.methods.fast_ablation_cam, split, params, x, target)
    assert found.map.shape == (CLASSES, *SHAPE)
    for index in range(CLASSES):
        chosen = dataclasses.replace(target, class_index=index)
        single = segcam.methods.fast_ablation_cam(split, params, x, chosen)
        np.testing.assert_allclose(found.score[index], single.score, rtol=1e-5)
        np.testing.assert_allclose(found.map[index], single.map, rtol=1e-4, atol=1e-5)
    if of == "probabilities":
        np.testing.assert_allclose(found.scores.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(found.map.sum(0), 0, atol=1e-5)


@pytest.mark.parametrize("method", [segcam.methods.fast_ablation_cam, segcam.methods.ablation_cam])
def test_all_classes_cost_what_one_costs(method):
    split, params, x, target = case("stem")
    options = {"execution": segcam.Execution(chunk_size=1000)}

    def all_classes(x):
        return segcam.explain_classes(method, split, params, x, target, **options).map

    def one(x):
        return method(split, params, x, target, **options).map

    flops = [cost.flops(jax.make_jaxpr(run)(x).jaxpr) for run in (one, all_classes)]
    # Ablation-CAM's map itself, weights times activation, is one product per class.
    product = 2 * split.activation.size if method is segcam.methods.ablation_cam else 0
    assert flops[0] > 2 * 3 * 3 * 4 * 4 * len(CELLS)
    assert flops[1] == flops[0] + (CLASSES - 1) * product


def test_regions_keep_their_window_for_all_classes():
    params, x = parameters()

    def model(params, x):
        hidden = tap(convolved(x, params["stem"]), "stem")
        return jax.nn.relu(convolved(jax.nn.relu(hidden), params["block"]))

    split = segcam.split(model, "stem", params, x, outputs="logits")
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 2:4] = True
    target = segcam.targets.region(0, mask, of="probabilities")
    found = segcam.explain_classes(segcam.methods.fast_ablation_cam, split, params, x, target)
    for index in range(4):
        single = segcam.methods.fast_ablation_cam(
            split, params, x, dataclasses.replace(target, class_index=index)
        )
        np.testing.assert_allclose(found.map[index], single.map, atol=1e-5)


def test_true_predicted_and_chosen_classes():
    split, params, x, target = case("concat")
    logits = classifier(params, x)
    two = segcam.explain_classes(
        segcam.methods.ablation_cam, split, params, x, target, classes=[3, 1], relative=False
    )
    for place, index in enumerate((3, 1)):
        chosen = segcam.targets.whole_image(index, of="probabilities")
        single = segcam.methods.ablation_cam(split, params, x, chosen, relative=False)
        np.testing.assert_allclose(two.weights[place], single.weights, atol=1e-5)

    @jax.jit
    def of_the_predicted(x):
        top = jax.lax.top_k(classifier(params, x), 2)[1]
        return segcam.explain_classes(
            segcam.methods.grad_cam, split, params, x, target, classes=top
        ).map

    chosen = segcam.targets.whole_image(int(logits.argmax()), of="probabilities")
    expected = segcam.methods.grad_cam(split, params, x, chosen).map
    np.testing.assert_allclose(of_the_predicted(x)[0], expected, atol=1e-5)


def test_bad_input():
    split, params, x, target = case("concat")
    explain = functools.partial(
        segcam.explain_classes, segcam.methods.fast_ablation_cam, split, params, x
    )
    with pytest.raises(InputError, match="takes a Target"):
        explain(lambda output: output[0])
    with pytest.raises(InputError, match=r"classes=\[\]; give one class or more"):
        explain(target, classes=[])
    with pytest.raises(TargetError, match="is not a class of the model"):
        explain(target, classes=[0, CLASSES])
    with pytest.raises(InputError, match="does not fit the map's extents"):
        explain(target, window=6)
    with pytest.raises(InputError, match="stride"):
        explain(target, stride=2)
