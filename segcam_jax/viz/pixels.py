"""Pictures in axes, resampled as matplotlib resamples them, in a third of its time.

matplotlib resamples pixels that have an opacity, one after the other. These have none, and so all
rows are resampled at once and then all columns, which is the same up to the rounding of a colour.
"""

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox, TransformedBbox


class Pixels(AxesImage):
    """Opaque colours in axes."""

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False):
        """The pixels that a renderer draws, lowest row first, and where; as matplotlib's.

        Renderers of pages have pixels of their own (`magnification`, `unsampled`).
        """
        left, right, bottom, top = self.get_extent()
        whole = TransformedBbox(Bbox([[left, bottom], [right, top]]), self.get_transform())
        seen = Bbox.intersection(whole, self.axes.bbox)
        if unsampled or magnification != 1 or seen is None:
            return super().make_image(renderer, magnification, unsampled)
        x0, x1 = (int(np.floor(x + 0.5)) for x in (seen.xmin, seen.xmax + 1e-8))
        y0, y1 = (int(np.ceil(y - 0.5)) for y in (seen.ymin - 1e-8, seen.ymax))
        rgb: UInt8[np.ndarray, "h w 3"] = np.asarray(self.get_array())
        down = (rgb.shape[0], y1 - whole.ymax, y1 - whole.ymin, y1 - y0)
        across = (rgb.shape[1], whole.xmin - x0, whole.xmax - x0, x1 - x0)
        shown = np.full((y1 - y0, x1 - x0, 4), 255, np.uint8)
        if self.get_interpolation() == "nearest" or (_is_plain(*down) and _is_plain(*across)):
            shown[..., :3] = rgb[_nearest(*down)[:, None], _nearest(*across)]
        else:
            height, width, _ = rgb.shape
            rows = _mixed(rgb.reshape(height, -1).astype(np.float32), *_weights(*down))
            turned = np.swapaxes(rows.reshape(-1, width, 3), 0, 1).reshape(width, -1)
            columns = _mixed(turned, *_weights(*across)).reshape(x1 - x0, y1 - y0, 3)
            for channel in range(3):
                shown[..., channel] = columns[..., channel].T
        return shown[::-1], x0, y0, None


def show(
    axes: Axes,
    rgb: UInt8[np.ndarray, "h w 3"],
    extent: tuple[float, float, float, float],
    *,
    smooth: bool,
) -> None:
    """Draws a picture into axes; the extent is left, right, bottom and top of its edges.

    Args:
        smooth: whether to resample as for photographs; False keeps hard pixel edges.
    """
    image = Pixels(
        axes, interpolation="antialiased" if smooth else "nearest", origin="upper", resample=True
    )
    image.set_data(rgb)
    image.set_clip_path(axes.patch)
    axes.add_image(image)
    image.set_extent(extent)


def _is_plain(count: int, first: float, last: float, _: int) -> bool:
    """Whether pixels are so large, or so many times larger, that they are repeated as they are."""
    times = (last - first) / count
    return times > 3 or min(abs(times - 1), abs(times - 2)) < 1e-6


def _centres(count: int, first: float, last: float, drawn: int) -> Float[np.ndarray, "drawn"]:
    """Where the centres of drawn pixels lie in a picture's line, its pixels from 0 to `count`.

    Args:
        count: pixels of the picture.
        first: where it starts, in drawn pixels, and `last` where it ends.
        drawn: how many pixels are drawn.
    """
    return (np.arange(drawn) + 0.5 - first) * (count / (last - first))


@functools.lru_cache(64)
def _nearest(count: int, first: float, last: float, drawn: int):
    """The pixel of the picture that each drawn pixel shows; the former of two."""
    return np.clip(np.ceil(_centres(count, first, last, drawn)).astype(int) - 1, 0, count - 1)


@functools.lru_cache(64)
def _weights(
    count: int, first: float, last: float, drawn: int
) -> tuple[Int[np.ndarray, "drawn taps"], Float[np.ndarray, "drawn taps"]]:
    """Which pixels of the picture a drawn pixel mixes, and their shares: a raised cosine around it.

    It reaches as far as the next pixel, of the picture or drawn, whichever is farther apart.
    """
    reach = max(count / (last - first), 1.0)
    at = _centres(count, first, last, drawn)[:, None] - 0.5
    near = np.floor(at - reach).astype(int) + 1 + np.arange(math.ceil(2 * reach))
    share = 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.abs(at - near) / reach, 1))
    near = np.where(near < 0, -1 - near, near)  # Beyond its edge the picture is mirrored.
    near = np.clip(np.where(near < count, near, 2 * count - 1 - near), 0, count - 1)
    return near, (share / share.sum(1, keepdims=True)).astype(np.float32)


def _mixed(
    lines: Float[np.ndarray, "n m"],
    near: Int[np.ndarray, "drawn taps"],
    share: Float[np.ndarray, "drawn taps"],
) -> Float[np.ndarray, "drawn m"]:
    """Lines of a picture mixed; without BLAS, whose threads would wait for each other."""
    mixed = share[:, :1] * lines[near[:, 0]]
    for tap in range(1, near.shape[1]):
        mixed += share[:, tap : tap + 1] * lines[near[:, tap]]
    return mixed
