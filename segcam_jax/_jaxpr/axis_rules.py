"""What each kind of equation makes of the axes of its operands: see `axes.py`."""

from collections.abc import Iterable

import jax.numpy as jnp

from segcam_jax._jaxpr import access, graph, kinds
from segcam_jax._jaxpr.follower import (
    Axes,
    Factors,
    Follower,
    Rule,
    divided,
    filled,
    met,
    recurrent,
    resized,
    shape_of,
)
from segcam_jax._jaxpr.graph import Equation


def _elementwise(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    rank = len(shape_of(equation.outvars[0]))
    full = [axes for axes in operands if len(axes) == rank]
    axes = tuple(follower.join(*each) for each in zip(*full, strict=True))
    return [axes] * len(equation.outvars)


def _convert(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    if jnp.issubdtype(before.dtype, jnp.integer) and jnp.issubdtype(after.dtype, jnp.floating):
        follower.promoted.add(frozenset(axis for each in operands[0] for axis, _ in each))
    return operands


def _transpose(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    return [tuple(operands[0][axis] for axis in equation.params["permutation"])]


def _broadcast(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    shape, before = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    axes: list[Factors] = [()] * len(shape)
    for old, new in enumerate(equation.params["broadcast_dimensions"]):
        repeats = before[old] != shape[new]
        axes[new] = resized(operands[0][old], shape[new]) if repeats else operands[0][old]
    return [tuple(axes)]


def _squeeze(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    return [_without(operands[0], equation.params["dimensions"])]


def _without(axes: Axes, gone: Iterable[int]) -> Axes:
    return tuple(each for axis, each in enumerate(axes) if axis not in gone)


def _reduce(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    gone = equation.params["axes" if "axes" in equation.params else "dimensions"]
    summed = {made_of for axes in operands if axes for axis in gone for made_of, _ in axes[axis]}
    (follower.mixed if len(summed) == 1 else follower.pooled).update(summed)
    return [_without(operands[0], gone)] * len(equation.outvars)


def _along_one(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    """A scan, a sort, a split: along one axis, each result as long as it is."""
    params = equation.params
    axis = next(params[key] for key in ("axis", "dimension") if key in params)
    follower.mix(*(axes[axis] for axes in operands if axes))
    found = []
    for variable in equation.outvars:
        axes = list(operands[0])
        axes[axis] = resized(axes[axis], shape_of(variable)[axis])
        found.append(tuple(axes))
    return found


def _same_axes(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    """A slice, a padding, a pooling, a flip: axes stay, those of which positions move are mixed."""
    before, shape = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    params = equation.params
    moved = set(params.get("dimensions", ()))
    windows = params.get("window_dimensions", (1,) * len(shape))
    moved |= {axis for axis, extent in enumerate(windows) if extent > 1}
    moved |= {axis for axis in range(len(shape)) if before[axis] != shape[axis]}
    follower.mix(*(operands[0][axis] for axis in moved))
    axes = tuple(
        resized(each, shape[axis]) if before[axis] != shape[axis] else each
        for axis, each in enumerate(operands[0])
    )
    return [axes] * len(equation.outvars)


def _concatenate(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    along, shape = equation.params["dimension"], shape_of(equation.outvars[0])
    follower.mix(*(axes[along] for axes in operands))
    axes = [follower.join(*each) for each in zip(*operands, strict=True)]
    axes[along] = resized(axes[along], shape[along])
    return [tuple(axes)]


def _convolution(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    numbers, shape = equation.params["dimension_numbers"], shape_of(equation.outvars[0])
    x, weight = operands
    follower.mix(*weight)
    batch, channels, *space = numbers.lhs_spec
    follower.mix(x[channels], *(x[axis] for axis in space))
    follower.channels.update(axis for axis, _ in x[channels])
    follower.batches.update(axis for axis, _ in x[batch])
    if equation.params["batch_group_count"] != 1:
        follower.mix(x[batch])
    axes: list[Factors] = [()] * len(shape)
    for old, new in zip(numbers.lhs_spec, numbers.out_spec, strict=True):
        axes[new] = resized(x[old], shape[new]) if old != batch else x[old]
    return [tuple(axes)]


def _product(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    contracted, batched = equation.params["dimension_numbers"]
    if all(graph.is_variable(atom) and atom in follower.axes for atom in equation.invars):
        follower.attended.add(met(equation, operands))
    axes = [
        follower.join(operands[0][one], operands[1][other])
        for one, other in zip(*batched, strict=True)
    ]
    shape = shape_of(equation.outvars[0])
    for side in (0, 1):
        follower.mix(*(operands[side][axis] for axis in contracted[side]))
        gone = (*contracted[side], *batched[side])
        summed = contracted[1 - side]
        # A fixed matrix, as interpolation's, keeps along which axis positions lie.
        fixed = follower.is_fixed(equation.invars[side]) and len(summed) == 1
        for axis, each in enumerate(operands[side]):
            if axis in gone:
                continue
            made_of = operands[1 - side][summed[0]] if fixed else each
            axes.append(resized(made_of, shape[len(axes)]) if fixed else each)
    return [tuple(axes)]


def _reshape(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    before, shape = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    axes: list[Factors] = []
    for olds, news in access.groups(before, shape):
        if len(olds) == len(news) == 1:
            axes.append(operands[0][olds[0]])
            continue
        if olds and all(before[axis] == 1 for axis in olds):
            # Which of several axes of one became which cannot be told: each may be any.
            any_of = dict.fromkeys(each for axis in olds for each in operands[0][axis])
            axes.extend([tuple(any_of)] * len(news))
            continue
        left = [each for axis in olds for each in filled(operands[0][axis], before[axis])]
        axes.extend(divided(left, [shape[axis] for axis in news]))
    return [tuple(axes)]


def _gather(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    numbers, shape = equation.params["dimension_numbers"], shape_of(equation.outvars[0])
    (x, indices), sizes = operands, equation.params["slice_sizes"]
    before = shape_of(equation.invars[0])
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    gone = (*numbers.collapsed_slice_dims, *batching)
    kept = [axis for axis in range(len(x)) if axis not in gone]
    cut = [axis for axis in kept if sizes[axis] != before[axis]]
    follower.mix(*(x[axis] for axis in (*numbers.start_index_map, *cut)), indices[-1])
    axes: list[Factors] = [()] * len(shape)
    for new, old in zip(numbers.offset_dims, kept, strict=True):
        axes[new] = resized(x[old], shape[new])
    # The others are the axes of the indices, in order: of a batch they share, or of places in it.
    others = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    shared = dict(zip(getattr(numbers, "start_indices_batching_dims", ()), batching, strict=True))
    picked = list(numbers.collapsed_slice_dims)
    for number, axis in enumerate(others):
        source: Factors = ()
        if number in shared:
            source = x[shared[number]]
        elif len(picked) == 1:  # Positions of one axis, as a resize to the nearest picks them.
            source = resized(x[picked.pop()], shape[axis])
        axes[axis] = follower.join(source, indices[number])
    return [tuple(axes)]


def _scatter(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    numbers = equation.params["dimension_numbers"]
    x, indices, updates = operands
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    shared = tuple(getattr(numbers, "scatter_indices_batching_dims", ()))
    window = numbers.update_window_dims
    places = [axis for axis in range(len(updates)) if axis not in window]
    alone = [number for number in range(len(places)) if number not in shared]
    follower.mix(*(x[axis] for axis in numbers.scatter_dims_to_operand_dims), indices[-1])
    follower.mix(*(indices[n] for n in alone), *(updates[places[n]] for n in alone))
    axes = list(x)
    gone = (*numbers.inserted_window_dims, *batching)
    kept = [axis for axis in range(len(x)) if axis not in gone]
    for axis, update in zip(kept, window, strict=True):
        axes[axis] = follower.join(x[axis], updates[update])
    for axis, number in zip(batching, shared, strict=True):
        axes[axis] = follower.join(x[axis], indices[number], updates[places[number]])
    return [tuple(axes)]


def _stack(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    axes = [follower.join(*each) for each in zip(*operands, strict=True)]
    axes.insert(equation.params["axis"], ())
    return [tuple(axes)]


def _unstack(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    axes = list(operands[0])
    follower.mix(axes.pop(equation.params["axis"]))
    return [tuple(axes) for _ in equation.outvars]


def _tile(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    new = len(shape_of(equation.outvars[0])) - len(operands[0])
    return [((),) * new + operands[0]]


def _fourier(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    """Along the last axes; of real numbers, the last one is as long as half the frequencies."""
    shape, count = shape_of(equation.outvars[0]), len(equation.params["fft_lengths"])
    (x,) = operands
    follower.mix(*x[len(x) - count :])
    return [(*x[:-1], resized(x[-1], shape[-1]))]


def _dynamic_update(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    before, part = map(shape_of, equation.invars[:2])
    axes = []
    for axis, pair in enumerate(zip(*operands[:2], strict=True)):
        if before[axis] != part[axis]:
            follower.mix(*pair)
        axes.append(follower.join(*pair))
    return [tuple(axes)]


def _loop(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    """A scan: what is scanned over is the first axis of what is stacked, mixed by a carry."""
    consts, carried = kinds.scan_counts(equation)
    body = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
    first = consts + carried
    over = [axes[0] for axes in operands[first:] if axes]
    if carried:
        follower.mix(*over)
    operands = [*operands[:first], *(axes[1:] for axes in operands[first:])]
    found: list[Axes] = []
    outer, follower.mixed = follower.mixed, set()
    for _ in range(2):  # What the first step carries on, the second reads.
        found = follower.inside(body, operands, equation.invars)
        for number in range(carried):
            pairs = zip(operands[consts + number], found[number], strict=True)
            operands[consts + number] = tuple(follower.join(*pair) for pair in pairs)
    if any(map(any, operands[consts:first])):
        follower.attended.add(recurrent(over, operands[first:], follower.mixed))
    follower.mixed |= outer
    along = follower.join(*over)
    return [*operands[consts:first], *((along, *axes) for axes in found[carried:])]


def _condition(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    results = [
        follower.inside(branch, operands[1:], equation.invars[1:])
        for branch in equation.params["branches"]
    ]
    return [
        tuple(follower.join(*each) for each in zip(*same, strict=True))
        for same in zip(*results, strict=True)
    ]


def _call(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    return follower.inside(graph.bodies(equation)[0], operands, equation.invars)


def _unknown(follower: Follower, equation: Equation, operands: list[Axes]) -> list[Axes]:
    follower.mix(*(each for axes in operands for each in axes))
    found = []
    for shape in map(shape_of, equation.outvars):
        axes: list[Factors] = [()] * len(shape)
        for operand, before in zip(operands, map(shape_of, equation.invars), strict=True):
            for axis, made_of in enumerate(operand if len(operand) == len(shape) else ()):
                if before[axis] == shape[axis]:
                    axes[axis] = axes[axis] or made_of
        found.append(tuple(axes))
    return found


def rule_of(equation: Equation) -> Rule:
    """What an equation makes of the axes of its operands."""
    if rule := _RULES.get(equation.primitive.name):
        return rule
    if equation.primitive.name in kinds.ELEMENTWISE:
        return _elementwise
    held = graph.bodies(equation)
    loops = equation.primitive.name in ("while", "scan", "cond")
    if len(held) >= 1 and not loops and len(held[0].invars) == len(equation.invars):
        return _call
    return _unknown


_RULES: dict[str, Rule] = {
    "convert_element_type": _convert,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "fft": _fourier,
    "dynamic_update_slice": _dynamic_update,
    "scan": _loop,
    "cond": _condition,
    "sharding_constraint": _elementwise,
    "scatter": _scatter,
    **{f"scatter{sign}{name}": _scatter for sign in "-_" for name in ("add", "mul", "min", "max")},
    **dict.fromkeys(
        (
            *("slice", "dynamic_slice", "pad", "rev"),
            *("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"),
        ),
        _same_axes,
    ),
    **dict.fromkeys(
        (
            *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
            *("argmax", "argmin", "reduce"),
        ),
        _reduce,
    ),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "split", "top_k"),
        _along_one,
    ),
}
