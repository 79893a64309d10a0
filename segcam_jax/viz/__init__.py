"""Pictures of explanations: numpy in, a matplotlib figure out.

Nothing here touches pyplot, needs a display, or writes a file, but for `save`. Images are in
[0, 1], with or without channels; heatmaps are at image resolution; every check fails with a
one-line `InputError`. Maps without negative values are drawn in sequential colours, others in
diverging ones centred on zero.

    figure = viz.overlay(image, heatmap, region=mask, title="Seg-Grad-CAM, bottleneck")
    viz.save(figure, "out/overlay.png")
"""

from segcam_jax.viz.bias import bias_table as bias_table
from segcam_jax.viz.colour import blend as blend
from segcam_jax.viz.files import mark_of as mark_of, save as save, to_array as to_array
from segcam_jax.viz.montage import montage as montage
from segcam_jax.viz.overlay import overlay as overlay
from segcam_jax.viz.panels import four_panels as four_panels, six_panels as six_panels
from segcam_jax.viz.slices import slices as slices
