"""The network of a segmentation training: made new, or continued from weights of other classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx

from segcam_jax import models
from segcam_jax.types import InputError
from train import steps
from train.segmentation.config import SegmentationTraining

_WIDTHS = {"unet": 16, "unet-vgg16": 64}  # channels of the first level
_HEAD = ("head",)  # what is made anew for other classes


def make_model(config: SegmentationTraining, class_names: Sequence[str]) -> tuple[str, Any]:
    """The network of a run, as it starts.

    Returns:
        `(family, model)`: what weights files call the network, and the network.
    """
    family = models.NETWORKS[models.SEGMENTERS[config.network][0]]
    shape: dict[str, Any] = {"in_channels": config.channels, "classes": len(class_names)}
    shape |= {"depth": config.depth} if config.network == "unet" else {}
    width = config.width or _WIDTHS[config.network]
    model = family.model(family.config(width=width, **shape), rngs=nnx.Rngs(config.seed))
    if config.start is None:
        return family.name, model
    given, metadata = family.load(models.path_of(config.start))
    if dataclasses.replace(given.config, classes=len(class_names)) != model.config:
        raise InputError(
            f"`start` {str(config.start)!r} holds {given.config}, the run is of {model.config}"
        )
    steps.take_over(model, given, metadata, class_names, head=_HEAD)
    return family.name, model
