"""Networks of five PyTorch packages, as they are: outputs, activations, gradients, ablations.

python -m benchmarks.foreign [--only NAME ...]

Each network has random weights and normalisations of random statistics, and is held to torch
itself: its output and the activation at a tap in float32; the gradient there and the drops of three
ablated channels in float64, beside torch's own gradient in float32. All are the largest difference,
relative to the largest magnitude. The score is the last channel's mean over a quarter of the image.
"""

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segcam_jax as segcam
from benchmarks.tables import markdown
from segcam_jax import files
from segcam_jax.adapters import from_torch
from segcam_jax.extras import require

OUT = Path(__file__).parent / "results" / "foreign.json"
_ABLATED = 3


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a package.

    Attributes:
        package: its import name.
        make: makes it, given the package.
        shape: of an image, channels last.
        tap: where it is explained.
        output: picks the logits from what it returns.
    """

    package: str
    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    tap: str
    output: str | int | None = None


def _plain_unet(package: Any, *, deep: bool) -> Any:
    nn = require("torch.nn", extra="bench")
    unet = require(f"{package.__name__}.architectures.unet", extra="bench")
    return unet.PlainConvUNet(
        1, 4, (16, 32, 64, 128), nn.Conv3d, 3, ((1, 1, 1), 2, 2, 2), 2, 3, 2, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=deep,
    )  # fmt: skip


def _vision(name: str, tap: str, side: int = 64) -> Network:
    return Network("torchvision.models", lambda m: getattr(m, name)(), (side, side, 3), tap)


def _smp(name: str, tap: str = "encoder/layer4", encoder: str = "resnet18") -> Network:
    def make(package: Any) -> Any:
        return getattr(package, name)(encoder, encoder_weights=None, classes=4)

    return Network("segmentation_models_pytorch", make, (64, 64, 3), tap)


def _timm(name: str, tap: str, **options: Any) -> Network:
    return Network("timm", lambda m: m.create_model(name, **options), (64, 64, 3), tap)


def _monai(make: Callable[[Any], Any], tap: str, side: int = 32, channels: int = 1) -> Network:
    return Network("monai.networks.nets", make, (side, side, side, channels), tap)


def _nnunet(tap: str, side: int, *, deep: bool) -> Network:
    def make(package: Any) -> Any:
        return _plain_unet(package, deep=deep)

    shape = (side, side, side, 1)
    return Network("dynamic_network_architectures", make, shape, tap, 0 if deep else None)


NETWORKS: dict[str, Network] = {
    "torchvision ResNet-18": _vision("resnet18", "layer3"),
    "torchvision MobileNetV3": _vision("mobilenet_v3_small", "features/8", 96),
    "torchvision DenseNet-121": _vision("densenet121", "features/denseblock3"),
    "torchvision ConvNeXt-T": _vision("convnext_tiny", "features/5"),
    "torchvision Swin-T": _vision("swin_t", "features/5"),
    "torchvision DeepLabV3 (MobileNetV3)": Network(
        "torchvision.models.segmentation",
        lambda m: m.deeplabv3_mobilenet_v3_large(
            weights_backbone=None, num_classes=5, aux_loss=True
        ),
        (96, 96, 3),
        "backbone/12",
        "out",
    ),
    "torchvision LR-ASPP": Network(
        "torchvision.models.segmentation",
        lambda m: m.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=5),
        (96, 96, 3),
        "backbone/12",
    ),
    "smp U-Net (ResNet-18)": _smp("Unet"),
    "smp U-Net++ (EfficientNet-B0)": _smp("UnetPlusPlus", "encoder/_blocks/15", "efficientnet-b0"),
    "smp DeepLabV3+ (ResNet-18)": _smp("DeepLabV3Plus"),
    "smp FPN (ResNet-18)": _smp("FPN"),
    "smp Linknet (ResNet-18)": _smp("Linknet"),
    "smp MAnet (ResNet-18)": _smp("MAnet"),
    "smp SegFormer (MiT-B0)": _smp("Segformer", "decoder/fuse_stage", "mit_b0"),
    "timm ViT-Ti/16": _timm("vit_tiny_patch16_224", "blocks/8", img_size=64),
    "timm EfficientNet-Lite0": _timm("efficientnet_lite0", "blocks/4"),
    "timm MobileViT-XXS": _timm("mobilevit_xxs", "stages/3"),
    "timm Swin-T": _timm("swin_tiny_patch4_window7_224", "layers/2", img_size=64, window_size=4),
    "MONAI DynUNet": _monai(
        lambda m: m.DynUNet(
            3, 2, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(16, 32, 64), res_block=True
        ),
        "bottleneck",
        16,
        2,
    ),
    "MONAI SwinUNETR": _monai(lambda m: m.SwinUNETR(2, 2, feature_size=12), "encoder4", 64, 2),
    "MONAI UNETR": _monai(
        lambda m: m.UNETR(2, 2, (32, 32, 32), 8, 96, 192, 4), "encoder4", channels=2
    ),
    "MONAI SegResNet": _monai(lambda m: m.SegResNet(), "down_layers/2"),
    "MONAI AttentionUnet": _monai(
        lambda m: m.AttentionUnet(3, 1, 2, (8, 16, 32), (2, 2)), "model/1/submodule/1/submodule", 16
    ),
    "MONAI VNet": _monai(lambda m: m.VNet(out_channels=2), "down_tr128"),
    "nnU-Net PlainConvUNet": _nnunet("encoder/stages/3", 32, deep=False),
    "nnU-Net PlainConvUNet, deep supervision": _nnunet("encoder/stages/2", 16, deep=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Holds networks to torch, and writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    chosen = parser.parse_args(arguments).only
    found = files.read_json(OUT) or {"networks": {}}
    for name, network in NETWORKS.items():
        if chosen and not any(each.lower() in name.lower() for each in chosen):
            continue
        start = time.perf_counter()
        row = measured(network)
        print(f"{name}: {json.dumps(row)} ({time.perf_counter() - start:.0f} s)", flush=True)
        found["networks"][name] = row
        files.write_json(OUT, found)


def measured(network: Network) -> dict[str, Any]:
    """The differences between a network in JAX and in torch."""
    torch = require("torch", extra="bench")
    module = made(network)
    generator = np.random.default_rng(1)
    x: Any = generator.normal(size=network.shape).astype(np.float32)
    fn, params = from_torch(module, output=network.output)
    taps = segcam.list_taps(fn, params, x)
    split = segcam.split(fn, network.tap, params, x)
    activation, carry = jax.jit(split.encode)(params, x)

    def score(activation: jax.Array) -> jax.Array:
        return _score(split.decode(activation, carry))

    output = jax.jit(split.decode)(activation, carry)
    gradient = jax.jit(jax.grad(score))(activation)
    theirs = _Reference(module, network, x, torch.float32)
    moves = activation.ndim == len(network.shape)
    channel_axis = theirs.channel_axis(activation.shape) if moves else -1
    exact = _Reference(copy.deepcopy(module).double(), network, x, torch.float64)
    drops = segcam.methods.ablation_cam(split, params, x, _score).drops
    channels = np.argsort(-np.abs(np.asarray(drops)))[:_ABLATED]
    true = np.array([exact.drop(int(channel), channel_axis) for channel in channels])
    return {
        "taps": len(taps) - 1,
        "tap": network.tap,
        "shape": list(activation.shape),
        "output": _error(output, theirs.output),
        "activation": _error(activation, np.moveaxis(theirs.activation, channel_axis, -1)),
        "gradient": _error(gradient, np.moveaxis(exact.gradient, channel_axis, -1)),
        "torch's gradient": _error(theirs.gradient, exact.gradient),
        "drops": _error(np.asarray(drops)[channels], true),
    }


def made(network: Network) -> Any:
    """The module of a network, in eval mode."""
    torch = require("torch", extra="bench")
    torch.manual_seed(0)
    module = network.make(require(network.package, extra="bench")).eval()
    for each in module.modules():
        if isinstance(getattr(each, "running_mean", None), torch.Tensor):
            each.running_mean.normal_(0, 0.1)
            each.running_var.uniform_(0.5, 1.5)
    return module


class _Reference:
    """A network in torch: what it computes at a tap, without the batch."""

    def __init__(self, module: Any, network: Network, x: np.ndarray, dtype: Any):
        torch = require("torch", extra="bench")
        self._module, self._network = module, network
        self._input = torch.from_numpy(np.moveaxis(x, -1, 0)[None]).to(dtype)
        kept: list[Any] = []

        def keep(_: Any, __: Any, output: Any) -> Any:
            kept.append(output.detach().clone().requires_grad_())
            return kept[0].clone()

        output = self._run(keep)
        score = self._score_of(output)
        score.backward()
        self._score = float(score)
        self.output = np.moveaxis(output.detach().numpy()[0], 0, -1)
        self.activation = kept[0].detach().numpy()[0]
        self.gradient = kept[0].grad.numpy()[0]

    def _run(self, hook: Any) -> Any:
        submodule = self._module.get_submodule(self._network.tap.replace("/", "."))
        handle = submodule.register_forward_hook(hook)
        try:
            output = self._module(self._input)
        finally:
            handle.remove()
        if self._network.output is not None:
            output = output[self._network.output]
        return output["out"] if isinstance(output, dict) else output

    def channel_axis(self, shape: tuple[int, ...]) -> int:
        """Where torch has the channels of an activation that is `shape`, channels last."""
        return 0 if np.moveaxis(self.activation, 0, -1).shape == shape else -1

    def drop(self, channel: int, axis: int) -> float:
        """What the score falls by where a channel is 0."""
        torch = require("torch", extra="bench")

        def ablate(_: Any, __: Any, output: Any) -> Any:
            output = output.clone()
            output.select(axis if axis < 0 else axis + 1, channel).zero_()
            return output

        with torch.no_grad():
            return self._score - float(self._score_of(self._run(ablate)))

    def _score_of(self, output: Any) -> Any:
        return _score(output[0].movedim(0, -1))


def _score(output: Any) -> Any:
    """The last channel of an output, its mean over the first half of every axis."""
    halves = [slice(0, (extent + 1) // 2) for extent in output.shape[:-1]]
    return output[(*halves, -1)].mean()


def _error(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {ours.shape} here, {theirs.shape} in torch")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def table() -> str:
    """The networks as a table."""
    found = (files.read_json(OUT) or {"networks": {}})["networks"]
    columns = ("output", "activation", "gradient", "torch's gradient", "drops")
    lines = [
        [name, str(row["taps"]), f"`{row['tap']}`", *(f"{row[each]:.0e}" for each in columns)]
        for name, row in found.items()
    ]
    return markdown(" | ".join(["network | taps | tap", *columns]), lines)


if __name__ == "__main__":
    main()
