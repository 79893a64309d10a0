"""The part of a volume that a network is given of an instance, and the way back.

A network is given a window of the volume, as in the segmentation: as large as a sliding window,
around the instance, moved into the volume; larger where the instance is. So all instances of a run
share one program, whose memory does not grow with the volume. `field="volume"` gives the network
all of it, in one piece. `field="stitched"` gives it the segmentation's own windows, those that the
instance lies in, blended alike (`volumes.stitched`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Field = Literal["window", "volume", "stitched"]
Box = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Crop:
    """The part of a volume that a network is given, and where it came from.

    Attributes:
        x: the input.
        mask: the instance in it.
        source: the part of the volume.
        place: where that part is in the input; around it lie zeros.
    """

    x: Float[np.ndarray, "u v w c"]
    mask: Bool[np.ndarray, "u v w"]
    source: tuple[slice, ...]
    place: tuple[slice, ...]

    @property
    def box(self) -> Box:
        """The part of the volume, as `(start, stop)` along each axis."""
        return tuple((along.start, along.stop) for along in self.source)

    def inside(self, values: Float[np.ndarray, "u v w *c"]) -> Float[np.ndarray, "d h w *c"]:
        """What of the values of an input lies in the volume: those of `source`."""
        return values[self.place]


def crop_around(
    x: Float[np.ndarray, "d h w c"],
    mask: Bool[np.ndarray, "d h w"],
    box: Sequence[tuple[int, int]],
    *,
    window: Sequence[int],
    multiples: Sequence[int] = (1, 1, 1),
    field: Field = "window",
) -> Crop:
    """The input around an instance.

    Args:
        x: the volume, normalised: where it ends, zeros follow.
        mask: the instance.
        box: `(start, stop)` of it along each axis.
        window: extents of the network's window; an instance that is larger gets more.
        multiples: what extents must be multiples of.
        field: `"window"`, or `"volume"` for all of it.
    """
    extents = mask.shape
    least = [
        extent if field == "volume" else max(size, stop - start)
        for (start, stop), size, extent in zip(box, window, extents, strict=True)
    ]
    sizes = [-(-size // each) * each for size, each in zip(least, multiples, strict=True)]
    # Padded on both sides, as the segmentation does it with volumes smaller than a window.
    missing = [max(0, size - extent) for size, extent in zip(sizes, extents, strict=True)]
    widths = [(each // 2, each - each // 2) for each in missing]
    moved = [(a + w[0], b + w[0]) for (a, b), w in zip(box, widths, strict=True)]
    padded = [extent + each for extent, each in zip(extents, missing, strict=True)]
    return cut_out(x, mask, window_around(moved, sizes, padded), widths)


def cut_out(
    x: Float[np.ndarray, "d h w c"],
    mask: Bool[np.ndarray, "d h w"],
    around: Sequence[slice],
    widths: Sequence[tuple[int, int]],
) -> Crop:
    """A part of a padded volume.

    Args:
        x: the volume, not padded.
        widths: zeros before and after each axis of the volume.
    """
    source, place = [], []
    for along, (before, _), extent in zip(around, widths, mask.shape, strict=True):
        start, stop = max(0, along.start - before), min(extent, along.stop - before)
        source.append(slice(start, stop))
        place.append(slice(start + before - along.start, stop + before - along.start))
    sizes = tuple(along.stop - along.start for along in around)
    values, inside = np.zeros((*sizes, x.shape[-1]), np.float32), np.zeros(sizes, bool)
    values[tuple(place)], inside[tuple(place)] = x[tuple(source)], mask[tuple(source)]
    return Crop(values, inside, tuple(source), tuple(place))


def put_back(
    values: Float[np.ndarray, "u v w"], box: Sequence[tuple[int, int]], extents: Sequence[int]
) -> Float[np.ndarray, "d h w"]:
    """The values of a part of a volume as a volume, 0 elsewhere.

    Args:
        values: of the part.
        box: `(start, stop)` of it along each axis.
        extents: of the volume.
    """
    out = np.zeros(tuple(extents), np.float32)
    out[tuple(slice(*along) for along in box)] = values
    return out


def window_around(
    box: Sequence[tuple[int, int]], size: Sequence[int], extents: Sequence[int]
) -> tuple[slice, ...]:
    """A window of a size around the middle of a box, moved into the volume.

    Args:
        box: `(start, stop)` along each axis.
        size: of the window; must hold the box and fit the volume.
    """
    window = []
    for (start, stop), length, extent in zip(box, size, extents, strict=True):
        assert stop - start <= length <= extent
        corner = min(max(0, (start + stop - length) // 2), extent - length)
        window.append(slice(corner, corner + length))
    return tuple(window)
