"""What a reader sees of a figure: its words, and that none of them hides another."""

from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def words_of(figure):
    """All that a figure says, piece by piece: titles, labels, legends, notes."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        pieces = [axes.title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            pieces += [axis.label, *axis.get_ticklabels()] if axis.get_visible() else []
        pieces += axes.get_legend().get_texts() if axes.get_legend() else []
        found += [text.get_text() for text in pieces if text.get_visible()]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [words for words in found if words]


def prose_of(figure):
    """The same in one line, without the breaks of lines."""
    return " ".join(" ".join(words_of(figure)).split())


def hidden_words(figure):
    """What leaves the figure, or lies over other words, or over axes that are not its own."""
    seen, draw = [], Text.draw
    with mock.patch.object(Text, "draw", lambda text, on: (seen.append(text), draw(text, on))[1]):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(text, text.get_window_extent(renderer)) for text in seen if text.get_text().strip()]
    edge, found = figure.bbox.padded(1), []
    for number, (text, box) in enumerate(boxes):
        own = [axes for axes in figure.axes if text in axes.findobj(Text)]
        others = [(other.get_text(), each) for other, each in boxes[:number]]
        others += [("axes", axes.get_window_extent()) for axes in figure.axes if axes not in own]
        if not (edge.contains(box.x0, box.y0) and edge.contains(box.x1, box.y1)):
            found.append((text.get_text(), "leaves the figure"))
        found += [(text.get_text(), other) for other, each in others if _shared(box, each) > 2]
    return found


def _shared(one, other):
    """Pixels that two boxes have in common, along the axis on which they have fewer."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    return min(across, min(one.y1, other.y1) - max(one.y0, other.y0))
