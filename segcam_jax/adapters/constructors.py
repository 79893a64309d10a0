"""What models tell of their constructors: so that others are made, with parameters drawn anew."""

import inspect
from typing import Any

import jax
import numpy as np


def arguments_of(model: Any, keys: str) -> dict[str, Any] | None:
    """What the class of a model makes another one of, but for random keys.

    Known where each of its constructor's arguments is kept under the argument's own name, and holds
    no array.

    Args:
        keys: what the constructor calls its random keys; without them it draws nothing.
    """
    _, *known = inspect.signature(type(model).__init__).parameters.values()
    names = [each.name for each in known]
    packed = any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in known)
    if packed or keys not in names or not all(hasattr(model, name) for name in {*names} - {keys}):
        return None
    given = {name: getattr(model, name) for name in names if name != keys}
    return None if holds_array(given) else given


def holds_array(value: Any) -> bool:
    """Whether a value is an array, or holds one."""
    return any(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(value))
