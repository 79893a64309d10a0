"""The one-line front door: what the parts give, by their defaults."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from matplotlib.backends.backend_agg import FigureCanvasAgg

import segcam_jax as segcam
from segcam_jax import viz
from segcam_jax.types import InputError, TapError, TargetError


class UNet(nnx.Module):
    """Of batches, as most models of Flax are."""

    def __init__(self, rngs):
        self.down = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Conv(4, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        assert x.ndim == 4
        hidden = nnx.relu(self.down(x))
        wide = jnp.repeat(jnp.repeat(hidden, 2, axis=1), 2, axis=2)
        return self.head(wide)


class Classifier(linen.Module):
    """Of a batch, too."""

    @linen.compact
    def __call__(self, x):
        hidden = linen.relu(linen.Conv(5, (3, 3), name="first")(x))
        return linen.Dense(4, name="last")(hidden.mean((1, 2)))


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(0).random((8, 8, 1)), jnp.float32)


def test_a_module_is_explained_as_by_its_parts(image):
    model = UNet(nnx.Rngs(0))
    found = segcam.explain(model, image, tap="down", target=1, method="Ablation-CAM", batch_axis=0)
    fn, params = segcam.from_nnx(model, batch_axis=0)
    target = segcam.targets.predicted(fn(params, image), 1)
    split = segcam.split(fn, "down", params, image)
    expected = segcam.methods.ablation_cam(split, params, image, target)
    np.testing.assert_array_equal(found.map, expected.map)
    np.testing.assert_array_equal(found.drops, expected.drops)


def test_the_default_of_a_segmentation_network_is_its_bottleneck(image):
    model = UNet(nnx.Rngs(0))
    target = segcam.targets.pixel(2, (3, 3), (8, 8))
    by_default = segcam.explain(model, image, target=target, batch_axis=0)
    named = segcam.explain(
        model, image, tap="down", target=target, method=segcam.methods.grad_cam, batch_axis=0
    )
    np.testing.assert_array_equal(by_default.map, named.map)
    assert by_default.map.shape == (4, 4)


def test_a_classifier_is_explained_for_its_most_probable_class(image):
    module = Classifier()
    variables = module.init(jax.random.key(0), image[None])
    found = segcam.explain((module, variables), image, method="hires_cam")
    fn, params = segcam.from_linen(module, variables)
    logits = fn(params, image)
    assert found.score == pytest.approx(float(logits.max()), rel=1e-6)
    split = segcam.split(fn, "first", params, image)
    target = segcam.targets.whole_image(int(logits.argmax()))
    np.testing.assert_allclose(
        found.map, segcam.methods.hires_cam(split, params, image, target).map, rtol=1e-6
    )


def test_functions_and_methods_of_the_input(image):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3)), jnp.float32)

    def fn(params, x):
        return segcam.tap(jax.nn.relu(x @ params), "hidden")

    found = segcam.explain((fn, weights), image, target=lambda out: out[2, 3, 1], method="gradient")
    assert found.map.shape == (8, 8)
    assert np.count_nonzero(found.map) == (float(weights[0, 1]) > 0)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"target": None}, TargetError, "say which class to explain"),
        ({"target": 7}, TargetError, "class 7 is not a class"),
        ({"tap": "dwn"}, TapError, "down"),
        ({"method": "gradcm"}, InputError, "grad_cam"),
        ({"batch_axis": 1}, InputError, "batch_axis=1"),
    ],
)
def test_what_was_given_wrongly_is_said(image, options, error, said):
    given = {"target": 1, "batch_axis": 0, **options}
    with pytest.raises(error, match=said):
        segcam.explain(UNet(nnx.Rngs(0)), image, **given)


def test_messages_about_a_batch_do_not_send_in_a_circle(image):
    """What the message for one value of `batch_axis` advises is taken with it."""
    model, two = UNet(nnx.Rngs(0)), jnp.stack([image, image])
    with pytest.raises(
        InputError, match=r"takes x with batch_axis=None if x is one .* x\[0\] with "
    ):
        segcam.explain(model, two, target=1, batch_axis=0)
    with pytest.raises(InputError, match=r"Give one example, x\[0\], with batch_axis=0"):
        segcam.explain(model, two, target=1)
    found = segcam.explain(model, two[0], target=1, batch_axis=0)
    # The same advice holds for a function, and for what an adapter made.
    fn, params = segcam.from_nnx(model)
    same = segcam.explain((fn, params), image, target=1, batch_axis=0)
    np.testing.assert_array_equal(same.map, found.map)

    def plain(weights, x):
        _, h, w, _ = x.shape
        return segcam.tap(jax.nn.relu(x @ weights), "hidden").reshape(1, h, w, 2)

    target = segcam.targets.whole_image(1)
    given = {"target": target, "batch_axis": 0, "method": "hires_cam"}
    found = segcam.explain((plain, jnp.ones((1, 2))), image, **given)
    np.testing.assert_allclose(found.map, image[..., 0], rtol=1e-6)


def test_places_and_entries_that_belong_to_one_example():
    def by_slices(params, x):
        axes = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=axes)
        hidden = segcam.tap(jax.nn.relu(hidden), "early")
        return segcam.tap(hidden * 2, "late") + 1

    x, params = jnp.ones((2, 4, 5, 3)), jnp.ones((3, 3, 3, 2))
    target = segcam.targets.whole_image(1)
    with pytest.raises(InputError, match="else one_example=True"):
        segcam.explain((by_slices, params), x, target=target)
    for place, tap in (("first", "early"), ("last", "early"), ("late", "late")):
        given = {"tap": place, "target": target, "one_example": True}
        assert segcam.explain((by_slices, params), x, **given).tap == tap


def test_what_is_predicted_is_not_known_inside_of_jit(image):
    model = UNet(nnx.Rngs(0))
    with pytest.raises(TargetError, match="inside of jit"):
        jax.jit(lambda x: segcam.explain(model, x, target=1, batch_axis=0).map)(image)


def test_no_model_is_told_what_one_is(image):
    with pytest.raises(InputError, match="is not a model"):
        segcam.explain("resnet", image)


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_show_draws_the_sign_where_most_of_a_map_speaks_against(image):
    for sign, profile in ((1, "segcam_jax"), (-1, "signed")):
        explanation = segcam.Explanation(sign * image[..., 0], jnp.float32(0))
        heat = segcam.heatmap(explanation.map, (8, 8), profile)
        shown = drawn(segcam.show(explanation, image, title="why"))
        np.testing.assert_array_equal(shown, drawn(viz.overlay(image, heat, title="why")))
    with pytest.raises(InputError, match=r"not for a map of shape \(2, 2, 2\)"):
        segcam.show(segcam.Explanation(jnp.ones((2, 2, 2)), jnp.float32(0)), image)


def test_show_names_method_tap_and_target_and_outlines_its_region(image):
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    target = segcam.targets.region(1, mask)
    model = UNet(nnx.Rngs(0))
    found = segcam.explain(model, image, tap="down", target=target, batch_axis=0)
    heat = segcam.heatmap(jnp.abs(found.map), (8, 8))
    found = dataclasses.replace(found, map=jnp.abs(found.map))
    said = "Grad-CAM at down for class 1 (sum of logits over 9 pixels)"
    expected = viz.overlay(image, heat, region=mask, title=said)
    np.testing.assert_array_equal(drawn(segcam.show(found, image)), drawn(expected))
    without = viz.overlay(image, heat, region=mask)
    np.testing.assert_array_equal(drawn(segcam.show(found, image, title="")), drawn(without))


TOP = """
NAIVE Execution Explanation InputError SegcamError Split TapError Target TargetError bottleneck
device_mesh explain explain_batch explain_classes explain_plan explain_targets from_equinox
from_function from_keras from_linen from_nnx from_torch heatmap list_taps metrics methods models
runs show split tap targets viz volumes
""".split()


def test_the_top_of_the_package_is_short():
    modules = {path.stem for path in Path(segcam.__file__).parent.iterdir()}
    public = {name for name in dir(segcam) if not name.startswith("_")}
    assert public - modules - {"TYPE_CHECKING"} == set(TOP) - modules
    assert all(hasattr(segcam, name) for name in TOP)
    with pytest.raises(AttributeError, match="no attribute 'grad_kam'"):
        _ = segcam.grad_kam  # pyright: ignore[reportAttributeAccessIssue]


def test_names_that_are_not_at_the_top_are_told():
    with pytest.raises(AttributeError, match="'predicted'; it is segcam_jax.targets.predicted"):
        _ = segcam.predicted  # pyright: ignore[reportAttributeAccessIssue]


def test_the_import_is_light():
    code = """
import sys
import segcam_jax as segcam
heavy = {"flax", "zarr", "polars", "msgspec", "matplotlib", "PIL", "tyro", "scipy.ndimage"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert {"metrics", "models", "runs", "viz", "volumes"} <= set(dir(segcam))
assert segcam.runs.open_store and segcam.metrics.region_shares and segcam.models.load
assert "scipy.ndimage" not in sys.modules
assert segcam.viz.overlay
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
