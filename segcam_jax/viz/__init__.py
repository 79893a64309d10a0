"""Pictures of explanations: numpy in, a matplotlib figure out.

Nothing here touches pyplot, needs a display, or writes a file, but for `save`. Images are in
[0, 1], with or without channels; heatmaps are at image resolution; every check fails with a
one-line `InputError`. Maps without negative values are drawn in sequential colours, others in
diverging ones centred on zero; a `Style` says otherwise.

    figure = viz.overlay(image, heatmap, region=mask, title="Seg-Grad-CAM, bottleneck")
    viz.save(figure, "out/overlay.png")
"""

from segcam_jax.viz.files import (
    mark_of as mark_of,
    save as save,
    save_colours as save_colours,
    to_array as to_array,
)
from segcam_jax.viz.grid import (
    Row as Row,
    gallery as gallery,
    montage as montage,
    overlay as overlay,
)
from segcam_jax.viz.panels import Classes as Classes, Noted as Noted
from segcam_jax.viz.papers import (
    Segmented as Segmented,
    four_panels as four_panels,
    six_panels as six_panels,
)
from segcam_jax.viz.plots import bias_table as bias_table
from segcam_jax.viz.reuse import reused as reused
from segcam_jax.viz.slices import Cut as Cut, slices as slices
from segcam_jax.viz.style import Style as Style, blend as blend
