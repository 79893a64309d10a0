"""What an accelerator does in another way: it rounds products, and has memory of its own."""

import jax
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from segcam_jax import Execution
from segcam_jax.engine import NAIVE, memory
from segcam_jax.engine.execution import Precision
from segcam_jax.models import randomised
from segcam_jax.models.unet import UNet, UNetConfig

pytestmark = pytest.mark.accelerator


@pytest.fixture(autouse=True)
def _exact_networks():
    """The prefix runs as the model is written, which an accelerator would round."""
    with jax.default_matmul_precision("highest"):
        yield


SIDE = {2: 64, 3: 16}
METHODS = (
    *("grad_cam", "grad_cam_pp", "layer_cam", "hires_cam", "xgrad_cam", "shapley_cam"),
    *("ablation_cam", "fast_ablation_cam", "recipro_cam", "integrated_gradients"),
)
BOUNDS: dict[Precision, tuple[float, float]] = {
    "float32": (0, 1e-5),
    "tf32": (1e-6, 2e-2),
    "bfloat16": (1e-5, 5e-2),
}


def a_study(ndim):
    """A U-Net at its bottleneck, an image, a region of it."""
    config = UNetConfig(in_channels=2, classes=3, width=8, depth=3, ndim=ndim)
    model = randomised(lambda: UNet(config, rngs=nnx.Rngs(0)), seed=0)
    space = (SIDE[ndim],) * ndim
    x = jax.random.normal(jax.random.key(1), (*space, 2))
    fn, params = segcam.from_nnx(model)
    mask = np.zeros(space, bool)
    mask[(slice(4, 12),) * ndim] = True
    return fn, params, x, segcam.targets.region(1, mask)


def drops(fn, params, x, target, execution):
    split = segcam.split(fn, "bottleneck", params, x)
    return np.asarray(
        segcam.methods.ablation_cam(split, params, x, target, execution=execution).drops
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_falls_keep_their_bounds_against_float64(ndim):
    fn, params, x, target = a_study(ndim)
    found = {each: drops(fn, params, x, target, Execution(precision=each)) for each in BOUNDS}
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
        exact = drops(fn, params, x, target, NAIVE)
    assert exact.dtype == np.float64
    for precision, (low, high) in BOUNDS.items():
        error = np.abs(found[precision] - exact).max() / np.abs(exact).max()
        assert low <= error < high, (precision, error)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_equals_the_plain_program(name):
    fn, params, x, target = a_study(2)
    split = segcam.split(fn, "bottleneck", params, x)
    method = segcam.methods.METHODS[name].function
    found, plain = (
        np.asarray(method(split, params, x, target, execution=each).map)
        for each in (Execution(), NAIVE)
    )
    np.testing.assert_allclose(found, plain, atol=1e-4 * np.abs(plain).max())


def test_chunks_are_planned_from_the_memory_of_the_device():
    stats = jax.local_devices()[0].memory_stats()
    assert stats is not None
    free = memory._device_bytes()
    assert free is not None
    assert 2**30 < free <= stats["bytes_limit"]
