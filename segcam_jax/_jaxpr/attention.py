"""Which positions attention compares with all others, and which it keeps apart. See `axes.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

from segcam_jax._jaxpr.factors import Axes, Factors

# The input's axes that are kept apart, and those along which all positions read each other.
Met = tuple[frozenset[int], frozenset[int]]


def met(equation: Any, operands: Sequence[Axes]) -> Met:
    """Of a product of two values that both depend on the input, as queries and keys do.

    Positions meet that are summed over in both (values times weights), or left free in both
    (queries times keys); those of a batch that both share are kept apart.
    """
    contracted, batched = equation.params["dimension_numbers"]
    gone = [(*contracted[side], *batched[side]) for side in (0, 1)]
    free = [
        [axis for axis in range(len(axes)) if axis not in gone[side]]
        for side, axes in enumerate(operands)
    ]

    def made_of(side: int, places: Iterable[int]) -> frozenset[int]:
        return _of(operands[side][axis] for axis in places)

    along = [made_of(0, one) & made_of(1, other) for one, other in (contracted, free)]
    apart = made_of(0, batched[0]) | made_of(1, batched[1])
    return apart, along[0] | along[1]


def recurrent(over: Iterable[Factors], inside: Iterable[Axes], mixed: set[int]) -> Met:
    """Of a loop that carries something from one position to the next.

    Args:
        over: the axis along which it runs.
        inside: the axes of what each step is given.
        mixed: those along which positions read each other in a step.
    """
    return _of(each for axes in inside for each in axes) - mixed, _of(over)


def is_by_rows(attended: Iterable[Met], positions: set[int]) -> bool:
    """Whether rows are kept apart where other positions meet, and meet nowhere.

    Rows are what lies along the first axis, as examples of a batch would.
    """
    rows = [along for apart, along in attended if 0 in apart]
    return any(along & positions for along in rows) and not any(0 in a for _, a in attended)


def _of(made_of: Iterable[Factors]) -> frozenset[int]:
    return frozenset(axis for factors in made_of for axis, _ in factors)
