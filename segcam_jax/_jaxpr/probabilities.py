"""Whether a traced function ends in probabilities: a softmax over its classes, or a sigmoid.

Read backwards from the output. What only moves, repeats, cuts, joins, masks, casts or bounds
probabilities is looked through, and so are `1 - p` and averages: of several outputs, over space, by
the fixed matrices of a resize. The classes are the output's last axis; where that axis was before
is followed, so that a softmax over space, of attention for example, is none over classes.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from segcam_jax._jaxpr import graph, naming, values
from segcam_jax._jaxpr.values import Value, through

Ending = Literal["softmax", "sigmoid"]

_STAYING = (
    *values.CASTS,
    "optimization_barrier",
    "sharding_constraint",
    "slice",
    "dynamic_slice",
    "rev",
)
_BOUNDING = ("clamp", "min", "max")
# Of weights that sum to 1, in bfloat16 too; those of a cubic resize are negative in part.
_ROUNDING = 1e-2
_MOST_WEIGHT = 2.0


class _Sum(NamedTuple):
    """Probabilities that are added up, and the sum of their weights: 1, they are averaged."""

    ending: Ending
    weight: float


def ending(traced: graph.Graph) -> Ending | None:
    """What makes probabilities of a function's one output, classes last; None: nothing is seen."""
    value = values.output(traced)
    found = _sum(value, len(value.shape) - 1) if value is not None and value.shape else None
    return None if found is None or abs(found.weight - 1) > _ROUNDING else found.ending


def ending_of(fn: Callable, *structs: Any) -> Ending | None:
    """As `ending`, of a function of arrays or `ShapeDtypeStruct`s."""
    return ending(graph.trace(fn, naming.PREFIX, *structs)[0])


def _sum(value: Value, axis: int | None) -> _Sum | None:
    """The probabilities that make a value, whose classes lie along `axis`; None: there are none."""
    if value.primitive == "logistic" or _is_written_sigmoid(value):
        return _Sum("sigmoid", 1)
    if _is_softmax(value, axis) or _is_exp_of_log_softmax(value, axis):
        return _Sum("softmax", 1)
    joined = _joined(value, axis)
    if joined is not None:
        first = _sum(*joined[0])
        alike = first is not None and all(_sum(*each) == first for each in joined[1:])
        return first if alike else None
    if value.primitive == "concatenate" and _is_both_sides(value):
        return _Sum("softmax", 1)
    if value.primitive == "add":
        return _added(value, axis)
    if value.primitive == "sub" and values.is_number(value.operands[0], 1):
        found = _sum(value.operands[1], axis)
        return found if found is not None and found.weight == 1 else None
    if value.primitive in _BOUNDING or value.primitive == "pad":  # As `clip(p, 1e-7, 1 - 1e-7)`.
        inside = [each for each in value.operands if values.number_of(each) is None]
        plain = value.primitive != "pad" or values.is_number(value.operands[1], 0)
        return _sum(inside[0], axis) if len(inside) == 1 and plain else None
    weighted = _weighted(value, axis)
    if weighted is not None:
        inside, place, weight = weighted
        found = _sum(inside, place)
        return None if found is None else _Sum(found.ending, found.weight * weight)
    moved = axis_before(value, axis)
    return None if moved is None else _sum(value.operands[0], moved[0])


def _joined(value: Value, axis: int | None) -> list[tuple[Value, int | None]] | None:
    """The values that are joined or chosen from, and the axis of their classes; None: none are."""
    name = value.primitive
    if name == "concatenate" and not _is_both_sides(value):
        return [(part, axis) for part in value.operands]
    if name == "stack":
        along = value.equation.params["axis"] % len(value.shape)
        within = None if axis in (along, None) else axis - (axis > along)
        return [(part, within) for part in value.operands]
    if name == "select_n":  # As `where(seen, p, 0)`.
        computed = [each for each in value.operands[1:] if values.number_of(each) is None]
        numbers = [values.number_of(each) for each in value.operands[1:]]
        if computed and all(each is None or 0 <= each <= 1 for each in numbers):
            return [(each, axis) for each in computed]
    return None


