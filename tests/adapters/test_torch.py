"""PyTorch modules as they are: torch's values, a tap at every submodule, nothing left behind."""

import copy
import functools
import importlib.util
import re
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from PIL import Image

import segcam_jax as segcam
from segcam_jax import InputError
from segcam_jax.adapters.torch_runtime import load_torchax
from segcam_jax.cli import main
from segcam_jax.data import scans
from segcam_jax.data.nifti import read_volume
from segcam_jax.types import MissingExtraError
from tests.support.trained_folders import write_scan

if importlib.util.find_spec("torchax") is None:  # A release of it may need the adapter's bridge.
    pytest.skip("needs the extra torchax", allow_module_level=True)
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

X = np.random.default_rng(0).normal(size=(16, 12, 3)).astype(np.float32)


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU(inplace=True)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class UNet(nn.Module):
    """One level, one convolution called twice, two ways up."""

    def __init__(self):
        super().__init__()
        self.down, self.middle, self.up = Block(3, 4), Block(4, 8), Block(4 + 4 + 8, 4)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.shared = nn.Conv2d(8, 8, 1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        x = self.middle(F.max_pool2d(skip, 2))
        x = self.shared(F.gelu(self.shared(x)))
        nearest = F.interpolate(x, scale_factor=2)
        x = self.up(torch.cat([skip, self.transposed(x), nearest], 1))
        return self.head(self.dropout(x))


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet().eval()


def given(x, dtype=torch.float32):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 0)[None]).to(dtype)


def back(tensor):
    return np.moveaxis(tensor.detach().numpy()[0], 0, -1)


def test_a_unet_is_explained_as_torch_computes_it(unet):
    fn, params = segcam.from_torch(unet)
    taps = segcam.list_taps(fn, params, X)
    assert list(taps) == [
        *("input", "down/conv", "down/norm", "down/act", "down", "middle/conv", "middle/norm"),
        *("middle/act", "middle", "shared", "shared#2", "transposed", "up/conv", "up/norm"),
        *("up/act", "up", "dropout", "head"),
    ]
    assert taps["middle"].shape == (8, 6, 8)
    assert taps["middle"].on_grid
    kept = {}

    def keep(_, __, output):
        kept["middle"] = output.detach().clone().requires_grad_()
        return kept["middle"].clone()

    handle = unet.middle.register_forward_hook(keep)
    output = unet(given(X))
    output[0, 1, 4:9, 3:7].sum().backward()
    handle.remove()
    split = segcam.split(fn, "middle", params, X)
    activation, carry = split.encode(params, X)
    np.testing.assert_allclose(split.decode(activation, carry), back(output), atol=1e-5)
    np.testing.assert_allclose(activation, back(kept["middle"]), atol=1e-5)
    gradient = jax.grad(lambda a: split.decode(a, carry)[4:9, 3:7, 1].sum())(activation)
    np.testing.assert_allclose(gradient, back(kept["middle"].grad), atol=1e-5)

    exact, drops = copy.deepcopy(unet).double(), []
    before = exact(given(X, torch.float64))[0, 1, 4:9, 3:7].sum().item()
    for channel in range(8):

        def ablate(_, __, output, channel=channel):
            return output * (torch.arange(8) != channel)[:, None, None]

        handle = exact.middle.register_forward_hook(ablate)
        drops.append(before - exact(given(X, torch.float64))[0, 1, 4:9, 3:7].sum().item())
        handle.remove()
    region = np.zeros((16, 12), bool)
    region[4:9, 3:7] = True
    target = segcam.targets.region(1, region)
    ours = segcam.methods.ablation_cam(split, params, X, target).drops
    np.testing.assert_allclose(ours, drops, atol=2e-6 * np.abs(drops).max())
    one_line = segcam.explain(unet, X, tap="middle", target=target, method="ablation_cam")
    np.testing.assert_array_equal(one_line.drops, ours)


def copied_dicts(module):
    return {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()}


