"""How tapped activations lie: their shapes channels last, and whether on the grid of the input."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax import _print
from segcam_jax._jaxpr import axes, graph
from segcam_jax.types import InputError, TapError, nearest_first

_MOST_LISTED = 12


class TapStruct(jax.ShapeDtypeStruct):
    """Shape and dtype of a tapped activation, channels last.

    Attributes:
        on_grid: whether its positions lie as those of the input do, finer or coarser, so that a map
            of them can be drawn over it; followed through the traced model. Else it has positions
            of its own, as tokens and heads are.
        inside: how it lies inside of the model, without a batch: `"chw"` has its channels first. A
            position that is none of the input's is `n`.
        evidence: what says which axis the channels are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        *,
        on_grid: bool,
        inside: str = "",
        evidence: str = "",
    ):
        super().__init__(shape, dtype)
        self.on_grid = on_grid
        self.inside = inside
        self.evidence = evidence


class Taps(dict[str, TapStruct]):
    """Taps by name, in order of evaluation; prints as a table."""

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [
            (
                name,
                _print.extents(struct.shape),
                str(struct.dtype),
                "" if struct.on_grid else "no map",
            )
            for name, struct in self.items()
        ]
        return [("tap", "activation", "dtype", ""), *rows]

    def __repr__(self) -> str:
        """One line for each tap: its name, the activation's extents, whether it can be drawn."""
        return _print.table(self._rows())

    def _repr_html_(self) -> str:
        return _print.html_table(self._rows())


def is_map(struct: jax.ShapeDtypeStruct) -> bool:
    """Whether a tap's positions are two or more axes, and those of the input where it is known."""
    return len(struct.shape) > 2 and getattr(struct, "on_grid", True)


def bottleneck(taps: Mapping[str, jax.ShapeDtypeStruct]) -> str:
    """The tap with the fewest positions, the last of them if several have as few.

    Of taps whose positions are those of the input, if there are any.

    Args:
        taps: what `list_taps` returned, channels last.
    """
    if not taps:
        raise TapError("the model has no taps; name activations with tap(x, name)")
    positions = {name: math.prod(struct.shape[:-1]) for name, struct in taps.items()}
    spatial = {name: n for name, n in positions.items() if is_map(taps[name])} or positions
    fewest = min(spatial.values())
    return [name for name, count in spatial.items() if count == fewest][-1]


