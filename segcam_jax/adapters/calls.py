"""What all adapters share: the layout of a call, eval mode, and the name of what a call returns."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import pickle
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from segcam_jax import faults
from segcam_jax._jaxpr import layouts, naming, signatures
from segcam_jax.adapters import program
from segcam_jax.outputs import declared
from segcam_jax.types import InputError, Outputs, SegcamError

# What authors call the switch between training and evaluation, and how it stands in eval mode.
EVAL_MODE: Mapping[str, bool] = {
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
    "train": False,
    "training": False,
    "is_training": False,
}
# What to do about a call with further arguments.
_FURTHER = (
    "give the adapter what is the same in every call by its name (mask=...), and inputs of the "
    'example together, x={"image": ..., "mask": ...}, with '
    'call=lambda model, x: model(x["image"], x["mask"])'
)
# How objects refuse to be copied: those that hold what the system keeps, and by their own rule.
_UNCOPIED = (TypeError, ValueError, RuntimeError, copy.Error, pickle.PickleError)
# Holds a submodule's path in the copy that runs.
PATH = "_segcam_path"


class ArgumentError(InputError):
    """A model that is called with too few arguments, or others than it takes.

    Attributes:
        fact: what is wrong, without what to do.
    """

    def __init__(self, fact: str):
        super().__init__(f"{fact}: {_FURTHER}")
        self.fact = fact


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A model as `fn(params, x) -> output`. Equal models make equal functions: splits are shared.

    Attributes:
        model: what is not an array of it.
        names: what tells models apart quickly; the model itself may hold what has no hash.
        batch_axis: an axis of size one that the model is given, and that its output is rid of.
        channel_axis: where the model has channels, without the batch.
        call: how the model is called, `call(model, x, **arguments)`; None: `model(x, **arguments)`.
        output: picks the logits from what the model returns; None takes all.
        one_example: whether the first axis of an input belongs to one example, whatever is kept
            apart along it.
    """

    model: Any
    names: Any
    batch_axis: int | None
    channel_axis: int
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: Callable[..., Any] | None = None
    output: Callable[[Any], Any] | None = None
    outputs: Outputs | None = None
    one_example: bool = False

    def __post_init__(self):
        declared(self, self.outputs)
        layouts.check_axes(self.batch_axis, self.channel_axis)

    def __call__(self, params: Any, x: Any) -> Any:
        """The output for one example, channels last.

        Raises:
            InputError: if the model fails on its input, and takes it with or without a
                batch axis; the error names the other layout. Or if it fails otherwise (and nothing
                is traced), if `x` holds anything but arrays, or an image of integers that the model
                computes with in floating point.
        """
        signatures.of(params, x)
        output = self._output(params, x)
        program.check_numbers(self._output, params, x)
        return output

    def _output(self, params: Any, x: Any) -> Any:
        layout = self._layout(x, self.batch_axis)
        params = jax.tree.map(lambda v: v.copy() if isinstance(v, np.ndarray) else v, params)
        try:
            output = self._native_output(params, x, layout)
        except (SegcamError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # The model's own, of whatever type.
            self._check_layout(params, x, error)
            if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, x))):
                raise  # Whoever traces it tells.
            raise faults.refused(self, params, x, error) from error
        if self.output is not None:
            output = self.output(output)
        for leaf in jax.tree.leaves(output):
            if not layout.has_batch(leaf):
                other = "None" if self.batch_axis == 0 else "0, or None"
                raise InputError(
                    f"the model was given a batch of one at axis {self.batch_axis} and returns "
                    f"shape {jnp.shape(leaf)}, which has none there; give "
                    f"batch_axis={other} to the adapter if the model takes one example"
                )
        return jax.tree.map(layout.canonical, output)

    def run(self, params: Any, x: Any) -> Any:
        """Calls the model on an example in the model's own layout."""
        raise NotImplementedError

    def initialised(self, params: Any, x: Any, key: Any) -> Any:
        """Parameters as the model's own initialisers draw them, each by a key of its own.

        Args:
            params: of the model; only what they are matters.
            x: an example, as `__call__` takes it.

        Returns:
            A pytree in which a parameter that the model tells of has its path; None: none is known.
        """
        return None

    def _layout(self, x: Any, batch_axis: int | None) -> naming.Layout:
        ndim = max((jnp.ndim(leaf) for leaf in jax.tree.leaves(x)), default=0)
        return naming.Layout(ndim, batch_axis, self.channel_axis)

    def _native_output(self, params: Any, x: Any, layout: naming.Layout) -> Any:
        with naming.layout(layout):
            return self.run(params, jax.tree.map(layout.native, x))

    def _check_layout(self, params: Any, x: Any, error: Exception) -> None:
        """Raises `InputError` if the model takes `x` with or without a batch axis, or `x[0]`.

        An `x` of four axes and more may be one example for a model without a batch, or a batch for
        a model that needs one; the message then has both.
        """
        leaves = jax.tree.leaves(x)
        others = [axis for axis in (0, None) if axis != self.batch_axis]
        tried = [("x", x, axis) for axis in others]
        alone = all(jnp.shape(leaf)[:1] == (1,) for leaf in leaves)
        if leaves and (alone or all(jnp.ndim(leaf) > 3 for leaf in leaves)):
            first = jax.tree.map(lambda leaf: leaf[0], x)
            inside = [("x[0]", first, axis) for axis in (self.batch_axis, *others)]
            tried = [*inside, *tried] if alone else [*tried, *inside[:1]]
        taken = [
            f"{name} with batch_axis={axis}"
            for name, example, axis in tried
            if self._takes(params, example, axis)
        ]
        if not taken:
            return  # The model fails for another reason, which `error` tells.
        if alone or len(taken) == 1:
            advice = taken[0]
        else:
            advice = f"{taken[0]} if x is one example, {taken[-1]} if x is a batch"
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves)
        reason = faults.words_of(error).rstrip(".")
        raise InputError(
            f"the model does not take x of shape {shapes} with batch_axis={self.batch_axis} "
            f"({reason}); it takes {advice}"
        ) from error

    def _takes(self, params: Any, x: Any, batch_axis: int | None) -> bool:
        """Whether the model runs on an example, given a batch of one at this axis."""
        run = functools.partial(self._native_output, layout=self._layout(x, batch_axis))
        try:
            jax.eval_shape(run, params, x)
        except Exception:  # Any exception of the user's model.
            return False
        return True

    def __hash__(self) -> int:
        return hash((type(self), self.names, self.batch_axis, self.channel_axis))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or hash(self) != hash(other):
            return False
        fields = [field.name for field in dataclasses.fields(self) if field.name != "model"]
        try:
            return all(bool(getattr(self, f) == getattr(other, f)) for f in fields) and bool(
                self.same_model(other)
            )
        except (TypeError, ValueError):  # Arrays among the arguments have no one answer.
            return False

    def same_model(self, other: Any) -> bool:
        """Whether the models are equal but for their parameters."""
        return self.model == other.model


