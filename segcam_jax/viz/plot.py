"""Axes of plots on a canvas: ticks, names and grid lines in the one font of all figures."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from segcam_jax.viz.canvas import FAINT, INK, NORMAL, PLAIN, SMALL, Canvas, font
from segcam_jax.viz.draw import number

GRID = {"color": "#e4e4e4", "linewidth": 0.7, "linestyle": "-", "zorder": 0}
LEFT, BELOW = 0.62, 0.46  # inches for tick labels and the name of an axis


def plot_axes(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    across: tuple[float, float],
    along: tuple[float, float],
    across_name: str = "",
    along_name: str = "",
    whole: bool = False,
    across_ticks: bool = True,
) -> Axes:
    """Adds axes for a plot, frame at (x, y): leave `LEFT` inches beside and `BELOW` below it.

    Args:
        canvas: where to draw.
        x: of the frame's left, in inches.
        y: of the frame's top.
        width: of the frame.
        height: of the frame.
        across: the values at the left and right end.
        along: the values at the lower and upper end.
        across_name: what runs to the right.
        along_name: what runs upwards.
        whole: whether upward values are counts, with ticks at whole numbers only.
        across_ticks: whether values run to the right; False where columns are named otherwise.
    """
    axes = canvas.axes(x, y, width, height)
    axes.set(xlim=across, ylim=along)
    down = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(*along)
    for value in _within(down, along):
        axes.axhline(value, **GRID)
        place = y + height * (1 - (value - along[0]) / (along[1] - along[0]))
        canvas.text(x - 0.06, place, number(value), size=SMALL, across="right", along="center")
    if across_ticks:
        steps = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(*across)
        for value in _within(steps, across):
            axes.axvline(value, **GRID)
            place = x + width * (value - across[0]) / (across[1] - across[0])
            canvas.text(place, y + height + 0.05, number(value), size=SMALL, across="center")
    middle = x + width / 2
    canvas.text(middle, y + height + 0.22, across_name, size=NORMAL, across="center", colour=INK)
    canvas.figure.text(
        (x - LEFT + 0.1) / canvas.width,
        1 - (y + height / 2) / canvas.height,
        along_name,
        rotation=90,
        ha="center",
        va="center",
        color=INK,
        fontproperties=font(NORMAL),
        **PLAIN,
    )
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set(edgecolor=FAINT, linewidth=0.8)
    return axes


def _within(values: Sequence[float], ends: tuple[float, float]) -> list[float]:
    """The ticks between the ends, but for rounding."""
    slack = 1e-9 * (ends[1] - ends[0])
    return [float(v) for v in values if ends[0] - slack <= v <= ends[1] + slack]
