"""Operators of torch in place of those of torchax: torch's values and gradients."""

import copy
import importlib.util

import jax
import numpy as np
import pytest

import segcam_jax as segcam

if importlib.util.find_spec("torchax") is None:  # A release of it may need the adapter's bridge.
    pytest.skip("needs the extra torchax", allow_module_level=True)
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

X = np.random.default_rng(0).normal(size=(9, 8, 4)).astype(np.float32)
V = np.random.default_rng(1).normal(size=(5, 6, 4, 2)).astype(np.float32)


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def resized(**how):
    return lambda x: F.interpolate(x, antialias=True, **how)


def unpooled(axes, *how):
    pool, unpool = getattr(F, f"max_pool{axes}d"), getattr(F, f"max_unpool{axes}d")

    def function(x):
        values, places = pool(x.relu(), *how, return_indices=True)
        return unpool(values * 2 - 1, places, *how, output_size=x.shape[2:])

    return function


def spectral(x):
    found = torch.fft.rfft2(x, norm="ortho")
    return torch.fft.irfft2(found * 2, s=x.shape[-2:], norm="ortho")


def folded(*how):
    return lambda x: F.fold(F.unfold(x, *how) ** 2, x.shape[-2:], *how)


def at_places(function):
    """Values and where they are, in one tensor."""
    return lambda x: torch.cat([each.to(x.dtype) for each in function(x)], 1)


def warped(x):
    moved = torch.tensor([[[0.8, 0.3, 0.1], [-0.2, 1.3, 0.05]]], dtype=x.dtype)
    grid = F.affine_grid(moved, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def partly_filled(x):
    x = x.clone()
    x[:, 1:3].zero_()
    x[:, 0].fill_(3)
    return x


PLANE = {
    "dilated maxima": nn.MaxPool2d(2, 1, dilation=3),
    "dilated maxima, ceil": nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
    "maxima, ceil": nn.MaxPool2d(2, 2, 1, ceil_mode=True),
    "maxima and places": at_places(lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)),
    "adaptive maxima": at_places(lambda x: F.adaptive_max_pool2d(x, (4, 3), return_indices=True)),
    "global maxima": nn.AdaptiveMaxPool2d(1),
    "means, ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "unpooled": unpooled(2, 2),
    "unpooled with steps": unpooled(2, 2, 3),
    "bilinear, smaller": resized(size=(5, 3), mode="bilinear"),
    "bilinear, corners": resized(size=(5, 11), mode="bilinear", align_corners=True),
    "bilinear, factor": resized(scale_factor=0.6, mode="bilinear"),
    "bicubic, smaller": resized(size=(4, 5), mode="bicubic"),
    "bicubic, factor": resized(scale_factor=(0.4, 1.5), mode="bicubic"),
    "folded": folded(3, 1, 1),
    "folded with gaps and steps": folded(2, 3, 1, 2),
    "odd spectrum": spectral,
    "softplus of large values": lambda x: F.softplus(100 * x),
    "mean of a dtype": lambda x: x * x.mean((2, 3), keepdim=True, dtype=x.dtype),
    "warped": warped,
    "filled in part": partly_filled,
}
SPACE = {
    "dilated maxima": nn.MaxPool3d(2, 1, dilation=2),
    "adaptive maxima": nn.AdaptiveMaxPool3d((2, 4, 1)),
    "global maxima": lambda x: F.max_pool3d(x, x.shape[2:]),
    "means, ceil": nn.AvgPool3d(3, 2, 1, ceil_mode=True),
    "unpooled": unpooled(3, 2),
}
CASES = [*((X, *case) for case in PLANE.items()), *((V, *case) for case in SPACE.items())]


@pytest.mark.parametrize(
    ("x", "function"),
    [(x, function) for x, _, function in CASES],
    ids=[f"{name}, {x.ndim - 1}d" for x, name, _ in CASES],
)
def test_values_and_gradients_are_torchs(x, function):
    assert_as_in_torch(Applied(function), x)


def assert_as_in_torch(module, x):
    image = np.ascontiguousarray(np.moveaxis(x, -1, 0)[None])
    given = torch.from_numpy(image).double().requires_grad_()
    want = copy.deepcopy(module).double()(given)
    (want**2).sum().backward()
    fn, params = segcam.from_torch(module.eval())
    gradient = jax.grad(lambda x: (fn(params, x) ** 2).sum())(x)
    values = np.moveaxis(want.detach().numpy()[0], 0, -1)
    np.testing.assert_allclose(fn(params, x), values, rtol=1e-5, atol=1e-5)
    wanted = np.moveaxis(given.grad.numpy()[0], 0, -1)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5 * np.abs(wanted).max())


class SegNet(nn.Module):
    """One level: a pooling, and an unpooling to where its maxima were."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = F.relu(self.down(x))
        small, places = self.pool(x)
        return self.head(self.unpool(self.up(small), places, output_size=x.shape[2:]))


def test_ablations_of_a_network_that_unpools():
    torch.manual_seed(0)
    module = SegNet().eval()
    fn, params = segcam.from_torch(module)
    split = segcam.split(fn, "down", params, X)
    found = segcam.methods.ablation_cam(split, params, X, segcam.targets.whole_image(1)).drops
    exact, image = module.double(), torch.from_numpy(np.moveaxis(X, -1, 0)[None]).double()
    before, drops = exact(image)[0, 1].sum(), []
    for channel in range(4):
        kept = torch.arange(4) != channel
        handle = exact.down.register_forward_hook(
            lambda m, i, output, kept=kept: output * kept[:, None, None]
        )
        drops.append((before - exact(image)[0, 1].sum()).item())
        handle.remove()
    np.testing.assert_allclose(found, drops, atol=2e-6 * np.abs(drops).max())


class Columns(nn.Module):
    """A recurrent layer of the rows; torch knows the size of what it returns."""

    def __init__(self):
        super().__init__()
        self.rows = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        rows = self.rows(x.permute(0, 2, 3, 1).flatten(0, 1))[0]
        return rows.unflatten(0, (x.shape[0], -1)).permute(0, 3, 1, 2)


def test_sizes_after_a_recurrent_layer():
    torch.manual_seed(0)
    module = Columns().eval()
    fn, params = segcam.from_torch(module)
    want = module(torch.from_numpy(np.moveaxis(X, -1, 0)[None]))[0].detach().numpy()
    np.testing.assert_allclose(fn(params, X), np.moveaxis(want, 0, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolutions(modulated):
    ops = pytest.importorskip("torchvision.ops")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            how = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
            self.offset, self.mask = nn.Conv2d(4, 2 * 18, 3, **how), nn.Conv2d(4, 18, 3, **how)
            self.deformed = ops.DeformConv2d(4, 6, 3, groups=2, **how)

        def forward(self, x):
            mask = self.mask(x).sigmoid() if modulated else None
            return self.deformed(x, 2 * self.offset(x), mask)

    torch.manual_seed(0)
    assert_as_in_torch(Net(), X)
