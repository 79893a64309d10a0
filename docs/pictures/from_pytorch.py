"""Makes the figures of docs/from-pytorch.md: `python docs/pictures/from_pytorch.py`.

The blocks of the page that save a figure are read and run, in a folder that holds what they open:
a photograph of coins, one of a cat, a brain with planted lesions, and state dicts. Those of
`efficientnet-lite0-imagenet` and `lesions` are the trained ones that this library knows; the others
are trained here (a few minutes on two free cores), as no package holds their weights: two on the
left part of the photograph of coins, nnU-Net's on the brain. Needs the extras torchax, imagenet,
nnunet, bundle and train, and timm, torchvision and segmentation-models-pytorch.
"""

import functools
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import my_project
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from skimage import data
from torchvision.models import segmentation

import segcam_jax as segcam
from segcam_jax import models
from segcam_jax.data import scans
from segcam_jax.data.samples import lesions
from segcam_jax.models.monai_unet import MonaiUNetConfig
from segcam_jax.models.monai_unet.weights import monai_table
from segcam_jax.models.zoo import imagenet_file
from segcam_jax.weights import foreign, store

HERE = Path(__file__).parent
PAGE = HERE.parent / "from-pytorch.md"
LESION, SIDE = 6, 48


def trained(
    make: Callable[[], Any], x: np.ndarray, truth: np.ndarray, side: int, steps: int
) -> dict:
    """The state dict after Adam on the cross-entropy of random crops, half of them at the truth."""
    random, ndim = np.random.default_rng(0), truth.ndim
    torch.manual_seed(0)
    module = make()
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.1  # torchvision's 0.01 is for long training
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    inside = np.argwhere(truth)
    module.train()
    for _ in range(steps):
        crops = []
        for number in range(4):
            at = inside[random.integers(len(inside))] - random.integers(side, size=ndim)
            at = at if number % 2 else random.integers(np.array(truth.shape) - side + 1)
            corner = np.clip(at, 0, np.array(truth.shape) - side)
            crops.append(tuple(slice(c, c + side) for c in corner))
        images = np.stack([np.moveaxis(x[place], -1, 0) for place in crops])
        labels = torch.from_numpy(np.stack([truth[place] for place in crops]).astype(np.int64))
        output = module(torch.from_numpy(images))
        output = output["out"] if isinstance(output, dict) else output
        loss = torch.nn.functional.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.state_dict()


def lite0() -> dict:
    """The weights that the extra imagenet installs, by the names of timm: in the same order."""
    there = [each for each in foreign.read(imagenet_file()).items() if "num_batches" not in each[0]]
    module = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in module.state_dict() if "num_batches" not in name]
    found = {name: torch.from_numpy(np.array(t)) for name, (_, t) in zip(names, there, strict=True)}
    module.load_state_dict({**module.state_dict(), **found})
    return module.state_dict()


def monai_lesions() -> dict:
    """The bundled network of lesions, as MONAI's UNet has its weights."""
    arrays, about = store.load(models.path_of("lesions"))
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in about["config"].items()}
    back = {
        "same": lambda a: a,
        "scalar": lambda a: a.reshape(1),
        "conv": lambda a: np.moveaxis(a, (-2, -1), (1, 0)),
        "transposed_conv": lambda a: np.moveaxis(np.flip(a, (0, 1, 2)), (-2, -1), (0, 1)),
    }
    return {
        rule.source: torch.from_numpy(back[rule.transform](arrays[rule.target]).copy())
        for rule in monai_table(MonaiUNetConfig(**fields)).rules
        if rule.target in arrays
    }


def part_of(brain: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The part of the brain around a lesion."""
    middle = np.argwhere(labels == LESION).mean(0).astype(int)
    low = np.clip(middle - SIDE // 2, 0, np.array(labels.shape) - SIDE)
    return brain[tuple(slice(start, start + SIDE) for start in low)]


def prepare() -> None:
    """Writes what the page's blocks open into the current folder."""
    photograph, truth = my_project.coins()
    seen = photograph[:, : my_project.SEEN], truth[:, : my_project.SEEN]
    case = lesions.load()
    brain = scans.zscore(case.image)
    np.save("coins.npy", photograph[:160, -128:])
    np.save("cat.npy", np.float32(data.chelsea() / 255))
    np.save("part.npy", part_of(brain, case.lesions))
    shallow = {"encoder_depth": 3, "decoder_channels": (64, 32, 16), "encoder_weights": None}
    unet = functools.partial(smp.Unet, "resnet18", in_channels=1, classes=2, **shallow)
    torch.save(trained(unet, *seen, 128, 200), "coins-unet.pth")
    mobile = functools.partial(
        segmentation.lraspp_mobilenet_v3_large, weights_backbone=None, num_classes=2
    )
    torch.save(trained(mobile, seen[0].repeat(3, -1), seen[1], 128, 150), "coins-lraspp.pth")
    conv, norm, act = torch.nn.Conv3d, torch.nn.InstanceNorm3d, torch.nn.LeakyReLU
    plan = {"conv_bias": True, "norm_op": norm, "norm_op_kwargs": {"affine": True}, "nonlin": act}
    plain = functools.partial(
        PlainConvUNet, 2, 4, (8, 16, 32, 64), conv, 3, (1, 2, 2, 2), 2, 2, 2, **plan
    )
    torch.save(trained(plain, brain, case.lesions > 0, 32, 200), "nnunet.pth")
    torch.save(lite0(), "lite0.pth")
    torch.save(monai_lesions(), "lesions-unet.pth")


def main() -> None:
    """Runs the page's blocks, and brings their figures here."""
    matplotlib.use("agg")
    section = PAGE.read_text().partition("## Five packages")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        for block in (each for each in blocks if "savefig" in each):
            exec(block, {"np": np, "torch": torch, "segcam": segcam})
        for figure in Path().glob("from_pytorch_*.png"):
            (HERE / figure.name).write_bytes(figure.read_bytes())


if __name__ == "__main__":
    main()
