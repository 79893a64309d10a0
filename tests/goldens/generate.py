"""Writes the golden values: explanations of two small networks by PyTorch libraries.

The tests read the `.npz` files only; torch is needed here alone. To write them again, in an
environment of its own (Python 3.11, CPU):

    pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
    pip install opencv-python-headless==5.0.0.93 matplotlib==3.11.2 pillow tqdm
    pip install --no-deps grad-cam==1.5.7 ttach==0.0.3 captum==0.9.0
    python tests/goldens/generate.py

`torchvision` is not needed: the three names that pytorch-grad-cam imports from it are stubbed.

Files, all arrays channels last without a batch axis, kernels `spatial in out`:

    unet2d.npz   input 24x40x3, 4 classes       unet3d.npz   input 8x12x16x1, 4 classes
    resize.npz   SAMPLE/source, SAMPLE/resized (linear; by OpenCV or torch), SAMPLE/nearest (torch)

    params/*                            weights, in the names that `network.py` reads
    input, logits, mask, class_index    the target is the sum of the class's logits over the mask
    LAYER/activation, LAYER/gradient    LAYER is `bottleneck` or `decoder`, both after a ReLU
    LAYER/pgc/METHOD/raw                what the method returns before any post-processing
    LAYER/pgc/METHOD/weights            channel weights, where the method has them
    LAYER/pgc/METHOD/heatmap            what the library returns, at the extent of the image
                                        (score_cam: of the mean over the mask; shapley_cam: of the
                                        sum of probabilities; finer_cam: of the class against the
                                        two most like it, per position, over the mask)
    LAYER/captum/*                      Grad-CAM (raw, ReLU, interpolated), ablated channels
    LAYER/seg_grad_cam/OF/VARIANT       resize, ReLU, divide by the maximum; OF names the output
    input/captum/*                      gradients and integrated gradients

Maps of EigenCAM, EigenGradCAM and KPCA-CAM have an arbitrary sign: compare their `raw` up to sign.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


def _stub_torchvision() -> None:
    """Provides the names that pytorch-grad-cam imports and these methods never call."""
    functional = SimpleNamespace(resize=None)
    transforms = SimpleNamespace(Compose=None, Normalize=None, ToTensor=None, functional=functional)
    stubs = {
        "torchvision": SimpleNamespace(transforms=transforms),
        "torchvision.transforms": transforms,
        "torchvision.transforms.functional": functional,
    }
    sys.modules.update(stubs)  # pyright: ignore[reportArgumentType, reportCallIssue]


_stub_torchvision()

import captum.attr as captum  # noqa: E402
import cv2  # noqa: E402
import pytorch_grad_cam as pgc  # noqa: E402
import torch  # noqa: E402
from pytorch_grad_cam.utils.model_targets import (  # noqa: E402
    FinerWeightedTarget,
    SemanticSegmentationTarget,
)
from torch import nn  # noqa: E402

FOLDER = Path(__file__).parent
LAYERS = ("bottleneck", "decoder")
METHODS = {
    "grad_cam": pgc.GradCAM,
    "grad_cam_pp": pgc.GradCAMPlusPlus,
    "xgrad_cam": pgc.XGradCAM,
    "hires_cam": pgc.HiResCAM,
    "layer_cam": pgc.LayerCAM,
    "eigen_cam": pgc.EigenCAM,
    "eigen_grad_cam": pgc.EigenGradCAM,
    "ablation_cam": pgc.AblationCAM,
    "score_cam": pgc.ScoreCAM,
    "fem": pgc.FEM,
    "kpca_cam": pgc.KPCA_CAM,
    "shapley_cam": pgc.ShapleyCAM,
    "finer_cam": pgc.GradCAM,  # pytorch-grad-cam's FinerCAM is this, with another target
}
ONLY_2D = ("ablation_cam", "score_cam")


class SmallUNet(nn.Module):
    """Pooling, a strided bottleneck, two ways to upsample, two concatenated skips; logits out."""

    def __init__(self, ndim: int, inputs: int, widths: tuple[int, int, int, int], classes: int):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[ndim - 2]
        norm = (nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 2]
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 2]
        w1, w2, w3, w4 = widths
        self.mode = ("bilinear", "trilinear")[ndim - 2]
        self.pool = (nn.MaxPool2d, nn.MaxPool3d)[ndim - 2](2)
        self.conv1, self.norm1, self.relu1 = conv(inputs, w1, 3, padding=1), norm(w1), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = conv(w1, w2, 3, padding=1), norm(w2), nn.ReLU()
        self.conv3, self.norm3 = conv(w2, w3, 3, stride=2, padding=1), norm(w3)
        self.bottleneck = nn.ReLU()
        self.up = transposed(w3, w2, 2, stride=2)
        self.conv4, self.norm4 = conv(2 * w2, w4, 3, padding=1), norm(w4)
        self.decoder = nn.ReLU()
        self.head = conv(w4 + w1, classes, 1)

    def forward(self, x):
        skip1 = self.relu1(self.norm1(self.conv1(x)))
        skip2 = self.relu2(self.norm2(self.conv2(self.pool(skip1))))
        deep = self.bottleneck(self.norm3(self.conv3(skip2)))
        joined = torch.cat([self.up(deep), skip2], dim=1)
        shallow = self.decoder(self.norm4(self.conv4(joined)))
        wide = nn.functional.interpolate(
            shallow, scale_factor=2, mode=self.mode, align_corners=False
        )
        return self.head(torch.cat([wide, skip1], dim=1))


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draws weights at He's scale, and BatchNorm statistics far from their neutral values."""

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    def normal(tensor, scale):
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.conv._ConvNd):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
                normal(module.bias, 0.2)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                uniform(module.weight, 0.5, 1.5)
                normal(module.bias, 0.3)
                normal(module.running_mean, 0.3)
                uniform(module.running_var, 0.5, 2.0)


