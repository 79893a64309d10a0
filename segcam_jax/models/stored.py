"""Networks on disk: configuration and tensors in one file, whatever the network."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from segcam_jax import schema
from segcam_jax.types import InputError, shortened
from segcam_jax.weights import store

C = TypeVar("C")
# What is said of weights with fewer bits than they are computed with.
STORED_AS = "stored_as"
# Channels, classes, units: of no network on disk one has more.
_LARGEST = 2**20


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


def config_of(metadata: Mapping[str, Any], kind: type[C], path: str | Path) -> C:
    """The configuration that a weights file holds.

    Raises:
        InputError: if there is none, or it is not of that kind; every wrong field is named.
    """
    model, values = metadata.get("model"), metadata.get("config")
    origin = f"weights file {str(path)!r} has no valid config of {model!r}: it"
    if not isinstance(values, Mapping):
        raise InputError(f"{origin} is {shortened(repr(values))}, expected fields with values")
    huge = [n for n in _numbers(values) if abs(n) > _LARGEST]
    if huge:
        raise InputError(f"{origin} has {huge[0]:.6g}; no network here has more than {_LARGEST}")
    return schema.read(values, kind, origin)


def _numbers(values: Any) -> Iterator[float]:
    """All numbers in what JSON holds."""
    if isinstance(values, (int, float)):
        yield values
    elif isinstance(values, (list, Mapping)):
        for each in values.values() if isinstance(values, Mapping) else values:
            yield from _numbers(each)


def load(
    path: str | Path, network: str, make: Callable[[Any], nnx.Module], config_type: type
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
    config = config_of(metadata, config_type, path)
    model = nnx.eval_shape(lambda: make(config))
    store.check_fit(arrays, shapes(model), str(path))
    fill(model, arrays)
    few = sorted({array.dtype.name for array in arrays.values() if array.dtype.itemsize < 4})
    return model, {**metadata, STORED_AS: " and ".join(few)} if few else metadata
