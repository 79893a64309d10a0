"""Taps (named activations inside a model) and the split of a model at one of them.

A model is any JAX function `fn(params, x) -> output` of one example. Where its author wrote
`tap(x, name)`, `split` cuts it in two:

    encode(params, x)         -> activation, carry     run once per image
    decode(activation, carry) -> output                run once per ablation, or differentiated

Example:
    >>> import jax, jax.numpy as jnp
    >>> def model(params, x):
    ...     hidden = tap(jax.nn.relu(x @ params["in"]), "hidden")
    ...     return hidden @ params["out"]
    >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    >>> x = jnp.ones((5, 3))
    >>> s = split(model, "hidden", params, x)
    >>> activation, carry = s.encode(params, x)
    >>> activation.shape, bool((s.decode(activation, carry) == model(params, x)).all())
    ((5, 4), True)

The output of `fn` has its classes last, `*space k`, whatever the layout inside the model.

Sharp edges: ablating or differentiating a tap reaches the consumers of the tapped value only, so
tap before a skip branches off if both paths are meant. A tap inside scan, while or cond cannot be
split at; one inside a function with a derivative rule of its own (custom_vjp) opens that function
and drops the rule. `fn` is traced once per shape and per settings of JAX (64-bit types, precision
of products, ...) and cached by identity, as `jax.jit` does: what it closes over is fixed at the
first trace.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segcam_jax import _print, faults, masks
from segcam_jax._jaxpr import (
    axes,
    cost,
    difference,
    graph,
    layouts,
    logits,
    naming,
    signatures,
    slicing,
    windows,
)
from segcam_jax._jaxpr.layouts import Taps, TapStruct, bottleneck as bottleneck, is_map as is_map
from segcam_jax._jaxpr.recent import Recent
from segcam_jax.outputs import declared
from segcam_jax.types import InputError, Outputs, SegcamError, TapError

T = TypeVar("T")
Carry = tuple[Array, ...]
INPUT = "input"
PLACES = ("first", "middle", "last")
_CACHED_SPLITS = 256


def tap(x: T, name: str) -> T:
    """Names an activation; the value passes through unchanged.

    Args:
        x: the activation, an array of any shape.
        name: unique within one forward pass, for example `"encoder4"`.

    Returns:
        `x`, marked in the traced program.
    """
    if not isinstance(name, str):
        raise TapError(f"a tap's name is a string, not {name!r}")
    return naming.mark(x, name)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A model cut at a tap; made by `split`, for one shape of parameters and input.

    Works under `jit`, `vmap` and `grad`. Equal arguments to `split` give the same object.

    Attributes:
        tap: the name of the tap.
        activation: shape and dtype, channels last, no batch; whether it has the input's positions.
        output: pytree of shape and dtype of the output.
        input: pytree of shape and dtype of one example.
        fn: the model, as `split` was given it.
        outputs: `"logits"` or `"probabilities"`, as declared, or as the last operations tell.
        declared: what `split` or the adapter was given; None: nothing.
    """

    tap: str
    activation: TapStruct
    output: Any
    input: Any
    _slice: slicing.Slice = dataclasses.field(repr=False)
    _signature: Any = dataclasses.field(repr=False)
    _places: tuple[int, ...]
    _layout: tuple[int | None, int | None]
    _again: Callable[[Any], "Split"] = dataclasses.field(repr=False)
    fn: Callable = dataclasses.field(repr=False)
    outputs: Outputs | None = None
    declared: Outputs | None = None
    _one_example: bool = dataclasses.field(default=False, repr=False)

    def __repr__(self) -> str:
        """Where the model is cut, and the arrays on both sides."""
        output = ", ".join(filter(None, (_print.described(self.output), self.outputs)))
        found = {"input": self.input, "activation": self.activation, "output": output}
        return _print.fields(f"Split at {self.tap!r}", found)

    def __reduce__(self):
        raise InputError(
            "a Split holds a traced program, which cannot be pickled; pickle the arguments of "
            "split(fn, tap_name, params, x), or results (an Explanation can be pickled)"
        )

    def encode(self, params: Any, x: Any) -> tuple[Float[Array, "*space c"], Carry]:
        """Runs the part before the tap.

        Returns:
            `(activation, carry)`; in the carry is what else `decode` reads: skips, parameters.

        Raises:
            InputError: if shapes or dtypes are not those the model was split for; a batch is not.
                Or inside of `shard_map` with its default check.
        """
        leaves, signature = signatures.of(params, x)
        self._check(signature)
        activation, *carry = self._slice.encode(*signatures.whole(leaves))
        return self.canonical(activation), tuple(carry)

    def _check(self, given: Any) -> None:
        """Raises `InputError` for other shapes, dtypes, or weak types that dtypes depend on."""
        if given == self._signature:
            return
        same = signatures.shapes(given) == signatures.shapes(self._signature)
        if not same or not slicing.same_dtypes(self._slice, self._again(given)._slice):
            raise InputError(signatures.mismatch(self._signature, given))

    def decode(self, activation: Float[Array, "*space c"], carry: Carry) -> Any:
        """Runs the part after the tap; `decode(*encode(params, x))` is the whole model."""
        outputs = self._slice.decode(self.native(activation), *carry)
        return jax.tree.unflatten(jax.tree.structure(self.output), outputs)

    def ablated(self, params: Any, x: Any, mask: Float[Array, "..."]) -> Any:
        """The output when the activation is multiplied by `mask`: 1 keeps, 0 ablates.

        Args:
            params: parameters.
            x: one example.
            mask: broadcasts against the activation `*space c`, axis by axis; or `c`, or a scalar.

        Raises:
            InputError: if the mask has other axes.
        """
        activation, carry = self.encode(params, x)
        return self.decode(masks.ablate(activation, mask), carry)

    def on_window(self, extents: tuple[int, ...]) -> windows.WindowPlan:
        """How decode runs for a window of its output; it takes activation, carry, `constants`."""
        if extents not in self._plans:
            self._plans[extents] = windows.plan(self._flat[0], extents)
        return self._plans[extents]

    @property
    def constants(self) -> tuple[Array, ...]:
        """What calls after the tap close over."""
        return self._flat[1]

    @property
    def holds_tracers(self) -> bool:
        """Whether the model closes over tracers: what is made of it is of their trace alone."""
        return self._slice.holds_tracers

    @functools.cached_property
    def _flat(self) -> tuple[Any, tuple[Array, ...]]:
        return slicing.opened(self._slice.decode_jaxpr)

    @functools.cached_property
    def changes(self) -> difference.Difference:
        """How the output changes when the activation does, in the layout inside the model."""
        return difference.difference(self._slice.decode_jaxpr)

    @functools.cached_property
    def _plans(self) -> dict[tuple[int, ...], windows.WindowPlan]:
        return {}

    @functools.cached_property
    def at_input(self) -> "Split":
        """The same model cut at its input, in the same layout: all of it runs after the cut."""
        if self.tap == INPUT:
            return self
        leaves = signatures.structs(self._signature)
        params, x = jax.tree.unflatten(self._signature[0], leaves)
        return split(
            lambda *given: self.decode(*self.encode(*given)),
            INPUT,
            params,
            x,
            channel_axis=self._layout[0],
            batch_axis=self._layout[1],
            outputs=self.declared,
            one_example=self._one_example,
        )

    @functools.cached_property
    def parameter_order(self) -> tuple[int, ...]:
        """For each leaf of the parameters, after how many operations it first meets the input."""
        count, inputs = len(self._signature[1]), len(jax.tree.leaves(self.input))
        return tuple(slicing.order_of_use(self.at_input._slice, count)[: count - inputs])

    def flops(self) -> int:
        """Operations of the convolutions and products of decode."""
        return cost.flops(self._slice.decode_jaxpr)

    def canonical(self, activation: Array) -> Array:
        """An activation in the layout inside the model, as `*space c`."""
        if self._layout[1] is not None:
            activation = jnp.squeeze(activation, self._layout[1])
        return jnp.transpose(activation, self._places)

    def native(self, activation: Array) -> Array:
        """The activation in the layout that it has inside the model."""
        if activation.shape != self.activation.shape:
            raise InputError(
                f"the activation at tap {self.tap!r} has shape {activation.shape}; expected "
                f"{self.activation.shape}{signatures.many(activation.shape, self.activation.shape)}"
            )
        activation = jnp.transpose(activation, np.argsort(self._places).tolist())
        if self._layout[1] is not None:
            activation = jnp.expand_dims(activation, self._layout[1])
        return activation


