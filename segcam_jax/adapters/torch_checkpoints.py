"""Weights of a file for a PyTorch module."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segcam_jax.extras import require
from segcam_jax.types import InputError
from segcam_jax.weights import foreign

if TYPE_CHECKING:
    import torch

_TOLD = 4


def load_checkpoint(module: "torch.nn.Module", path: str | Path) -> list[str]:
    """Loads a state dict into a module, all of it; no code in the file runs.

    Args:
        module: whose weights become those of the file.
        path: what `weights.foreign.read` takes: a state dict, or a checkpoint that holds one.

    Returns:
        The prefix that the file's names lost for it (`["model."]` of Lightning), if any.

    Raises:
        InputError: if the file cannot be read, or is of another network; lists what differs.
    """
    torch = require("torch", extra="torchax")
    tensors, wanted = foreign.read(path), module.state_dict()
    lost, found = [], tensors
    while len(heads := {name.partition(".")[0] for name in found}) == 1 and not any(
        name in wanted for name in found
    ):
        head = f"{heads.pop()}."
        if not all(name.startswith(head) for name in found):
            break
        lost.append(head)
        found = {name.removeprefix(head): tensor for name, tensor in found.items()}
    counts = {name for name in wanted if name.endswith("num_batches_tracked")}
    told = {
        "lacks": sorted(wanted.keys() - found.keys() - counts),
        "has besides": sorted(found.keys() - wanted.keys()),
        "has in other shapes": [
            f"{name} {tuple(tensor.shape)} for {tuple(wanted[name].shape)}"
            for name, tensor in found.items()
            if name in wanted and tuple(tensor.shape) != tuple(wanted[name].shape)
        ],
    }
    if any(told.values()):
        what = "; it ".join(f"{what} {_listed(names)}" for what, names in told.items() if names)
        raise InputError(
            f"checkpoint {str(path)!r} is not of this {type(module).__name__}: it {what}"
        )
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in found.items()}
    module.load_state_dict({**{name: wanted[name] for name in counts}, **state})
    return ["".join(lost)] if lost else []


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more
