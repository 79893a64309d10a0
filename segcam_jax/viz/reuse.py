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
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import Event
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_MOST = 8  # layouts: of about 10 MB each
_WORDS = 128  # lines that a renderer remembers: less than 10 MB
_BOXED = 6  # pixels around words: of the box that they may lie on
_REACH = 24  # pixels around a line of words
_AROUND = 4  # pixels around axes that lines on their borders reach


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
    """What axes hold: their elements, and how many were called for again.

    Attributes:
        elements: in the order in which they were called for.
        called: how many of them.
        box: what the axes cover, with the words around them, and what that depends on.
        pixels: of what the axes cover.
    """

    elements: list["_Element"] = dataclasses.field(default_factory=list)
    called: int = 0
    box: tuple[Hashable, Bbox | None] = (None, None)
    pixels: tuple[Bbox, Any] | None = None

    def forget_others(self) -> None:
        """Removes what was not called for."""
        for each in self.elements[self.called :]:
            each.remove()
        del self.elements[self.called :]

    def covered(self, axes: Axes, renderer: Any) -> Bbox:
        """What the axes cover; to ask matplotlib takes as long as to draw a picture."""
        around = (each.key for each in self.elements if not each.inside)
        key = (axes.bbox.bounds, *around)
        if self.box[0] != key:
            self.box = key, axes.get_tightbbox(renderer)  # It makes them stale.
        beyond = [  # What asks for no room in a layout is not in it; words may lie on a box.
            artist.get_window_extent(renderer).padded(_BOXED)
            for each in self.elements
            for artist in each.artists
            if isinstance(artist, Text | Line2D) and artist.get_visible()
        ]
        return Bbox.union([self.box[1] or axes.bbox, *beyond])


@dataclasses.dataclass(frozen=True)
class _Element:
    """Something drawn into axes.

    Attributes:
        name: of the function that draws it.
        key: of its arguments.
        inside: whether it lies inside of the axes.
        artists: that were made for it.
    """

    name: str
    key: Hashable
    inside: bool
    artists: Sequence[Artist]

    def remove(self) -> None:
        """Takes it away."""
        for artist in self.artists:
            artist.remove()


@dataclasses.dataclass(eq=False)
class Kept:
    """A figure that is used again.

    Attributes:
        made: what `keep` was given.
        laid: where its axes lie, once they do.
        bars: colour bars, by the first axes that each is of.
        legend: below the axes, and what it was made of.
    """

    made: Any
    laid: Laid | None = None
    bars: dict[Axes, Colorbar] = dataclasses.field(default_factory=dict)
    legend: tuple[Hashable, Legend] | None = None
    _key_pixels: tuple[Bbox, Any] | None = None
    _panels: dict[Axes, _Panel] = dataclasses.field(default_factory=dict)
    _size: tuple[float, ...] = ()
    _renderer: RendererAgg | None = None

    def __post_init__(self) -> None:
        self.made.figure.canvas.mpl_connect("draw_event", self._forget_pixels)

    def _forget_pixels(self, _: Event) -> None:
        """Another renderer drew the figure: axes no longer tell that they changed before."""
        self._key_pixels = None
        for panel in self._panels.values():
            panel.pixels = None

    def begin(self) -> None:
        """Takes away the words around the panels; what is in them is kept if called for."""
        for artist in self.made.figure.texts[:]:
            artist.remove()
        for panel in self._panels.values():
            panel.called = 0

    def element(
        self, axes: Axes, name: str, key: Hashable, draw: Callable[[], None], *, inside: bool
    ) -> None:
        """Draws an element, unless it is there."""
        panel = self._panels.setdefault(axes, _Panel())
        there, after = panel.elements[panel.called :][:1], panel.elements[panel.called + 1 :]
        if not there or (there[0].name, there[0].key) != (name, key):
            # Elements of other kinds lie in other layers: what follows stays as it is.
            if there and there[0].name == name and name not in {each.name for each in after}:
                panel.elements.pop(panel.called).remove()
            else:
                panel.forget_others()
            before = set(axes.get_children())
            draw()
            made = [each for each in axes.get_children() if each not in before]
            panel.elements.insert(panel.called, _Element(name, key, inside, made))
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
        if renderer is not self._renderer:
            self._renderer = renderer
            _remember_words(renderer)
        renderer.clear()
        figure.patch.draw(renderer)
        for axes in figure.axes:
            panel = self._panels.setdefault(axes, _Panel())
            if panel.pixels is None or axes.stale or size != self._size:
                box = panel.covered(axes, renderer)
                box = Bbox.intersection(box.padded(_AROUND), figure.bbox)
                axes.draw(renderer)
                panel.pixels = None if box is None else (box, canvas.copy_from_bbox(box))
            else:
                canvas.restore_region(panel.pixels[1])
        for text in figure.texts:
            text.draw(renderer)
        for legend in figure.legends:
            if self._key_pixels is None or legend.stale or size != self._size:
                legend.draw(renderer)
                box = legend.get_window_extent(renderer).padded(1)
                self._key_pixels = box, canvas.copy_from_bbox(box)
            else:
                canvas.restore_region(self._key_pixels[1])
        self._size = size
        return canvas


