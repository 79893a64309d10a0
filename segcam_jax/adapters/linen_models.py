"""Flax Linen modules."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax

from segcam_jax._jaxpr import naming
from segcam_jax.adapters import calls
from segcam_jax.types import InputError, Outputs

if TYPE_CHECKING:
    from flax import linen


# Arguments of `apply`, which are none of the module's.
_APPLIED = frozenset(("rngs", "mutable", "capture_intermediates"))


@dataclasses.dataclass(frozen=True, eq=False)
class _Linen(calls.Adapted):
    def run(self, params: Any, x: Any) -> Any:
        from flax import errors, linen

        arguments = dict(self.arguments)
        if self.call is not None:
            arguments["method"] = self.call
        elif "method" not in arguments:
            given = {name: v for name, v in arguments.items() if name not in _APPLIED}
            calls.check_arguments(type(self.model).__call__, (self.model, x), given)
        try:
            with linen.intercept_methods(_tapping):
                return self.model.apply(params, x, **arguments)
        except (errors.ScopeCollectionNotFound, errors.ScopeParamNotFoundError) as error:
            if "params" in params:
                raise
            raise InputError(
                "from_linen was given variables without the collection 'params' (they have "
                f"{', '.join(params) or 'none'}); give what module.init returned, not "
                "variables['params'] alone"
            ) from error

    def initialised(self, params: Any, x: Any, key: Any) -> Any:
        from flax import linen

        given = {name: v for name, v in self.arguments.items() if name not in _APPLIED}
        if self.call is not None:
            given["method"] = self.call
        layout = self._layout(x, self.batch_axis)
        with naming.layout(layout), linen.intercept_methods(_tapping):
            return self.model.init(key, jax.tree.map(layout.native, x), **given)


def from_linen(
    module: "linen.Module",
    variables: Any,
    *,
    batch_axis: int | None = 0,
    channel_axis: int = -1,
    call: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns a Flax Linen module into `fn(variables, x) -> output`, in eval mode.

    Switches such as `deterministic`, `use_running_average` and `train` are set for evaluation,
    whether they are fields or arguments.

    Args:
        module: applied as `module.apply(variables, x, **arguments)`.
        variables: what `module.init` returned, all collections.
        batch_axis: 0 for a module that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: 0 for a module that has channels first, without the batch. It holds for
            arrays of as many axes as `x`.
        call: how a module with further inputs is called, `call(module, x, **arguments)`, for
            example `lambda module, x: module(x["image"], x["time"])`; `module` is bound.
        output, outputs, one_example, arguments: as in `from_nnx`.

    Returns:
        `(fn, variables)`.

    Raises:
        InputError: if `module` is no Linen module, or `mutable` is given without `output`.
    """
    from flax import linen

    if not isinstance(module, linen.Module):
        raise InputError(f"from_linen was given {type(module).__name__}, expected a linen.Module")
    if output is None and arguments.get("mutable", False) is not False:
        raise InputError(
            "with mutable=, module.apply returns a pair, the output and the changed collections; "
            "give output=lambda pair: pair[0], which takes the output"
        )
    calls.check_weights(variables)
    names = calls.names_of(variables)
    return _Linen(
        module, names, batch_axis, channel_axis, arguments, call, output, outputs, one_example
    ), variables


def _tapping(next_function: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Runs a method of a submodule, in eval mode, and names what a call returns."""
    from flax import linen

    module = context.module
    if context.method_name != "__call__":
        return next_function(*args, **kwargs)
    if isinstance(module, (linen.Conv, linen.ConvTranspose)):
        calls.check_convolved(args, module.kernel_size, calls.joined(module.path))
    normalises = isinstance(module, (linen.GroupNorm, linen.InstanceNorm))
    if normalises and getattr(module, "reduction_axes", None) is None:
        calls.check_normalised(args, calls.joined(module.path))
    function = type(module).__call__
    args, kwargs = calls.in_eval_mode(function, module, args, kwargs)
    path = calls.joined(module.path)
    with _eval_fields(module, function), calls.within(path):
        output = next_function(*args, **kwargs)
    return calls.named(output, path)


@contextlib.contextmanager
def _eval_fields(module: Any, function: Callable) -> Iterator[None]:
    """A bound module's fields for evaluation. None where the call says it: both is an error."""
    said = calls.switches_in(function)
    before = {name: getattr(module, name) for name in calls.switches_of(module)}
    try:
        for name in before:
            value = None if name in said else calls.EVAL_MODE[name]
            object.__setattr__(module, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