def test_nothing_is_left_on_a_module_nor_taken_from_a_generator():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.seen = Block(3, 2), []
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen.append(x)
            return self.block(x) * self.calls

    module = Counting()
    module.eval().block.conv.train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    attributes = {each: copied_dicts(each) for each in module.modules()}
    seed = torch.get_rng_state()
    fn, params = segcam.from_torch(module)
    first, second = fn(params, X), fn(params, X)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(jax.jit(fn)(params, X), first, atol=1e-6)
    assert torch.equal(seed, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()
    assert module.seen == []
    assert module.block.conv.training
    assert {each: copied_dicts(each) for each in module.modules()} == attributes
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    module.block.conv.weight.data.zero_()
    np.testing.assert_array_equal(fn(params, X), first)  # `params` is what counts.
    assert jnp.abs(fn(jax.tree.map(jnp.zeros_like, params), X)).max() == 0


def test_random_numbers_are_the_same_in_every_call_and_nobody_elses():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x) + torch.rand(1)

    fn, params = segcam.from_torch(Noisy().eval())
    state, numbers = torch.get_rng_state(), torchax_numbers()
    first = fn(params, X)
    assert jnp.abs(first - X).max() > 0.1
    np.testing.assert_allclose(jax.jit(fn)(params, X), first, atol=1e-6)
    np.testing.assert_array_equal(fn(params, X), first)
    assert torch.equal(state, torch.get_rng_state())
    assert torchax_numbers() == numbers


def torchax_numbers():
    import torchax

    return jax.random.key_data(torchax.default_env().prng_key).tolist()


