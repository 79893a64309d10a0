"""What axes are made of: factors, which a reshape joins and divides. See `axes.py`."""

import math
from collections.abc import Sequence

# The input's axes that one axis is made of, outermost first: (axis, extent).
Factors = tuple[tuple[int, int], ...]
# One entry an axis.
Axes = tuple[Factors, ...]


def resized(factors: Factors, extent: int) -> Factors:
    """The same axis with another extent, where it is made of one axis."""
    return ((factors[0][0], extent),) if len(factors) == 1 else factors


def filled(factors: Factors, extent: int) -> Factors:
    """Factors whose product is the extent; an axis of no input is one of its own, -1."""
    if extent == 1:
        return ()
    if math.prod(each for _, each in factors) == extent and factors:
        return factors
    return ((-1, extent),) if len({a for a, _ in factors}) != 1 else ((factors[0][0], extent),)


def groups(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of a shape, and of one that it is reshaped to, in groups of as many elements.

    Neighbours of extent one on both sides are a group by themselves.
    """
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        ones = _ones(before, i), _ones(after, j)
        if all(ones):
            found.append(ones)
            i, j = i + len(ones[0]), j + len(ones[1])
            continue
        olds, news = [], []
        left = right = 1
        while not (olds or news) or left != right:
            if i == len(before) and j == len(after):  # An array without elements.
                break
            if (left <= right and i < len(before)) or j == len(after):
                olds.append(i)
                left, i = left * before[i], i + 1
            else:
                news.append(j)
                right, j = right * after[j], j + 1
        found.append((tuple(olds), tuple(news)))
    return found


def _ones(shape: Sequence[int], start: int) -> tuple[int, ...]:
    """The axes of extent one from a place on."""
    end = start
    while end < len(shape) and shape[end] == 1:
        end += 1
    return tuple(range(start, end))


def divided(factors: Sequence[tuple[int, int]], extents: Sequence[int]) -> list[Factors]:
    """Factors dealt to axes of these extents, outermost first; cut where an extent ends in one."""
    left, found = list(factors), []
    for extent in extents:
        own: list[tuple[int, int]] = []
        have = 1
        while have < extent and left:
            axis, size = left.pop(0)
            want = extent // have
            if extent % have == 0 and size > want and size % want == 0:
                left.insert(0, (axis, size // want))
                size = want
            own.append((axis, size))
            have *= size
        if have != extent:  # It ends inside of an axis: what follows is made of it, too.
            left = [*own[-1:], *left]
        found.append(tuple(each for each in own if each[0] >= 0))
    return found
