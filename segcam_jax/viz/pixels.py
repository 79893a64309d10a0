"""Pictures in axes, resampled by Pillow: as matplotlib does it, in a fraction of its time."""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox, TransformedBbox
from PIL import Image


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
        if min(x1 - x0, y1 - y0) < 1:
            return super().make_image(renderer, magnification, unsampled)
        rgb: UInt8[np.ndarray, "h w 3"] = np.asarray(self.get_array())
        # Where the drawn pixels start in the picture, in its own pixels, and how large they are.
        row, tall = whole.ymax - y1, (whole.ymax - whole.ymin) / rgb.shape[0]
        column, wide = x0 - whole.xmin, (whole.xmax - whole.xmin) / rgb.shape[1]
        shown = np.full((y1 - y0, x1 - x0, 4), 255, np.uint8)
        if self.get_interpolation() == "nearest" or (_is_plain(tall) and _is_plain(wide)):
            rows = _nearest(row, tall, y1 - y0, rgb.shape[0])
            shown[..., :3] = rgb[rows[:, None], _nearest(column, wide, x1 - x0, rgb.shape[1])]
        else:
            height, width, _ = rgb.shape
            ends = ((column + x1 - x0) / wide, (row + y1 - y0) / tall)
            box = (max(column / wide, 0), max(row / tall, 0), *map(min, ends, (width, height)))
            size, how = (x1 - x0, y1 - y0), Image.Resampling.HAMMING
            shown[..., :3] = np.asarray(Image.fromarray(rgb).resize(size, how, box))
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


def _is_plain(times: float) -> bool:
    """Whether pixels become so large, or so many times larger, that they stay as they are."""
    return times > 3 or min(abs(times - 1), abs(times - 2)) < 1e-6


def _nearest(first: float, size: float, drawn: int, count: int) -> Int[np.ndarray, "drawn"]:
    """The pixel of a picture's line that each drawn pixel shows; the former of two.

    Args:
        first: where the drawn ones start in the picture, and `size` of its pixels: in drawn ones.
        count: how many the picture has.
    """
    centres = (np.arange(drawn) + 0.5 + first) / size
    return np.clip(np.ceil(centres).astype(int) - 1, 0, count - 1)
