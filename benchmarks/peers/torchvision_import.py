"""torchvision's networks; its CPU wheel does not import until two operators are declared."""

from typing import Any

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")


def torchvision_models() -> Any:
    """The module `torchvision.models`."""
    if not hasattr(torch.ops.torchvision, "qnms"):
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models

    return torchvision.models