def list_taps(
    fn: Callable,
    params: Any,
    x: Any,
    *,
    channel_axes: Mapping[str, int] | None = None,
    one_example: bool | None = None,
) -> Taps:
    """Lists the taps of a model in order of evaluation, without running it.

    Args:
        fn: the model, `fn(params, x) -> output`.
        params: pytree of arrays or `ShapeDtypeStruct`s.
        x: one example, likewise.
        channel_axes: by the name of a tap, its channel axis, as `split` takes it.
        one_example: whether the first axis of `x` belongs to one example, as `split` takes it.

    Returns:
        name -> shape and dtype, whether its positions are those of the input (`on_grid`), how it
        lies inside of the model, and what says so (`inside`, `evidence`). The input itself is the
        tap `"input"`, unless the model names one so, or the input is more than one array.

    Raises:
        TapError: if a name is given twice.
        InputError: if `params` or `x` hold anything but arrays, `x` is a batch, or the model fails.
    """
    signatures.check_function(fn)
    _, signature = signatures.of(params, x)
    said = layouts.is_one_example(fn, one_example)
    traced, _, origins = _trace(fn, signature, said)
    # Where no adapter gives the model its batch of one, `split` may be told of it.
    if isinstance(getattr(fn, "batch_axis", None), int) and not said:
        layouts.check_example(origins, traced, x, of_one=True)
    variables, given = _variables(traced, x), channel_axes or {}
    found = layouts.tapped(variables, fn, traced, x, origins)
    return Taps({name: each.listed(given.get(name)) for name, each in found.items()})


