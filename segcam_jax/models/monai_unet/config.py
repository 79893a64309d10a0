"""The shape of a MONAI U-Net."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from segcam_jax.models import layers
from segcam_jax.types import InputError

Norm = Literal["batch", "instance", "instance_affine"]
Extents = int | Sequence[int]


def _tuples(value: Any) -> Any:
    return value if isinstance(value, int) else tuple(map(_tuples, value))


def each(field: str, value: Extents, ndim: int) -> tuple[int, ...]:
    """One number per axis."""
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim:
        raise InputError(f"`{field}` has {values}; give one number, or one per axis: {ndim}")
    return values


@dataclasses.dataclass(frozen=True)
class MonaiUNetConfig:
    """The shape of a MONAI U-Net; the defaults are those of IES (Spagnolo et al., 2024), in 3D.

    Attributes:
        in_channels: channels of the image, for example one per MRI sequence.
        classes: channels of the logits; MONAI's `out_channels`.
        ndim: number of spatial dimensions, 2 or 3; MONAI's `spatial_dims`.
        channels: of each level, the bottleneck's last.
        strides: of each level but the bottleneck; a number, or one per axis.
        kernel_size: of all convolutions, odd; a number, or one per axis.
        up_kernel_size: of the transposed convolutions, likewise.
        num_res_units: convolutions in the residual unit of each level; 0 has no residual units and
            one convolution per level.
        norm: `"batch"`; `"instance"`, MONAI's default, which has no parameters; or
            `"instance_affine"`, which has a scale and a bias.
        dropout: share of activations dropped in training, after every normalisation; training
            needs a network that was made with an `nnx.Rngs`.
        bias: whether convolutions have one.
    """

    in_channels: int = 2
    classes: int = 2
    ndim: int = 3
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    strides: tuple[int | tuple[int, ...], ...] = (2, 2, 2, 2)
    kernel_size: int | tuple[int, ...] = 3
    up_kernel_size: int | tuple[int, ...] = 3
    num_res_units: int = 0
    norm: Norm = "batch"
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self):
        layers.check_choice("ndim", self.ndim, (2, 3))
        layers.check_choice("norm", self.norm, get_args(Norm))
        layers.check_dropout(self.dropout)
        # A file gives lists; a configuration is hashable.
        for field in ("channels", "strides", "kernel_size", "up_kernel_size"):
            object.__setattr__(self, field, _tuples(getattr(self, field)))
        layers.check_least(self, in_channels=1, classes=1, num_res_units=0)
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise InputError(
                f"`channels` is {self.channels}; give a positive number for each of two or more "
                "levels"
            )
        if len(self.strides) != len(self.channels) - 1:
            raise InputError(
                f"`strides` is {self.strides} for {len(self.channels)} levels; give "
                f"{len(self.channels) - 1}, one less"
            )
        for stride in self.strides:
            if min(each("strides", stride, self.ndim)) < 1:
                raise InputError(f"`strides` is {self.strides}; each must be at least 1")
        for field in ("kernel_size", "up_kernel_size"):
            value = getattr(self, field)
            if any(n < 1 or n % 2 == 0 for n in each(field, value, self.ndim)):
                raise InputError(f"`{field}` is {value}; it must be odd")

    @property
    def multiples(self) -> tuple[int, ...]:
        """What the image's extent along each axis must be a multiple of."""
        per_level = [each("strides", stride, self.ndim) for stride in self.strides]
        return tuple(math.prod(axis) for axis in zip(*per_level, strict=True))

    @property
    def multiple(self) -> int:
        """What every extent of the image may be a multiple of, so that it fits along each axis."""
        return math.lcm(*self.multiples)
