"""MONAI's `UNet` with drawn weights, and the output of every layer in it; imports torch, monai."""

import dataclasses

import numpy as np
import torch
from monai.networks.nets.unet import UNet

from segcam_jax.models.monai_unet import MonaiUNetConfig
from tests.goldens.drawing import drawn

_NORMS = {"batch": "batch", "instance": "instance", "instance_affine": ("instance", {"affine": 1})}


def network(config: MonaiUNetConfig) -> UNet:
    """MONAI's network of a configuration, in eval mode, all of its tensors drawn by name."""
    fields = dataclasses.asdict(config)
    fields["spatial_dims"], fields["out_channels"] = fields.pop("ndim"), fields.pop("classes")
    model = UNet(**fields | {"norm": _NORMS[config.norm]})
    for name, tensor in model.state_dict().items():
        if tensor.ndim:
            tensor.copy_(torch.from_numpy(drawn(name, tuple(tensor.shape))))
    return model.eval()


def state(model: UNet) -> dict[str, np.ndarray]:
    """Its state dict in NumPy."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def outputs(
    model: UNet, layers: list[str], image: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The outputs of layers and the logits for one image, all channels last."""
    seen = {}

    def keep(name):
        return lambda _module, _inputs, output: seen.update({name: _last(output)})

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    with torch.no_grad():
        logits = model(torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy()))
    for handle in handles:
        handle.remove()
    return seen, _last(logits)


def _last(tensor) -> np.ndarray:
    return np.moveaxis(tensor[0].numpy(), 0, -1)