def copied(value: Any, seen: dict[int, Any], name: str = "a value") -> Any:
    """A copy of a plain value that a module keeps, as deep as it goes.

    Arrays that cannot be written to are shared, wherever they are kept: tables may be large. What
    can be called stays, and what cannot be copied (a lock, a file, an object that refuses it with
    an error of its own): that is the user's own, and what a call does to it stays done, of which a
    warning tells.

    Args:
        value: no array of JAX, no module.
        seen: copies made before, by `copy.deepcopy`: what is shared stays shared.
    """
    if callable(value) or isinstance(value, (jax.Array, types.ModuleType)):
        return value
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.Array) or _is_read_only(leaf):
            seen[id(leaf)] = leaf
    try:
        return copy.deepcopy(value, seen)
    except _UNCOPIED as error:
        warnings.warn(
            f"{name} cannot be copied ({faults.words_of(error)}), so a call of the model would "
            "change the model itself; keep values that change in an nnx.Variable",
            stacklevel=2,
        )
        return value


def _is_read_only(leaf: Any) -> bool:
    """Whether nobody can write to an array of numpy, through what it is a view of neither."""
    while isinstance(leaf, np.ndarray):
        if leaf.flags.writeable:
            return False
        if leaf.base is None:
            return True
        leaf = leaf.base
    return False


def names_of(params: Any) -> tuple[str, ...]:
    """The paths of all parameters."""
    return tuple(
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    )


