"""The U-Net on disk: configuration and tensors in one file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from segcam_jax.models.unet.model import UNet, UNetConfig
from segcam_jax.types import InputError
from segcam_jax.weights import store


def _tensors(model: UNet) -> dict[str, Any]:
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def save_unet(path: str | Path, model: UNet, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a U-Net: its tensors, its configuration and what `metadata` adds.

    Args:
        path: the `.safetensors` file to write.
        model: the network.
        metadata: what JSON can hold, for example class names and scores.
    """
    tensors = {name: np.asarray(leaf[...]) for name, leaf in _tensors(model).items()}
    about = {"model": "unet", "config": dataclasses.asdict(model.config), **(metadata or {})}
    store.save(path, tensors, about)


def load_unet(path: str | Path) -> tuple[UNet, dict[str, Any]]:
    """Reads a U-Net that `save_unet` wrote.

    Returns:
        `(model, metadata)`.

    Raises:
        InputError: if the file is not a U-Net's, or a tensor does not fit; every one is named.
    """
    tensors, metadata = store.load(path)
    if metadata.get("model") != "unet":
        raise InputError(
            f"weights file {str(path)!r} holds model {metadata.get('model')!r}, expected 'unet'"
        )
    try:
        config = UNetConfig(**metadata["config"])
    except (KeyError, TypeError) as error:
        raise InputError(f"weights file {str(path)!r} has no valid U-Net config: {error}") from None
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    targets = _tensors(model)
    store.check_fit(tensors, {name: leaf.shape for name, leaf in targets.items()}, str(path))
    for name, leaf in targets.items():
        leaf.set_value(jax.numpy.asarray(tensors[name]))
    return model, metadata
