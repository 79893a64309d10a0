"""What results print: extents, ranges and names, also of what is traced."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np

import segcam_jax as segcam
from segcam_jax import _print
from segcam_jax.data.instances import label_instances


def _model(params, x):
    return segcam.tap(x @ params[0], "hidden") @ params[1]


PARAMS = (jnp.eye(3), jnp.arange(15.0).reshape(3, 5))
X = jnp.ones((4, 6, 3))


def test_describes_arrays_in_a_few_words():
    assert _print.described(np.array([[0.5, 2.0]])) == "1 x 2, 0.5 to 2"
    assert _print.described(jnp.float32(1.23456)) == "1.235"
    assert _print.described(np.array([1.0, np.nan])) == "2, all 1, 1 NaN"
    assert _print.described(np.full(3, np.nan)) == "3, all NaN"
    assert _print.described(np.zeros((0, 2))) == "0 x 2"
    assert _print.described(np.array([True, False])) == "2, 1 of 2 true"
    assert _print.described(jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)) == "2 x 3 bfloat16"
    assert _print.described(None) == "None"


def test_prints_splits_targets_and_taps():
    taps = segcam.list_taps(_model, PARAMS, X)
    assert repr(taps).splitlines()[1:] == [
        "input   4 x 6 x 3   float32",
        "hidden  4 x 6 x 3   float32",
    ]
    assert "<td>hidden</td><td>4 x 6 x 3</td>" in taps._repr_html_()
    split = segcam.split(_model, "hidden", PARAMS, X)
    assert repr(split).splitlines() == [
        "Split at 'hidden'",
        "  input       4 x 6 x 3 float32",
        "  activation  4 x 6 x 3 float32",
        "  output      4 x 6 x 5 float32, logits",
    ]
    target = segcam.targets.region(1, np.eye(4, 6, dtype=bool))
    over = "over the region 4 x 6, 4 of 24 true"
    assert repr(target) == f"Target(class 1, sum of logits {over})"


def test_prints_explanations_of_values_and_of_traces():
    target = segcam.targets.whole_image(2)
    seen = []

    def explained(x):
        found = segcam.explain((_model, PARAMS), x, tap="hidden", target=target)
        seen.append(repr(found))
        return found

    found = explained(X)
    score = 24 * (2 + 7 + 12)
    assert seen[0].splitlines()[0] == (
        f"Explanation by Grad-CAM at hidden for class 2, score {score}"
    )
    assert seen[0].splitlines()[1:] == ["  map      4 x 6, all 21", "  weights  3, 2 to 12"]
    assert float(found.score) == score
    jax.jit(explained)(X)
    assert "map      4 x 6 float32" in seen[1]
    assert len(repr(jax.vmap(explained)(jnp.stack([X, X]))).splitlines()) == 3


def test_explanations_know_method_tap_and_target_until_they_are_transformed():
    split = segcam.split(_model, "hidden", PARAMS, X)
    mask = np.eye(4, 6, dtype=bool)
    region = segcam.targets.region(1, mask)
    pixel = segcam.targets.pixel(3, (0, 2), (4, 6), of="probabilities")
    weighted = segcam.targets.region(1, np.float32(0.5) * mask, reduce="mean")
    titles = {
        "class 1 (sum of logits over 4 pixels)": region,
        "class 1 (weighted mean of logits over 4 pixels)": weighted,
        "class 1 (sum of logits over 4 pixels) minus class 3 (sum of probabilities over 1 pixel)": (
            segcam.targets.Difference(region, pixel)
        ),
        "a function of the output": lambda output: output[0, 0, 1],
        "the target max": jnp.max,
    }
    for words, target in titles.items():
        found = segcam.methods.grad_cam(split, PARAMS, X, target)
        assert found.title == f"Grad-CAM at hidden for {words}"
        assert pickle.loads(pickle.dumps(found)).title == found.title
    assert f"<div>Explanation by {found.title}, score 27<" in found._repr_html_()
    assert "<td>map</td><td>4 x 6, " in found._repr_html_()
    # Explanations of several methods and taps have one structure, and their mean is of none.
    other = segcam.methods.hires_cam(split, PARAMS, X, region)
    other = dataclasses.replace(other, weights=found.weights, attribution=None)
    assert jax.tree.structure(found) == jax.tree.structure(other)
    for mean in (jax.tree.map(jnp.add, found, other), jax.jit(lambda given: given)(found)):
        assert (mean.method, mean.tap, mean.target, mean.title) == (None, None, None, "")


def test_prints_instances():
    found = label_instances(np.eye(4, dtype=bool), connectivity=4)
    assert repr(found) == "4 instances in 4 x 4: 1 voxel each"
    assert repr(label_instances(np.zeros((3, 3), bool))) == "0 instances in 3 x 3"
