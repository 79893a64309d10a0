"""A workload made concrete: network, weights, image, target, and the masks of its ablations."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

import segcam_jax as segcam
from benchmarks.workloads import Network, Size, Workload
from segcam_jax.masks import ChannelMasks, Masks, WindowMasks
from segcam_jax.models import randomised
from segcam_jax.models.densenet import densenet
from segcam_jax.models.monai_unet import MonaiUNet, monai_unet
from segcam_jax.models.resnet import resnet
from segcam_jax.models.unet import UNet, UNetConfig

CLASS = 1
# Of the range of the image's first channel: the deviation of the noise.
NOISE = 0.05
# Where rows are compared by an aggregate of gradients: how many of them.
CHECKED_VOXELS = 2


class _First:
    """The first `count` of a family of masks."""

    count: int

    def __len__(self) -> int:
        return self.count

    def removed(self, values: Array) -> Array:
        """As of all masks, for the first ones."""
        every: Any = super()
        return every.removed(values)[: self.count]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["channels", "count"]
)
@dataclasses.dataclass(frozen=True)
class FirstChannels(_First, ChannelMasks):
    """The first `count` of all channel masks."""

    count: int = 0


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["shape", "window", "stride", "count"],
)
@dataclasses.dataclass(frozen=True)
class FirstWindows(_First, WindowMasks):
    """The first `count` of all window masks."""

    count: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What every row of a workload computes: `total` results, of which it may measure the first.

    A result is the fall of the score under one ablation, or the map of one instance; where inputs
    are smoothed by noise, it is one gradient, and their aggregate is compared.

    Attributes:
        model: the Flax model, whose weights the torch twin gets, too.
        x: the image, channels last.
        target: the score; a stack of them where instances are explained.
        regions: masks of the target's regions, one per target, on the host; None for a whole
            image or a class.
        samples: number of noise samples, 0 without noise.
    """

    workload: Workload
    network: Network
    tap: str
    model: nnx.Module
    fn: Callable
    params: Any
    x: Array
    split: segcam.Split
    target: Any
    regions: np.ndarray | None
    total: int
    samples: int = 0

    @property
    def is_classifier(self) -> bool:
        """Whether the output is one value per class."""
        return len(self.split.output.shape) == 1

    def masks(self, count: int) -> Masks:
        """The first masks of the ablation; all of them are the library's own."""
        *space, channels = self.split.activation.shape
        whole = count == self.total
        if self.workload.what == "channels":
            return ChannelMasks(channels) if whole else FirstChannels(channels, count=count)
        shape = (tuple(space), (1,) * len(space), (1,) * len(space))
        return WindowMasks(*shape) if whole else FirstWindows(*shape, count=count)

    def first_targets(self, count: int) -> Any:
        """The first of a stack of targets."""
        return jax.tree.map(lambda leaf: leaf[:count], self.target)

    @contextlib.contextmanager
    def in_float64(self) -> Iterator["Study"]:
        """The same study with float64 weights and image; JAX has 64-bit types inside only."""

        def double(leaf: Any) -> Any:
            is_float = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
            return jax.numpy.asarray(np.asarray(leaf), np.float64 if is_float else leaf.dtype)

        with jax.enable_x64(True):
            params, x = jax.tree.map(double, (self.params, self.x))
            split = segcam.split(self.fn, self.tap, params, x)
            outputs = {str(leaf.dtype) for leaf in jax.tree.leaves(split.output)}
            if outputs != {"float64"}:
                raise TypeError(f"the network computes {', '.join(outputs)} from float64 weights")
            yield dataclasses.replace(self, params=params, x=x, split=split)


def study(workload: Workload, size: Size, *, seed: int = 0) -> Study:
    """Makes the study of a workload: weights, image and regions are drawn from the seed."""
    network, tap = workload.networks[size], workload.taps[size]
    model = model_of(network, seed=seed)
    fn, params = segcam.from_nnx(model)
    generator = np.random.default_rng(seed)
    x = jax.numpy.asarray(generator.random(network.image, np.float32))
    split = segcam.split(fn, tap, params, x)
    side, space = workload.sides[size], network.image[:-1]
    count = workload.instances.get(size, 1)
    regions = None if side is None else regions_of(space, side, count, generator)
    target = _target(workload, regions)
    *positions, channels = split.activation.shape
    samples = workload.samples.get(size, 0)
    totals = {
        "channels": channels,
        "positions": int(np.prod(positions)),
        "instances": count,
        "voxels": samples * (0 if regions is None else int(regions.sum())),
        "samples": samples,
    }
    total = totals[workload.what]
    return Study(
        workload, network, tap, model, fn, params, x, split, target, regions, total, samples
    )


def model_of(network: Network, *, seed: int = 0, abstract: bool = False) -> nnx.Module:
    """The network with random weights, or with shapes alone."""
    options = dict(network.options)
    make: Callable[[], nnx.Module]
    match network.kind:
        case "unet":
            make = functools.partial(_unet, options)
        case "resnet":
            make = functools.partial(resnet, options.pop("depth"), **options)
        case "densenet":
            make = functools.partial(densenet, options.pop("depth"), **options)
        case "monai_unet":
            make = functools.partial(monai_unet, **options)
    if abstract:
        return nnx.eval_shape(make)
    model = randomised(make, seed=seed)
    if isinstance(model, UNet):
        _strengthen(model.upsample)
    if isinstance(model, MonaiUNet):
        _strengthen([level.up.conv for level in model.decoder])
    return model


def _strengthen(upsampling: Iterable[Any]) -> None:
    """Brings what comes from below to the scale of the skips.

    A value that a 2-strided transposed convolution makes is the sum over a part of its kernel's
    places, where He's scale counts all places. Without this an ablation below is lost in rounding.
    """
    for layer in upsampling:
        layer.kernel.set_value(layer.kernel[...] * 2 ** ((layer.kernel.ndim - 2) / 2))


def _unet(options: dict[str, Any]) -> UNet:
    return UNet(UNetConfig(**options), rngs=nnx.Rngs(0))


def _target(workload: Workload, regions: np.ndarray | None) -> Any:
    if regions is None:
        return segcam.targets.whole_image(CLASS)
    targets = [segcam.targets.region(CLASS, region) for region in regions]
    return segcam.targets.stack(targets) if workload.what == "instances" else targets[0]


def regions_of(
    space: tuple[int, ...], side: int | tuple[int, ...], count: int, generator: np.random.Generator
) -> np.ndarray:
    """Boxes inside the image, `count *space`; a single one lies in the middle."""
    sides = (side,) * len(space) if isinstance(side, int) else side
    regions = np.zeros((count, *space), bool)
    for region in regions:
        corner = [
            (n - wide) // 2 if count == 1 else int(generator.integers(0, n - wide + 1))
            for n, wide in zip(space, sides, strict=True)
        ]
        box = [slice(low, low + wide) for low, wide in zip(corner, sides, strict=True)]
        region[tuple(box)] = True
    return regions