def split(
    fn: Callable,
    tap_name: str,
    params: Any,
    x: Any,
    *,
    channel_axis: int | None = None,
    batch_axis: int | None = None,
    outputs: Outputs | None = None,
    one_example: bool | None = None,
) -> Split:
    """Cuts a model at a tap.

    Args:
        fn: the model, `fn(params, x) -> output`, any JAX function of one example.
        tap_name: the name given by `tap`, or `"input"`.
        params: pytree of arrays or `ShapeDtypeStruct`s; only shapes and dtypes are read.
        x: one example, likewise.
        channel_axis: the channel axis of the activation (not of the output) inside the model, after
            `batch_axis` is taken away; 0 for models with channels first. None: the one axis that
            runs along no position of the input, or the last axis if there are several.
        batch_axis: an axis of size one to take away from the activation, for a plain function of
            batches. With an adapter leave it None: its own `batch_axis` gives the model the batch.
        outputs: what the model's output holds, `"logits"` or `"probabilities"`. None: what its
            adapter was given; else `"probabilities"` if its last operations are a softmax or a
            sigmoid over classes, `"logits"` if they are a convolution or a product.
        one_example: True if the first axis of `x` belongs to one example, although the model treats
            its entries separately, like a network of images that runs on the slices of a volume.
            None: what its adapter was given; else such an `x` is refused as a batch.

    Returns:
        A `Split`, cached per function, tap, shapes, layout and settings of JAX.

    Raises:
        TapError: if the tap is unknown, inside control flow, named twice, or reaches no output.
        InputError: as `list_taps`; or if `outputs` is unknown. `x` is a batch if the model treats
            the entries of its first axis separately, and you give neither `one_example` nor, for a
            batch of one, `batch_axis`.
    """
    signatures.check_function(fn)
    layouts.check_axes(batch_axis, channel_axis)
    _, signature = signatures.of(params, x)
    said = (declared(fn, outputs), layouts.is_one_example(fn, one_example))
    return _cached(signature, fn, tap_name, (channel_axis, batch_axis), said)


