"""Any model, by what it is."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from segcam_jax.adapters.equinox_models import from_equinox
from segcam_jax.adapters.keras_models import from_keras
from segcam_jax.adapters.linen_models import from_linen
from segcam_jax.adapters.nnx_models import from_nnx
from segcam_jax.adapters.torch_models import from_torch
from segcam_jax.types import InputError

FORMS = (
    "an nnx.Module, a torch.nn.Module, a keras.Model, an equinox.Module, (equinox.Module, State), "
    "(linen.Module, variables) or (fn, params)"
)


def adapted(made: Any, *, batch: bool | None = None) -> tuple[Callable, Any]:
    """Turns a model of any supported library into `(fn, params)`.

    Args:
        made: one of `FORMS`.
        batch: whether a model of Flax, PyTorch or Keras is given a batch of one; None: all but
            NNX's are. Models of Equinox are given one example, and plain functions are taken as
            they are.
    """
    alone = not isinstance(made, tuple)
    one: Any = made
    other: Any = None
    if not alone and len(made) == 2:
        one, other = made
    if alone and _is(one, "flax.nnx", "Module"):
        return from_nnx(one, batch_axis=0 if batch else None)
    if alone and (is_torch(one) or _is(one, "torch.export", "ExportedProgram")):
        return from_torch(one, batch_axis=None if batch is False else 0)
    if alone and _is(one, "keras", "Layer"):
        return from_keras(one, batch_axis=None if batch is False else 0)
    if _is(one, "flax.linen", "Module") and isinstance(other, Mapping):
        return from_linen(one, other, batch_axis=None if batch is False else 0)
    if _is(one, "equinox", "Module") and (alone or _is(other, "equinox.nn", "State")):
        return from_equinox(one, other)
    if not alone and callable(one):
        return one, other
    raise InputError(f"{_described(made)} is not a model; expected {FORMS}")


def is_torch(made: Any) -> bool:
    """Whether it is a PyTorch module."""
    return _is(made, "torch.nn", "Module")


def is_model(made: Any) -> bool:
    """Whether `adapted` takes it, without a call."""
    if is_torch(made) or _is(made, "keras", "Layer"):
        return True
    try:
        adapted(made)
    except InputError:
        return False
    return True


def _is(value: Any, module: str, name: str) -> bool:
    """Whether it is of a class of a library; one that is not imported has no objects."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(each).__name__ for each in value) or 'nothing'}"
    return f"a value of type {type(value).__name__}"
