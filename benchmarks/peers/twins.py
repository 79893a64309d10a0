"""The networks of the benchmark in PyTorch, with submodules named as in the Flax models.

Same names let one function copy the weights of any of them. `prefix` and `suffix` are what a person
who caches the part before the tap by hand writes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.workloads import Network
from segcam_jax.models.densenet import BLOCKS as DENSE_BLOCKS, DenseNetConfig
from segcam_jax.models.resnet import BLOCKS, ResNetConfig
from segcam_jax.models.unet import UNetConfig

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}


class Twin(nn.Module):
    """A network cut at a tap.

    Attributes:
        tapped: the module whose output is the tapped activation.
    """

    tapped: nn.Module

    def prefix(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Returns the tapped activation, and what else the suffix needs."""
        raise NotImplementedError

    def suffix(self, activation: Tensor, known: Sequence[Tensor]) -> Tensor:
        """Returns the output from the activation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output."""
        return self.suffix(*self.prefix(x))


class _ConvNormRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int, ndim: int):
        super().__init__()
        self.conv = _CONV[ndim](inputs, outputs, 3, padding=1)
        self.norm = _NORM[ndim](outputs, eps=1e-3)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x)))


class UNetBlock(nn.Module):
    """Two convolutions, each with BatchNorm and ReLU; `outputs` are those of the second."""

    def __init__(self, inputs: int, hidden: int, ndim: int, outputs: int | None = None):
        super().__init__()
        self.conv1 = _ConvNormRelu(inputs, hidden, ndim)
        self.conv2 = _ConvNormRelu(hidden, outputs or hidden, ndim)

    def forward(self, x):
        """Returns the activation of the second."""
        return self.conv2(self.conv1(x))