def check_weights(params: Any) -> None:
    """Raises `InputError` for parameters that hold NaN; shapes and tracers hold nothing."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        known = isinstance(leaf, (np.ndarray, jax.Array)) and not isinstance(leaf, Tracer)
        if not known or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if count := int(np.isnan(np.asarray(leaf)).sum()):
            name = path[0].key if len(path) == 1 and hasattr(path[0], "key") else None
            raise InputError(
                f"the parameter {name or jax.tree_util.keystr(path)!r} holds {count} NaN of "
                f"{leaf.size} values: the weights are broken, perhaps because a training diverged"
            )


def joined(path: tuple[Any, ...]) -> str:
    """A path in words."""
    return "/".join(map(str, path))


def check_arguments(function: Callable, inputs: tuple, arguments: Mapping[str, Any]) -> None:
    """Checks that a model takes what it is called with, and needs no more."""
    signature = inspect.signature(function)
    try:
        given = signature.bind_partial(*inputs, **arguments).arguments
    except TypeError as error:
        raise ArgumentError(f"the model does not take this call: {error}") from None
    packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in signature.parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in packed
        if needed and name not in given and name not in EVAL_MODE:
            raise ArgumentError(f"the model's call needs the argument {name!r}")


def check_convolved(args: tuple, kernel: Any, path: str) -> None:
    """Checks the axes of what a Flax convolution is given; what it says itself is hard to read."""
    rank = len(kernel) if isinstance(kernel, Sequence) else 1
    if args and jnp.ndim(args[0]) <= rank:
        raise InputError(
            f"the convolution {path!r} is {rank}D and was given shape {jnp.shape(args[0])}; "
            f"expected {rank} axes of positions and one of channels: x has too few axes"
        )


def check_normalised(args: tuple, path: str) -> None:
    """Checks that a Flax norm that takes the first axis for a batch is not given one example."""
    if args and jnp.ndim(args[0]) > 2 and naming.is_without_batch(args[0]):
        raise InputError(
            f"the norm {path!r} treats the first axis as a batch, but was given one example of "
            f"shape {jnp.shape(args[0])}: give batch_axis=0 to the adapter (to normalise rows one "
            "by one on purpose, split a function that calls the model)"
        )


@contextlib.contextmanager
def within(path: str) -> Iterator[None]:
    """Exceptions that are raised in the block say that it was in the submodule of this path."""
    try:
        yield
    except Exception as error:
        if path:
            faults.place(error, path)
        raise


def named(output: Any, path: str) -> Any:
    """What a submodule returns, named if it is one array of floats."""
    array = path and isinstance(output, jax.Array)
    if array and jnp.issubdtype(output.dtype, jnp.floating):
        return naming.mark_module(output, path)
    return output


def check_callable(model: Any, call: Callable | None) -> None:
    """Raises `InputError` for a model without `__call__`, unless the user says how to call it."""
    if call is None and not callable(model):
        raise InputError(
            f"{type(model).__name__} has no __call__; give the adapter a way to call it, for "
            "example call=lambda model, x: model.forward(x)"
        )


def call_of(cls: type) -> Callable | None:
    """The function that calling an object of a class runs, if there is one.

    The class itself can be called to make objects; that is not what is meant.
    """
    if not any("__call__" in vars(base) for base in cls.__mro__):
        return None
    function: Any = cls.__call__
    return function if callable(function) else None


def in_eval_mode(
    function: Callable, module: Any, args: tuple, kwargs: Mapping[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a submodule's call, switches that the call takes set for evaluation."""
    signature, switches = _switches(function)
    if not switches:
        return args, dict(kwargs)
    try:
        bound = signature.bind_partial(module, *args, **kwargs)
    except TypeError:  # The call itself says better what is wrong.
        return args, dict(kwargs)
    bound.arguments.update((name, EVAL_MODE[name]) for name in switches)
    return bound.args[1:], bound.kwargs


@functools.cache
def _switches(function: Callable) -> tuple[inspect.Signature, tuple[str, ...]]:
    """The signature of a call, and its parameters that switch between training and evaluation."""
    signature = inspect.signature(function)
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if name in EVAL_MODE and parameter.kind in plain
    ]
    if "inference" in names and "deterministic" in names:
        names.remove("deterministic")  # An older name of the same switch.
    return signature, tuple(names)


def switches_in(function: Callable) -> tuple[str, ...]:
    """The parameters of a call that switch between training and evaluation."""
    return _switches(function)[1]


def switches_of(module: Any) -> dict[str, bool]:
    """The module's own switches between training and evaluation, as they stand in eval mode."""
    there = getattr(module, "__dict__", {})
    return {name: value for name, value in EVAL_MODE.items() if isinstance(there.get(name), bool)}
