"""Weights of a file for a PyTorch module."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segcam_jax.adapters.torch_modules import unwrapped
from segcam_jax.extras import require
from segcam_jax.types import InputError, nearest_first
from segcam_jax.weights import foreign

if TYPE_CHECKING:
    import torch

_TOLD = 4


def load_checkpoint(module: "torch.nn.Module", path: str | Path) -> str:
    """Loads a state dict into a module, all of it; no code in the file runs.

    Args:
        path: what `weights.foreign.read` takes: a state dict, or a checkpoint that holds one.

    Returns:
        The prefix that the file's names lost for it (`"model."` of Lightning); empty if none.

    Raises:
        InputError: if the file cannot be read, or is of another network; lists what differs.
    """
    return load_tensors(module, foreign.read(path), path)


def load_tensors(
    module: "torch.nn.Module", tensors: Mapping[str, np.ndarray], path: str | Path
) -> str:
    """Loads tensors by name into a module; else as `load_checkpoint`."""
    torch = require("torch", extra="torchax")
    module = unwrapped(module)
    wanted = {name: t for name, t in module.state_dict().items() if isinstance(t, torch.Tensor)}
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}
    prefix, found = _without_prefix(tensors, needed)
    told = {
        "lacks": sorted(needed - found.keys()),
        "has besides": _nearest(sorted(found.keys() - wanted.keys()), needed - found.keys()),
        "has other shapes for": [
            f"{name} {tuple(tensor.shape)} for {tuple(wanted[name].shape)}"
            for name, tensor in found.items()
            if name in wanted and tuple(tensor.shape) != tuple(wanted[name].shape)
        ],
    }
    if any(told.values()):
        what = "; it ".join(f"{what} {_listed(names)}" for what, names in told.items() if names)
        raise InputError(
            f"checkpoint {str(path)!r} does not fit this {type(module).__name__}: it {what}"
        )
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in found.items()}
    module.load_state_dict({**module.state_dict(), **state})
    return prefix


def _without_prefix(
    tensors: Mapping[str, np.ndarray], needed: Collection[str]
) -> tuple[str, Mapping[str, np.ndarray]]:
    """The tensors under the prefix that holds all that is needed, and the prefix.

    Beside a network, a checkpoint may hold weights of a loss under names of their own.
    """
    one = max(needed, key=len, default="")
    for prefix in (name.removesuffix(one) for name in tensors if name.endswith(f".{one}")):
        if all(prefix + name in tensors for name in needed):
            found = {name: each for name, each in tensors.items() if name.startswith(prefix)}
            return prefix, {name.removeprefix(prefix): each for name, each in found.items()}
    return "", tensors


def _nearest(names: Sequence[str], lacking: Collection[str]) -> Sequence[str]:
    """Names, those most alike to the first that is lacking before the others."""
    return nearest_first(min(lacking), names) if lacking else names


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more
