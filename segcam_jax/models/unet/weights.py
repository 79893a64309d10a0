"""The U-Net on disk: configuration and tensors in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from segcam_jax.models import stored
from segcam_jax.models.unet.model import UNet, UNetConfig


def save_unet(path: str | Path, model: UNet, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a U-Net: its tensors, its configuration and what `metadata` adds.

    Args:
        path: the `.safetensors` file to write.
        model: the network.
        metadata: what JSON can hold, for example class names and scores.
    """
    stored.save(path, "unet", model, metadata or {})


def load_unet(path: str | Path) -> tuple[UNet, dict[str, Any]]:
    """Reads a U-Net that `save_unet` wrote.

    Returns:
        `(model, metadata)`.

    Raises:
        InputError: if the file is not a U-Net's, or a tensor does not fit; every one is named.
    """
    return stored.load(path, "unet", lambda config: UNet(config, rngs=nnx.Rngs(0)), UNetConfig)
