"""The table of what each primitive reads of its operands, in the terms of `access`.

What is not in the table is computed whole.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from segcam_jax._jaxpr import access, constants, kinds
from segcam_jax._jaxpr.access import Access, Read, shapes
from segcam_jax._jaxpr.constants import Known
from segcam_jax._jaxpr.graph import Equation

POOLS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
_REDUCTIONS = (
    "squeeze reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "argmax argmin"
).split()
_ALONG = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split", "tile")


# No table of the indices of a real image along one axis is larger.
_MOST_TOLD = 2**24


def find(equation: Equation, known: Known) -> Access | None:
    """What an equation reads, or None: then it is computed whole.

    Args:
        equation: of a flat jaxpr.
        known: as `constants.known` finds them.
    """
    if len(equation.outvars) != 1 and equation.primitive.name != "split":
        return None
    if kinds.elementwise(equation) is not None:
        return _elementwise(equation)
    if equation.primitive.name in ("dot_general", "gather"):
        return (_product if "dot" in equation.primitive.name else _gather)(equation, known)
    entry = _TABLE.get(equation.primitive.name)
    return None if entry is None else entry(equation)


def _same(axes: Sequence[int]) -> tuple[Read, ...]:
    """Each of these axes is the output's own."""
    return tuple(Read(axis, axis) for axis in axes)


def _elementwise(equation: Equation) -> Access:
    out = equation.outvars[0].aval.shape
    equal = [[a for a, n in enumerate(shape) if n == out[a]] for shape in shapes(equation)]
    return Access(tuple(map(_same, equal)))


def _broadcast(equation: Equation) -> Access:
    shape, *others = shapes(equation)
    out, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    reads = [Read(a, at) for a, at in enumerate(places) if shape[a] == out[at]]
    return Access((tuple(reads), *(() for _ in others)))


def _transpose(equation: Equation) -> Access:
    places = enumerate(equation.params["permutation"])
    return Access((tuple(Read(source, at) for at, source in places),))


def _reduction(equation: Equation) -> Access:
    (shape,) = shapes(equation)
    gone = equation.params.get("axes", equation.params.get("dimensions"))
    gone = {axis % len(shape) for axis in gone}
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    summed = gone if equation.primitive.name == "reduce_sum" else ()
    return Access(
        (tuple(Read(axis, at) for at, axis in enumerate(kept)),),
        summed=tuple(((0, axis),) for axis in sorted(summed)),
    )


def _concatenation(equation: Equation) -> Access:
    along, offset, reads = equation.params["dimension"], 0, []
    for shape in shapes(equation):
        others = _same([axis for axis in range(len(shape)) if axis != along])
        reads.append((*others, Read(along, along, offset=-offset)))
        offset += shape[along]
    return Access(tuple(reads), rigid=frozenset((along,)))


def _reshape(equation: Equation) -> Access | None:
    """The first long axis of each group of axes that hold the same elements, in rows."""
    old, new = shapes(equation)[0], equation.params["new_sizes"]
    if equation.params.get("dimensions") is not None or 0 in old:
        return None
    reads, rigid = [], set()
    for left, right in access.groups(old, new):
        source, target = (
            [axis for axis in axes if n[axis] != 1] for axes, n in ((left, old), (right, new))
        )
        if source:
            row, per = (
                math.prod(n[axis] for axis in axes[1:])
                for axes, n in ((target, new), (source, old))
            )
            reads.append(Read(source[0], target[0], row, 0, row, per, per))
            rigid.update(target[1:])
    return Access((tuple(reads),), rigid=frozenset(rigid))


def _pad(equation: Equation) -> Access:
    config = enumerate(equation.params["padding_config"])
    reads = [
        Read(a, a, offset=-low, dilation=inner + 1, slides=True) for a, (low, _, inner) in config
    ]
    return Access((tuple(reads), ()))


