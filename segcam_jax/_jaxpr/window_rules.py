"""Per primitive: which windows of its operands an output window needs, and how it is computed.

A rule is two functions:

    needs(equation, window)                     -> window of each operand, or None: no rule here
    apply(equation, operands, window, places)   -> the array of the output window

Positions outside of an image do not exist as data. A convolution or pooling whose window touches
the border takes its padding there (`spans.take`), and only there.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from segcam_jax._jaxpr import bands, kinds, sliding_rules, spans
from segcam_jax._jaxpr.bands import Band, Matrices
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Places, Span, Window, Windowed

Array = Any
Needs = list[Window]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one primitive is computed on windows."""

    needs: Callable[[Equation, Window], Needs | None]
    apply: Callable[[Equation, Sequence[Windowed], Window, Places], Array]


def find(equation: Equation, known: Matrices) -> Rule | None:
    """The rule of an equation, or None where it has to be computed whole.

    Args:
        equation: of a flat jaxpr.
        known: as `bands.matrices` finds them.
    """
    band = bands.find(equation, known)
    if band is not None:
        return _banded(band)
    if kinds.elementwise(equation) is not None:
        return _ELEMENTWISE
    return _RULES.get(equation.primitive.name)


def _shapes(equation: Equation) -> list[tuple[int, ...]]:
    return [atom.aval.shape for atom in equation.invars]


def _elementwise_needs(equation: Equation, window: Window) -> Needs:
    """Operands may be scalars, or of size one along an axis where the output is longer."""
    out = equation.outvars[0].aval.shape
    return [
        tuple(s if n == m else None for s, n, m in zip(window, shape, out, strict=True))
        if shape
        else ()
        for shape in _shapes(equation)
    ]


def _elementwise(equation, operands, window, places):
    function = kinds.elementwise(equation)
    assert function is not None
    needs = _elementwise_needs(equation, window)
    return function(*(spans.narrow(x, w, places) for x, w in zip(operands, needs, strict=True)))


def _broadcast_needs(equation: Equation, window: Window) -> Needs:
    shape, out = equation.invars[0].aval.shape, equation.params["shape"]
    places = equation.params["broadcast_dimensions"]
    return [
        tuple(window[at] if n == out[at] else None for n, at in zip(shape, places, strict=True))
    ]


def _broadcast(equation, operands, window, places):
    (wanted,) = _broadcast_needs(equation, window)
    array = spans.narrow(operands[0], wanted, places)
    shape = spans.sizes(window, equation.params["shape"])
    return jax.lax.broadcast_in_dim(array, shape, equation.params["broadcast_dimensions"])


def _transpose_needs(equation: Equation, window: Window) -> Needs:
    wanted: list[Span | None] = [None] * len(window)
    for at, source in enumerate(equation.params["permutation"]):
        wanted[source] = window[at]
    return [tuple(wanted)]


def _transpose(equation, operands, window, places):
    (wanted,) = _transpose_needs(equation, window)
    return jax.lax.transpose(
        spans.narrow(operands[0], wanted, places), equation.params["permutation"]
    )


def kept_axes(equation: Equation) -> list[int]:
    """Axes of the operand that the output of a reduction or squeeze keeps, in order."""
    rank = len(equation.invars[0].aval.shape)
    gone = equation.params.get("axes", equation.params.get("dimensions"))
    return [axis for axis in range(rank) if axis not in {d % rank for d in gone}]


def _reduced_needs(equation: Equation, window: Window) -> Needs:
    wanted: list[Span | None] = [None] * len(equation.invars[0].aval.shape)
    for at, axis in enumerate(kept_axes(equation)):
        wanted[axis] = window[at]
    return [tuple(wanted)]


def _reduced(equation, operands, window, places):
    (wanted,) = _reduced_needs(equation, window)
    array = spans.narrow(operands[0], wanted, places)
    return equation.primitive.bind(array, **equation.params)