class Writing(nn.Module):
    """Writes by `write(z)`, which may return what is read with z."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        z = x.clone()
        other = self.write(z)
        return z if other is None else z + other


SAFE = {
    "slice": lambda z: z[:, 1:3].mul_(2).sum(),
    "select": lambda z: z[:, 0].zero_().sum(),
    "whole": lambda z: z.mul_(2).flatten()[:5].sum(),
    "fresh": lambda z: (z.permute(0, 2, 3, 1) * 1).add_(1).sum(),
    "dead": lambda z: (z * 2).flatten(1).relu_().sum(),
    "setitem": lambda z: z.__setitem__((slice(None), 0), 3.0),
}
LOST = {
    "chunk": lambda z: z.chunk(2, 1)[0].add_(1).sum(),
    "view": lambda z: z.view(1, 3, -1).zero_().sum(),
    "item of a view": lambda z: z.transpose(1, 2).__setitem__(0, 0.0),
    "transpose": lambda z: z.transpose(1, 2).mul_(3).sum(),
    "read": lambda z: [z.permute(0, 2, 3, 1), z.__setitem__((slice(None), 1), 5.0)][0].sum(),
    "relu": lambda z: F.relu(z.flatten(), inplace=True).sum(),
}


@pytest.mark.parametrize("write", SAFE.values(), ids=SAFE)
def test_writes_in_place_that_are_followed(write):
    module = Writing(write).eval()
    fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), back(module(given(X))), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("write", LOST.values(), ids=LOST)
def test_writes_into_views_are_right_or_refused(write):
    module = Writing(write).eval()
    fn, params = segcam.from_torch(module)
    with pytest.raises(InputError, match=r"in the module: .*compute a new tensor instead"):
        fn(params, X)


def test_equal_modules_share_their_splits():
    torch.manual_seed(0)
    first, second = segcam.from_torch(UNet().eval())[0], segcam.from_torch(UNet().eval())[0]
    assert first == second
    assert hash(first) == hash(second)
    other = UNet().eval()
    other.shared.stride = (2, 2)
    assert segcam.from_torch(other)[0] != first
    twin = copy.deepcopy(first)
    params = segcam.from_torch(UNet().eval())[1]
    np.testing.assert_array_equal(twin(params, X), first(params, X))
    with torch.inference_mode():
        np.testing.assert_array_equal(first(params, X), twin(params, X))
    with pytest.raises(InputError, match="the parameters lack 'down.conv.weight'"):
        first({}, X)


def test_recurrent_layers_that_list_their_parameters_compare():
    class Rows(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.gru = nn.GRU(3, size, batch_first=True, bidirectional=True)

        def forward(self, x):
            rows = x.permute(0, 2, 3, 1).flatten(0, 1)
            found = self.gru(rows)[0].reshape(*x.permute(0, 2, 3, 1).shape[:3], -1)
            return found.permute(0, 3, 1, 2)

    module = Rows(4).eval()
    fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), back(module(given(X))), rtol=1e-5, atol=1e-6)
    assert segcam.from_torch(module)[0] == fn
    assert segcam.from_torch(Rows(4).eval())[0] == fn
    assert segcam.from_torch(Rows(2).eval())[0] != fn


def test_integers_that_do_not_fit_are_refused():
    module = nn.Conv2d(3, 2, 1)
    module.register_buffer("large", torch.tensor([2**40]))
    with pytest.raises(InputError, match="'large' holds integers that int32 cannot"):
        segcam.from_torch(module)
    with pytest.raises(InputError, match="weights are loaded, dense"):
        segcam.from_torch(nn.LazyConv2d(2, 1))


def test_changes_in_place_stay_what_they_are():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True)
            self.same, self.drop = nn.Identity(), nn.Dropout(0.3)

        def forward(self, x):
            x = self.conv(x)
            self.act(x)  # What it returns is not used: `x` has changed.
            return x + 2 * self.drop(self.same(x))

    module = Aliased().eval()
    fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), back(module(given(X))), atol=1e-6)
    whole = fn(params, X)
    shares = {}
    for name in ("conv", "act", "same", "drop"):
        split = segcam.split(fn, name, params, X)
        activation, carry = split.encode(params, X)
        np.testing.assert_allclose(split.decode(activation, carry), whole, atol=1e-6)
        shares[name] = split.decode(0 * activation, carry) / jnp.where(whole == 0, 1, whole)
    assert jnp.abs(shares["conv"]).max() == 0
    assert jnp.abs(shares["act"]).max() == 0
    for name in ("same", "drop"):  # The other summand does not pass through them.
        np.testing.assert_allclose(shares[name][whole > 0], 1 / 3, rtol=1e-5)
    before = np.asarray(segcam.split(fn, "conv", params, X).encode(params, X)[0])
    np.testing.assert_allclose(before, back(module.conv(given(X))), atol=1e-6)
    assert before.min() < 0


def test_outputs_inputs_and_arguments():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.embed, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 2)

        def forward(self, scale, image, form="dict"):
            tokens = self.embed(image).flatten(2).transpose(1, 2)
            tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            out = self.head(tokens.mean(1)) * scale
            both = {"out": out, "aux": out + 1}
            return {"dict": both, "list": list(both.values()), "one": {"out": out}}[form]

    module = Many().eval()
    scale = np.full((1, 1), 3, np.float32)
    want = module(torch.tensor(scale), given(X))["out"].detach().numpy()[0]
    named = {"image": "image", "scale": scale}
    for options in (
        {**named, "output": "out"},
        {**named, "output": 0, "form": "list"},
        {**named, "form": "one"},
        {"call": lambda m, x: m(3, x)["out"]},
        {"call": lambda m, x, t: m(t, x)["out"], "t": torch.tensor(scale)},
        {**named, "output": lambda out: out["aux"] - 1},
    ):
        fn, params = segcam.from_torch(module, **options)
        np.testing.assert_allclose(fn(params, X), want, atol=1e-6)
    taps = segcam.list_taps(fn, params, X)
    assert taps["attention"].shape == (12, 4)
    assert not taps["attention"].on_grid
    fn, params = segcam.from_torch(module, **named)
    with pytest.raises(InputError, match=r"2 tensors in a dict \('out': .*; say .* output='out'"):
        fn(params, X)
    for key, there in (("mask", r"\['out', 'aux'\]"), (5, "")):
        fn, params = segcam.from_torch(module, **named, output=key)
        with pytest.raises(InputError, match=f"output={key!r}: .* a dict; choose from {there}"):
            fn(params, X)
    with pytest.raises(InputError, match="dtype uint8.*x / 255"):
        fn(params, np.zeros((16, 12, 3), np.uint8))
    fn, params = segcam.from_torch(module, output="out")
    with pytest.raises(InputError, match="needs the argument 'image'"):
        fn(params, X)


def test_sizes_that_are_computed_from_shapes():
    class Sized(nn.Module):
        def forward(self, x):
            batch, channels, height, width = x.shape
            y = F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")
            y = (
                y.reshape(batch, channels, height * width)
                .softmax(-1)
                .view(batch, -1, height, width)
            )
            half = x[:, :, : height // 2].mean((2, 3), keepdim=True)
            return torch.cat([y * width, half.expand_as(x)], 1)

    module = Sized().eval()
    fn, params = segcam.from_torch(module)
    for x in (X, X[:11, :9]):
        np.testing.assert_allclose(fn(params, x), back(module(given(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_transposed_convolutions_of_groups(groups):
    """8 channels: torchax 0.0.13 is right for 1 group and for 8."""
    for dims, bias in ((1, True), (2, False), (2, True), (3, True)):
        kind = getattr(nn, f"ConvTranspose{dims}d")
        sizes = {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2}
        module = kind(8, 16, 3, groups=groups, bias=bias, **sizes).eval()
        x = np.random.default_rng(1).normal(size=(5, 4, 3)[:dims] + (8,)).astype(np.float32)
        fn, params = segcam.from_torch(module)
        np.testing.assert_allclose(fn(params, x), back(module(given(x))), rtol=1e-5, atol=1e-6)


def test_packages_that_are_missing_or_do_not_fit(monkeypatch):
    def unfit():
        raise AttributeError("no such overload")

    monkeypatch.setitem(sys.modules, "torchax", types.SimpleNamespace(default_env=unfit))
    with pytest.raises(
        InputError, match=r"torchax does not .* it needs torch 2.* Run: pip install"
    ):
        load_torchax.__wrapped__()
    for package in ("torchax", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"{package} is .*segcam-jax\[torchax\]"):
            load_torchax.__wrapped__()


def test_weights_shared_halved_and_kept_loose():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            self.up.weight = self.down.weight
            self.scale, self.steps = torch.tensor(2.0), [torch.ones(3, 1, 1), {"a": torch.eye(3)}]

        def forward(self, x):
            x = self.up(self.down(x)) * self.scale + self.steps[0] * torch.arange(12)
            return torch.einsum("bchw,cd->bdhw", x, self.steps[1]["a"])

    module = Tied().eval()
    fn, params = segcam.from_torch(module)
    assert list(params) == ["down.weight"]
    np.testing.assert_allclose(fn(params, X), back(module(given(X))), rtol=1e-5, atol=1e-5)
    half = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).eval()
    fn, params = segcam.from_torch(half.to(torch.bfloat16))
    assert {str(leaf.dtype) for leaf in params.values()} == {"float32", "int32"}
    np.testing.assert_allclose(fn(params, X), back(half.float()(given(X))), atol=1e-5)


def test_hooks_of_the_model_run_and_those_of_others_do_not():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.old = nn.utils.weight_norm(nn.Conv2d(4, 2, 1))
            self.conv.register_forward_hook(self.double)

        def double(self, _, __, output):
            return 2 * output

        def forward(self, x):
            return self.old(self.conv(x))

    module = Hooked().eval()
    want = back(module(given(X)))
    fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), want, atol=1e-5)
    kept = []
    handle = module.conv.register_forward_hook(lambda m, i, o: kept.append(o.detach().numpy()))
    module(given(X))
    with pytest.warns(UserWarning, match="a hook on the submodule 'conv' .* does not run"):
        fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), want, atol=1e-5)
    handle.remove()
    assert len(kept) == 1


def test_channels_last_inside_is_read_from_the_program():
    class Windows(nn.Module):
        """Embeds channels first, and works channels last, as windowed attention does."""

        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 6, 2, stride=2), nn.LayerNorm(6)
            self.mix, self.head = nn.Linear(6, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.mix(self.norm(self.embed(x).permute(0, 2, 3, 1)))
            return self.head(x.permute(0, 3, 1, 2))

    module = Windows().eval()
    fn, params = segcam.from_torch(module)
    taps = segcam.list_taps(fn, params, X)
    assert {name: taps[name].shape for name in ("embed", "norm", "mix", "head")} == {
        **dict.fromkeys(("embed", "norm", "mix"), (8, 6, 6)),
        "head": (8, 6, 2),
    }
    assert taps["norm"].on_grid
    told = {name: (taps[name].inside, taps[name].evidence) for name in ("embed", "norm", "mix")}
    assert told == {
        "embed": ("chw", "made by a convolution"),
        "norm": ("hwc", "made by a convolution"),
        "mix": ("hwc", "made by a product"),
    }
    found = segcam.split(fn, "norm", params, X).encode(params, X)[0]
    want = module.norm(module.embed(given(X)).permute(0, 2, 3, 1)).detach().numpy()[0]
    np.testing.assert_allclose(found, want, atol=1e-5)


def _parallel(module):
    carrier = nn.DataParallel.__new__(nn.DataParallel)  # Without asking for devices.
    nn.Module.__init__(carrier)
    carrier.module = module
    return carrier


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_carriers_and_modes():
    plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.warns(UserWarning, match=r"in training mode.*BatchNorm2d.*call module.eval\(\)"):
        segcam.from_torch(plain)
    plain.eval()
    want = back(plain(given(X)))
    for carried in (_parallel(plain), torch.compile(plain)):
        fn, params = segcam.from_torch(carried)
        np.testing.assert_allclose(fn(params, X), want, atol=1e-6)
        assert list(segcam.list_taps(fn, params, X)) == ["input", "0", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has better than scripts by now.
        script = torch.jit.trace(plain, given(X))
    with pytest.raises(InputError, match="ScriptModule.*give the module itself"):
        segcam.from_torch(script)
    with pytest.raises(InputError, match="given Conv2d, expected a torch.nn.Module|given type"):
        segcam.from_torch(nn.Conv2d)
    exported = torch.export.export(plain, (given(X),))
    for made in (exported, exported.module()):
        with pytest.raises(InputError, match="a program of torch.export.*give the module itself"):
            segcam.explain(made, X)
    with pytest.raises(InputError, match="x is Tensor, expected an array"):
        segcam.explain(plain, given(X), target=1)


class Unregistered(nn.Module):
    """Keeps layers where torch does not find them: a list, and a dict in a tuple."""

    def __init__(self):
        super().__init__()
        self.blocks = [nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.BatchNorm2d(3))]
        self.more = ({"gate": nn.Linear(3, 3)},)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.more[0]["gate"](x.transpose(1, 3)).transpose(1, 3))


def test_submodules_in_plain_lists_are_constants_which_is_said():
    module = Unregistered().eval()
    for block in module.blocks:
        block.eval()
    with pytest.warns(UserWarning, match=r"Unregistered keeps .* and 2 more in plain attributes"):
        fn, params = segcam.from_torch(module)
    np.testing.assert_allclose(fn(params, X), back(module(given(X))), atol=1e-6)
    assert list(params) == ["head.weight", "head.bias"]
    assert list(segcam.list_taps(fn, params, X)) == ["input", "head"]
    x = given(X).requires_grad_()
    module(x)[:, 1].sum().backward()
    split = segcam.split(fn, "input", params, X)
    found = segcam.methods.gradient(split, params, X, segcam.targets.whole_image(1)).attribution
    np.testing.assert_allclose(found, x.grad[0].permute(1, 2, 0), atol=1e-6)


def test_broken_weights_and_other_layouts_are_one_line_each():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    fn, params = segcam.from_torch(module)
    for x, said in (
        (X.transpose(2, 0, 1), r"it takes shape .*: channels last, np.moveaxis\(x, 0, -1\)"),
        (np.stack([X, X]), r"it takes .*x\[0\]"),
        (np.stack([X, X]).transpose(0, 3, 1, 2), r"channels last, np.moveaxis\(x\[0\], 0, -1\)"),
    ):
        for call in (fn, functools.partial(segcam.split, fn, "0")):
            with pytest.raises(InputError, match=said) as caught:
                call(params, x)
            assert "\n" not in str(caught.value)
    with torch.no_grad():
        module[2].weight[1, 0] = torch.nan
    with pytest.raises(InputError, match=r"parameter '2\.weight' holds 1 NaN of 8 values"):
        segcam.from_torch(module)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    def forward(self, x):
        return F.fractional_max_pool2d(x, 2, 2)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (Branching, r"in the submodule '1': .*test_torch\.py, line \d+: .*concrete value"),
        (
            Unknown,
            "in the submodule '1': torchax .* lacks an operator of torch .*fractional_max_pool2d",
        ),
    ],
)
def test_what_cannot_be_traced_is_one_line(inner, said):
    fn, params = segcam.from_torch(nn.Sequential(nn.Conv2d(3, 3, 1), inner()).eval())
    with pytest.raises(InputError, match=said) as caught:
        segcam.list_taps(fn, params, X)
    assert "\n" not in str(caught.value)


FACTORY = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(4, 2, 3, padding=1),
    ).eval()

def training():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
"""


