"""Flax NNX models."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from segcam_jax.adapters import calls, constructors
from segcam_jax.types import InputError, Outputs

if TYPE_CHECKING:
    from flax import nnx

_OURS = "segcam_jax.models."


@dataclasses.dataclass(frozen=True, eq=False)
class _Nnx(calls.Adapted):
    submodules: bool = True

    def run(self, params: Any, x: Any) -> Any:
        from flax import nnx

        model = nnx.merge(self.model, params, copy=True)
        calls.check_callable(model, self.call)
        if self.call is None:
            calls.check_arguments(model.__call__, (x,), self.arguments)
        _prepare(model, submodules=self.submodules)
        return (self.call or type(model).__call__)(model, x, **self.arguments)

    def initialised(self, params: Any, x: Any, key: Any) -> Any:
        from flax import nnx

        model = nnx.merge(self.model, params, copy=True)
        given = constructors.arguments_of(model, "rngs")
        return None if given is None else nnx.state(type(model)(**given, rngs=nnx.Rngs(key)))


def from_nnx(
    model: "nnx.Module",
    *,
    batch_axis: int | None = None,
    channel_axis: int = -1,
    submodules: bool | None = None,
    call: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns a Flax NNX model into `fn(params, x) -> output` and its parameters, in eval mode.

    Switches such as `deterministic`, `use_running_average` and `train` are set for evaluation,
    whether they are attributes or arguments. The user's model is left as it is: Variables, counts
    of random numbers and attributes that a call changes are those of a copy, which lasts for the
    call.

    Args:
        model: called as `model(x, **arguments)`.
        batch_axis: 0 for a model that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: 0 for a model that has channels first, without the batch. It holds for
            arrays of as many axes as `x`.
        submodules: whether the output of every submodule is a tap, by its path. None: unless the
            model is one of this library, which name their activations themselves.
        call: how a model with further inputs is called, `call(model, x, **arguments)`, for example
            `lambda model, x: model(x["image"], x["time"])`. None: `model(x, **arguments)`.
        output: picks the logits from what the model returns; None takes all.
        outputs: what that is, `"logits"` or `"probabilities"`. None: found out by `split`.
        one_example: True where the first axis of `x` belongs to one example, though the model keeps
            its entries apart (slices of a volume, frames of a film); else it is taken for a batch.
        arguments: keyword arguments of every call.

    Returns:
        `(fn, params)`: `fn` is pure and hashable; `params` is a pytree of arrays.

    Raises:
        InputError: if `model` is no NNX module; by `fn` if it has no `__call__`, and no `call`.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise InputError(f"from_nnx was given {type(model).__name__}, expected an nnx.Module")
    if submodules is None:
        submodules = not type(model).__module__.startswith(_OURS)
    graph, params = nnx.split(model)
    view = nnx.view(
        nnx.merge(graph, params, copy=True),  # It advances counts of random numbers.
        deterministic=True,
        use_running_average=True,
        raise_if_not_found=False,
    )
    graph = nnx.graphdef(view)
    calls.check_weights(params)
    names = calls.names_of(params)
    told = (batch_axis, channel_axis, arguments, call, output, outputs, one_example)
    return _Nnx(graph, names, *told, submodules), params


def _prepare(model: Any, *, submodules: bool) -> None:
    """Sets every module for evaluation, and makes it name its output; `model` is nobody else's.

    So that it is: what modules keep besides Variables (lists, counters) is copied, too.
    """
    from flax import nnx

    seen: dict[int, Any] = {}
    for path, module in list(nnx.iter_modules(model)):
        for name, value in list(vars(module).items()):
            held = jax.tree.leaves(value, is_leaf=nnx.is_data)
            if not (name.startswith("_pytree__") or any(map(nnx.is_data, held))):
                copied = calls.copied(value, seen, f"{type(module).__name__}.{name}")
                object.__setattr__(module, name, copied)
        for name, value in calls.switches_of(module).items():
            object.__setattr__(module, name, value)
        if (tapping := _tapping(type(module))) is not None:
            if submodules:
                object.__setattr__(module, calls.PATH, calls.joined(path))
            object.__setattr__(module, "__class__", tapping)


@functools.cache
def _tapping(cls: type) -> type | None:
    """A subclass that is called in eval mode and names its output; None where nothing is called."""
    from flax import nnx

    function = calls.call_of(cls)
    if function is None:
        return None
    convolves = issubclass(cls, (nnx.Conv, nnx.ConvTranspose))
    normalises = issubclass(cls, (nnx.GroupNorm, nnx.InstanceNorm))

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = vars(self).get(calls.PATH, "")
        if convolves:
            calls.check_convolved(args, self.kernel_size, path)
        if normalises and getattr(self, "reduction_axes", None) is None:
            calls.check_normalised(args, path)
        args, kwargs = calls.in_eval_mode(function, self, args, kwargs)
        with calls.within(path):
            output = function(self, *args, **kwargs)
        return calls.named(output, path)

    space = {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls)(cls.__name__, (cls,), space)