def last(tensor) -> np.ndarray:
    """One example, channels last."""
    return np.moveaxis(tensor.detach().numpy()[0], 0, -1).copy()


def exported(model: SmallUNet) -> dict[str, np.ndarray]:
    """The weights as `network.py` reads them."""
    params = {}
    for index in (1, 2, 3, 4):
        conv, norm = getattr(model, f"conv{index}"), getattr(model, f"norm{index}")
        params[f"conv{index}/kernel"] = kernel(conv.weight)
        params[f"conv{index}/bias"] = conv.bias
        params[f"norm{index}/scale"], params[f"norm{index}/bias"] = norm.weight, norm.bias
        params[f"norm{index}/mean"] = norm.running_mean
        params[f"norm{index}/var"] = norm.running_var
    # torch keeps a transposed kernel as `in out spatial` and spreads it; as a convolution of the
    # dilated activation it reads mirrored.
    mirrored = model.up.weight.flip(tuple(range(2, model.up.weight.ndim)))
    params["up/kernel"], params["up/bias"] = kernel(mirrored.transpose(0, 1)), model.up.bias
    params["head/kernel"], params["head/bias"] = kernel(model.head.weight), model.head.bias
    return {f"params/{name}": value.detach().numpy() for name, value in params.items()}


def kernel(weight):
    """`out in spatial` to `spatial in out`."""
    return weight.detach().permute(*range(2, weight.ndim), 1, 0)


def recorded(cam, image, target) -> dict[str, np.ndarray]:
    """Runs one method of pytorch-grad-cam, and keeps what it computes on the way."""
    seen = {}

    def spy(name, method):
        def call(*args, **kwargs):
            seen[name] = method(*args, **kwargs)
            return seen[name]

        return call

    cam.get_cam_image = spy("raw", cam.get_cam_image)
    cam.get_cam_weights = spy("weights", cam.get_cam_weights)
    with cam:
        seen["heatmap"] = cam(image, [target])
    return {name: np.asarray(value)[0] for name, value in seen.items()}


def by_grad_cam_library(model, image, mask, class_index) -> dict[str, np.ndarray]:
    found = {}
    plain = SemanticSegmentationTarget(class_index, mask.astype(np.float32))
    region = torch.from_numpy(mask)
    finer = FinerWeightedTarget(class_index, compared(last(model(image)), mask, class_index), 1.0)
    targets = {
        "score_cam": lambda output: plain(output) / mask.sum(),
        "shapley_cam": lambda output: output.softmax(dim=0)[class_index][region].sum(),
        "finer_cam": lambda output: finer(output.movedim(0, -1))[region].sum(),
    }
    for layer in LAYERS:
        for name, method in METHODS.items():
            if name in ONLY_2D and image.ndim == 5:
                continue  # pytorch-grad-cam 1.5.7 ablates and masks in 2D only
            target = targets.get(name, plain)
            cam = method(model, [getattr(model, layer)])
            values = recorded(cam, image, target)
            if name != "grad_cam" and image.ndim == 5:
                del values[
                    "heatmap"
                ]  # one shows how volumes are resized; the raw map says the rest
            found |= {f"{layer}/pgc/{name}/{key}": value for key, value in values.items()}
    return found


