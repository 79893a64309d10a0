"""Which axis of an activation its maker, a convolution or a product, says to be channels.

From the activation backwards, the nearest of them is looked for; what lies between is followed
forwards again, with its axes, to where its channels have come.
"""

from collections.abc import Callable

from segcam_jax._jaxpr import axes, graph
from segcam_jax._jaxpr.axis_rules import rule_of
from segcam_jax._jaxpr.follower import Follower
from segcam_jax._jaxpr.graph import Equation, Var

# Its axis, and what made it, in words.
Made = tuple[int, str]
_FAR = 100  # equations between an activation and its maker


def makers(traced: graph.Graph, origins: axes.Origins) -> Callable[[Var], Made | None]:
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


def _channels(equation: Equation, origins: axes.Origins) -> Made | None:
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
    follower.axes[start] = axes.whole(start.aval.shape)
    follower.run(between)
    found = [
        axis
        for axis, made_of in enumerate(follower.axes.get(end, ()))
        if [each for each, _ in made_of] == [channel]
    ]
    return (found[0], words) if len(found) == 1 else None
