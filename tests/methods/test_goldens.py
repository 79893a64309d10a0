"""Agreement with pytorch-grad-cam, captum, OpenCV and torch, on values stored in `goldens/`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import segcam_jax as segcam
from segcam_jax.heatmap import PROFILES, relu, resize
from tests import goldens
from tests.goldens.network import network

FOLDER = goldens.FOLDER
FILES = ("unet2d", "unet3d")
LAYERS = ("bottleneck", "decoder")
# pytorch-grad-cam's epsilon; ours is 0 by default.
METHODS = {
    "grad_cam": segcam.methods.grad_cam,
    "grad_cam_pp": functools.partial(segcam.methods.grad_cam_pp, epsilon=1e-6),
    "xgrad_cam": segcam.methods.xgrad_cam,
    "hires_cam": segcam.methods.hires_cam,
    "layer_cam": segcam.methods.layer_cam,
    "eigen_cam": segcam.methods.eigen_cam,
    "eigen_grad_cam": segcam.methods.eigen_grad_cam,
    "ablation_cam": segcam.methods.ablation_cam,
    "score_cam": functools.partial(segcam.methods.score_cam, masks="pytorch_grad_cam"),
    "fem": segcam.methods.fem,
    "kpca_cam": segcam.methods.kpca_cam,
    "shapley_cam": segcam.methods.shapley_cam,
    "finer_cam": functools.partial(segcam.methods.finer_cam, comparisons=2),
}
TARGETS = {"shapley_cam": {"of": "probabilities"}}
EIGEN = ("eigen_cam", "eigen_grad_cam", "kpca_cam")
SUMMED = (
    "grad_cam",
    "grad_cam_pp",
    "xgrad_cam",
    "ablation_cam",
    "score_cam",
    "shapley_cam",
    "finer_cam",
)
# pytorch-grad-cam 1.5.7 ablates and masks in 2D only.
IN_3D = tuple(name for name in METHODS if name not in ("ablation_cam", "score_cam"))
CASES = [
    (file, layer, name)
    for file in FILES
    for layer in LAYERS
    for name in (METHODS if file == "unet2d" else IN_3D)
]


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file, and what explains its network."""

    arrays: dict[str, np.ndarray]
    params: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def extent(self) -> tuple[int, ...]:
        return self["mask"].shape

    def target(self, **options) -> segcam.Target:
        return segcam.targets.region(int(self["class_index"]), jnp.asarray(self["mask"]), **options)

    def explain(self, method, tap: str, target=None, **options) -> segcam.Explanation:
        split = segcam.split(network, tap, self.params, self["input"])
        target = self.target() if target is None else target
        return method(split, self.params, self["input"], target, **options)


@functools.cache
def golden(file: str) -> Golden:
    with np.load(FOLDER / f"{file}.npz") as stored:
        arrays = dict(stored)
    prefix = "params/"
    params = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    return Golden(arrays, params)


@functools.cache
def explained(file: str, layer: str, name: str) -> segcam.Explanation:
    one = golden(file)
    return one.explain(METHODS[name], layer, one.target(**TARGETS.get(name, {})))