def _added(value: Value, axis: int | None) -> _Sum | None:
    """Probabilities that are added, or c tanh(x) + c: 2c times a sigmoid."""
    for first, second in (value.operands, value.operands[::-1]):
        number, factor = values.number_of(second), 1.0
        if number is None:
            continue
        inside = through(first, values.CASTS)
        scaled = values.scaled(inside)
        if scaled is not None:
            inside, factor = through(scaled[0], values.CASTS), scaled[1]
        alike = inside.primitive == "tanh" and number == factor > 0
        return _Sum("sigmoid", 2 * factor) if alike else None
    first = _sum(value.operands[0], axis)
    second = None if first is None else _sum(value.operands[1], axis)
    if first is None or second is None or first.ending != second.ending:
        return None
    return _Sum(first.ending, first.weight + second.weight)


def _weighted(value: Value, axis: int | None) -> tuple[Value, int | None, float] | None:
    """What a value is a sum of: a value, the axis of its classes, the sum of the weights."""
    name, parameters = value.primitive, value.equation.params if value.equation else {}
    scaled = values.scaled(value)
    if scaled is not None:
        return (scaled[0], axis, scaled[1]) if scaled[1] > 0 else None
    if name == "mul":  # A mask: of what is not seen, nothing.
        for inside, mask in (value.operands, value.operands[::-1]):
            if _is_mask(mask):
                return inside, axis, 1.0
    if name == "reduce_sum":
        shape, gone = value.operands[0].shape, parameters["axes"]
        left = [each for each in range(len(shape)) if each not in gone]
        count = math.prod(shape[each] for each in gone)
        return value.operands[0], None if axis is None else left[axis], float(count)
    if name == "reduce_window_sum":
        window = parameters["window_dimensions"]
        whole = axis is None or window[axis] == 1
        return (value.operands[0], axis, float(math.prod(window))) if whole else None
    return interpolated(value, axis) if name == "dot_general" else None


def interpolated(value: Value, axis: int | None) -> tuple[Value, int | None, float] | None:
    """As `_weighted`, of a product with a fixed matrix whose rows have one sum, as of a resize."""
    contracting, batch = value.equation.params["dimension_numbers"]
    if batch[0] or axis is None:
        return None
    for at, weights in enumerate(value.operands):
        inside = value.operands[1 - at]
        if not weights.is_fixed or inside.is_fixed:
            continue
        kept = [each for each in range(len(inside.shape)) if each not in contracting[1 - at]]
        place = axis - (0 if at == 1 else len(weights.shape) - len(contracting[at]))
        matrix = values.evaluated(weights).astype(np.float64)
        sums, sizes = (m.sum(tuple(contracting[at])) for m in (matrix, np.abs(matrix)))
        weight = float(sums.mean())
        even = np.abs(sums - weight).max(initial=0) <= _ROUNDING * weight
        if 0 <= place < len(kept) and even and sizes.max(initial=0) <= _MOST_WEIGHT * weight:
            return inside, kept[place], weight
    return None


def _is_mask(value: Value) -> bool:
    """Whether a value is True or False, cast."""
    while value.primitive in values.REPEATING:
        if value.equation.invars[0].aval.dtype == bool:
            return True
        value = value.operands[0]
    return False


def _is_both_sides(value: Value) -> bool:
    """1 - p beside p: what a sigmoid says of two classes, as their softmax would."""
    if len(value.operands) != 2:
        return False
    for first, second in (value.operands, value.operands[::-1]):
        less = first.primitive == "sub" and values.is_number(first.operands[0], 1)
        if less and first.operands[1] is second:
            return _sum(second, None) is not None
    return False


