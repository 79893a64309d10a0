"""Plain functions in a layout of their own."""

import dataclasses
from collections.abc import Callable
from typing import Any

from segcam_jax.adapters import calls
from segcam_jax.types import InputError, Outputs


@dataclasses.dataclass(frozen=True, eq=False)
class _Function(calls.Adapted):
    def run(self, params: Any, x: Any) -> Any:
        calls.check_arguments(self.model, (params, x), self.arguments)
        return self.model(params, x, **self.arguments)


def from_function(
    fn: Callable,
    params: Any,
    *,
    batch_axis: int | None = None,
    channel_axis: int = -1,
    output: Callable[[Any], Any] | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns a function that insists on a batch, or has channels first, into `fn(params, x)`.

    Images, outputs and the taps inside are then channels last and without a batch.

    Args:
        fn: called as `fn(params, x, **arguments)`, its activations named by `tap`.
        params: pytree of arrays, returned as it is.
        batch_axis: 0 for a function that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: where `fn` has channels, without the batch: 0 for `c h w`. It holds for
            arrays of as many axes as `x`.
        output, outputs, one_example, arguments: as in `from_nnx`.

    Returns:
        `(fn, params)`.
    """
    if not callable(fn):
        raise InputError(f"`fn` is {type(fn).__name__}, expected a function of (params, x)")
    return _Function(
        fn, (), batch_axis, channel_axis, arguments, None, output, outputs, one_example
    ), params
