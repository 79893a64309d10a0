"""One heatmap over its image."""

from jaxtyping import Bool, Float
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from segcam_jax.viz.canvas import LARGE, MARGIN, Canvas, heading, panel_size
from segcam_jax.viz.checks import AnyArray, as_image, as_map, as_region
from segcam_jax.viz.colour import ALPHA, grey, scale_of
from segcam_jax.viz.draw import BAR_HEIGHT, colour_bar, show_overlay

SIDE = 3.4


def overlay(
    image: Float[AnyArray, "h w *c"],
    heatmap: Float[AnyArray, "h w"],
    *,
    region: Bool[AnyArray, "h w"] | None = None,
    colormap: str | Colormap | None = None,
    signed: bool | None = None,
    alpha: float = ALPHA,
    fade: bool = True,
    title: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draws a heatmap over the grey image, with a colour bar and the region's outline.

    The opacity grows with the importance, so that the image stays visible where the map says
    nothing; the colour bar shows the colours as they look over middle grey.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), in [0, 1].
        heatmap: finite numbers at image resolution; negative ones count against the target.
        region: boolean mask of the target's pixels.
        colormap: a matplotlib colour table, for example "jet"; None takes "inferno", or the
            middle of "RdBu_r" (red supports the target, blue contradicts it) if signed.
        signed: whether to centre the colours on zero; None: if there are negative values (of more
            than a millionth of the largest).
        alpha: opacity of the most important places, in [0, 1].
        fade: whether the opacity follows the importance; False paints all with `alpha`, as many
            published figures do.
        title: a line above the image.
        value_range: (low, high) at the ends of the colour table; None takes (0, max), or
            (-max |v|, max |v|) if signed. Give it to compare figures.

    Returns:
        A figure that belongs to nobody: no pyplot, no display. An all-zero heatmap says so.

    Raises:
        InputError: if an input does not have the form above.
    """
    picture = as_image(image)
    shape = picture.shape[:2]
    values = as_map(heatmap, shape=shape)
    mask = None if region is None else as_region(region, shape)
    scale = scale_of(
        [values],
        colormap=colormap,
        signed=signed,
        value_range=value_range,
        alpha=alpha,
        fade=fade,
    )

    width, height = panel_size(shape, side=SIDE)
    words, above = heading(title, width)
    top = MARGIN + above
    canvas = Canvas(width + 2 * MARGIN, top + height + 0.1 + BAR_HEIGHT + MARGIN / 2)
    canvas.text(canvas.width / 2, MARGIN * 0.7, words, size=LARGE, across="center")
    axes = canvas.axes(MARGIN, top, width, height)
    show_overlay(axes, grey(picture), values, scale, region=mask)
    colour_bar(canvas, MARGIN, top + height + 0.1, width, scale, "importance")
    return canvas.figure
