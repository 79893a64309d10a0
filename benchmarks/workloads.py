"""The workloads P1 to P12 as data: network, tap, target, what is computed.

Every workload has a `full` size, whose figures count, and a `tiny` one, which takes seconds and
tests the harness.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from segcam_jax.types import InputError, nearest_first

Size = Literal["full", "tiny"]
Suite = Literal["cpu", "gpu"]
What = Literal["channels", "positions", "instances", "voxels", "samples"]
# What is explained by gradients of the input under noise, not by way of a tap.
SMOOTHED: tuple[What, ...] = ("voxels", "samples")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with random weights.

    Attributes:
        kind: `"unet"`, `"resnet"`, `"densenet"` or `"monai_unet"`.
        options: fields of its configuration.
        image: extents and channels of the image.
    """

    kind: Literal["unet", "resnet", "densenet", "monai_unet"]
    options: Mapping[str, Any]
    image: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Workload:
    """One study, run by every row.

    Attributes:
        key: `"P1"` to `"P12"`.
        title: what is explained, in a line.
        what: channels or positions are ablated; or instances are explained by Seg-Grad-CAM; or one
            instance by SmoothGrad, with the gradient of each of its voxels in each noise sample
            (max aggregation), or with one gradient in each noise sample (mean aggregation).
        sides: extent of the target's region, or of each instance, of all axes or per axis; None for
            the whole image, and for a class of a classifier.
        instances: number of instances per size, for `what="instances"`.
        samples: number of noise samples per size, for `what="voxels"` and `"samples"`.
        share: of the run's budget, against the other workloads.
    """

    key: str
    title: str
    networks: Mapping[Size, Network]
    _: dataclasses.KW_ONLY
    share: float
    taps: Mapping[Size, str] = dataclasses.field(default_factory=lambda: _same("bottleneck"))
    what: What = "channels"
    sides: Mapping[Size, int | tuple[int, ...] | None] = dataclasses.field(
        default_factory=lambda: _same(None)
    )
    instances: Mapping[Size, int] = dataclasses.field(default_factory=dict)
    samples: Mapping[Size, int] = dataclasses.field(default_factory=dict)


PGC = "pytorch-grad-cam"
CAPTUM = "captum LayerFeatureAblation"
TORCH_LOOP = "torch, whole forwards"
TORCH_CACHED = "torch, prefix cached by hand"
TORCH_IES = "torch, the loop of IES"
TORCH_INPUT = "torch, the same without weight gradients"
JAX_LOOP = "JAX, loop of whole forwards"
JAX_GRADIENTS = "JAX, loop of whole gradients"
NAIVE_MAP = "JAX, naive one-jit map"
NAIVE_TF32 = "JAX, naive one-jit map, tf32"
ENGINE = "segcam_jax"
# What a study is compared with: what its users have, and what they could write themselves.
LIBRARIES = (PGC, CAPTUM, TORCH_IES)
BY_HAND = (
    *(TORCH_LOOP, TORCH_CACHED, TORCH_INPUT),
    *(JAX_LOOP, JAX_GRADIENTS, NAIVE_MAP, NAIVE_TF32),
)

_CLASSIC = {"in_channels": 3, "classes": 2, "upsample": "transposed", "halve": "upsample"}
_UNET: Mapping[Size, Network] = {
    "full": Network("unet", {**_CLASSIC, "width": 64}, (256, 256, 3)),
    "tiny": Network("unet", {**_CLASSIC, "width": 2, "depth": 2}, (32, 32, 3)),
}
_UNET_3D = {**_CLASSIC, "ndim": 3, "in_channels": 1}
_VOLUME: Mapping[Size, Network] = {
    "full": Network("unet", {**_UNET_3D, "width": 16, "depth": 3}, (96, 96, 96, 1)),
    "tiny": Network("unet", {**_UNET_3D, "width": 2, "depth": 2}, (8, 8, 8, 1)),
}
_RESNET: Mapping[Size, Network] = {
    "full": Network("resnet", {"depth": 50}, (224, 224, 3)),
    "tiny": Network("resnet", {"depth": 18, "width": 2, "classes": 5}, (32, 32, 3)),
}
_DENSENET: Mapping[Size, Network] = {
    "full": Network("densenet", {"depth": 169}, (224, 224, 3)),
    "tiny": Network("densenet", {"depth": 121, "growth": 2, "classes": 5}, (64, 64, 3)),
}
_MONAI: Mapping[Size, Network] = {
    "full": Network("monai_unet", {"channels": (16, 32, 64, 128, 256)}, (96, 96, 96, 2)),
    "tiny": Network("monai_unet", {"channels": (2, 4), "strides": (2,)}, (4, 4, 4, 2)),
}
_LESION: Mapping[Size, tuple[int, ...]] = {"full": (4, 5, 5), "tiny": (2, 2, 1)}


