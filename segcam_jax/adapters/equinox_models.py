"""Equinox models."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from segcam_jax.adapters import calls, constructors
from segcam_jax.extras import require
from segcam_jax.types import InputError, Outputs


@dataclasses.dataclass(frozen=True, eq=False)
class _Equinox(calls.Adapted):
    stateful: bool = False

    def run(self, params: Any, x: Any) -> Any:
        import equinox as eqx

        model, state = eqx.combine(params, self.model)
        inputs = (x, state) if self.stateful else (x,)
        calls.check_callable(model, self.call)
        if self.call is None:
            calls.check_arguments(model.__call__, inputs, self.arguments)
        model = _tapping_copy(model, ())
        output = (self.call or type(model).__call__)(model, *inputs, **self.arguments)
        return output[0] if self.stateful else output

    def initialised(self, params: Any, x: Any, key: Any) -> Any:
        import equinox as eqx

        model, _ = eqx.combine(params, self.model)
        return eqx.filter((_anew(model, key), None), eqx.is_array)

    def same_model(self, other: Any) -> bool:
        import equinox as eqx

        return eqx.tree_equal(self.model, other.model) is True


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    batch_axis: int | None = None,
    channel_axis: int = 0,
    call: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns an Equinox model into `fn(params, x) -> output` and its arrays, in inference mode.

    Args:
        model: called as `model(x, **arguments)`, or `model(x, state, **arguments)`.
        state: of a model with BatchNorm and the like, as `equinox.nn.make_with_state` returned it.
        batch_axis: 0 for a model that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: -1 for a model that has channels last. It holds for arrays of as many axes
            as `x`: vectors and tokens are taken to have theirs last.
        call: how a model with further inputs is called, `call(model, x, **arguments)` or with the
            state third, for example `lambda model, x: model(x["image"], x["time"])`.
        output, outputs, one_example, arguments: as in `from_nnx`.

    Returns:
        `(fn, params)`: `fn` is pure and hashable; `params` is a pytree of arrays.

    Raises:
        InputError: if `model` is no Equinox module; by `fn` if it has no `__call__`, and no `call`.
        MissingExtraError: if Equinox is not installed.
    """
    eqx: Any = require("equinox", extra="test")
    if not isinstance(model, eqx.Module):
        stateful = isinstance(model, tuple) and len(model) == 2
        hint = "; give the state as the second argument" if stateful else ""
        raise InputError(
            f"from_equinox was given {type(model).__name__}, expected an eqx.Module{hint}"
        )
    both = (eqx.nn.inference_mode(model), state)
    params, static = eqx.partition(both, lambda leaf: isinstance(leaf, (jax.Array, np.ndarray)))
    calls.check_weights(params)
    names = calls.names_of(params)
    stateful = state is not None
    told = (batch_axis, channel_axis, arguments, call, output, outputs, one_example)
    return _Equinox(static, names, *told, stateful), params


def _tapping_copy(module: Any, path: tuple[Any, ...]) -> Any:
    """A copy of a module and of all in it, whose calls name what they return."""
    import equinox as eqx

    found, tree = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda node: node is not module and isinstance(node, eqx.Module)
    )
    inside = [
        _tapping_copy(leaf, (*path, *map(_key, keys))) if isinstance(leaf, eqx.Module) else leaf
        for keys, leaf in found
    ]
    rebuilt = jax.tree.unflatten(tree, inside)
    tapping = _tapping(type(module))
    if tapping is None:
        return rebuilt
    copy = object.__new__(tapping)
    fields = {**vars(rebuilt), **calls.switches_of(rebuilt), calls.PATH: calls.joined(path)}
    for name, value in fields.items():
        object.__setattr__(copy, name, value)
    return copy


def _anew(module: Any, key: Any) -> Any:
    """A module as its constructor draws it, or with those in it that tell how they are made."""
    import equinox as eqx

    if (given := constructors.arguments_of(module, "key")) is not None:
        return type(module)(**given, key=key)
    if type(module).__module__.startswith("equinox.nn."):  # They keep all but the dtype.
        known = inspect.signature(type(module).__init__).parameters
        given = {name: v for name, v in vars(module).items() if name in known}
        given = {name: v for name, v in given.items() if not constructors.holds_array(v)}
        return type(module)(**given, **({"key": key} if "key" in known else {}))
    found, tree = jax.tree.flatten(
        module, is_leaf=lambda node: node is not module and isinstance(node, eqx.Module)
    )
    inside = [
        _anew(leaf, jax.random.fold_in(key, index)) if isinstance(leaf, eqx.Module) else None
        for index, leaf in enumerate(found)
    ]
    return jax.tree.unflatten(tree, inside)


def _key(key: Any) -> Any:
    """One step of a path, as a person would write it."""
    for attribute in ("name", "idx", "key"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key


@functools.cache
def _tapping(cls: type) -> type | None:
    """A subclass whose calls name what they return; None where there is nothing to call."""
    import equinox as eqx

    function = calls.call_of(cls)
    if function is None:
        return None

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = calls.in_eval_mode(function, self, args, kwargs)
        path = getattr(self, calls.PATH)
        with calls.within(path):
            output = function(self, *args, **kwargs)
        if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], eqx.nn.State):
            return calls.named(output[0], path), output[1]
        return calls.named(output, path)

    space = {
        "__call__": call,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__annotations__": {calls.PATH: str},
        calls.PATH: eqx.field(static=True, default=""),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The user's class was warned about when it was made.
        return type(cls)(cls.__name__, (cls,), space)
