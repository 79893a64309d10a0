"""Per primitive: what of its output can change when windows of its operands change.

    reach(equation, windows) -> window of the output

`windows` has one entry an operand, None for one that cannot change. The window of an output may be
larger than need be, never smaller; without a rule it is everything.
"""

from collections.abc import Callable, Sequence

from segcam_jax._jaxpr import bands, kinds, sliding_rules, spans, window_rules
from segcam_jax._jaxpr.bands import Band, Matrices
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Span, Window

Changed = Sequence[Window | None]


def reach(equation: Equation, windows: Changed, known: Matrices) -> Window:
    """The part of an equation's one output that can change.

    Args:
        equation: of a flat jaxpr, with one output.
        windows: of its operands, not all None.
        known: as `bands.matrices` finds them.
    """
    shape = equation.outvars[0].aval.shape
    band = bands.find(equation, known)
    if band is not None:
        return _banded(equation, windows, band)
    if kinds.elementwise(equation) is not None:
        return _elementwise(equation, windows)
    rule = _RULES.get(equation.primitive.name)
    return spans.whole(shape) if rule is None else rule(equation, windows)


def _joined(windows: Sequence[Window], shape: Sequence[int]) -> Window:
    first, *others = windows
    for window in others:
        first = spans.union(first, window, shape)
    return first


def _elementwise(equation: Equation, windows: Changed) -> Window:
    out = equation.outvars[0].aval.shape
    stretched = [
        tuple(s if n == m else None for s, n, m in zip(w, atom.aval.shape, out, strict=True))
        if atom.aval.shape
        else spans.whole(out)
        for atom, w in zip(equation.invars, windows, strict=True)
        if w is not None
    ]
    return _joined(stretched, out)


def _broadcast(equation: Equation, windows: Changed) -> Window:
    shape, out = equation.invars[0].aval.shape, equation.params["shape"]
    (window,) = windows
    assert window is not None
    reached: list[Span | None] = [None] * len(out)
    for axis, at in enumerate(equation.params["broadcast_dimensions"]):
        reached[at] = window[axis] if shape[axis] == out[at] else None
    return tuple(reached)


def _transpose(equation: Equation, windows: Changed) -> Window:
    (window,) = windows
    assert window is not None
    return tuple(window[source] for source in equation.params["permutation"])


def _reduced(equation: Equation, windows: Changed) -> Window:
    (window,) = windows
    assert window is not None
    return tuple(window[axis] for axis in window_rules.kept_axes(equation))


def _concatenate(equation: Equation, windows: Changed) -> Window:
    at, out = equation.params["dimension"], equation.outvars[0].aval.shape
    offset, shifted = 0, []
    for atom, window in zip(equation.invars, windows, strict=True):
        if window is not None:
            along = window[at]
            moved = None if along is None else Span(along.axis, along.starts + offset, along.size)
            shifted.append(tuple(moved if a == at else s for a, s in enumerate(window)))
        offset += atom.aval.shape[at]
    return _joined(shifted, out)


def _reshape(equation: Equation, windows: Changed) -> Window:
    (window,) = windows
    assert window is not None
    old, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    reached: list[Span | None] = [None] * len(new)
    if equation.params.get("dimensions") is not None or 0 in old:
        return tuple(reached)
    for left, right in window_rules.reshape_groups(old, new):
        windowed = [axis for axis in left if window[axis] is not None]
        if not windowed or not any(new[axis] != 1 for axis in right):
            continue
        axis, row = window_rules.major(left, old)
        have = window[axis]
        if windowed == [axis] and have is not None:
            target, per = window_rules.major(right, new)
            low, high = have.starts * row // per, -(-have.ends * row // per)
            reached[target] = spans.span(have.axis, low, high, new[target])
    return tuple(reached)


