"""Writes `guided.npz`: guided backpropagation and FullGrad by PyTorch libraries.

The environment is that of `generate.py`; the network and its target are those of `unet2d.npz`.

    python tests/goldens/generate_guided.py

    pgc/guided_backprop, captum/guided_backprop, captum/deconvolution     `h w c`
    LAYER/captum/guided_grad_cam_KIND       KIND is the resize of the map, linear or nearest
    fullgrad/params/*, fullgrad/input, fullgrad/class_index, fullgrad/logits
                                            a network where every bias stands alone: a convolution
                                            with bias, one without and BatchNorm, one with bias
    fullgrad/pgc/heatmap                    what pytorch-grad-cam returns
    fullgrad/official/heatmap               by the rescaling of the authors' code, layer by layer,
                                            resized on half-pixel centres, scaled to [0, 1]
"""

import warnings
from pathlib import Path

import generate as base
import numpy as np
import torch
from captum.attr import Deconvolution, GuidedBackprop, GuidedGradCam
from pytorch_grad_cam import FullGrad, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

FOLDER = Path(__file__).parent


class OnRegion(nn.Module):
    """Scores of all classes over a region, as a classifier's logits."""

    def __init__(self, model: nn.Module, mask: np.ndarray):
        super().__init__()
        self.model = model
        self.mask = torch.from_numpy(mask.astype(np.float32))

    def forward(self, x):
        return (self.model(x) * self.mask).flatten(2).sum(dim=2)


def imported(arrays) -> base.SmallUNet:
    """The network of a golden file, from the weights as `network.py` reads them."""
    model = base.SmallUNet(2, 3, (6, 8, 12, 8), classes=4).eval()
    given = {key: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("params/")}
    with torch.no_grad():
        for index in (1, 2, 3, 4):
            conv, norm = getattr(model, f"conv{index}"), getattr(model, f"norm{index}")
            conv.weight.copy_(given[f"params/conv{index}/kernel"].permute(3, 2, 0, 1))
            conv.bias.copy_(given[f"params/conv{index}/bias"])
            norm.weight.copy_(given[f"params/norm{index}/scale"])
            norm.bias.copy_(given[f"params/norm{index}/bias"])
            norm.running_mean.copy_(given[f"params/norm{index}/mean"])
            norm.running_var.copy_(given[f"params/norm{index}/var"])
        mirrored = given["params/up/kernel"].permute(3, 2, 0, 1).transpose(0, 1)
        model.up.weight.copy_(mirrored.flip((2, 3)))
        model.up.bias.copy_(given["params/up/bias"])
        model.head.weight.copy_(given["params/head/kernel"].permute(3, 2, 0, 1))
        model.head.bias.copy_(given["params/head/bias"])
    return model


def guided(arrays) -> dict[str, np.ndarray]:
    model = imported(arrays)
    image = torch.from_numpy(np.moveaxis(arrays["input"], -1, 0)[None].copy())
    np.testing.assert_allclose(base.last(model(image)), arrays["logits"], atol=1e-5)
    scores, target = OnRegion(model, arrays["mask"]), int(arrays["class_index"])
    found = {
        "captum/guided_backprop": base.last(GuidedBackprop(scores).attribute(image, target)),
        "captum/deconvolution": base.last(Deconvolution(scores).attribute(image, target)),
    }
    for layer in base.LAYERS:
        method = GuidedGradCam(scores, getattr(model, layer))
        for kind, mode in (("linear", "bilinear"), ("nearest", "nearest")):
            product = method.attribute(image, target, interpolate_mode=mode)
            found[f"{layer}/captum/guided_grad_cam_{kind}"] = base.last(product)
    # Last: pytorch-grad-cam leaves other modules behind.
    found["pgc/guided_backprop"] = GuidedBackpropReLUModel(scores)(image.clone(), target)
    return found


class Biased(nn.Module):
    """A classifier whose biases are alone: none is followed by another before a ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu1(self.conv1(x))
        x = nn.functional.max_pool2d(x, 2)
        x = self.relu3(self.conv3(self.relu2(self.norm2(self.conv2(x)))))
        return self.head(x.mean(dim=(2, 3)))


def full_grad() -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(5)
    model = Biased().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(scale * torch.randn(module.weight.shape, generator=generator))
                if module.bias is not None:
                    module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        norm = model.norm2
        norm.weight.copy_(0.5 + torch.rand(8, generator=generator))
        norm.bias.copy_(0.3 * torch.randn(8, generator=generator))
        norm.running_mean.copy_(0.3 * torch.randn(8, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(8, generator=generator))
    image = torch.rand(1, 3, 20, 28, generator=generator)
    logits = model(image)
    target = int(logits.argmax())
    params = {
        name: base.kernel(value)
        if value.ndim == 4
        else value.detach().T
        if value.ndim == 2
        else value
        for name, value in model.state_dict().items()
        if "tracked" not in name
    }
    found = {f"fullgrad/params/{name}": value.detach().numpy() for name, value in params.items()}
    heatmap = FullGrad(model, [])(image.clone(), [ClassifierOutputTarget(target)])[0]
    return found | {
        "fullgrad/input": base.last(image),
        "fullgrad/class_index": np.int32(target),
        "fullgrad/logits": logits.detach().numpy()[0],
        "fullgrad/pgc/heatmap": heatmap,
        "fullgrad/official/heatmap": by_layers(model, image, target),
    }


def by_layers(model: Biased, image, target: int) -> np.ndarray:
    """Each tensor scaled by its own minimum and maximum over all channels."""
    kept = []
    modules = (model.conv1, model.norm2, model.conv3)
    hooks = [m.register_forward_hook(lambda _m, _i, output: kept.append(output)) for m in modules]
    image = image.clone().requires_grad_()
    score = model(image)[0, target]
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(score, [image, *kept])
    scale = model.norm2.weight / torch.sqrt(model.norm2.running_var + model.norm2.eps)
    moved = model.norm2.bias - model.norm2.running_mean * scale
    factors = [
        image,
        *(b[None, :, None, None] for b in (model.conv1.bias, moved, model.conv3.bias)),
    ]
    total = torch.zeros(image.shape[2:])
    for slope, factor in zip(slopes, factors, strict=True):
        size = (slope * factor).abs()
        size = size - size.min()
        size = size / (size.max() + 1e-7)
        wide = nn.functional.interpolate(size, image.shape[2:], mode="bilinear")
        total = total + wide.sum(dim=1)[0]
    total = total - total.min()
    return (total / (total.max() + 1e-7)).detach().numpy()


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    with np.load(FOLDER / "unet2d.npz") as stored:
        arrays = guided(dict(stored)) | full_grad()
    path = FOLDER / "guided.npz"
    np.savez_compressed(path, **{name: np.asarray(value) for name, value in arrays.items()})
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