def axis_before(value: Value, axis: int | None) -> tuple[int | None] | None:
    """The classes' axis in the first operand of what only moves values; None: it does more."""
    name, parameters = value.primitive, value.equation.params if value.equation else {}
    if name in _STAYING:
        return (axis,)
    if name == "transpose":
        return (None if axis is None else int(parameters["permutation"][axis]),)
    if name == "squeeze":
        gone = sorted(int(each) % len(value.operands[0].shape) for each in parameters["dimensions"])
        if axis is None:
            return (gone[0] if len(gone) == 1 else None,)
        left = [each for each in range(len(value.operands[0].shape)) if each not in gone]
        return (left[axis],)
    if name == "broadcast_in_dim":
        places = list(parameters["broadcast_dimensions"])
        if axis is None or axis not in places:
            same = math.prod(value.operands[0].shape) == math.prod(value.shape)
            return (None,) if same or axis is None else None
        before = places.index(axis)
        return (before,) if value.operands[0].shape[before] == value.shape[axis] else None
    if name == "reshape":
        return (_before_reshape(value.operands[0].shape, value.shape, axis),)
    if name == "tile":
        return (axis,) if axis is None or parameters["reps"][axis] == 1 else None
    if name == "unstack":
        along = parameters["axis"] % len(value.operands[0].shape)
        return (along if axis is None else axis + (axis >= along),)
    return _before_gather(value, axis) if name == "gather" else None


def _before_gather(value: Value, axis: int | None) -> tuple[int | None] | None:
    """As `axis_before`, where positions or classes are taken by index, as by a nearest resize."""
    numbers, sizes = (value.equation.params[key] for key in ("dimension_numbers", "slice_sizes"))
    shape = value.operands[0].shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    if axis not in numbers.offset_dims:
        return (gone[0] if len(gone) == 1 else None,)
    before = [each for each in range(len(shape)) if each not in gone]
    before = before[list(numbers.offset_dims).index(axis)]
    return (before,) if sizes[before] == shape[before] else None


def _before_reshape(old: tuple[int, ...], new: tuple[int, ...], axis: int | None) -> int | None:
    """The axis of the same size with as many positions before it."""
    if axis is None:
        return None
    before = math.prod(new[:axis])
    same = [
        at for at, size in enumerate(old) if size == new[axis] and math.prod(old[:at]) == before
    ]
    return same[-1] if same else None


def _is_softmax(value: Value, axis: int | None) -> bool:
    """exp(x) / sum(exp(x)), summed over the classes, or exp(x) * (1 / sum(exp(x)))."""
    if value.primitive == "div":
        pairs = [value.operands]
    elif value.primitive == "mul":
        inverse = [_inverted(each) for each in value.operands]
        pairs = [(a, b) for a, b in zip(value.operands, inverse[::-1], strict=True) if b]
    else:
        return False
    powers = [(through(above, values.CASTS), below) for above, below in pairs]
    return any(a.primitive == "exp" and _is_sum_of(below, a, axis) for a, below in powers)


def _inverted(value: Value) -> Value | None:
    """x of 1 / x, or None."""
    value = through(value, values.REPEATING)
    if value.primitive == "integer_pow" and value.equation.params["y"] == -1:
        return value.operands[0]
    written = value.primitive == "div" and values.is_number(value.operands[0], 1)
    return value.operands[1] if written else None


def _is_exp_of_log_softmax(value: Value, axis: int | None) -> bool:
    """exp(x - log(sum(exp(x))))."""
    if value.primitive != "exp":
        return False
    less = through(value.operands[0], values.CASTS)
    if less.primitive != "sub":
        return False
    logarithm = through(less.operands[1], values.REPEATING)
    if logarithm.primitive != "log":
        return False
    total = through(logarithm.operands[0], values.REPEATING)
    if total.primitive != "reduce_sum":
        return False
    power = through(total.operands[0], values.CASTS)
    of_same = power.primitive == "exp" and through(power.operands[0], values.CASTS) is through(
        less.operands[0], values.CASTS
    )
    return of_same and _is_sum_of(total, power, axis)


def _is_sum_of(value: Value, power: Value, axis: int | None) -> bool:
    total = through(value, values.REPEATING)
    if total.primitive != "reduce_sum" or tuple(total.equation.params["axes"]) != (axis,):
        return False
    summed = through(total.operands[0], values.CASTS)
    return summed is power or (
        summed.primitive == "exp" and summed.operands[0] is power.operands[0]
    )


def _is_written_sigmoid(value: Value) -> bool:
    """1 / (1 + exp(-x))."""
    if value.primitive != "div" or not values.is_number(value.operands[0], 1):
        return False
    below = through(value.operands[1], values.CASTS)
    if below.primitive != "add":
        return False
    one, power = below.operands if values.is_number(below.operands[0], 1) else below.operands[::-1]
    return values.is_number(one, 1) and through(power, values.CASTS).primitive == "exp"
