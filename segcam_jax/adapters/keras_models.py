"""Keras 3 models, on its JAX backend."""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from segcam_jax.adapters import calls
from segcam_jax.extras import require
from segcam_jax.types import InputError, Outputs

if TYPE_CHECKING:
    import keras

# A layer is marked for the time of a trace, by one thread.
_TRACING = threading.RLock()


@dataclasses.dataclass(frozen=True, eq=False)
class _Keras(calls.Adapted):
    def run(self, params: Any, x: Any) -> Any:
        import keras

        values = [jnp.asarray(params[name]) for name in self.names]
        mapping = list(zip(self.model.variables, values, strict=True))
        with _TRACING, _marked(self.model), keras.StatelessScope(state_mapping=mapping):
            if self.call is not None:
                return self.call(self.model, x, **self.arguments)
            return self.model(x, training=False, **self.arguments)

    def same_model(self, other: Any) -> bool:
        return self.model is other.model


def from_keras(
    model: "keras.Layer",
    *,
    batch_axis: int | None = 0,
    channel_axis: int = -1,
    call: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    outputs: Outputs | None = None,
    one_example: bool = False,
    **arguments: Any,
) -> tuple[Callable, Any]:
    """Turns a Keras 3 model into `fn(params, x) -> output` and its variables, in inference mode.

    Functional, sequential and subclassed models, or a layer alone; every layer's output is a tap by
    its name, `block/conv` of a layer in another one, and `#2` where a layer is called again. Its
    variables stay as they are; for the time of a trace, its layers are the user's own with a `call`
    that names what it returns, which goes again afterwards.

    Args:
        model: called as `model(x, training=False, **arguments)`, and built.
        batch_axis: 0 for a layer that is written for batches: it is given `x[None]`, and
            its output and taps lose that axis again, so `split` needs no `batch_axis`. None: it is
            given `x`.
        channel_axis: 0 for a model of the data format `channels_first`.
        call: how a model with further inputs is called, `call(model, x, **arguments)`, for example
            `lambda model, x: model([x["image"], x["time"]], training=False)`.
        output, outputs, one_example, arguments: as in `from_nnx`.

    Returns:
        `(fn, params)`: `fn` is pure and hashable; `params` is a dict of the model's variables by
        their paths.

    Raises:
        InputError: if `model` is no Keras 3 layer, is not built, if Keras runs on another backend,
            or if the model takes channels first and `channel_axis` says otherwise.
        MissingExtraError: if Keras is not installed.
    """
    keras: Any = require("keras", extra="keras")
    if not hasattr(keras, "StatelessScope") or not isinstance(model, keras.Layer):
        raise InputError(
            f"from_keras was given {type(model).__name__}, expected a layer or model of Keras 3 "
            f"(Keras {keras.__version__} is installed)"
        )
    if keras.config.backend() != "jax":
        raise InputError(
            f"Keras runs on {keras.config.backend()}, and from_keras needs JAX: set the "
            "environment variable KERAS_BACKEND=jax before keras is imported"
        )
    if not model.built:
        raise InputError(
            f"the model {model.name!r} is not built, so it has no variables; call it on an image "
            "first, model(x[None])"
        )
    params: dict[str, jax.Array] = {}
    for variable in model.variables:
        count = sum(name.partition("#")[0] == variable.path for name in params)
        name = f"{variable.path}#{count + 1}" if count else variable.path
        params[name] = jnp.asarray(variable.value)
    calls.check_weights(params)
    _check_channels(model, channel_axis)
    told = (batch_axis, channel_axis, arguments, call, output, outputs, one_example)
    return _Keras(model, tuple(params), *told), params


def _check_channels(model: Any, channel_axis: int) -> None:
    """Raises `InputError` if the first convolution reads the channels at the front of the input."""
    convolutions = (inner for _, inner in _layers(model) if hasattr(inner, "kernel_size"))
    first, shape = next(convolutions, None), getattr(model, "input_shape", None)
    if getattr(first, "data_format", "") != "channels_first" or not isinstance(shape, tuple):
        return
    channels = first.input_spec.axes[1]  # type: ignore[union-attr]
    if channel_axis != 0 and channels == shape[1] != shape[-1]:
        raise InputError(
            f"the model {model.name!r} takes channels first, {shape[1:]}, and channel_axis is "
            f"{channel_axis}; give channel_axis=0 to from_keras, and an x with channels last"
        )


def _layers(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The layers in a layer with their paths; of one in two places, the first path counts."""
    for inner in getattr(layer, "layers", None) or getattr(layer, "_layers", ()):
        there = f"{path}/{inner.name}" if path else inner.name
        yield there, inner
        yield from _layers(inner, there)


@contextlib.contextmanager
def _marked(model: Any) -> Iterator[None]:
    """Lets the layers of a model name what they return."""
    changed: dict[int, tuple[Any, Any]] = {}
    try:
        for path, layer in _layers(model):
            if layer is not model and id(layer) not in changed:
                changed[id(layer)] = layer, vars(layer).get("call")
                object.__setattr__(layer, "call", _naming(layer.call, path))
        yield
    finally:
        for layer, own in changed.values():
            object.__delattr__(layer, "call")
            if own is not None:
                object.__setattr__(layer, "call", own)


def _naming(call: Callable, path: str) -> Callable:
    """A layer's call that names its output."""

    @functools.wraps(call)
    def named(*args: Any, **kwargs: Any) -> Any:
        with calls.within(path):
            return calls.named(call(*args, **kwargs), path)

    return named
