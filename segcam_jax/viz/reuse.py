"""Figures made of the axes of those before, where most of what they show is as it was.

To make axes, to lay them out and to draw what did not change is most of the work of a figure.

    with reused():
        for image in images:
            save(six_panels(...), ...)    # a figure lives until the next of its layout is made

Pixels are those of figures made anew. A layout is kept by all that it depends on: shapes of panels,
and the words around them. What a panel holds is kept element by element, as long as it is called
for in the same order with the same arguments.
"""

import collections
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import Event
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_MOST = 8  # layouts: of about 10 MB each
_AROUND = 4.0  # pixels around axes that lines on their borders reach


@dataclasses.dataclass(frozen=True)
class Laid:
    """Where axes lie in a figure.

    Attributes:
        size: of the figure when it was laid out, in inches.
        box: what holds all axes with their words, in inches.
        places: of the axes (left, bottom, width, height), in shares of the figure.
        place: of all axes in the figure that was made last: its size, and how far they were moved.
    """

    size: np.ndarray
    box: Bbox
    places: Mapping[Axes, tuple[float, float, float, float]]
    place: tuple[float, ...] = ()


@dataclasses.dataclass(eq=False)
class _Panel:
    """What axes hold: a key and artists of each element, and how many were called for again."""

    elements: list[tuple[Hashable, list[Artist]]] = dataclasses.field(default_factory=list)
    called: int = 0
    pixels: tuple[Bbox, Any] | None = None

    def forget_others(self) -> None:
        """Removes what was not called for."""
        for _, artists in self.elements[self.called :]:
            for artist in artists:
                artist.remove()
        del self.elements[self.called :]


@dataclasses.dataclass(eq=False)
class Kept:
    """A figure that is used again.

    Attributes:
        made: what `keep` was given.
        laid: where its axes lie, once they do.
        bars: colour bars, by the first axes that each is of.
    """

    made: Any
    laid: Laid | None = None
    bars: dict[Axes, Colorbar] = dataclasses.field(default_factory=dict)
    _panels: dict[Axes, _Panel] = dataclasses.field(default_factory=dict)
    _size: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.made.figure.canvas.mpl_connect("draw_event", self._forget_pixels)

    def _forget_pixels(self, _: Event) -> None:
        """Another renderer drew the figure: axes no longer tell that they changed before."""
        for panel in self._panels.values():
            panel.pixels = None

    def begin(self) -> None:
        """Takes away what stands around the panels; what is in them is kept if called for."""
        for artist in (*self.made.figure.texts, *self.made.figure.legends):
            artist.remove()
        for panel in self._panels.values():
            panel.called = 0

    def element(self, axes: Axes, key: Hashable, draw: Callable[[], None]) -> None:
        """Draws an element, unless it is there."""
        panel = self._panels.setdefault(axes, _Panel())
        if panel.called == len(panel.elements) or panel.elements[panel.called][0] != key:
            panel.forget_others()
            before = set(axes.get_children())
            draw()
            there = [each for each in axes.get_children() if each not in before]
            panel.elements.append((key, there))
        panel.called += 1

    def forget_others(self) -> None:
        """Removes what was not called for since `begin`."""
        for panel in self._panels.values():
            panel.forget_others()

    def draw(self) -> FigureCanvasAgg:
        """Draws what has changed; what has not is there as pixels."""
        figure: Figure = self.made.figure
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        renderer, size = canvas.get_renderer(), tuple(figure.bbox.size)
        renderer.clear()
        figure.patch.draw(renderer)
        for axes in figure.axes:
            panel = self._panels.setdefault(axes, _Panel())
            if panel.pixels is None or axes.stale or size != self._size:
                box = axes.get_tightbbox(renderer) or axes.bbox  # It makes them stale.
                box = Bbox.intersection(box.padded(_AROUND), figure.bbox)
                axes.draw(renderer)
                panel.pixels = None if box is None else (box, canvas.copy_from_bbox(box))
            else:
                canvas.restore_region(panel.pixels[1])
        for artist in (*figure.texts, *figure.legends):
            artist.draw(renderer)
        self._size = size
        return canvas


class _Here(threading.local):
    """What a thread keeps: figures by what their layouts depend on; whether new ones are kept."""

    def __init__(self):
        self.figures: collections.OrderedDict[Hashable, Kept] = collections.OrderedDict()
        self.active = False


_here = _Here()


@contextlib.contextmanager
def reused() -> Iterator[None]:
    """In the block, in this thread, a figure may be made of one before, which is then gone.

    Figures that are there when the outermost block ends stay as they are.
    """
    before, _here.active = _here.active, True
    try:
        yield
    finally:
        _here.active = before
        if not before:
            _here.figures.clear()


def taken(key: Hashable) -> Any:
    """What was kept for such figures, to be drawn again; None if nothing is."""
    if not _here.active or key not in _here.figures:
        return None
    _here.figures.move_to_end(key)
    _here.figures[key].begin()
    return _here.figures[key].made


def keep(key: Hashable, made: Any) -> None:
    """Keeps what has a figure for figures like it, where that is wanted."""
    if _here.active:
        _here.figures[key] = Kept(made)
        if len(_here.figures) > _MOST:
            _here.figures.popitem(last=False)


def kept(figure: Any) -> Kept | None:
    """What is kept of a figure; None of any other."""
    return next((each for each in _here.figures.values() if each.made.figure is figure), None)


def element(draw: Callable[..., None]) -> Callable[..., None]:
    """Decorates what draws into axes: it draws nothing that a figure has kept."""

    @functools.wraps(draw)
    def drawn(axes: Axes, *given: Any, **options: Any) -> None:
        there, work = kept(axes.figure), functools.partial(draw, axes, *given, **options)
        if there is None:
            work()
        else:
            told = (*given, *options.items())
            there.element(axes, (draw.__name__, *map(_key, told)), work)

    return drawn


def _key(value: Any) -> Hashable:
    """What is equal for equal arguments."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_key, value))
    return value
