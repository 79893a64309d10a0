"""Randomised networks of torchvision and every convolution's output in them; imports torch."""

import numpy as np
import torch
from torch import nn

from tests.goldens.drawing import drawn


def _declared():
    """Declares the operators without which torchvision does not import beside torch for CPUs."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = None if torch.version.cuda else _declared()
import torchvision.models  # noqa: E402


def network(name: str, classes: int) -> nn.Module:
    """A torchvision network in eval mode, all of its tensors drawn."""
    options = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    return filled(getattr(torchvision.models, name)(weights=None, num_classes=classes, **options))


def filled(model: nn.Module) -> nn.Module:
    """The model in eval mode with all of its tensors drawn by name."""
    for key, tensor in model.state_dict().items():
        if tensor.ndim:
            tensor.copy_(torch.from_numpy(drawn(key, tuple(tensor.shape))))
    return model.eval()


def outputs(
    model: nn.Module, pixels: np.ndarray
) -> tuple[list[str], dict[str, np.ndarray], np.ndarray]:
    """Runs a network on one image.

    Returns:
        The names of all convolutions in the order of the modules, the outputs of those that ran,
        channels last, and the logits.
    """
    seen, names = {}, []

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = np.moveaxis(output[0].numpy(), 0, -1)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            names.append(name)
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        logits = model(torch.from_numpy(np.moveaxis(pixels, -1, 0)[None].copy()))
    return names, seen, logits[0].numpy()