class UNetTwin(Twin):
    """The U-Net with `halve="upsample"`, cut at `bottleneck`."""

    def __init__(self, config: UNetConfig, tap: str):
        super().__init__()
        assert (config.halve, config.skips, tap) == ("upsample", True, "bottleneck")
        ndim, self.ndim = config.ndim, config.ndim
        widths = [config.width * 2**level for level in range(config.depth)]
        inputs = [config.in_channels, *widths]
        self.encoder = nn.ModuleList(
            UNetBlock(inputs[level], width, ndim) for level, width in enumerate(widths)
        )
        self.bottleneck = UNetBlock(widths[-1], 2 * widths[-1], ndim)
        self.upsample = nn.ModuleList(
            _UP[ndim](2 * width, width, 2, stride=2) for width in reversed(widths)
        )
        self.decoder = nn.ModuleList(
            UNetBlock(2 * width, width, ndim) for width in reversed(widths)
        )
        self.head = _CONV[ndim](widths[0], config.classes, 1)

    @property
    def tapped(self) -> nn.Module:
        """The bottleneck."""
        return self.bottleneck

    def prefix(self, x):
        """Encoder and bottleneck; the skips are kept."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = _POOL[self.ndim](x, 2)
        return self.bottleneck(x), skips

    def suffix(self, activation, known):
        """Decoder; skips of one image serve a batch of activations."""
        x = activation
        for up, block, skip in zip(self.upsample, self.decoder, reversed(known), strict=True):
            x = up(x)
            x = block(torch.cat([x, skip.expand(x.shape[0], *skip.shape[1:])], dim=1))
        return self.head(x)


class _ResNetBlock(nn.Module):
    def __init__(self, name: str, inputs: int, width: int, stride: int, config: ResNetConfig):
        super().__init__()
        self.name = name
        outputs = width * (4 if config.bottleneck else 1)
        if config.bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
            self.conv3 = None
        self.norm1 = nn.BatchNorm2d(width)
        self.residual_norm = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.conv2(functional.relu(self.norm1(self.conv1(x))))
        if self.conv3 is not None:
            y = self.conv3(functional.relu(self.norm2(y)))
        x = x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))
        return functional.relu(self.residual_norm(y) + x)


class ResNetTwin(Twin):
    """A ResNet, cut after one of its blocks."""

    def __init__(self, config: ResNetConfig, tap: str):
        super().__init__()
        width, expansion = config.width, 4 if config.bottleneck else 1
        self.conv = nn.Conv2d(config.in_channels, width, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        inputs, stages = width, []
        for stage, count in enumerate(BLOCKS[config.depth]):
            blocks = []
            for index in range(count):
                name, stride = f"layer{stage + 1}/block{index + 1}", 2 if stage and not index else 1
                blocks.append(_ResNetBlock(name, inputs, width * 2**stage, stride, config))
                inputs = width * 2**stage * expansion
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, config.classes)
        names = [block.name for block in self._blocks()]
        self._last = len(names) - 1 if tap == "features/relu" else names.index(tap)

    def _blocks(self) -> list[Any]:
        stages: Any = self.stages
        return [block for stage in stages for block in stage]

    @property
    def tapped(self) -> nn.Module:
        """The block whose output is the tap."""
        return self._blocks()[self._last]

    def prefix(self, x):
        """Stem and blocks, up to the tapped one."""
        x = functional.relu(self.norm(self.conv(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for block in self._blocks()[: self._last + 1]:
            x = block(x)
        return x, ()

    def suffix(self, activation, known):
        """The other blocks, pooling, the linear layer."""
        for block in self._blocks()[self._last + 1 :]:
            activation = block(activation)
        return self.head(activation.mean((-2, -1)))


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, config: DenseNetConfig):
        super().__init__()
        narrow = 4 * config.growth
        self.norm1 = nn.BatchNorm2d(inputs, eps=config.epsilon)
        self.conv1 = nn.Conv2d(inputs, narrow, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow, eps=config.epsilon)
        self.conv2 = nn.Conv2d(narrow, config.growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], dim=1)


class _Transition(nn.Module):
    def __init__(self, inputs: int, config: DenseNetConfig):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs, eps=config.epsilon)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x):
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


class DenseNetTwin(Twin):
    """A DenseNet, cut at `features`: its last concatenation."""

    def __init__(self, config: DenseNetConfig, tap: str):
        super().__init__()
        assert (tap, config.hidden) == ("features", 0)
        channels = 2 * config.growth
        self.conv = nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=config.epsilon)
        blocks, transitions = [], []
        for block, count in enumerate(DENSE_BLOCKS[config.depth]):
            layers = [_DenseLayer(channels + n * config.growth, config) for n in range(count)]
            channels += count * config.growth
            blocks.append(nn.ModuleList(layers))
            if block < 3:
                transitions.append(_Transition(channels, config))
                channels //= 2
        self.blocks, self.transitions = nn.ModuleList(blocks), nn.ModuleList(transitions)
        self.last_norm = nn.BatchNorm2d(channels, eps=config.epsilon)
        self.head = nn.Linear(channels, config.classes)

    @property
    def tapped(self) -> nn.Module:
        """The last dense layer, whose output is the last concatenation."""
        blocks: Any = self.blocks
        return blocks[-1][-1]

    def prefix(self, x):
        """All up to the last concatenation."""
        x = functional.relu(self.norm(self.conv(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        blocks: Any = self.blocks
        for number, block in enumerate(blocks):
            for layer in block:
                x = layer(x)
            if number < 3:
                x = self.transitions[number](x)
        return x, ()

    def suffix(self, activation, known):
        """The last BatchNorm and ReLU, pooling, the linear layer."""
        return self.head(functional.relu(self.last_norm(activation)).mean((-2, -1)))


def twin(network: Network, tap: str, model: nnx.Module) -> Twin:
    """The network in PyTorch with the weights of the Flax model, in eval mode."""
    config: Any = getattr(model, "config")  # noqa: B009
    if network.kind == "monai_unet":
        from benchmarks.peers import monai_twin

        monai = monai_twin.MonaiTwin(config, tap)
        monai_twin.copy_weights(model, monai)
        return monai.eval()
    made = {"unet": UNetTwin, "resnet": ResNetTwin, "densenet": DenseNetTwin}[network.kind]
    module = made(config, tap)
    copy_weights(model, module)
    return module.eval()


_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def copy_weights(model: nnx.Module, module: nn.Module) -> None:
    """Copies every parameter and statistic of a Flax model to the torch module of equal names."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    tensors = {}
    for path, leaf in nnx.to_flat_state(state):
        *where, kind = map(str, path)
        value = np.asarray(leaf[...])
        if kind == "kernel":
            transposed = where[0] == "upsample"
            value = kernel_of(value, transposed=transposed)
        tensors[".".join([*where, _NAMES.get(kind, kind)])] = torch.from_numpy(value.copy())
    missing = set(module.state_dict()) - set(tensors)
    tensors.update({name: torch.tensor(0) for name in missing if "num_batches" in name})
    module.load_state_dict(tensors)


def kernel_of(value: np.ndarray, *, transposed: bool) -> np.ndarray:
    """`*space in out` to torch's order; a transposed convolution's is turned around in space."""
    space = tuple(range(value.ndim - 2))
    if transposed:
        return np.flip(value, space).transpose(-2, -1, *space)
    return value.transpose(-1, -2, *space)