def _cached(signature, fn, tap_name, layout, said) -> Split:
    with graph.on_any_mesh():
        key = (signatures.settings(), fn, tap_name, signature, layout, said)
    return _CACHE.get(
        key,
        lambda: _split(signature, fn, tap_name, layout, said),
        lambda found: not found.holds_tracers,
    )


def _split(signature, fn, tap_name, layout, said) -> Split:
    told, one_example = said
    tree, _ = signature
    x = jax.tree.unflatten(tree, signatures.structs(signature))[1]
    traced, output, origins = _trace(fn, signature, one_example)
    variables = _variables(traced, x)
    if tap_name in traced.enclosed:
        raise TapError(
            f"tap {tap_name!r} lies inside `{traced.enclosed[tap_name]}`, where a model cannot be "
            f"split; tap outside of it. Taps: {layouts.listing(tap_name, variables)}"
        )
    if tap_name not in variables:
        raise layouts.unknown_tap(tap_name, variables, x)
    variable = variables[tap_name]
    cut = slicing.cut(traced, variable)
    if not cut.reaches_output:
        raise TapError(
            f"tap {tap_name!r} reaches no output of the model. "
            f"Taps: {layouts.listing(tap_name, variables)}"
        )
    again = functools.partial(_cached, fn=fn, tap_name=tap_name, layout=layout, said=said)
    if layout[1] is None and not one_example:
        layouts.check_example(origins, traced, x, [variable], of_one=True)
    batched = layouts.is_batched(x, layout[1], origins)
    if not batched and variable is traced.invars[-1]:
        layout = (layout[0], None)  # The model adds the batch behind its input.
    tapped = layouts.tapped({tap_name: variable}, fn, traced, x, origins)[tap_name]
    order, evidence = tapped.read(layout[1], layout[0])
    activation = tapped.struct(order, evidence, batched=batched)
    outputs = logits.held(traced) if told is None else told
    found = (tap_name, activation, output, x, cut, signature)
    places = tuple(sorted(order).index(axis) for axis in order)
    if getattr(fn, "channel_axis", None) is not None:
        layout = (None, layout[1])  # What is given to an adapted model has its channels last.
    return Split(*found, places, layout, again, fn, outputs, told, one_example)


_CACHE: Recent[Split] = Recent(_CACHED_SPLITS)


def _trace(
    fn: Callable, signature: Any, one_example: bool
) -> tuple[graph.Graph, Any, axes.Origins]:
    """The traced model, its output, and what the axes of its values are made of."""
    params, x = jax.tree.unflatten(signature[0], signatures.structs(signature))
    try:
        traced, output = graph.trace(fn, naming.PREFIX, params, x)
    except (SegcamError, MemoryError):
        raise
    except Exception as error:  # The model's own, of whatever type.
        raise faults.refused(fn, params, x, error) from error
    if traced.duplicates:
        names = ", ".join(repr(name) for name in sorted(traced.duplicates))
        raise TapError(f"tap name {names} is used more than once; names must be unique")
    origins = axes.follow(traced, len(jax.tree.leaves(x)))
    layouts.check_numbers(traced, x)
    if not one_example:
        layouts.check_example(origins, traced, x)
    return traced, output, origins


def _variables(traced: graph.Graph, x: Any) -> dict[str, Any]:
    """The taps that can be split at, the input first."""
    if INPUT in traced.taps or len(jax.tree.leaves(x)) != 1:
        return dict(traced.taps)
    return {INPUT: traced.invars[-1], **traced.taps}