def _concatenate_needs(equation: Equation, window: Window) -> Needs | None:
    if window[equation.params["dimension"]] is not None:
        return None
    return [window for _ in equation.invars]


def _concatenate(equation, operands, window, places):
    arrays = [spans.narrow(x, window, places) for x in operands]
    return jax.lax.concatenate(arrays, equation.params["dimension"])


def reshape_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of the operand and of the output that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        while not (left or right) or math.prod(old[a] for a in left) != math.prod(
            new[a] for a in right
        ):
            if j == len(new) or (
                i < len(old) and math.prod(old[a] for a in left) <= math.prod(new[a] for a in right)
            ):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


def major(axes: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """The first of these axes that is longer than one, and the elements in a row of the others."""
    long = [axis for axis in axes if shape[axis] != 1]
    return long[0], math.prod(shape[axis] for axis in long[1:])


def _reshape_needs(equation: Equation, window: Window) -> Needs | None:
    old, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    if 0 in old:
        return None
    wanted: list[Span | None] = [None] * len(old)
    for left, right in reshape_groups(old, new):
        windowed = [axis for axis in right if window[axis] is not None]
        if not windowed:
            continue
        axis, row = major(right, new)
        have = window[axis]
        if equation.params.get("dimensions") is not None or windowed != [axis] or have is None:
            return None
        target, per = major(left, old)
        low, high = have.starts * row // per, -(-have.ends * row // per)
        wanted[target] = spans.span(have.axis, low, high, old[target])
    return [tuple(wanted)]


def _reshape(equation, operands, window, places):
    """Flattens each group of axes, slices it there, and gives it its new axes."""
    old, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    needs = _reshape_needs(equation, window)
    assert needs is not None
    (wanted,) = needs
    array = spans.narrow(operands[0], wanted, places)
    groups = reshape_groups(old, new)
    array = array.reshape([math.prod(array.shape[axis] for axis in left) for left, _ in groups])
    for at, (left, right) in enumerate(groups):
        have = next((window[axis] for axis in right if window[axis] is not None), None)
        if have is None:
            continue
        (_, row), (target, per) = major(right, new), major(left, old)
        source = wanted[target]
        origin = 0 if source is None else spans.start(source, places) * per
        offset = spans.start(have, places) * row - origin
        array = jax.lax.dynamic_slice_in_dim(array, offset, have.size * row, at)
    return array.reshape(spans.sizes(window, new))


def _pad_needs(equation: Equation, window: Window) -> Needs | None:
    shape, config = equation.invars[0].aval.shape, equation.params["padding_config"]
    wanted = []
    for have, extent, (low, _, interior) in zip(window, shape, config, strict=True):
        if have is not None and interior:
            return None
        wanted.append(
            None
            if have is None
            else spans.span(have.axis, have.starts - low, have.ends - low, extent)
        )
    return [tuple(wanted), ()]


def _pad(equation, operands, window, places):
    value, fill = operands
    config = list(equation.params["padding_config"])
    for axis, have in enumerate(window):
        if have is not None:
            low = have.starts - config[axis][0]
            array = spans.take(value, axis, have.axis, low, have.size, fill.array, places)
            value = spans.taken(value, axis, array)
            config[axis] = (0, 0, 0)
    return jax.lax.pad(value.array, fill.array, config)


def _slice_needs(equation: Equation, window: Window) -> Needs:
    shape = equation.invars[0].aval.shape
    strides = equation.params["strides"] or (1,) * len(shape)
    wanted = []
    for axis, have in enumerate(window):
        first, step = equation.params["start_indices"][axis], strides[axis]
        if have is None:
            wanted.append(None)
            continue
        low = first + have.starts * step
        high = first + (have.ends - 1) * step + 1
        wanted.append(spans.span(have.axis, low, high, shape[axis]))
    return [tuple(wanted)]


def _slice(equation, operands, window, places):
    value = operands[0]
    rank = len(value.shape)
    strides = equation.params["strides"] or (1,) * rank
    starts, limits = list(equation.params["start_indices"]), list(equation.params["limit_indices"])
    for axis, have in enumerate(window):
        if have is not None:
            low = starts[axis] + have.starts * strides[axis]
            size = (have.size - 1) * strides[axis] + 1
            array = spans.take(value, axis, have.axis, low, size, np.zeros(()), places)
            value = spans.taken(value, axis, array)
            starts[axis], limits[axis] = 0, size
    return jax.lax.slice(value.array, starts, limits, strides)


def _dynamic_slice_needs(equation: Equation, window: Window) -> Needs | None:
    """Windows along axes that are not cut."""
    out = equation.outvars[0].aval.shape
    shape, *starts = _shapes(equation)
    if any(s is not None and n != m for s, n, m in zip(window, shape, out, strict=True)):
        return None
    return [window, *(() for _ in starts)]


def _dynamic_slice(equation, operands, window, places):
    value, *starts = operands
    array = spans.narrow(value, window, places)
    sizes = spans.sizes(window, equation.params["slice_sizes"])
    return jax.lax.dynamic_slice(array, [start.array for start in starts], sizes)


def dot_axes(equation: Equation) -> tuple[list[int | None], list[int | None]]:
    """For each axis of each operand, the axis of the output it becomes, or None if summed."""
    (contract, batch) = equation.params["dimension_numbers"]
    ranks = [len(shape) for shape in _shapes(equation)]
    places: list[list[int | None]] = [[None] * rank for rank in ranks]
    for at, pair in enumerate(zip(*batch, strict=True)):
        for operand, axis in enumerate(pair):
            places[operand][axis] = at
    free = len(batch[0])
    for operand in range(2):
        for axis in range(ranks[operand]):
            if axis not in contract[operand] and axis not in batch[operand]:
                places[operand][axis] = free
                free += 1
    return places[0], places[1]


def _dot_needs(equation: Equation, window: Window) -> Needs:
    return [tuple(None if at is None else window[at] for at in axes) for axes in dot_axes(equation)]


def _dot(equation, operands, window, places):
    return _product(equation, operands, _dot_needs(equation, window), places)


def _product(equation, operands, wanted, places):
    arrays = [spans.narrow(x, w, places) for x, w in zip(operands, wanted, strict=True)]
    return equation.primitive.bind(*arrays, **equation.params)


def _banded(band: Band) -> Rule:
    """Of the axis that is summed, the rows where the columns of the window are not zero."""

    def needs(equation: Equation, window: Window) -> Needs:
        wanted = [list(each) for each in _dot_needs(equation, window)]
        have = window[band.out]
        summed = None if have is None else band.needed(have)
        wanted[1 - band.operand][band.axis] = summed
        wanted[band.operand][band.rows] = summed
        return [tuple(each) for each in wanted]

    return Rule(needs, lambda e, operands, w, places: _product(e, operands, needs(e, w), places))


_ELEMENTWISE = Rule(_elementwise_needs, _elementwise)
_REDUCED = Rule(_reduced_needs, _reduced)
_RULES: dict[str, Rule] = {
    "broadcast_in_dim": Rule(_broadcast_needs, _broadcast),
    "transpose": Rule(_transpose_needs, _transpose),
    "concatenate": Rule(_concatenate_needs, _concatenate),
    "reshape": Rule(_reshape_needs, _reshape),
    "pad": Rule(_pad_needs, _pad),
    "slice": Rule(_slice_needs, _slice),
    "dynamic_slice": Rule(_dynamic_slice_needs, _dynamic_slice),
    "dot_general": Rule(_dot_needs, _dot),
    "conv_general_dilated": Rule(sliding_rules.convolution_needs, sliding_rules.convolution),
    **{name: Rule(sliding_rules.pool_needs, sliding_rules.pool) for name in sliding_rules.POOLS},
    "squeeze": _REDUCED,
    **{f"reduce_{name}": _REDUCED for name in ("sum", "max", "min", "prod", "and", "or", "xor")},
}
