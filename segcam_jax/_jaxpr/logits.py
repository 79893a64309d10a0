"""Whether a traced function ends in logits: in a convolution, a product, or the sum with a bias.

What only moves, resizes, adds up or scales them is looked through. A value that a function bounds
(ReLU, tanh, a quotient) may be meant as a probability, and is none of these.
"""

from typing import Literal

from segcam_jax._jaxpr import graph, probabilities, values

_AFFINE = ("conv_general_dilated", "dot_general")
_SCALED = ("mul", "div", "neg", "add", "sub", *values.REPEATING)
_JOINING = ("concatenate", "stack")
_LINEAR = (
    *("neg", "stop_gradient", "pad", "reduce_sum", "reduce_max"),
    *("reduce_window_sum", "reduce_window_max"),
)


def held(traced: graph.Graph) -> Literal["logits", "probabilities"] | None:
    """What a model's output holds by its last operations; None: they do not tell."""
    if probabilities.ending(traced) is not None:
        return "probabilities"
    return "logits" if are_made(traced) else None


def are_made(traced: graph.Graph) -> bool:
    """Whether a function's one output holds logits for sure."""
    value = values.output(traced)
    return value is not None and _are_made(value)


def _are_made(value: values.Value) -> bool:
    name, operands = value.primitive, value.operands
    if name in _AFFINE:
        last = len(value.shape) - 1
        resized = probabilities.interpolated(value, last) if name == "dot_general" else None
        return resized is None or _are_made(resized[0])
    if name in ("add", "sub", "mul"):
        biased = name != "mul" and any(_is_bias(each, value.size) for each in operands)
        return biased or any(map(_are_made, operands))
    if name == "tanh":  # Has a sign.
        return True
    if name == "div":
        return _are_made(operands[0]) and _is_plain(operands[1])
    if name in _JOINING or name == "select_n":
        computed = [each for each in operands[name == "select_n" :] if not each.is_fixed]
        return bool(computed) and all(map(_are_made, computed))
    if name in ("min", "max", "clamp"):
        floors = operands[:1] if name == "clamp" else [each for each in operands if each.is_fixed]
        floors = [] if name == "min" else [values.number_of(each) for each in floors]
        computed = [each for each in operands if not each.is_fixed]
        return all(each is not None and each < 0 for each in floors) and all(
            map(_are_made, computed)
        )
    moves = name in _LINEAR or (name and probabilities.axis_before(value, None) is not None)
    return bool(moves) and _are_made(operands[0])


def _is_bias(value: values.Value, size: int) -> bool:
    """Whether a value of fewer elements than the sum is made of parameters alone."""
    value = values.through(value, values.REPEATING)
    if value.size >= size or value.equation is None:
        return value.size < size and not value.is_fixed
    computed = [each for each in value.operands if not each.is_fixed]
    scaled = value.primitive in _SCALED and bool(computed)
    return scaled and all(_is_bias(each, size) for each in computed)


def _is_plain(value: values.Value) -> bool:
    """Whether a divisor is an input, a parameter, a number or a deviation, and no sum of values."""
    value = values.through(value, values.REPEATING)
    return value.equation is None or value.is_fixed or value.primitive == "sqrt"