def agree(actual, expected, tolerance=1e-5):
    """Largest difference at most `tolerance`, relative where the values exceed 1."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def sign_between(first, second) -> float:
    return float(np.sign(np.vdot(first, second)))


@pytest.mark.parametrize("file", FILES)
def test_network_equals_torch(file):
    one = golden(file)
    agree(jax.jit(network)(one.params, one["input"]), one["logits"])
    for layer in LAYERS:
        split = segcam.split(network, layer, one.params, one["input"])
        activation, carry = jax.jit(split.encode)(one.params, one["input"])
        agree(activation, one[f"{layer}/activation"])
        agree(jax.jit(split.decode)(activation, carry), one["logits"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("layer", LAYERS)
def test_score_and_gradient_equal_torch(file, layer):
    one = golden(file)
    explanation = one.explain(segcam.methods.gradient, layer)
    agree(explanation.score, one["score"])
    agree(explanation.attribution, one[f"{layer}/gradient"])


@pytest.mark.parametrize(("file", "layer", "name"), CASES)
def test_raw_map_equals_pytorch_grad_cam(file, layer, name):
    expected = golden(file)[f"{layer}/pgc/{name}/raw"]
    actual = np.asarray(explained(file, layer, name).map)
    sign = sign_between(actual, expected) if name in EIGEN else 1
    agree(sign * actual, expected)


@pytest.mark.parametrize(("file", "layer", "name"), [case for case in CASES if case[2] in SUMMED])
def test_weights_equal_pytorch_grad_cam(file, layer, name):
    agree(explained(file, layer, name).weights, golden(file)[f"{layer}/pgc/{name}/weights"])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", METHODS)
def test_heatmap_equals_pytorch_grad_cam(layer, name):
    one = golden("unet2d")
    raw = explained("unet2d", layer, name).map
    if name in EIGEN:
        raw = sign_between(raw, one[f"{layer}/pgc/{name}/raw"]) * raw
    heatmap = segcam.heatmap(raw, size=one.extent, profile="pytorch_grad_cam")
    agree(heatmap, one[f"{layer}/pgc/{name}/heatmap"])


@pytest.mark.parametrize("layer", LAYERS)
def test_volume_heatmap_differs_from_pytorch_grad_cam_in_the_resize_only(layer):
    """pytorch-grad-cam resizes volumes by a cubic spline through the corners, we trilinearly."""
    one = golden("unet3d")

    def cubic(values, size):
        factors = [new / old for new, old in zip(size, values.shape, strict=True)]
        return ndimage.zoom(np.asarray(values), factors)

    profile = PROFILES["pytorch_grad_cam"]
    rectify, normalise, _, *rest = profile.steps
    splined = dataclasses.replace(profile, steps=(rectify, normalise, cubic, *rest))
    heatmap = segcam.heatmap(explained("unet3d", layer, "grad_cam").map, one.extent, splined)
    agree(heatmap, one[f"{layer}/pgc/grad_cam/heatmap"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_equals_captum(file, layer):
    one = golden(file)
    raw = explained(file, layer, "grad_cam").map
    agree(raw, one[f"{layer}/captum/grad_cam"])
    agree(relu(raw), one[f"{layer}/captum/grad_cam_relu"])
    wide = segcam.heatmap(raw, size=one.extent, profile="captum")
    agree(wide, one[f"{layer}/captum/grad_cam_interpolated"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("layer", LAYERS)
def test_ablated_channels_equal_captum(file, layer):
    """Also in 3D, where pytorch-grad-cam has no Ablation-CAM."""
    one = golden(file)
    explanation = one.explain(segcam.methods.ablation_cam, layer, relative=False)
    expected = one[f"{layer}/captum/feature_ablation"]
    assert explanation.scores is not None
    agree(explanation.weights, expected)
    agree(explanation.score - explanation.scores, expected)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("layer", LAYERS)
def test_dead_channel_has_no_weight(file, layer):
    """Also a check of rounding: the score and its ablated values must be computed alike."""
    activation = golden(file)[f"{layer}/activation"]
    dead = activation.reshape(-1, activation.shape[-1]).max(axis=0) == 0
    assert dead.any()
    explanation = golden(file).explain(segcam.methods.ablation_cam, layer)
    agree(np.asarray(explanation.weights)[dead], np.zeros(dead.sum()), tolerance=1e-7)


@pytest.mark.parametrize("file", FILES)
def test_input_gradients_equal_captum(file):
    one = golden(file)
    for method, name in (
        (segcam.methods.gradient, "saliency"),
        (segcam.methods.input_x_gradient, "input_x_gradient"),
    ):
        agree(one.explain(method, "input").attribution, one[f"input/captum/{name}"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 50), ("left", 200)])
def test_integrated_gradients_equal_captum(file, rule, steps):
    one = golden(file)
    options = {"baseline": 0.5, "rule": rule, "steps": steps}
    explanation = one.explain(segcam.methods.integrated_gradients, "input", **options)
    agree(explanation.attribution, one[f"input/captum/integrated_gradients_{rule}_{steps}"])


@pytest.mark.parametrize(
    ("layer", "of"), [("bottleneck", "logits"), ("decoder", "logits"), ("decoder", "probabilities")]
)
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("plain", {}),
        ("absolute", {"absolute_weights": True}),
        ("positive", {"positive_weights": True}),
        ("absolute_positive", {"absolute_weights": True, "positive_weights": True}),
    ],
    ids=["plain", "absolute", "positive", "absolute_positive"],
)
def test_seg_grad_cam_equals_numpy_and_opencv(layer, of, variant, options):
    one = golden("unet2d")
    explanation = one.explain(segcam.methods.seg_grad_cam, layer, one.target(of=of), **options)
    heatmap = segcam.heatmap(explanation.map, size=one.extent, profile="seg_grad_cam")
    agree(heatmap, one[f"{layer}/seg_grad_cam/{of}/{variant}"])


def test_area_of_the_region_cancels_in_seg_grad_cam():
    one = golden("unet2d")
    explanation = one.explain(segcam.methods.seg_grad_cam, "decoder", one.target(reduce="mean"))
    heatmap = segcam.heatmap(explanation.map, size=one.extent, profile="seg_grad_cam")
    agree(heatmap, one["decoder/seg_grad_cam/logits/plain"])


@pytest.mark.parametrize(
    "sample", ["opencv_up", "opencv_down", "opencv_mixed", "torch_up", "torch_down"]
)
def test_resize_equals_opencv_and_torch(sample):
    one = golden("resize")
    source, expected = jnp.asarray(one[f"{sample}/source"]), one[f"{sample}/resized"]
    agree(resize(source, expected.shape), expected)
    if sample.startswith("torch"):
        nearest = one[f"{sample}/nearest"]
        agree(resize(source, nearest.shape, kind="nearest"), nearest, tolerance=0)
