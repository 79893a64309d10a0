"""Instances in scans: found, cut out, explained, and how much of their surroundings they need.

given = read_input(files, segmenting)                 a scan as a network takes it
found = segment(network, given, segmenting)           its instances, held to a truth
crop = crop_around(given.x, found.mask(one), one.box, window=segmenting.window)
options = SaliencyOptions(methods=("smooth_grad",))
map = explain_instance(split, params, crop, "smooth_grad", options, class_index=1)
measure(crop.inside(map.values), ...)                 a map's peaks and where they lie
context_curve(fn, params, given.x, found.mask(one), class_index=1)
part, windows = stitched.around(given.x, found.mask(one), tiles)      the segmentation's own windows
stitched.Stitched(fn, roi)                                            and the network over them
"""

from segcam_jax.volumes import scan_inputs as scan_inputs, stitched as stitched
from segcam_jax.volumes.context import (
    ContextCurve as ContextCurve,
    context_curve as context_curve,
    context_table as context_table,
)
from segcam_jax.volumes.crops import Crop as Crop, crop_around as crop_around, put_back as put_back
from segcam_jax.volumes.instance_maps import (
    InstanceMap as InstanceMap,
    SaliencyOptions as SaliencyOptions,
    explain_instance as explain_instance,
    measure as measure,
    scale_of as scale_of,
    target_of as target_of,
)
from segcam_jax.volumes.scan_inputs import (
    ScanInput as ScanInput,
    ScanOptions as ScanOptions,
    read_input as read_input,
)
from segcam_jax.volumes.segmentation import (
    Segmented as Segmented,
    SegmentOptions as SegmentOptions,
    segment as segment,
)
