"""Writes `metrics.npz`: what other libraries' metrics say of given maps of a small classifier.

The tests read the `.npz` only. To write it again, in an environment of its own (Python 3.11, CPU):

    pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
    pip install opencv-python-headless==5.0.0.93 matplotlib==3.11.2 pillow tqdm
    pip install --no-deps grad-cam==1.5.7 ttach==0.0.3 captum==0.9.0 torchcam==0.5.0
    python tests/goldens/generate_metrics.py

`torchvision` is not needed, as in `generate.py`. Arrays are channels last, without a batch axis.

    kernel, bias, head                  convolution 3x3, ReLU, mean over positions, product
    image, small, map                   small: a map in [0, 1], of half the extents; map: resized
    torchcam/deletion, insertion        areas of probabilities, 20 steps
    torchcam/drop, increase             of logits
    pgc/road, road_most, road_least     of probabilities, noise 0
    pgc/drop                            of logits, not divided
    captum/perturbations                I, of `infidelity` and `infidelity_normalised`
    captum/gradient                     the map that those are of
    captum/sensitivity                  of input x gradient, over the same perturbations
"""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

_functional = SimpleNamespace(resize=None)
_transforms = SimpleNamespace(Compose=None, Normalize=None, ToTensor=None, functional=_functional)
sys.modules.update(
    {
        "torchvision": SimpleNamespace(transforms=_transforms),
        "torchvision.transforms": _transforms,
        "torchvision.transforms.functional": _functional,
    }
)

import torch  # noqa: E402
from captum.metrics import infidelity, sensitivity_max  # noqa: E402
from pytorch_grad_cam.metrics import cam_mult_image, road  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric  # noqa: E402

CLASS = 2


class Net(torch.nn.Module):
    """A convolution, a mean, and a head."""

    def __init__(self, kernel, bias, head):
        super().__init__()
        self.kernel, self.bias, self.head = kernel, bias, head

    def forward(self, x):
        hidden = torch.nn.functional.conv2d(x, self.kernel, self.bias, padding=1).relu()
        return hidden.mean((2, 3)) @ self.head


class Given:
    """A CAM extractor that returns the maps it was given."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, *args, **options):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return contextlib.nullcontext()


def main():
    random = np.random.default_rng(7)
    kernel = random.normal(size=(3, 3, 3, 6)).astype(np.float32) / 3
    bias = random.normal(size=6).astype(np.float32) / 5
    head = random.normal(size=(6, 4)).astype(np.float32)
    image = random.random((12, 16, 3)).astype(np.float32)
    small = random.random((6, 8)).astype(np.float32)
    small = (small - small.min()) / (small.max() - small.min())
    found = {"kernel": kernel, "bias": bias, "head": head, "image": image, "small": small}

    weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    model = Net(weights, torch.from_numpy(bias), torch.from_numpy(head)).eval()
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    cams = torch.from_numpy(small)[None]
    large = torch.nn.functional.interpolate(cams[None], (12, 16), mode="bilinear")[0]
    found["map"] = large[0].numpy()

    softmax = torch.nn.Softmax(-1)
    curves = DeletionInsertionMetric(Given(model, cams), softmax, steps=20)
    curves.update(x, CLASS)
    said = curves.summary()
    found["torchcam/deletion"] = np.float32(said["deletion_auc"])
    found["torchcam/insertion"] = np.float32(said["insertion_auc"])
    drops = ClassificationMetric(Given(model, cams))
    drops.update(x, CLASS)
    said = drops.summary()
    found["torchcam/drop"] = np.float32(said["avg_drop"])
    found["torchcam/increase"] = np.float32(said["conf_increase"])

    road.NoisyLinearImputer.__init__.__defaults__ = (0.0, road.neighbors_weights)
    probabilities = torch.nn.Sequential(model, softmax)
    given = (x, large.numpy(), [ClassifierOutputTarget(CLASS)], probabilities)
    found["pgc/road"] = road.ROADCombined()(*given)
    found["pgc/road_most"] = road.ROADMostRelevantFirstAverage()(*given)
    found["pgc/road_least"] = road.ROADLeastRelevantFirstAverage()(*given)
    found["pgc/drop"] = cam_mult_image.DropInConfidence()(*given[:3], model)

    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs)[0, CLASS], inputs)
    noise = random.normal(size=(8, 3, 12, 16)).astype(np.float32) / 5

    def perturbed(inputs):
        return torch.from_numpy(noise), inputs - torch.from_numpy(noise)

    for name, normalise in (("infidelity", False), ("infidelity_normalised", True)):
        found[f"captum/{name}"] = infidelity(
            model,
            perturbed,
            x,
            1.1 * gradient,
            target=CLASS,
            n_perturb_samples=8,
            max_examples_per_batch=8,
            normalize=normalise,
        ).numpy()

    def products(inputs, **_):
        (inputs,) = inputs if isinstance(inputs, tuple) else (inputs,)
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():  # captum turns it off.
            (slopes,) = torch.autograd.grad(model(inputs)[:, CLASS].sum(), inputs)
        # Of a tensor, captum takes each example for an input of its own.
        return ((slopes * inputs).sum(1, keepdim=True).detach(),)

    found["captum/sensitivity"] = sensitivity_max(
        products, x, lambda inputs: perturbed(inputs)[1], n_perturb_samples=8
    ).numpy()
    found["captum/perturbations"] = noise.transpose(0, 2, 3, 1)
    found["captum/gradient"] = 1.1 * gradient[0].numpy().transpose(1, 2, 0)
    np.savez_compressed(Path(__file__).with_name("metrics.npz"), **found)


if __name__ == "__main__":
    main()
