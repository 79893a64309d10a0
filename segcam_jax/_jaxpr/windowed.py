"""One equation after the other, each computed on a window of its output only.

What a window reads of the operands is in `access`. The operation on that is the operation itself,
but for its padding: positions outside of an image do not exist as data, so a convolution or pooling
whose window touches the border takes its padding there (`spans.take`), and only there. A transposed
convolution is padded as far as any place of the window needs, and cut to size after.

Where an operand is 0 but for a window of an axis that is summed, as over the one ablated channel,
only that window is summed, and of the other operand only its weights are read:

    conv(D, W)[p, o] = sum over taps t and channels k of the window  D[p + t, k] W[t, k, o]
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segcam_jax._jaxpr import access, graph, kinds, lowering, spans
from segcam_jax._jaxpr.access import Access, Read
from segcam_jax._jaxpr.graph import Equation, Rewrite
from segcam_jax._jaxpr.spans import Places, Span, Window, Windowed

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation, and which part of it is computed.

    Attributes:
        access: what it reads; None: it is computed whole.
        window: of its output, of every one alike.
        needs: the window of each operand.
        summed: an operand and its axis of which only what is needed is summed, the rest being 0.
    """

    equation: Equation
    access: Access | None
    window: Window
    needs: Sequence[Window]
    summed: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the equation runs as it is."""
        return self.summed is None and all(have is None for have in self.window)


def run(
    steps: Sequence[Step],
    environment: dict[Any, Windowed],
    places: Places,
    around: Mapping[Any, Array] = MappingProxyType({}),
    rule: Rewrite | None = None,
) -> None:
    """Computes steps in turn.

    Args:
        environment: variable -> value; results are added.
        around: variable -> all of it where it is not 0 outside of its window.
        rule: how an equation runs that is computed whole, as in `graph.evaluate`.
    """
    for step in steps:
        atoms = zip(step.equation.invars, step.needs, strict=True)
        operands = [spans.widened(read(environment, atom), n, places) for atom, n in atoms]
        outputs = step.equation.outvars
        if not step.is_whole:
            for variable, array in zip(outputs, evaluate(step, operands, places), strict=True):
                value = Windowed(array, step.window, variable.aval.shape, around.get(variable))
                environment[variable] = value
            continue
        arrays = [operand.array for operand in operands]
        results = None if rule is None else rule(step.equation, arrays)
        results = graph.bind(step.equation, *arrays) if results is None else results
        environment.update(zip(outputs, map(spans.all_of, results), strict=True))


def read(environment: Mapping[Any, Windowed], atom: Any) -> Windowed:
    """The value of a variable or a literal."""
    return environment[atom] if graph.is_variable(atom) else spans.all_of(atom.val)


def evaluate(step: Step, operands: Sequence[Windowed], places: Places) -> list[Array]:
    """The window of an equation's outputs, from operands that hold what is needed of them."""
    equation, window = step.equation, step.window
    assert step.access is not None
    if equation.primitive.name in ("reshape", "gather"):
        moved = _reshaped if equation.primitive.name == "reshape" else _taken
        return [moved(step, operands[0], places)]
    params, cuts, arrays = _sized(equation, window), [], []
    for value, needs, reads in zip(operands, step.needs, step.access.reads, strict=True):
        sliding = [each for each in reads if each.slides and window[each.out] is not None]
        kept = list(needs)
        for each in sliding:
            if each.dilation == 1:
                kept[each.axis] = value.window[each.axis]
        value = Windowed(spans.narrow(value, tuple(kept), places), tuple(kept), value.shape)
        for each in sliding:
            have = window[each.out]
            assert have is not None
            if each.dilation == 1:
                low, size = each.places(have)
                fill = _outside(equation, operands)
                array = spans.take(value, each.axis, have.axis, low, size, fill, places)
                value = spans.taken(value, each.axis, array)
                _pad(equation, params, each.axis, (0, 0), size)
            else:
                padding, offset = _spread(value, each, have)
                _pad(equation, params, each.axis, padding, value.array.shape[each.axis])
                cuts.append((each.out, have, offset))
        arrays.append(value.array)
    result = _bind(step, params, arrays)
    for axis, have, offset in cuts:
        at = jnp.asarray(offset, jnp.int32)[places[have.axis]]
        result = jax.lax.dynamic_slice_in_dim(result, at, have.size, axis)
    return result if isinstance(result, list) else [result]


def _bind(step: Step, params: dict, arrays: Sequence[Array]) -> Any:
    equation = step.equation
    function = kinds.elementwise(equation)
    if function is not None:
        return function(*arrays)
    if equation.primitive.name == "conv_general_dilated" and step.summed is not None:
        return _of_few_channels(params, *arrays)
    return equation.primitive.bind(*arrays, **params)


def _sized(equation: Equation, window: Window) -> dict[str, Any]:
    """The parameters for a window of the output, but for padding."""
    params = dict(equation.params)
    for key in ("shape", "slice_sizes"):
        if key in params and equation.primitive.name in ("broadcast_in_dim", "dynamic_slice"):
            params[key] = spans.sizes(window, params[key])
    if equation.primitive.name == "conv_general_dilated":
        features = window[params["dimension_numbers"].out_spec[1]]
        if features is not None and params["feature_group_count"] != 1:
            params["feature_group_count"] = features.size
    return params