@dataclasses.dataclass(frozen=True)
class Tapped:
    """An activation inside of a traced model.

    Attributes:
        shape: inside, with a batch if there is one.
        made_of: what its axes are made of.
        rank: how many axes of positions the input has.
        channels: the input's axes that are none of positions.
        made: which axis its maker says to be channels, and what that is.
        of_input: whether it is the input itself.
        given: where the model's adapter was told that channels are, which names it with them last.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    made_of: axes.Axes
    rank: int
    channels: frozenset[int] = frozenset()
    made: tuple[int, str] | None = None
    of_input: bool = False
    given: int | None = None

    def read(self, batch_axis: int | None, channel_axis: int | None) -> tuple[list[int], str]:
        """The axes, the batch left out, channels last; and what says which those are.

        Args:
            batch_axis: as given; None: there is none.
            channel_axis: as given, inside of the model; None: as the program tells.
        """
        order = list(range(len(self.shape)))
        if batch_axis is not None and (
            not -len(order) <= batch_axis < len(order) or self.shape[order.pop(batch_axis)] != 1
        ):
            raise InputError(
                f"tap {self.name!r} has shape {self.shape}; expected size 1 at "
                f"batch_axis={batch_axis}"
            )
        told, evidence = self._told(list(order))
        if channel_axis is None:
            return told, evidence
        if not -len(order) <= channel_axis < len(order):
            raise InputError(f"tap {self.name!r} has shape {self.shape}; no {channel_axis=}")
        channels = order.pop(self._native(len(order))[channel_axis])
        said = "as given" if channels == told[-1] else f"as given; otherwise {evidence}"
        return [*self._in_order(order), channels], said

    def struct(self, order: Sequence[int], evidence: str, *, batched: bool = False) -> TapStruct:
        """Its shape, axes in this order, channels last.

        Args:
            batched: whether one of the input's axes of positions is a batch.
        """
        shape = tuple(self.shape[axis] for axis in order)
        rank = self.rank - batched
        own = order[int(self._has_batch(rank) and len(order) == len(self.shape)) :]
        positions = tuple(self.made_of[axis] for axis in own[:-1])
        extents = tuple(self.shape[axis] for axis in own[:-1])
        on_grid = axes.is_grid(positions, extents, rank, self.channels)
        named = "dhw"[1 - len(own) :] if on_grid and 1 < len(own) < 5 else "n" * (len(own) - 1)
        letters = dict(zip(own, f"{named}c", strict=True))
        places = [sorted(own)[place] for place in self._native(len(own))]
        inside = "".join(letters[place] for place in places)
        return TapStruct(shape, self.dtype, on_grid=on_grid, inside=inside, evidence=evidence)

    def listed(self, channel_axis: int | None) -> TapStruct:
        """Its shape, channels last; an axis of one in front may be a batch, and stays."""
        batch = [0] if self._has_batch(self.rank) else []
        order, evidence = self.read(0 if batch else None, channel_axis)
        return self.struct([*batch, *order], evidence)

    def _has_batch(self, rank: int) -> bool:
        return len(self.shape) == rank + 2 and self.shape[0] == 1

    def _told(self, order: list[int]) -> tuple[list[int], str]:
        """The axes as the traced program tells; else as they lie.

        Channels lie along the one axis that runs along no position of the input: it is made of
        weights, or of the input's channels. Axes of one are none, but the last. Positions then lie
        in the order of the input's.
        """
        several = [axis for axis in order if self.shape[axis] != 1 or axis == order[-1]]
        channels = [axis for axis in several if self._along(axis) < 0]
        if len(channels) != 1:
            count = "several axes" if channels else "no axis"
            return order, f"the last axis: {count} could be channels"
        positions = self._in_order([axis for axis in order if axis not in channels])
        return [*positions, *channels], self._evidence(channels[0])

    def _along(self, axis: int) -> int:
        """The axis of the input's positions that an axis runs along; -1 if it runs along none."""
        return next((a for a, _ in self.made_of[axis][:1] if 0 <= a < self.rank), -1)

    def _in_order(self, positions: list[int]) -> list[int]:
        """Positions in the order of the input's, if each runs along one of its own."""
        each = len({self._along(axis) for axis in positions} - {-1}) == len(positions)
        return sorted(positions, key=self._along) if each else positions

    def _evidence(self, channels: int) -> str:
        if self.of_input:
            return "the input's"
        if self.made is None:
            return "the other axes are positions of the input"
        axis, maker = self.made
        if axis == channels:
            return f"made by {maker}"
        return f"the other axes are positions of the input, though {maker} made axis {axis}"

    def _native(self, count: int) -> list[int]:
        """Of every axis inside of an adapted model, which it is of those that were named."""
        places = list(range(count))
        if self.given is None or self.of_input or count != self.rank + 1:
            return places
        places.insert(self.given % count, places.pop())
        return places


def tapped(
    variables: Mapping[str, Any], fn: Callable, traced: graph.Graph, x: Any, origins: axes.Origins
) -> dict[str, Tapped]:
    """Activations of a traced model."""
    maker, given = axes.makers(traced, origins), getattr(fn, "channel_axis", None)
    return {
        name: Tapped(
            name,
            tuple(variable.aval.shape),
            variable.aval.dtype,
            origins.of(variable),
            rank_of(x),
            origins.channels,
            maker(variable),
            of_input=variable is traced.invars[-1],
            given=given,
        )
        for name, variable in variables.items()
    }


def is_batched(x: Any, batch_axis: int | None, origins: axes.Origins) -> bool:
    """Whether the input itself has the batch axis, or the model adds it."""
    leaf = max(jax.tree.leaves(x), key=lambda leaf: len(leaf.shape), default=None)
    if batch_axis is None or leaf is None or not -leaf.ndim <= batch_axis < leaf.ndim:
        return False
    return leaf.shape[batch_axis] == 1 and batch_axis % leaf.ndim not in origins.mixed


def listing(name: str, variables: Mapping[str, Any]) -> str:
    """The first taps of a model with their shapes, those that look like a name first."""
    ordered = nearest_first(name, variables)
    shown = [f"{each} {tuple(variables[each].aval.shape)}" for each in ordered[:_MOST_LISTED]]
    more = f", ... (`list_taps` lists all {len(ordered)})" if len(ordered) > len(shown) else ""
    return f"{', '.join(shown)}{more}" or "none"


