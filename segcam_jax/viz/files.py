"""Figures to files and arrays."""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segcam_jax import _files
from segcam_jax.types import InputError
from segcam_jax.viz.reuse import kept
from segcam_jax.viz.style import DPI, drawing

_MARK = "segcam_jax"


def save(figure: Figure, path: str | Path, *, dpi: float = DPI, mark: str | None = None) -> Path:
    """Writes a figure under a temporary name beside `path`, then renames it.

    A reader never sees half a file, and an earlier file survives a failure.

    Args:
        figure: any matplotlib figure.
        path: the file; its suffix chooses the format, and its folder is made.
        dpi: pixels per inch.
        mark: a text that a PNG file carries unseen, for `mark_of`.

    Returns:
        `path`.

    Raises:
        InputError: if the suffix names no format, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if kind not in kinds:
        raise InputError(f"figure file {str(path)!r} has no known suffix; use one of {kinds}")
    with _files.whole_file(path) as temporary, drawing():
        if kind == "png":
            # As `savefig` has it, which would lay the figure out again before it draws.
            about = PngInfo()
            if mark is not None:
                about.add_text(_MARK, mark)
            pixels = Image.fromarray(to_array(figure, dpi=dpi))
            # Runs of bytes alone are as short as what the usual level 6 finds, to a twentieth, in
            # a third of the time.
            packed = {"compress_level": 4, "compress_type": zlib.Z_RLE}
            pixels.save(temporary, "PNG", dpi=(dpi, dpi), pnginfo=about, **packed)
        else:
            figure.savefig(temporary, format=kind, dpi=dpi)
    return path


def save_colours(values: Float[np.ndarray, "h w 3"], path: str | Path) -> Path:
    """Writes an attribution of an image's three channels as an image, as large as it is.

        0.5 + 0.1 (a - mean(a)) / (std(a) + 1e-5),    clipped to [0, 1]

    Grey is the mean; a colour says which channels should rise.

    Args:
        values: of Guided Grad-CAM, for example, in the order red, green, blue.
        path: the PNG file; its folder is made.

    Returns:
        `path`.

    Raises:
        InputError: if there are not three channels.
        FileError: if the file cannot be written.

    References:
        `deprocess_image` of pytorch-grad-cam.
    """
    values, path = np.asarray(values, np.float64), Path(path)
    if values.ndim != 3 or values.shape[-1] != 3:
        raise InputError(f"an attribution of shape {values.shape} has no colours; give h w 3")
    colours = 0.5 + 0.1 * (values - values.mean()) / (values.std() + 1e-5)
    with _files.whole_file(path) as temporary:
        pixels = (np.clip(colours, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(temporary, "PNG")
    return path


def mark_of(path: str | Path) -> str | None:
    """The mark that a PNG file was saved with; None if it has none, or there is no such file."""
    try:
        with Image.open(path) as image:
            return image.info.get(_MARK)
    except OSError:
        return None


def to_array(figure: Figure, *, dpi: float = DPI) -> UInt8[np.ndarray, "h w 3"]:
    """Renders a figure to RGB pixels, `dpi` of them per inch."""
    there = kept(figure)
    if there is not None and dpi == figure.dpi:
        with drawing():
            return _rgb(there.draw())
    dots, canvas = figure.dpi, figure.canvas
    try:
        figure.set_dpi(dpi)
        agg = FigureCanvasAgg(figure)
        with drawing():
            agg.draw()
        return _rgb(agg)
    finally:
        figure.set_dpi(dots)
        figure.set_canvas(canvas)


def _rgb(canvas: FigureCanvasAgg) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a canvas, whose letters and lines lie on white."""
    pixels = np.asarray(canvas.buffer_rgba())
    # Five times as fast as a copy.
    return np.stack([pixels[..., channel] for channel in range(3)], -1)