def _slice(equation: Equation) -> Access:
    starts = equation.params["start_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    pairs = enumerate(zip(starts, strides, strict=True))
    return Access((tuple(Read(a, a, step, first, slides=True) for a, (first, step) in pairs),))


def _dynamic_slice(equation: Equation) -> Access:
    """Along axes that are not cut; where a cut lies is not known ahead."""
    shape, *starts = shapes(equation)
    out = equation.outvars[0].aval.shape
    whole = [axis for axis, n in enumerate(shape) if n == out[axis]]
    cut = frozenset(range(len(shape))) - frozenset(whole)
    return Access((_same(whole), *(() for _ in starts)), rigid=cut)


def _mirrored(equation: Equation) -> Access:
    (shape,) = shapes(equation)
    turned = equation.params["dimensions"]
    reads = [Read(a, a, -1, n - 1) if a in turned else Read(a, a) for a, n in enumerate(shape)]
    return Access((tuple(reads),))


def _along(equation: Equation) -> Access:
    """What mixes positions along some axes only, in a way of its own."""
    mixed = equation.params.get("axis")
    reps = equation.params.get("reps", ())
    axes = [a for a, count in enumerate(reps) if count != 1] if mixed is None else [mixed]
    others = [axis for axis in range(len(shapes(equation)[0])) if axis not in axes]
    return Access((_same(others),), rigid=frozenset(axes))


def _product(equation: Equation, known: Known) -> Access:
    """A product; where one operand is a matrix that is known, it says which rows are not zero."""
    contract, batch = equation.params["dimension_numbers"]
    reads: list[list[Read]] = [[], []]
    for at, pair in enumerate(zip(*batch, strict=True)):
        for operand, axis in enumerate(pair):
            reads[operand].append(Read(axis, at))
    free = len(batch[0])
    for operand, shape in enumerate(shapes(equation)):
        for axis in range(len(shape)):
            if axis not in contract[operand] and axis not in batch[operand]:
                reads[operand].append(Read(axis, free))
                free += 1
    summed = tuple(((0, left), (1, right)) for left, right in zip(*contract, strict=True))
    for operand, atom in enumerate(equation.invars):
        matrix = constants.value(atom, known)
        if len(summed) == 1 and matrix is not None and matrix.ndim == 2:
            (column,) = reads[operand]
            table = np.moveaxis(matrix != 0, contract[operand][0], 0)
            other = contract[1 - operand][0]
            reads[1 - operand].append(Read(other, column.out, table=table))
            break
    return Access(tuple(map(tuple, reads)), summed=summed)


def _gather(equation: Equation, known: Known) -> Access | None:
    """Where indices are known, and those along an axis follow one axis of the output, a table."""
    index, (shape, _) = constants.value(equation.invars[1], known), shapes(equation)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    aligned, offsets = numbers.operand_batching_dims, numbers.offset_dims
    kept = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *aligned)]
    outer = [a for a in range(len(equation.outvars[0].aval.shape)) if a not in offsets]
    if index is None or any(sizes[axis] != shape[axis] for axis in kept):
        return None
    reads = [Read(axis, out) for axis, out in zip(kept, offsets, strict=True)]
    followed = numbers.start_indices_batching_dims
    reads += [Read(axis, outer[at]) for axis, at in zip(aligned, followed, strict=True)]
    for axis, places in zip(numbers.start_index_map, np.moveaxis(index, -1, 0), strict=True):
        if places.size == 0 or (places < 0).any() or (places + sizes[axis] > shape[axis]).any():
            return None
        along = [at for at in range(places.ndim) if (places != places.take([0], at)).any()]
        if len(along) > 1 or max(places.shape, default=1) * shape[axis] > _MOST_TOLD:
            return None
        if along:
            line = np.moveaxis(places, along[0], 0).reshape(places.shape[along[0]], -1)[:, 0]
            reads.append(Read(axis, outer[along[0]], table=np.arange(shape[axis])[:, None] == line))
        elif shape[axis] != sizes[axis]:
            return None
    apart = len({read.out for read in reads}) == len(reads)
    return Access((tuple(reads), ())) if apart else None


def _convolution(equation: Equation) -> Access:
    params, (left, kernel) = equation.params, shapes(equation)
    numbers = params["dimension_numbers"]
    (batch, channel, *space), (out_batch, features, *out_space) = numbers.lhs_spec, numbers.out_spec
    reads, weights, rigid, summed = [], [], set(), ()
    for at, (axis, out) in enumerate(zip(space, out_space, strict=True)):
        stride, dilation = params["window_strides"][at], params["lhs_dilation"][at]
        reach = (kernel[numbers.rhs_spec[2 + at]] - 1) * params["rhs_dilation"][at] + 1
        offset = -params["padding"][at][0]
        reads.append(Read(axis, out, stride, offset, reach, dilation, slides=True))
        if stride != 1 and dilation != 1:
            rigid.add(out)
    if params["batch_group_count"] == 1:
        reads.append(Read(batch, out_batch))
    else:
        rigid.add(out_batch)
    groups = params["feature_group_count"]
    if groups == params["batch_group_count"] == 1:
        weights.append(Read(numbers.rhs_spec[0], features))
        summed = (((0, channel), (1, numbers.rhs_spec[1])),)
    elif groups == left[channel] == kernel[numbers.rhs_spec[0]]:
        reads.append(Read(channel, features))
        weights.append(Read(numbers.rhs_spec[0], features))
    else:
        rigid.add(features)
    return Access((tuple(reads), tuple(weights)), frozenset(rigid), summed)


def _pooling(equation: Equation) -> Access:
    params, reads, rigid = equation.params, [], set()
    for axis, width in enumerate(params["window_dimensions"]):
        stride, dilation = params["window_strides"][axis], params["base_dilation"][axis]
        reach = (width - 1) * params["window_dilation"][axis] + 1
        offset = -params["padding"][axis][0]
        reads.append(Read(axis, axis, stride, offset, reach, dilation, slides=True))
        if dilation != 1:
            rigid.add(axis)
    return Access((tuple(reads),), frozenset(rigid))


_TABLE: dict[str, Callable[[Equation], Access | None]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenation,
    "reshape": _reshape,
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "rev": _mirrored,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(POOLS, _pooling),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG, _along),
}