def compared(logits: np.ndarray, mask: np.ndarray, class_index: int) -> list[int]:
    """The two classes whose mean logit over the mask is nearest to the explained class's."""
    means = logits[mask].mean(axis=0)
    nearest = np.argsort(np.abs(means - means[class_index]))
    return [int(k) for k in nearest if k != class_index][:2]


def by_captum(model, image, mask, class_index) -> dict[str, np.ndarray]:
    region = torch.from_numpy(mask.astype(np.float32))

    def score(x):
        return (model(x)[:, class_index] * region).flatten(1).sum(dim=1)

    found = {}
    for layer in LAYERS:
        module = getattr(model, layer)
        grad_cam = captum.LayerGradCam(score, module)
        raw = grad_cam.attribute(image)
        rectified = grad_cam.attribute(image, relu_attributions=True)
        wide = captum.LayerAttribution.interpolate(raw, image.shape[2:])
        channels = captured(model, module, image).shape[1]
        groups = torch.arange(channels).view(1, channels, *[1] * (image.ndim - 2))
        ablated = captum.LayerFeatureAblation(score, module).attribute(image, layer_mask=groups)
        found |= {
            f"{layer}/captum/grad_cam": last(raw)[..., 0],
            f"{layer}/captum/grad_cam_relu": last(rectified)[..., 0],
            f"{layer}/captum/grad_cam_interpolated": last(wide)[..., 0],
            f"{layer}/captum/feature_ablation": last(ablated).reshape(-1, channels)[0],
        }
    integrated = captum.IntegratedGradients(score)
    rules = {"gauss_legendre_50": ("gausslegendre", 50), "left_200": ("riemann_left", 200)}
    for name, (rule, steps) in rules.items():
        attribution = integrated.attribute(
            image, baselines=0.5, method=rule, n_steps=steps, internal_batch_size=50
        )
        found[f"input/captum/integrated_gradients_{name}"] = last(attribution)
    x = image.clone().requires_grad_()
    found["input/captum/saliency"] = last(captum.Saliency(score).attribute(x, abs=False))
    found["input/captum/input_x_gradient"] = last(captum.InputXGradient(score).attribute(x))
    return found


def captured(model, module, image):
    """The activation of a layer, with its place in the graph."""
    kept = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    output = model(image)
    handle.remove()
    kept[0].output = output
    return kept[0]


def by_seg_grad_cam(model, image, mask, class_index) -> dict[str, np.ndarray]:
    """Seg-Grad-CAM (Vinogradova et al., 2020) in NumPy and OpenCV, from torch's gradients."""
    found = {}
    region = torch.from_numpy(mask.astype(np.float32))
    for layer in LAYERS:
        for of in ("logits", "probabilities"):
            activation = captured(model, getattr(model, layer), image)
            output = activation.output
            output = output if of == "logits" else output.softmax(dim=1)
            (gradient,) = torch.autograd.grad((output[0, class_index] * region).sum(), activation)
            alpha = last(gradient).mean(axis=(0, 1))
            variants = {
                "plain": alpha,
                "absolute": np.abs(alpha),
                "positive": np.maximum(alpha, 0),
                "absolute_positive": np.maximum(np.abs(alpha), 0),
            }
            for variant, weights in variants.items():
                raw = np.dot(last(activation), weights)
                wide = np.maximum(cv2.resize(raw, mask.shape[::-1]), 0)
                found[f"{layer}/seg_grad_cam/{of}/{variant}"] = wide / wide.max()
    return found


