"""Which positions of its operands an equation's output reads; `access_table` has the primitives.

Along one axis, position o of the output reads those positions i of an operand for which

    i dilation + j = o stride + offset + k        0 <= j < width,  0 <= k < reach

has a solution. A convolution reads a reach of k; where it is transposed, the operand is dilated. A
reshape's rows have a width and a reach. Where positions are known while tracing, as those of an
interpolation, a table says them.

Read backwards, that is what a window of the output needs (`needed`); forwards, what a window of an
operand can change (`reached`). Windows may be larger than need be, never smaller.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from segcam_jax._jaxpr import spans
from segcam_jax._jaxpr.graph import Equation
from segcam_jax._jaxpr.spans import Span, Window


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """What along an axis of an operand is read along an axis of the output.

    Attributes:
        axis, out: of the operand, of the output.
        stride, offset, reach, dilation, width: as above; a negative stride has neither of the last.
        table: positions of the operand by positions of the output, bool: read; else None.
        slides: whether parameters of the equation say so, as strides and padding do.
    """

    axis: int
    out: int
    stride: int = 1
    offset: int = 0
    reach: int = 1
    dilation: int = 1
    width: int = 1
    table: np.ndarray | None = None
    slides: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether a position of the output reads the same position of the operand alone."""
        formula = (self.stride, self.offset, self.reach, self.dilation, self.width)
        return self.table is None and formula == (1, 0, 1, 1, 1)

    def places(self, have: Span) -> tuple[np.ndarray, int]:
        """The first position of the dilated operand that an output window reads, and how many."""
        low = have.starts * self.stride + self.offset
        return low, (have.size - 1) * self.stride + self.reach

    def needed(self, have: Span, extent: int) -> Span | None:
        """The window of the operand that a window of the output reads."""
        if self.table is not None:
            return _touched(self.table.T, have)
        ends = [edge * self.stride + self.offset for edge in (have.starts, have.ends - 1)]
        low, high = np.minimum(*ends), np.maximum(*ends) + self.reach
        first = -(-(low - self.width + 1) // self.dilation)
        return spans.span(have.axis, first, (high - 1) // self.dilation + 1, extent)

    def reached(self, have: Span, extent: int) -> Span | None:
        """The window of the output that reads a window of the operand."""
        if self.table is not None:
            return _touched(self.table, have)
        low = have.starts * self.dilation - self.offset - self.reach + 1
        high = (have.ends - 1) * self.dilation + self.width - 1 - self.offset
        if self.stride < 0:
            low, high = -high, -low
        step = abs(self.stride)
        return spans.span(have.axis, -(-low // step), high // step + 1, extent)


@dataclasses.dataclass(frozen=True, eq=False)
class Access:
    """What an equation reads, every output alike.

    Attributes:
        reads: of each operand. An axis of it that is missing is read whole; an axis of the output
            that is missing reads all of the operand everywhere.
        rigid: axes of the output along which it is computed whole or not at all.
        summed: axes that are summed, each with that of the other operand of a product: pairs of
            operand and axis.
    """

    reads: tuple[tuple[Read, ...], ...]
    rigid: frozenset[int] = frozenset()
    summed: tuple[tuple[tuple[int, int], ...], ...] = ()


def settled(access: Access | None, window: Window) -> Window:
    """The window that is computed for the sake of a window of the output."""
    if access is None:
        return spans.whole(window)
    return tuple(None if axis in access.rigid else have for axis, have in enumerate(window))


def needed(equation: Equation, access: Access | None, window: Window) -> list[Window]:
    """The window of each operand that a settled window of the output reads."""
    wanted: list[list[Span | None]] = [[None] * len(shape) for shape in shapes(equation)]
    for operand, reads in enumerate(() if access is None else access.reads):
        for read in reads:
            have = window[read.out]
            if have is not None:
                extent = shapes(equation)[operand][read.axis]
                wanted[operand][read.axis] = read.needed(have, extent)
    for along in () if access is None else access.summed:
        part = next(
            (wanted[operand][axis] for operand, axis in along if wanted[operand][axis]), None
        )
        for operand, axis in along:
            wanted[operand][axis] = part
    return [tuple(each) for each in wanted]


def reached(equation: Equation, access: Access, windows: Sequence[Window | None]) -> Window:
    """The window of the output that can change with windows of operands; None for one that cannot.

    Not all of them are None.
    """
    shape = equation.outvars[0].aval.shape
    found = []
    for window, reads in zip(windows, access.reads, strict=True):
        if window is None:
            continue
        out: list[Span | None] = [None] * len(shape)
        for read in reads:
            have = window[read.axis]
            if have is not None and read.out not in access.rigid:
                out[read.out] = read.reached(have, shape[read.out])
        found.append(tuple(out))
    return spans.joined(found, shape)


def shapes(equation: Equation) -> list[tuple[int, ...]]:
    """The shapes of an equation's operands."""
    return [atom.aval.shape for atom in equation.invars]


def _touched(matrix: np.ndarray, have: Span) -> Span | None:
    """The window that covers, for every place, what the rows of a window of a matrix touch."""
    count, extent = matrix.shape
    touched = np.zeros((len(have.starts), extent), bool)
    for at, start in enumerate(have.starts):
        touched[at] = matrix[start : min(start + have.size, count)].any(0)
    low = np.where(touched.any(1), touched.argmax(1), 0)
    high = np.where(touched.any(1), extent - touched[:, ::-1].argmax(1), 0)
    return spans.span(have.axis, low, high, extent)


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