def test_a_factory_of_a_module_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_torch_nets.py").write_text(FACTORY)
    assert main(["layers", "--weights", "my_torch_nets.py:make"]) == 0
    told = capsys.readouterr()
    assert "112 x 112" in told.out
    assert "multiples of 2" in told.err + told.out
    made = "it has the weights that my_torch_nets.py:{} gave it (--checkpoint loads others)"
    assert made.format("make") in " ".join((told.err + told.out).split())
    with pytest.warns() as warned:  # Though images of three channels are tried first.
        assert main(["layers", "--weights", "my_torch_nets.py:training"]) == 0
    (one,) = [text for each in warned if "training mode" in (text := str(each.message))]
    assert "in training mode, but is explained in eval mode (BatchNorm2d)" in one
    told = capsys.readouterr()
    assert made.format("training") in " ".join((told.err + told.out).split())


def test_a_checkpoint_is_loaded_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more_torch_nets.py").write_text(FACTORY)
    torch.manual_seed(7)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Upsample(scale_factor=2))
    other.append(nn.Conv2d(4, 2, 3))
    state = {"loss.weight": torch.ones(2)}  # Of a loss beside the network.
    state |= {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "trained.ckpt")
    torch.save(
        {"0.weight": torch.zeros(4, 1, 3, 3), "1.scale": torch.zeros(2), "9.bias": torch.zeros(2)},
        "wrong.pth",
    )
    torch.save(other, "whole.pth")
    torch.save({"model": other.state_dict(), "ema": other.state_dict()}, "two.pth")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save("grey.png")
    line = ["explain", "grey.png", "--weights", "more_torch_nets.py:make", "--method", "grad_cam"]
    line += ["--class", "1", "--region", "all", "--no-figures", "--tap", "1"]
    assert main([*line, "--checkpoint", "trained.ckpt", "--out", "out"]) == 0
    assert "names in trained.ckpt begin with 'model.'" in capsys.readouterr().err
    run = segcam.runs.open_store("out/run.zarr")
    module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
        nn.Conv2d(4, 2, 3, padding=1),
    ).eval()
    module.load_state_dict(other.state_dict())
    image = np.full((32, 32, 3), 90 / 255, np.float32)
    found = segcam.explain(module, image, tap="1", target=segcam.targets.whole_image(1))
    np.testing.assert_allclose(run.map(0, "1", "grad_cam"), found.map, rtol=1e-5, atol=1e-7)
    for name, said in {
        "wrong.pth": r"it lacks 0.bias, 3.bias, 3.weight; it has besides 9.bias, 1.scale; it has "
        r"other shapes for 0.weight \(4, 1, 3, 3\) for \(4, 3, 3, 3\)",
        "two.pth": "holds 2 state dicts, 'model' and 'ema'; save the one that you mean",
        "whole.pth": "could run code when they are read",
        "absent.pt": "does not exist",
    }.items():
        assert main([*line, "--checkpoint", name, "--out", "other"]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert re.search(said, told), told
        assert not (tmp_path / "other").exists()
    (tmp_path / "jax_net.py").write_text("make = lambda: ((lambda p, x: x * p), 1.0)")
    line[3] = "jax_net.py:make"
    assert main([*line, "--checkpoint", "trained.ckpt", "--out", "other"]) == 2
    assert "--checkpoint is for a factory of a torch.nn.Module" in capsys.readouterr().err


DYNUNET = """
from monai.networks.nets import DynUNet

def make():
    filters, norm = [4, 8, 16], "instance"
    net = DynUNet(3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters, 0.1, norm, res_block=True)
    return net.eval()
"""


def test_a_lesion_network_of_monai_on_the_command_line(tmp_path, monkeypatch):
    """A lesion is that of MONAI's sliding windows, its gradient torch's through all of them."""
    inferers = pytest.importorskip("monai.inferers")
    pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    files = write_scan(tmp_path)
    (tmp_path / "lesion_nets.py").write_text(DYNUNET)
    made = {}
    exec(DYNUNET, made)
    torch.manual_seed(0)
    module = made["make"]()
    slide = functools.partial(
        inferers.sliding_window_inference, roi_size=(16,) * 3, sw_batch_size=1, overlap=0.25
    )
    values = scans.zscore(np.stack([read_volume(each).values for each in files], -1))
    x = given(values).requires_grad_()
    logits = slide(x, predictor=module, mode="gaussian")[0]
    difference = (logits[1] - logits[0]).detach().numpy()
    level = np.quantile(difference, 0.97)
    with torch.no_grad():  # So that three voxels of a hundred are above the threshold.
        module.output_block.conv.conv.bias[1] += np.log(0.4 / 0.6) - level
    torch.save(module.state_dict(), "dynunet.pth")
    labels, _ = scipy.ndimage.label(difference > level, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    lesion = labels == 1 + sizes.argmax()
    logits[1][torch.from_numpy(lesion)].mean().backward()

    line = ["instances", *map(str, files), "--weights", "lesion_nets.py:make"]
    line += ["--checkpoint", "dynunet.pth", "--threshold", "0.4", "--roi", "16"]
    line += ["--min-voxels", str(sizes.max())]
    two = ["--method", "instance_smooth_grad", "grad_cam_pp", "--tap", "bottleneck"]
    assert main([*line, *two, "--option", "samples=1", "--out", "two"]) == 0
    assert main(["score", "two", "--metric", "rank_accuracy"]) == 0
    (folder,) = tmp_path.glob("two/*/instance-001")
    found = read_volume(folder.parent / "instances.nii.gz").values
    np.testing.assert_array_equal(found > 0, lesion)
    maps = {path.name: read_volume(path).values for path in folder.glob("*_*.nii.gz")}
    assert len(maps) == 3  # One of a modality each, and one of the tap.
    assert all(np.abs(each).max() > 0 for each in maps.values())
    stitched = ["--method", "gradient", "--field", "stitched", "--out", "whole"]
    assert main([*line, *stitched]) == 0
    (folder,) = tmp_path.glob("whole/*/instance-001")
    maps = [read_volume(path).values for path in sorted(folder.glob("gradient.*.nii.gz"))]
    wanted = back(x.grad)
    for channel, each in enumerate(maps):
        own = wanted[..., channel]
        np.testing.assert_allclose(each, own, atol=1e-4 * np.abs(own).max())
    assert len(maps) == 2