def _remember_words(renderer: RendererAgg) -> None:
    """Makes a renderer copy words that it drew before, at the same place, on white.

    matplotlib draws words letter by letter, in Python.
    """
    draw, canvas = renderer.draw_text, np.asarray(renderer.buffer_rgba())
    drawn: collections.OrderedDict[Hashable, tuple[tuple[slice, slice], np.ndarray | None]]
    drawn = collections.OrderedDict()

    def draw_text(
        gc: Any, x: float, y: float, s: str, prop: FontProperties, angle: float, *rest, **more
    ) -> None:
        key = (x, y, s, angle, prop.copy(), gc.get_rgb(), gc.get_alpha())
        place, pixels = drawn.get(key) or (_place(renderer, x, y, s, prop), None)
        alone = not angle and gc.get_clip_rectangle() is None and (canvas[place] == 255).all()
        if alone and pixels is not None:
            canvas[place] = pixels
            return
        before = canvas[_around(place)].copy() if alone else None
        draw(gc, x, y, s, prop, angle, *rest, **more)
        if before is not None:
            pixels = canvas[place].copy()
            canvas[place] = 255
            inside = np.array_equal(canvas[_around(place)], before)  # Some letters reach further.
            canvas[place] = pixels
            if inside:
                drawn[key] = place, pixels
                if len(drawn) > _WORDS:
                    drawn.popitem(last=False)

    renderer.draw_text = draw_text


def _place(
    renderer: RendererAgg, x: float, y: float, words: str, prop: FontProperties
) -> tuple[slice, slice]:
    """The pixels around a line of words that starts at (x, y)."""
    width, height, below = renderer.get_text_width_height_descent(words, prop, False)
    ends = (y - (height - below) - 1, y + below + 2), (x - 2, x + width + 2)
    rows, columns = (slice(*(max(math.floor(end), 0) for end in each)) for each in ends)
    return rows, columns


def _around(place: tuple[slice, slice]) -> tuple[slice, slice]:
    """The same pixels, and as far around them as letters may reach."""
    rows, columns = (slice(max(each.start - _REACH, 0), each.stop + _REACH) for each in place)
    return rows, columns


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


def element(draw: Callable[..., None], *, inside: bool = False) -> Callable[..., None]:
    """Decorates what draws into axes: it draws nothing that a figure has kept.

    Args:
        draw: the function; what it draws into axes has a layer (`zorder`) of its own.
        inside: whether all that it draws lies inside of the axes.
    """

    @functools.wraps(draw)
    def drawn(axes: Axes, *given: Any, **options: Any) -> None:
        there, work = kept(axes.figure), functools.partial(draw, axes, *given, **options)
        if there is None:
            work()
        else:
            key = tuple(map(_key, (*given, *options.items())))
            there.element(axes, draw.__name__, key, work, inside=inside)

    return drawn


inner = functools.partial(element, inside=True)


def _key(value: Any) -> Hashable:
    """What is equal for equal arguments."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_key, value))
    return value