def explained(ndim: int, seed: int) -> dict[str, np.ndarray]:
    """Everything that one `.npz` holds."""
    generator = torch.Generator().manual_seed(seed)
    inputs, extent = ((3, (24, 40)), (1, (8, 12, 16)))[ndim - 2]
    model = SmallUNet(ndim, inputs, ((6, 8, 12, 8), (3, 4, 8, 5))[ndim - 2], classes=4)
    randomise(model, generator)
    model.eval()
    coarse = torch.rand(1, inputs, *[size // 4 for size in extent], generator=generator)
    image = nn.functional.interpolate(coarse, extent, mode=model.mode, align_corners=False)
    image = 0.8 * image + 0.2 * torch.rand(image.shape, generator=generator)
    with torch.no_grad():
        # Centred logits, so that every class wins somewhere and the winner's scores are positive.
        model.head.bias -= model(image).flatten(2).mean(dim=2)[0]
        logits = model(image)

    labels = logits.argmax(dim=1)[0].numpy()
    class_index = int(np.bincount(labels.ravel()).argmax())
    mask = labels == class_index
    mask[:, extent[1] * 2 // 3 :] = False
    arrays = exported(model) | {
        "input": last(image),
        "logits": last(logits),
        "mask": mask,
        "class_index": np.int32(class_index),
        "score": logits[0, class_index].numpy()[mask].sum(),
    }
    for layer in LAYERS:
        activation = captured(model, getattr(model, layer), image)
        score = activation.output[0, class_index][torch.from_numpy(mask)].sum()
        arrays[f"{layer}/activation"] = last(activation)
        arrays[f"{layer}/gradient"] = last(torch.autograd.grad(score, activation)[0])
    arrays |= by_grad_cam_library(model, image, mask, class_index)
    arrays |= by_captum(model, image, mask, class_index)
    if ndim == 2:
        arrays |= by_seg_grad_cam(model, image, mask, class_index)
    check(arrays)
    return arrays


def check(arrays: dict[str, np.ndarray]) -> None:
    """The conditions under which the peer libraries are well defined and agree."""
    assert 0 < arrays["mask"].mean() < 0.5
    # pytorch-grad-cam divides ablation scores by S, and ablates with 0 only after a ReLU.
    assert arrays["score"] > 1
    assert len(np.unique(arrays["logits"].argmax(axis=-1))) > 2
    for layer in LAYERS:
        activation = arrays[f"{layer}/activation"]
        assert activation.min() == 0
        for factor in (activation, activation * arrays[f"{layer}/gradient"]):
            assert spectral_gap(factor) > 1.2, f"two components of {layer} are nearly equal"
        weights = arrays.get(f"{layer}/pgc/score_cam/weights")
        assert weights is None or weights.max() < 0.5, "the softmax of Score-CAM is saturated"
        plain, curved = (
            arrays[f"{layer}/pgc/{name}/weights"] for name in ("grad_cam", "shapley_cam")
        )
        assert abs(np.corrcoef(plain, curved)[0, 1]) < 0.9999
        raw = arrays[f"{layer}/pgc/grad_cam/raw"]
        assert raw.min() < 0 < raw.max()
        np.testing.assert_allclose(raw, arrays[f"{layer}/captum/grad_cam"], atol=1e-5)
        ablation = arrays.get(f"{layer}/pgc/ablation_cam/weights")
        if ablation is not None:
            drop = arrays[f"{layer}/captum/feature_ablation"] / arrays["score"]
            np.testing.assert_allclose(ablation, drop, atol=1e-6)
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert all(value.max() > 0.9 for key, value in arrays.items() if key.endswith("/heatmap"))


def spectral_gap(activation: np.ndarray) -> float:
    rows = activation.reshape(-1, activation.shape[-1])
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    return values[0] / values[1]


def resized() -> dict[str, np.ndarray]:
    """Resizing of maps at factors that are not integers, up and down."""
    generator = np.random.default_rng(2)
    arrays = {}
    pairs = {"up": ((7, 5), (17, 23)), "down": ((17, 23), (7, 5)), "mixed": ((6, 20), (24, 13))}
    for name, (given, wanted) in pairs.items():
        source = generator.standard_normal(given, dtype=np.float32)
        wide = cv2.resize(source, wanted[::-1], interpolation=cv2.INTER_LINEAR)
        arrays |= {f"opencv_{name}/source": source, f"opencv_{name}/resized": wide}
    pairs = {"up": ((4, 6, 5), (9, 11, 13)), "down": ((9, 11, 13), (4, 6, 5))}
    for name, (given, wanted) in pairs.items():
        source = generator.standard_normal(given, dtype=np.float32)
        wide = nn.functional.interpolate(
            torch.from_numpy(source)[None, None], wanted, mode="trilinear", align_corners=False
        )
        arrays |= {f"torch_{name}/source": source, f"torch_{name}/resized": wide[0, 0].numpy()}
        near = nn.functional.interpolate(torch.from_numpy(source)[None, None], wanted)
        arrays[f"torch_{name}/nearest"] = near[0, 0].numpy()
    return arrays


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    libraries = ("torch", "grad-cam", "captum", "opencv-python-headless", "scipy", "numpy")
    versions = np.array([f"{name} {version(name)}" for name in libraries])
    files: dict[str, dict[str, Any]] = {
        "unet2d": explained(2, seed=4),
        "unet3d": explained(3, seed=9),
        "resize": resized(),
    }
    for name, arrays in files.items():
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, versions=versions, **arrays)
        print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
