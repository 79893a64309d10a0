"""Where the axes of values come from: which of the input's axes an axis of a value runs along.

An axis is followed as the input's axes that it is made of, outermost first, each with an extent:

    x             (32, 32, 3)       ((0, 32),)  ((1, 32),)  ((2, 3),)
    patches       (8, 4, 8, 4, 3)   ((0, 8),)  ((0, 4),)  ((1, 8),)  ((1, 4),)  ((2, 3),)
    tokens        (64, 48)          ((0, 8), (1, 8))  ((0, 4), (1, 4), (2, 3))
    heads         (64, 4, 16)       ((0, 8), (1, 8))  ()  ()

An axis of weights is made of none, `()`. An axis of the input is mixed where a position along it
reads others (a convolution, a pooling, a sum, a slice); declared where a convolution says that it
is one of space or of channels, whatever the kernel's extent. What has no rule mixes all that it
reads, and keeps the axes whose extents it leaves alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from segcam_jax._jaxpr import graph
from segcam_jax._jaxpr.axis_rules import rule_of
from segcam_jax._jaxpr.follower import Axes, Follower, Met, keeps_rows
from segcam_jax._jaxpr.graph import Equation, Var

# Its axis, and what made it, in words.
Made = tuple[int, str]
_FAR = 100  # equations between an activation and its maker


@dataclasses.dataclass(frozen=True)
class Origins:
    """What the axes of a program's values are made of.

    Attributes:
        axes: variable -> its axes; those that depend on no input are missing.
        mixed: the input's axes along which positions read each other.
        pooled: those that are summed together with others, as for the statistics of a norm.
        batches, channels: those that a convolution takes for its batch, or its channels.
        attended: of each attention, the axes it keeps apart, and those along which positions meet.
        weights: what depends on parameters, or arrays that the function closes over, and no input.
    """

    axes: Mapping[Var, Axes]
    mixed: frozenset[int]
    pooled: frozenset[int]
    batches: frozenset[int]
    channels: frozenset[int]
    attended: frozenset[Met]
    weights: frozenset[Var]

    def of(self, variable: Var) -> Axes:
        """What the axes of a variable are made of."""
        return self.axes.get(variable, ((),) * len(variable.aval.shape))


def follow(traced: graph.Graph, inputs: int) -> Origins:
    """Follows the axes of the last `inputs` inputs; the axes of one number count as one axis."""
    follower = _follower(traced, traced.invars[len(traced.invars) - inputs :])
    return Origins(
        follower.axes,
        frozenset(follower.mixed),
        frozenset(follower.pooled),
        frozenset(follower.batches),
        frozenset(follower.channels),
        frozenset(follower.attended),
        frozenset(follower.learned - follower.axes.keys()),
    )


def is_promoted(traced: graph.Graph, variable: Var) -> bool:
    """Whether an input of integers becomes floating-point numbers, position by position."""
    return any({0, 1} <= axes for axes in _follower(traced, [variable]).promoted)


def _follower(traced: graph.Graph, inputs: Sequence[Var]) -> Follower:
    """Follows the axes of some inputs; the others are parameters."""
    follower = Follower(rule_of)
    follower.learned.update((*traced.constvars, *traced.invars))
    follower.learned.difference_update(inputs)
    follower.axes.update((variable, whole(variable.aval.shape)) for variable in inputs)
    follower.run(traced.equations)
    return follower


def whole(shape: Sequence[int]) -> Axes:
    """The axes of the input itself."""
    return tuple(((axis, extent),) for axis, extent in enumerate(shape))


def is_batch(origins: Origins, inputs: Sequence[Var], values: Iterable[Any]) -> bool:
    """Whether the first axis of the input is one of examples, which the program keeps apart.

    It is, where its entries never read each other, from the input to any of these values (outputs,
    the activation at a tap), while positions along another axis do, the last one (channels) left
    out. Where no position reads another, as in a model of dense layers, there is nothing to tell
    examples from positions by. Statistics over the entries and their positions at once, as a norm
    left in training takes them, do not make a batch of a convolution one example.
    """
    shapes = [variable.aval.shape for variable in inputs if len(variable.aval.shape)]
    if len({shape[0] for shape in shapes}) != 1:
        return False
    middle = _positions(shapes)
    if 0 in origins.mixed | origins.channels:
        return False
    if 0 in origins.pooled:
        apart = 0 in origins.batches and bool(origins.mixed & middle)
    else:
        apart = bool((origins.mixed | origins.pooled) & middle)
    kept = any(
        (0, shapes[0][0]) in factors
        for atom in values
        if graph.is_variable(atom)
        for factors in origins.of(atom)
    )
    return apart and kept


def is_by_rows(origins: Origins, inputs: Sequence[Var]) -> bool:
    """Whether attention keeps the entries of the first axis apart, which other operations mix.

    So a model that is written for a batch takes one image, as it flattens by `x.shape[0]`: every
    row of it is attended by itself. A model that takes the axis for a batch of a convolution means
    it, as one of frames does.
    """
    shapes = [variable.aval.shape for variable in inputs if len(variable.aval.shape)]
    return 0 not in origins.batches and keeps_rows(origins.attended, _positions(shapes))


def _positions(shapes: Sequence[Sequence[int]]) -> set[int]:
    """The axes between the first and the last one, which channels are."""
    return set(range(1, max(map(len, shapes), default=0) - 1))


def is_grid(axes: Axes, shape: Sequence[int], rank: int, channels: Iterable[int] = ()) -> bool:
    """Whether positions lie as the input's do, finer or coarser: an axis for each, in order.

    An axis that channels were shuffled into stays that of the positions they lie between.

    Args:
        axes: what the axes of positions are made of.
        shape: their extents; of one position, an axis may be made of anything.
        rank: how many axes of positions the input has.
        channels: the input's axes that are none of positions.
    """
    inner = set(channels)
    made_of = [
        {axis for number, (axis, _) in enumerate(factors) if number == 0 or axis not in inner}
        for factors, extent in zip(axes, shape, strict=True)
        if extent != 1
    ]
    along = [min(each, default=-1) for each in made_of]
    single = all(len(each) == 1 for each in made_of)
    return len(axes) == rank and single and along == sorted(set(along))


def makers(traced: graph.Graph, origins: Origins) -> Callable[[Var], Made | None]:
    """The function from an activation to what made its channels; None: nothing that says so."""
    made_by = {variable: each for each in traced.equations for variable in each.outvars}

    def maker(variable: Var) -> Made | None:
        between: list[Equation] = []
        at = variable
        while at in made_by and len(between) < _FAR:
            equation = made_by[at]
            if found := _channels(equation, origins):
                return _followed(found, at, variable, between[::-1])
            between.append(equation)
            known = [a for a in equation.invars if graph.is_variable(a) and a in origins.axes]
            if not known:
                return None
            at = known[0]
        return None

    return maker


def _channels(equation: Equation, origins: Origins) -> Made | None:
    """The axis of an equation's result that is one of features of its weights."""
    if equation.primitive.name == "conv_general_dilated":
        return equation.params["dimension_numbers"].out_spec[1], "a convolution"
    if equation.primitive.name != "dot_general":
        return None
    contracted, batched = equation.params["dimension_numbers"]
    operands, places = equation.invars, zip(contracted, batched, strict=True)
    left, right = (
        len(atom.aval.shape) - len(one) - len(other)
        for atom, (one, other) in zip(operands, places, strict=True)
    )
    # Free axes of the left operand come first.
    for atom, free, first in ((operands[0], left, 0), (operands[1], right, left)):
        if free == 1 and graph.is_variable(atom) and atom in origins.weights:
            return len(batched[0]) + first, "a product"
    return None


def _followed(made: Made, start: Var, end: Var, between: list[Equation]) -> Made | None:
    """Where the channels of one value have come in another."""
    channel, words = made
    follower = Follower(rule_of)
    follower.axes[start] = whole(start.aval.shape)
    follower.run(between)
    found = [
        axis
        for axis, made_of in enumerate(follower.axes.get(end, ()))
        if [each for each, _ in made_of] == [channel]
    ]
    return (found[0], words) if len(found) == 1 else None
