"""MONAI's own `UNet`, cut at its bottleneck, with the weights of ours."""

from typing import Any

import numpy as np
import torch
from flax import nnx
from torch import nn

from benchmarks.peers.twins import Twin, kernel_of
from segcam_jax import extras
from segcam_jax.models import stored
from segcam_jax.models.monai_unet import MonaiUNetConfig, monai_table


class MonaiTwin(Twin):
    """MONAI's network; its levels are its own, and so is `forward`."""

    def __init__(self, config: MonaiUNetConfig, tap: str):
        super().__init__()
        assert (config.norm, tap in ("bottleneck", "input")) == ("batch", True)
        unet: Any = extras.require("monai.networks.nets.unet", extra="bench")
        self.net = unet.UNet(
            spatial_dims=config.ndim,
            in_channels=config.in_channels,
            out_channels=config.classes,
            channels=config.channels,
            strides=config.strides,
            kernel_size=config.kernel_size,
            up_kernel_size=config.up_kernel_size,
            num_res_units=config.num_res_units,
            norm="batch",
            bias=config.bias,
        )
        self._depth = len(config.strides)

    def _levels(self) -> tuple[list[nn.Module], nn.Module, list[nn.Module]]:
        """The levels down, the bottleneck, and the levels up from the deepest."""
        down, up, block = [], [], self.net.model
        for _ in range(self._depth):
            first, skip, last = block
            down.append(first)
            up.append(last)
            block = skip.submodule
        return down, block, up[::-1]

    @property
    def tapped(self) -> nn.Module:
        """The bottleneck."""
        return self._levels()[1]

    def prefix(self, x):
        """Levels down and bottleneck; the skips are kept."""
        down, bottleneck, _ = self._levels()
        skips = []
        for level in down:
            x = level(x)
            skips.append(x)
        return bottleneck(x), skips

    def suffix(self, activation, known):
        """Levels up; skips of one image serve a batch of activations."""
        x = activation
        for level, skip in zip(self._levels()[2], reversed(known), strict=True):
            x = level(torch.cat([skip.expand(x.shape[0], *skip.shape[1:]), x], dim=1))
        return x

    def forward(self, x):
        """MONAI's own."""
        return self.net(x)


def copy_weights(model: nnx.Module, twin: MonaiTwin) -> None:
    """Copies every parameter and statistic by the table of MONAI's names, turned around."""
    config: Any = getattr(model, "config")  # noqa: B009
    ours = {name: np.asarray(leaf[...]) for name, leaf in stored.tensors(model).items()}
    tensors = {}
    for rule in monai_table(config).rules:
        if rule.target not in ours:
            continue
        value = ours[rule.target]
        if rule.transform == "scalar":
            value = value.reshape(1)
        elif rule.transform != "same":
            value = kernel_of(value, transposed=rule.transform == "transposed_conv")
        tensors[rule.source] = torch.from_numpy(value.copy())
    missing = set(twin.net.state_dict()) - set(tensors)
    tensors.update({name: torch.tensor(0) for name in missing if "num_batches" in name})
    twin.net.load_state_dict(tensors)
