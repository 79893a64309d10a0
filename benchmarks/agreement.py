"""Final maps of ResNet-50 against pytorch-grad-cam's and torchcam's, method by method.

pip install -e ".[bench]" && python -m benchmarks.agreement

One torchvision ResNet-50 with random weights, which segcam_jax reads from its state dict; a cat of
scikit-image, 128 x 128; the class with the largest logit; the outputs of the last two stages. A
figure is the largest difference of two heatmaps in [0, 1]. FullGrad, which has no layer, is held to
pytorch-grad-cam's in `tests/methods/test_full_grad.py`; RandomCAM draws its map at random.
"""

import argparse
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import segcam_jax as segcam
from benchmarks import peers, timing
from benchmarks.fast_ablation import photograph
from benchmarks.tables import markdown
from segcam_jax import files
from segcam_jax.models import from_tensors

OUT = Path(__file__).parent / "results" / "agreement.json"
SIZE = 128
LAYERS = {"layer3": "layer3/block6", "layer4": "features/relu"}
# What each library calls it -> ours, with its constants.
GRAD_CAM: dict[str, Callable[..., segcam.Explanation]] = {
    "GradCAM": segcam.methods.grad_cam,
    "GradCAMPlusPlus": functools.partial(segcam.methods.grad_cam_pp, epsilon=1e-6),
    "HiResCAM": segcam.methods.hires_cam,
    "XGradCAM": segcam.methods.xgrad_cam,
    "LayerCAM": segcam.methods.layer_cam,
    "EigenCAM": segcam.methods.eigen_cam,
    "EigenGradCAM": segcam.methods.eigen_grad_cam,
    "AblationCAM": segcam.methods.ablation_cam,
    "ScoreCAM": functools.partial(segcam.methods.score_cam, masks="pytorch_grad_cam"),
    "FEM": segcam.methods.fem,
    "KPCA_CAM": segcam.methods.kpca_cam,
    "ShapleyCAM": segcam.methods.shapley_cam,
    "FinerCAM": segcam.methods.finer_cam,
    # relu(g A), which is relu(g) A where A is not negative, as behind a ReLU.
    "GradCAMElementWise": segcam.methods.layer_cam,
}
# Its GradCAMpp is another formula: it sums A g^3 over positions, where the paper has g^3 sum A.
TORCHCAM: dict[str, Callable[..., segcam.Explanation]] = {
    "GradCAM": segcam.methods.grad_cam,
    "XGradCAM": segcam.methods.xgrad_cam,
    "LayerCAM": segcam.methods.layer_cam,
    "ScoreCAM": functools.partial(segcam.methods.score_cam, masks="torchcam"),
}
# Eigenvectors have no sign of their own.
UNSIGNED = ("EigenCAM", "EigenGradCAM", "KPCA_CAM")


def min_max(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, as torchcam has them."""
    values = values - values.min()
    return values / max(float(values.max()), 1e-12)


def torch_network() -> Any:
    """torchvision's ResNet-50, its weights and statistics drawn from a seed."""
    torch = peers.torch()
    import torchvision.models

    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def theirs(model: Any, image: np.ndarray, layer: str, class_index: int) -> Iterator[tuple]:
    """`(library, method, final map)` of every method."""
    import pytorch_grad_cam
    import torch
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
    tapped = getattr(model, layer)
    for name in GRAD_CAM:
        target = None if name == "FinerCAM" else [ClassifierOutputTarget(class_index)]
        with getattr(pytorch_grad_cam, name)(model, [tapped]) as cam:
            yield "pytorch_grad_cam", name, cam(x.clone(), target)[0]
    for name in TORCHCAM:
        with getattr(torchcam.methods, name)(model, tapped) as cam:
            found = cam(class_index, model(x.clone().requires_grad_()))
            yield "torchcam", name, found[0][0].detach().numpy()


def ours(library: str, raw: jax.Array, sign: float) -> np.ndarray:
    """The final map of a raw one, as the library makes it."""
    if library == "torchcam":
        return min_max(np.maximum(np.asarray(raw), 0))
    return np.asarray(segcam.heatmap(sign * raw, (SIZE, SIZE), "pytorch_grad_cam"))


def measured() -> Iterator[dict[str, Any]]:
    """One row per library, layer and method."""
    model = torch_network()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    fn, params = segcam.from_nnx(from_tensors(state, "resnet50"))
    x = photograph(SIZE)
    class_index = int(jnp.argmax(fn(params, x)))
    target = segcam.targets.whole_image(class_index)
    for layer, tap in LAYERS.items():
        split = segcam.split(fn, tap, params, x)
        for library, name, found in theirs(model, np.asarray(x), layer, class_index):
            method = (GRAD_CAM if library == "pytorch_grad_cam" else TORCHCAM)[name]
            raw = method(split, params, x, target).map
            signs = (1.0, -1.0) if name in UNSIGNED else (1.0,)
            difference = min(float(np.abs(ours(library, raw, s) - found).max()) for s in signs)
            row = {"library": library, "layer": layer, "method": name, "difference": difference}
            print(row, flush=True)
            yield row


def table() -> str:
    """One row per method, in Markdown."""
    rows = json.loads(OUT.read_text())["rows"]
    found = {(row["library"], row["method"], row["layer"]): row["difference"] for row in rows}
    lines = []
    for library, name in dict.fromkeys((row["library"], row["method"]) for row in rows):
        cells = [f"{found[library, name, layer]:.0e}" for layer in LAYERS]
        lines.append([library, name, *cells])
    return markdown(" | ".join(["library | method", *(f"`{layer}`" for layer in LAYERS)]), lines)


def main() -> None:
    """Measures all rows, and writes them whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found = {"environment": timing.environment(), "rows": list(measured())}
    files.write_bytes(options.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
