"""Networks on disk: configuration and tensors in one file, whatever the network."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from segcam_jax.types import InputError
from segcam_jax.weights import store


def tensors(model: nnx.Module) -> dict[str, Any]:
    """The parameters and statistics of a model by the path to them."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def parameters(model: nnx.Module) -> nnx.State:
    """The trainable tensors of a model."""
    return nnx.state(model, nnx.Param)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of `tensors`."""
    return {name: leaf.shape for name, leaf in tensors(model).items()}


def fill(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every tensor of a model, whose values may be abstract."""
    for name, leaf in tensors(model).items():
        leaf.set_value(jnp.asarray(arrays[name], leaf.dtype))


def save(path: str | Path, network: str, model: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a model: its tensors, its configuration and what `metadata` adds.

    Args:
        path: the `.safetensors` file to write.
        network: the network's name, for example `"resnet"`.
        model: has `config`, a dataclass of what JSON can hold.
        metadata: what JSON can hold, for example class names.
    """
    arrays = {name: np.asarray(leaf[...]) for name, leaf in tensors(model).items()}
    about = {"model": network, "config": dataclasses.asdict(model.config), **metadata}
    store.save(path, arrays, about)


def load(
    path: str | Path, network: str, make: Callable[[Any], nnx.Module], config_type: Callable
) -> tuple[Any, dict[str, Any]]:
    """Reads a model that `save` wrote.

    Args:
        path: the file.
        network: the name it must have.
        make: config -> model.
        config_type: makes the configuration of the fields in the file.

    Returns:
        `(model, metadata)`.

    Raises:
        InputError: if the file holds another network, or a tensor does not fit; every one is named.
    """
    arrays, metadata = store.load(path)
    if metadata.get("model") != network:
        raise InputError(
            f"weights file {str(path)!r} holds model {metadata.get('model')!r}, expected "
            f"{network!r}"
        )
    try:
        config = config_type(**metadata["config"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"weights file {str(path)!r} has no valid config of {network!r}: {error}"
        ) from None
    model = nnx.eval_shape(lambda: make(config))
    store.check_fit(arrays, shapes(model), str(path))
    fill(model, arrays)
    return model, metadata
