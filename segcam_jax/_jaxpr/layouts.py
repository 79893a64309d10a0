"""How tapped activations lie: their shapes channels last, and whether on the grid of the input."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax import _print
from segcam_jax._jaxpr import axes, graph
from segcam_jax.types import InputError, TapError, nearest_first


class TapStruct(jax.ShapeDtypeStruct):
    """Shape and dtype of a tapped activation, channels last.

    Attributes:
        on_grid: whether its positions lie as those of the input do, finer or coarser, so that a map
            of them can be drawn over it; followed through the traced model. Else it has positions
            of its own, as tokens and heads are.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, *, on_grid: bool):
        super().__init__(shape, dtype)
        self.on_grid = on_grid


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


def struct_of(aval: Any, made_of: axes.Axes, x: Any, channels: Iterable[int] = ()) -> TapStruct:
    """A tap's shape, channels last; an axis of one in front may be a batch."""
    rank, start = rank_of(x), int(len(aval.shape) == rank_of(x) + 2 and aval.shape[0] == 1)
    order = _read(range(start, len(aval.shape)), aval.shape, made_of, rank)
    return moved(aval, made_of, [*range(start), *order], rank, channels)


def moved(
    aval: Any,
    made_of: axes.Axes,
    order: Sequence[int],
    rank: int,
    channels: Iterable[int] = (),
) -> TapStruct:
    """The shape of an activation of which the axes are taken in this order, channels last."""
    shape = tuple(aval.shape[axis] for axis in order)
    start = int(len(shape) == rank + 2 and shape[0] == 1)
    positions = tuple(made_of[axis] for axis in order)[start:-1]
    on_grid = axes.is_grid(positions, shape[start:-1], rank, channels)
    return TapStruct(shape, aval.dtype, on_grid=on_grid)


def is_batched(x: Any, batch_axis: int | None, origins: axes.Origins) -> bool:
    """Whether the input itself has the batch axis, or the model adds it."""
    leaf = max(jax.tree.leaves(x), key=lambda leaf: len(leaf.shape), default=None)
    if batch_axis is None or leaf is None or not -leaf.ndim <= batch_axis < leaf.ndim:
        return False
    return leaf.shape[batch_axis] == 1 and batch_axis % leaf.ndim not in origins.mixed


def order_of(
    shape: Sequence[int],
    layout: tuple[int | None, int | None],
    name: str,
    made_of: axes.Axes,
    rank: int,
) -> list[int]:
    """The axes of an activation, the batch left out, channels last.

    Args:
        shape: of the activation inside of the model.
        layout: its channel axis (None: as the program tells) and its batch axis, as given.
        name: of the tap.
        made_of: what its axes are made of.
        rank: how many axes of positions the input has.
    """
    channel_axis, batch_axis = layout
    order = list(range(len(shape)))
    if batch_axis is not None and (
        not -len(shape) <= batch_axis < len(shape) or shape[order.pop(batch_axis)] != 1
    ):
        raise InputError(
            f"tap {name!r} has shape {shape}; expected size 1 at batch_axis={batch_axis}"
        )
    if channel_axis is None:
        return _read(order, shape, made_of, rank)
    if not -len(order) <= channel_axis < len(order):
        raise InputError(f"tap {name!r} has shape {shape}; no channel_axis={channel_axis}")
    order.append(order.pop(channel_axis))
    return order


def _read(order: Iterable[int], shape: Sequence[int], made_of: axes.Axes, rank: int) -> list[int]:
    """The axes of an activation, channels last, as the traced program tells; else as they lie.

    Channels lie along the one axis that runs along no position of the input: it is made of weights,
    or of the input's channels. Axes of one are none, but the last. Positions then lie in the order
    of the input's.
    """
    order = list(order)
    along = {axis: next((a for a, _ in made_of[axis][:1] if 0 <= a < rank), -1) for axis in order}
    several = [axis for axis in order if shape[axis] != 1 or axis == order[-1]]
    channels = [axis for axis in several if along[axis] < 0]
    if len(channels) != 1:
        return order
    positions = [axis for axis in order if axis not in channels]
    if len({along[axis] for axis in positions} - {-1}) == len(positions):
        positions.sort(key=along.__getitem__)
    return [*positions, *channels]


def listing(name: str, variables: Mapping[str, Any]) -> str:
    """The taps of a model with their shapes, those that look like a name first."""
    ordered = nearest_first(name, variables)
    return ", ".join(f"{each} {tuple(variables[each].aval.shape)}" for each in ordered) or "none"


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
    """Raises `InputError` for axes that are no whole numbers; there may be no batch axis."""
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


def has_batch_axis(fn: Callable) -> bool:
    """Whether an adapter gives a model its batch of one: an example has none, then."""
    return isinstance(getattr(fn, "batch_axis", None), int)


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
                f"{name} has dtype {leaf.dtype}, and the model computes in floating point; give "
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
        origins: what the axes of the model's values are made of.
        traced: the model.
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
            f"x has shape {shapes}, and attention inside of the model takes each entry of its "
            "first axis by itself, as examples of a batch: give batch_axis=0 to the adapter "
            "(from_function has it, too) if the model is written for a batch; if rows are meant to "
            "be apart, say one_example=True"
        )
    if not axes.is_batch(origins, inputs, [*traced.outvars, *tapped]):
        return
    if of_one:
        raise InputError(
            f"x has shape {shapes}, a batch of one: the model keeps its first axis apart. Expected "
            "one example: give x[0] (with batch_axis=0 to the adapter if the model insists on a "
            "batch), or batch_axis=0 to `split`; if the first axis belongs to the example, as in a "
            "volume of one slice, say one_example=True"
        )
    raise InputError(
        f"x has shape {shapes}, a batch: the model keeps the entries of its first axis apart. "
        "Expected one example: give x[0] (with batch_axis=0 if the model insists on a batch), "
        "and many by `explain_batch` or `jax.vmap`; if the first axis belongs to one example, say "
        "one_example=True, or batch_axis=0 to the adapter of a model that is written for a batch"
    )