def _pad(equation: Equation, params: dict, axis: int, padding: tuple[int, int], size: int) -> None:
    """Replaces the padding along an axis of an operand that is `size` long."""

    def put(key: str, at: int, value: Any) -> None:
        params[key] = tuple(value if i == at else old for i, old in enumerate(params[key]))

    name = equation.primitive.name
    if name == "conv_general_dilated":
        put("padding", params["dimension_numbers"].lhs_spec.index(axis) - 2, padding)
    elif name == "pad":
        put("padding_config", axis, (*padding, params["padding_config"][axis][2]))
    elif name == "slice":
        put("start_indices", axis, 0)
        put("limit_indices", axis, size)
    else:
        put("padding", axis, padding)


def _outside(equation: Equation, operands: Sequence[Windowed]) -> Array:
    """What lies outside of an image: in a pooling what changes nothing."""
    name, dtype = equation.primitive.name, equation.invars[0].aval.dtype
    if name == "pad":
        return operands[1].array
    if name not in ("reduce_window_max", "reduce_window_min"):
        return np.zeros((), dtype)
    if dtype == np.bool_:
        return np.asarray(name == "reduce_window_min")
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return np.asarray(limits.min if name == "reduce_window_max" else limits.max, dtype)
    return np.asarray(-np.inf if name == "reduce_window_max" else np.inf, dtype)


def _spread(value: Windowed, read: Read, have: Span) -> tuple[tuple[int, int], np.ndarray]:
    """Padding of a window of a dilated operand, and where its outputs begin, for every place.

    Output o of the whole starts at o + offset of the dilated operand; of the window, whose first
    element lies at origin * dilation, it is output o + offset - origin * dilation + before.
    """
    source = value.window[read.axis]
    origin = np.zeros_like(have.starts) if source is None else source.starts
    extent = (value.array.shape[read.axis] - 1) * read.dilation + 1
    shift = have.starts + read.offset - origin * read.dilation
    before = max(0, -int(shift.min()))
    after = int((shift + before + have.size).max()) - (extent + before - read.reach + 1)
    return (before, after), shift + before


def _reshaped(step: Step, value: Windowed, places: Places) -> Array:
    """Flattens each group of axes, slices it there, and gives it its new axes."""
    assert step.access is not None
    (wanted,), new = step.needs, step.equation.params["new_sizes"]
    array = spans.narrow(value, wanted, places)
    groups = access.groups(value.shape, new)
    array = array.reshape([math.prod(array.shape[axis] for axis in left) for left, _ in groups])
    for read in step.access.reads[0]:
        have, source = step.window[read.out], wanted[read.axis]
        if have is None:
            continue
        at = next(at for at, (_, right) in enumerate(groups) if read.out in right)
        origin = 0 if source is None else spans.start(source, places) * read.dilation
        offset = spans.start(have, places) * read.stride - origin
        array = jax.lax.dynamic_slice_in_dim(array, offset, have.size * read.stride, at)
    return array.reshape(spans.sizes(step.window, new))


def _taken(step: Step, value: Windowed, places: Places) -> Array:
    """Along one axis after the other what its table says, in the order of the output's axes."""
    assert step.access is not None
    wanted, reads = step.needs[0], sorted(step.access.reads[0], key=lambda read: read.out)
    array = spans.narrow(value, wanted, places)
    for read in reads:
        if read.table is None:
            continue
        rows = jnp.asarray(read.table.argmax(0), jnp.int32)
        have, source = step.window[read.out], wanted[read.axis]
        if have is not None:
            rows = jax.lax.dynamic_slice_in_dim(rows, spans.start(have, places), have.size)
        if source is not None:
            rows = rows - spans.start(source, places)
        array = jnp.take(array, rows, read.axis, mode="clip")
    gone = [axis for axis in range(array.ndim) if axis not in [read.axis for read in reads]]
    order = [*(read.axis for read in reads), *gone]
    array = array.transpose(order).reshape([array.shape[read.axis] for read in reads])
    sizes = spans.sizes(step.window, step.equation.outvars[0].aval.shape)
    return jax.lax.broadcast_in_dim(array, sizes, [read.out for read in reads])


def _of_few_channels(params: dict, value: Array, weight: Array) -> Array:
    """A convolution of few channels as one product of patches over taps and channels."""
    numbers, rank = params["dimension_numbers"], value.ndim - 2
    x = value.transpose(numbers.lhs_spec)
    w = weight.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    inner = [d - 1 for d in params["lhs_dilation"]]
    config = [(0, 0, 0)] * 2 + [(*p, d) for p, d in zip(params["padding"], inner, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
    taps = lowering.taps(
        x, w.shape[:rank], params["window_strides"], params["rhs_dilation"], first=2
    )
    out = taps[0].shape[2:]
    patches = jnp.stack(taps, 1).reshape(x.shape[0], -1, math.prod(out))
    product = jax.lax.dot_general(
        patches,
        w.reshape(-1, w.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    y = product.reshape(x.shape[0], *out, w.shape[-1])
    ours = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return y.transpose([ours.index(axis) for axis in range(y.ndim)])
