"""A figure of what is known of a volume: modalities side by side, marked regions outlined."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from segcam_jax.types import InputError, counted
from segcam_jax.viz.canvas import GAP, LARGE, MARGIN, NORMAL, Canvas, heading
from segcam_jax.viz.draw import OUTLINE_SHADOW, edges, legend, legend_height, show

WIDE = 1.9  # inches: a panel
NAME = 0.22


def marked_slices(
    images: Mapping[str, Float[np.ndarray, "x y z"]],
    regions: Mapping[str, tuple[str, Bool[np.ndarray, "x y z"]]],
    cuts: Sequence[int],
    *,
    title: str | None = None,
) -> Figure:
    """Draws axial slices: each image as it is, and each with the outlines of regions.

    Args:
        images: name -> volume in [0, 1], axes to the right, the front and the top.
        regions: name -> (colour, where).
        cuts: the third index of each slice.
        title: a line above.

    Raises:
        InputError: if there is no image or no slice.
    """
    if not images or not cuts:
        raise InputError(
            f"{counted(len(images), 'image')}, {counted(len(cuts), 'slice')}; give at least one "
            "each"
        )
    across, up, _ = next(iter(images.values())).shape
    tall = WIDE * up / across
    columns = [(name, marked) for name in images for marked in (False, True)]
    width = 2 * MARGIN + len(columns) * (WIDE + GAP) - GAP
    words, above = heading(title, width - 2 * MARGIN)
    top = MARGIN + above + NAME
    below = top + len(cuts) * (tall + GAP)
    entries = [(name, to_rgb(colour), False) for name, (colour, _) in regions.items()]
    canvas = Canvas(width, below + legend_height(entries, width) + MARGIN)
    canvas.text(width / 2, MARGIN / 2, words, size=LARGE, across="center")
    for column, (name, marked) in enumerate(columns):
        x = MARGIN + column * (WIDE + GAP)
        label = f"{name}, marked" if marked else name
        canvas.text(x + WIDE / 2, top - 0.04, label, size=NORMAL, across="center", along="bottom")
        for row, cut in enumerate(cuts):
            axes = canvas.axes(x, top + row * (tall + GAP), WIDE, tall)
            show(axes, np.repeat(images[name][:, ::-1, cut].T[..., None], 3, axis=-1))
            for colour, region in regions.values() if marked else ():
                _outlined(axes, region[:, ::-1, cut].T, colour)
    legend(canvas, MARGIN, below, width - 2 * MARGIN, entries)
    return canvas.figure


def _outlined(axes, region: Bool[np.ndarray, "h w"], colour: str) -> None:
    if not region.any():
        return
    for shade, width in ((OUTLINE_SHADOW, 1.8), (colour, 1.0)):
        axes.add_collection(
            LineCollection(list(edges(region)), colors=shade, linewidths=width, zorder=3),
            autolim=False,
        )