def _same(value: Any) -> dict[Any, Any]:
    return {"full": value, "tiny": value}


_LISTED = (
    Workload(
        "P1",
        "U-Net base 64, 1024 bottleneck channels, Ablation-CAM of a 32x32 region",
        _UNET,
        sides={"full": 32, "tiny": 4},
        share=6,
    ),
    Workload("P2", "the same, the whole image", _UNET, share=8),
    Workload(
        "P3",
        "ResNet-50, last block, 2048 channels, Ablation-CAM of a class",
        _RESNET,
        taps=_same("features/relu"),
        share=3,
    ),
    Workload(
        "P4",
        "DenseNet-169, last layer, ablation of its 49 positions",
        _DENSENET,
        taps=_same("features"),
        what="positions",
        share=2,
    ),
    Workload(
        "P5",
        "U-Net, Seg-Grad-CAM of 32 instances of one image",
        _UNET,
        what="instances",
        sides={"full": 16, "tiny": 4},
        share=4,
        instances={"full": 32, "tiny": 3},
    ),
    Workload(
        "P6",
        "3D U-Net 16 to 128 channels on 96^3, Ablation-CAM of one instance of 8^3 voxels",
        _VOLUME,
        sides={"full": 8, "tiny": 2},
        share=5,
    ),
    Workload(
        "P7",
        "ResNet-50, an early layer, ablation of its 56x56 positions",
        _RESNET,
        taps={"full": "layer1/block3", "tiny": "layer1/block2"},
        what="positions",
        share=4,
    ),
    Workload(
        "P8",
        "P2's study on 8 virtual devices: work per device, the same maps",
        _UNET,
        sides={"full": 32, "tiny": 4},
        share=1,
    ),
    Workload(
        "P9",
        "MONAI's U-Net 16 to 256 on 96^3, SmoothGrad of 100 voxels, max of them, 2 samples",
        _MONAI,
        taps=_same("input"),
        what="voxels",
        sides=_LESION,
        share=4,
        samples={"full": 2, "tiny": 2},
    ),
    Workload(
        "P10",
        "the same, the mean of the voxels, 10 samples",
        _MONAI,
        taps=_same("input"),
        what="samples",
        sides=_LESION,
        share=2,
        samples={"full": 10, "tiny": 3},
    ),
    Workload(
        "P11",
        "the same network, Ablation-CAM of the instance at the bottleneck, 256 channels",
        _MONAI,
        sides=_LESION,
        share=3,
    ),
    Workload("P12", "P1's network, Ablation-CAM of 32 targets of one image", _UNET, share=4),
)
WORKLOADS: dict[str, Workload] = {workload.key: workload for workload in _LISTED}
CURVES: dict[str, str] = {
    "channels": "time against the number of channels",
    "windows": "time and FLOPs against the side of the target's region",
}


# On an accelerator, in order of worth: a run stops where its seconds end.
_ON_ACCELERATOR = ("P1", "P3", "P2", "P5", "P6", "P9", "P12")


def chosen(keys: tuple[str, ...], suite: Suite = "cpu") -> list[str]:
    """The keys of workloads and curves to run, in their own order; those of a suite if none is.

    Args:
        suite: an accelerator's runs the workloads that say most about it, the first ones first.
    """
    known = [*WORKLOADS, *CURVES]
    for key in keys:
        if key not in known:
            choices = ", ".join(nearest_first(key, known))
            raise InputError(f"unknown workload {key!r}; choose from {choices}")
    if suite == "gpu":
        known = [*_ON_ACCELERATOR, *(key for key in known if key not in _ON_ACCELERATOR)]
        keys = keys or _ON_ACCELERATOR
    return [key for key in known if not keys or key in keys]