def unknown_tap(name: str, variables: Mapping[str, Any], x: Any) -> TapError:
    """What to say of a tap that a model does not have."""
    count = len(jax.tree.leaves(x))
    if name == "input" and count != 1:
        return TapError(
            f"x is {count} arrays, and the tap 'input' is one; name the array that is explained, "
            'tap(x["image"], "image"), inside of the model or in the adapter\'s call=. '
            f"Taps: {listing(name, variables)}"
        )
    return TapError(f"unknown tap {name!r}. Taps: {listing(name, variables)}")


def check_axes(batch_axis: Any, channel_axis: Any) -> None:
    """Raises `InputError` for axes that are not whole numbers; there may be no batch axis."""
    given = {
        "batch_axis": 0 if batch_axis is None else batch_axis,
        "channel_axis": -1 if channel_axis is None else channel_axis,
    }
    for name, axis in given.items():
        if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
            raise InputError(
                f"{name}={axis!r}; give the number of an axis: batch_axis=0 for a model that is "
                "given a batch of one, else None; channel_axis=-1, or 0 for `c h w`"
            )


def rank_of(x: Any) -> int:
    """How many axes of positions an input has, channels left out."""
    return max((len(leaf.shape) for leaf in jax.tree.leaves(x)), default=0) - 1


def is_one_example(fn: Callable, said: bool | None = None) -> bool:
    """Whether somebody says that an input is one example: what is given, else its adapter."""
    return getattr(fn, "one_example", False) is True if said is None else said


def is_whole(leaf: Any) -> bool:
    """Whether a leaf of an input is an array of integers, with positions."""
    return np.ndim(leaf) > 1 and jnp.issubdtype(leaf.dtype, jnp.integer)


def check_numbers(traced: graph.Graph, x: Any) -> None:
    """Raises `InputError` for an image of integers that a model computes with in floating point.

    Integers that are compared or looked up, as tokens are, stay.
    """
    leaves = jax.tree_util.tree_leaves_with_path(x)
    inputs = traced.invars[len(traced.invars) - len(leaves) :]
    for (path, leaf), variable in zip(leaves, inputs, strict=True):
        if is_whole(leaf) and axes.is_promoted(traced, variable):
            name = f"x{jax.tree_util.keystr(path)}"
            raise InputError(
                f"{name} has dtype {leaf.dtype}, but the model computes in floating point; give "
                f"floats in the range that it was trained on: {name} / 255 for [0, 1], "
                f"{name}.astype(float32) for 0..255 or labels"
            )


def check_example(
    origins: axes.Origins,
    traced: graph.Graph,
    x: Any,
    tapped: Sequence[Any] = (),
    *,
    of_one: bool = False,
) -> None:
    """Raises `InputError` for an input that is a batch, as a model keeps its entries apart.

    Args:
        x: its input, of one example supposedly.
        tapped: activations along which entries stay apart, or along the outputs.
        of_one: whether a batch of one is meant; else one of several.
    """
    inputs = traced.invars[len(traced.invars) - len(jax.tree.leaves(x)) :]
    is_one = any(variable.aval.shape[:1] == (1,) for variable in inputs)
    if is_one != of_one:
        return
    shapes = ", ".join(str(variable.aval.shape) for variable in inputs)
    if not of_one and axes.is_by_rows(origins, inputs):
        raise InputError(
            f"x has shape {shapes}, and attention inside of the model treats the entries of its "
            "first axis separately, as a batch. Give batch_axis=0 to `explain` or the adapter (of "
            "a function, from_function) if the model is written for batches. If it is meant to "
            "treat rows separately, give one_example=True"
        )
    if not axes.is_batch(origins, inputs, [*traced.outvars, *tapped]):
        return
    if of_one:
        raise InputError(
            f"x has shape {shapes}, a batch of one: the model treats the first axis as a batch. "
            "Give one example, x[0], with batch_axis=0 to `explain` or the adapter if the model "
            "needs a batch; or give batch_axis=0 to `split`. If the first axis belongs to the "
            "example, as in a volume of one slice, give one_example=True"
        )
    raise InputError(
        f"x has shape {shapes}, a batch: the model treats the entries of its first axis "
        "separately. Give one example, x[0], with batch_axis=0 to `explain` or the adapter if the "
        "model needs a batch; explain several with `explain_batch` or `jax.vmap`. If x is one "
        "example, give batch_axis=0 for a model that is written for batches, else one_example=True"
    )
