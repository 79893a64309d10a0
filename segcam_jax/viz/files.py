"""Figures to files and arrays."""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from segcam_jax import _files
from segcam_jax.types import InputError
from segcam_jax.viz.reuse import kept
from segcam_jax.viz.style import DPI, drawing

_MARK = "segcam_jax"
_UP = 2  # The filter of a row of a PNG file, the difference from the row above.


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
            # `savefig` would lay the figure out again before it draws.
            Path(temporary).write_bytes(_png(to_array(figure, dpi=dpi), dpi, mark))
        else:
            figure.savefig(temporary, format=kind, dpi=dpi)
    return path


def _png(pixels: UInt8[np.ndarray, "h w 3"], dpi: float, mark: str | None) -> bytes:
    """A PNG file: each row is stored as what it differs by from the row above.

    Pillow tries five such filters on each row, and takes twice as long in all; its files are a
    tenth smaller.
    """
    height, width, _ = pixels.shape
    rows = np.full((height, 1 + 3 * width), _UP, np.uint8)
    values = pixels.reshape(height, -1)
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    dots = round(dpi / 0.0254)  # a metre
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks.append((b"pHYs", struct.pack(">IIB", dots, dots, 1)))
    if mark is not None:
        chunks.append((b"iTXt", f"{_MARK}\0\0\0\0\0{mark}".encode()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 2)), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        check = zlib.crc32(data, zlib.crc32(kind))
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)]
    return b"".join(parts)


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
    return np.stack(
        [pixels[..., channel] for channel in range(3)], -1
    )  # Five times as fast as a copy.
