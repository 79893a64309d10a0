"""The network of a segmentation training: made new, or continued from weights of other classes."""

import dataclasses
from typing import Any

import numpy as np
from flax import nnx

from segcam_jax import models
from segcam_jax.models import stored
from segcam_jax.models.unet import UNet, UNetConfig, load_unet
from segcam_jax.models.vgg_unet import VggUNet, VggUNetConfig
from segcam_jax.types import InputError
from train.segmentation.config import SegmentationTraining

_HEAD = "head"  # what is made anew for other classes


def make_model(config: SegmentationTraining, classes: int) -> tuple[str, Any]:
    """The network of a run, as it starts.

    Returns:
        `(family, model)`: what weights files call the network, and the network.

    Raises:
        InputError: if the weights to start from are of another network.
    """
    shape: dict[str, Any] = {"in_channels": config.channels, "classes": classes}
    rngs = nnx.Rngs(config.seed)
    if config.network == "unet":
        family, load = "unet", load_unet
        model = UNet(UNetConfig(depth=config.depth, width=config.width or 16, **shape), rngs=rngs)
    else:
        family, load = "vgg_unet", models.NETWORKS["vgg_unet"].load
        model = VggUNet(VggUNetConfig(width=config.width or 64, **shape), rngs=rngs)
    if config.start is not None:
        _fill(model, load(models.path_of(config.start))[0], str(config.start))
    return family, model


def _fill(model: Any, given: Any, origin: str) -> None:
    """Takes over all weights, those of the head only if they are of as many classes."""
    if dataclasses.replace(given.config, classes=model.config.classes) != model.config:
        raise InputError(f"`start` {origin!r} holds {given.config}, the run is of {model.config}")
    mine, theirs = (
        {name: np.asarray(leaf[...]) for name, leaf in stored.tensors(each).items()}
        for each in (model, given)
    )
    same = given.config.classes == model.config.classes
    taken = {name: theirs[name] for name in mine if same or name.split("/")[0] != _HEAD}
    stored.fill(model, mine | taken)