def _pad(equation: Equation, windows: Changed) -> Window:
    value, fill = windows
    out = equation.outvars[0].aval.shape
    if value is None or fill is not None:
        return spans.whole(out)
    reached = []
    for have, extent, (low, _, interior) in zip(
        value, out, equation.params["padding_config"], strict=True
    ):
        if have is None:
            reached.append(None)
            continue
        first = low + have.starts * (interior + 1)
        last = low + (have.ends - 1) * (interior + 1)
        reached.append(spans.span(have.axis, first, last + 1, extent))
    return tuple(reached)


def _slice(equation: Equation, windows: Changed) -> Window:
    (window,) = windows
    assert window is not None
    strides = equation.params["strides"] or (1,) * len(window)
    reached = []
    for have, first, step, extent in zip(
        window,
        equation.params["start_indices"],
        strides,
        equation.outvars[0].aval.shape,
        strict=True,
    ):
        if have is None:
            reached.append(None)
            continue
        low = -(-(have.starts - first) // step)
        high = (have.ends - 1 - first) // step + 1
        reached.append(spans.span(have.axis, low, high, extent))
    return tuple(reached)


def _dynamic_slice(equation: Equation, windows: Changed) -> Window:
    """Along an axis that is not cut; where a cut lies is not known ahead."""
    value, *starts = windows
    out = equation.outvars[0].aval.shape
    if value is None or any(start is not None for start in starts):
        return spans.whole(out)
    shape = equation.invars[0].aval.shape
    return tuple(s if n == m else None for s, n, m in zip(value, shape, out, strict=True))


def _dot(equation: Equation, windows: Changed) -> Window:
    out: list[Span | None] = [None] * len(equation.outvars[0].aval.shape)
    changed = [i for i, window in enumerate(windows) if window is not None]
    if len(changed) == 2:
        return tuple(out)
    (operand,) = changed
    window = windows[operand]
    assert window is not None
    for axis, at in enumerate(window_rules.dot_axes(equation)[operand]):
        if at is not None:
            out[at] = window[axis]
    return tuple(out)


def _banded(equation: Equation, windows: Changed, band: Band) -> Window:
    reached = list(_dot(equation, windows))
    window = windows[1 - band.operand]
    have = None if window is None else window[band.axis]
    reached[band.out] = None if have is None else band.reached(have)
    return tuple(reached)


def _convolution(equation: Equation, windows: Changed) -> Window:
    value, weight = windows
    out = equation.outvars[0].aval.shape
    reached: list[Span | None] = [None] * len(out)
    if value is None or weight is not None or equation.params["batch_group_count"] != 1:
        return tuple(reached)
    for axes in sliding_rules.convolution_axes(equation):
        source, target, stride, padding, dilation, _, width = axes
        have = value[source]
        if have is not None:
            low = -(-(have.starts * dilation + padding - width + 1) // stride)
            high = ((have.ends - 1) * dilation + padding) // stride + 1
            reached[target] = spans.span(have.axis, low, high, out[target])
    return tuple(reached)


def _pool(equation: Equation, windows: Changed) -> Window:
    (window,) = windows
    assert window is not None
    params, reached = equation.params, []
    for axis, (have, extent) in enumerate(zip(window, equation.outvars[0].aval.shape, strict=True)):
        if have is None:
            reached.append(None)
            continue
        step, (before, _) = params["window_strides"][axis], params["padding"][axis]
        dilation = params["base_dilation"][axis]
        width = (params["window_dimensions"][axis] - 1) * params["window_dilation"][axis] + 1
        low = -(-(have.starts * dilation + before - width + 1) // step)
        high = ((have.ends - 1) * dilation + before) // step + 1
        reached.append(spans.span(have.axis, low, high, extent))
    return tuple(reached)


_RULES: dict[str, Callable[[Equation, Changed], Window]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(sliding_rules.POOLS, _pool),
    "squeeze": _reduced,
    **{f"reduce_{name}": _reduced for name in ("sum", "max", "min", "prod", "and", "or", "xor")},
}
