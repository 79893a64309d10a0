"""Image files as networks read them: float32 `h w c` in [0, 1]. Conversions are noted.

    image = read_image("scan.png", channels=1)   # .pixels and .notes
    padded = pad_to_multiple(image.pixels, 16)   # at the bottom and the right, reflected

Files are whatever Pillow opens, TIFFs of any bands and numbers, `.npy` arrays `h w` or `h w c`, or
rows of a Zarr array `n h w c`, named `ARRAY.zarr#ROW`.
Nothing is resized: values that are not finite are errors. Values become [0, 1], as a note says:

| values | become [0, 1] by |
|---|---|
| of 8 bits | 255 |
| of 16 bits, none negative | the largest number of 8, 10, 12, 14 or 16 bits that none exceeds |
| floats in [0, 1] | as they are |
| all others | `Reading.range`, or not at all (`Reading.as_stored`); else they are an error |
"""

import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError

from segcam_jax import _files
from segcam_jax.data import nifti, tiff, zarr_rows
from segcam_jax.types import InputError, counted

# ITU-R BT.601, as Pillow's mode "L".
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
# The largest values of 8, 10, 12, 14 and 16 bits, which sensors have.
_SENSORS = (np.uint8, np.uint16, np.int16)
_FULL_SCALES = (255, 1023, 4095, 16383, 65535)
_NPY = b"\x93NUMPY"
ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What values of image files mean.

    Attributes:
        range: the values that become 0 and 1; what lies beyond is clipped, and said. None: see the
            table above.
        as_stored: floats and signed integers are taken as they are, as of a z-scored image.
    """

    range: tuple[float, float] | None = None
    as_stored: bool = False

    def __post_init__(self):
        if self.range is not None and not -np.inf < self.range[0] < self.range[1] < np.inf:
            raise InputError(
                f"--range was given {self.range[0]:g} {self.range[1]:g}; give the value "
                "that becomes 0 and a larger one that becomes 1"
            )


@dataclasses.dataclass(frozen=True)
class ReadImage:
    """An image file, read.

    Attributes:
        pixels: the image, in [0, 1] unless it was to be taken as it is stored.
        notes: what was converted, one sentence each; empty if the file was taken as it is.
        sha256: of the file, hexadecimal.
    """

    pixels: Float[np.ndarray, "h w c"]
    notes: tuple[str, ...]
    sha256: str


def read_image(path: str | Path, *, channels: int, reading: Reading = Reading()) -> ReadImage:
    """Reads an image file for a network.

    Greyscale is repeated for a network of three channels, colour converted to luminance for a
    network of one; transparency is composited on white; integers are divided by their range; the
    orientation that a camera wrote down is applied. Each is noted in `notes`.

    Args:
        path: an image file, or a `.npy` array.
        channels: channels that the network expects.
        reading: what the values mean.

    Raises:
        InputError: if the file is missing or corrupt, has values that are not finite or outside of
            [0, 1], or channels that cannot be converted.
    """
    if nifti.is_volume(path):
        raise InputError(
            f"{str(path)!r} is a volume, but this command takes 2D images; explain it with "
            "`segcam instances` or `segcam context`"
        )
    name = str(path)
    array, row = zarr_rows.row_of(name)
    if array is not None:
        values = np.asarray(zarr_rows.open_array(Path(array))[row])
        data, found = values.tobytes(), (values, [])
    else:
        data = _files.read_bytes(path)
        found = (load_npy(data, name), []) if is_npy(path) else tiff.stored(data, name)
    if found is None:
        array, notes = _picture(data, name, reading)
    else:
        values, notes = found
        values = values[..., None] if values.ndim == 2 else values
        array, said = _in_range(values, name, reading)
        notes = notes + said
    _check_values(array, name, reading)
    pixels, note = _to_channels(array, channels, name, notes)
    return ReadImage(np.ascontiguousarray(pixels), tuple(notes + note), _files.digest_of(data))


def is_deep_png(data: bytes) -> bool:
    """Whether data is a PNG of 16 bits."""
    return data[24:25] == b"\x10" and data[:8] == b"\x89PNG\r\n\x1a\n"


def pad_to_multiple(
    pixels: Float[np.ndarray, "h w c"], multiple: int
) -> Float[np.ndarray, "u v c"]:
    """Extends an image at the bottom and the right to multiples of a number.

    The padding mirrors the image, so that no border is made up; an extent of one pixel repeats it.
    """
    for axis in (0, 1):
        missing = -pixels.shape[axis] % multiple
        if not missing:
            continue
        mode = "reflect" if pixels.shape[axis] > 1 else "edge"
        widths = [(0, missing if other == axis else 0) for other in range(pixels.ndim)]
        pixels = np.pad(pixels, widths, mode=mode)
    return pixels


def is_npy(path: str | Path) -> bool:
    """Whether a file is named as an array."""
    return Path(path).suffix.lower() == ".npy"


def load_npy(data: bytes, name: str) -> np.ndarray:
    """An array of real numbers with two or three axes; else raises `InputError`."""
    if not data.startswith(_NPY):
        raise InputError(f"{name!r} is not a readable .npy array; write it by numpy.save")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # Headers are Python's literals, which fail in many ways.
        raise InputError(f"{name!r} is not a readable .npy array: {_one_line(error)}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError(f"{name!r} does not hold an array of real numbers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{name!r} has shape {array.shape}; expected `h w` or `h w c`")
    return array


def _in_range(
    values: np.ndarray, name: str, reading: Reading
) -> tuple[Float[np.ndarray, "h w c"], list[str]]:
    """Values of any type as float32, brought to [0, 1] as `reading` says."""
    if not values.size:
        raise InputError(f"{name!r} has no pixels: {' x '.join(map(str, values.shape))}")
    dtype = values.dtype.newbyteorder("=")
    kind = dtype.kind
    # What leaves float32's range is caught as infinite later.
    with np.errstate(over="ignore"):
        if reading.range is not None:
            low, high = reading.range
            scaled = (values.astype(np.float64) - low) / (high - low)
            outside = int(((scaled < 0) | (scaled > 1)).sum())
            said = f"values from {low:g} to {high:g} became 0 to 1"
            said += f", {outside} beyond were clipped" if outside else ""
            return np.clip(scaled, 0, 1).astype(np.float32), [said]
        if kind in "fb" or (reading.as_stored and kind == "i"):
            return values.astype(np.float32), []
    low, high = int(values.min()), int(values.max())
    tops = _FULL_SCALES[:1] if dtype == np.uint8 else _FULL_SCALES
    top = next((top for top in tops if high <= top), None)
    if low < 0 or top is None or dtype not in _SENSORS:
        raise InputError(
            f"{name!r} has {dtype} values from {low} to {high}, whose range is unknown; give it "
            "(--range LOW HIGH), or save floats in [0, 1], uint8 or uint16"
        )
    said = f"{dtype} values were divided by {top}"
    if dtype.itemsize > 1 and top < _FULL_SCALES[-1]:
        said += f", because the largest is {high}; --range 0 65535 divides by all of 16 bits"
    return (values / top).astype(np.float32), [said]


def opened(data: bytes, name: str) -> Image.Image:
    """The first frame, decoded; the others are found, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(tiff.whole(data)))
            image.load()
            getattr(image, "n_frames", 1)  # Looks at the other frames, which may be damaged.
    except UnidentifiedImageError:
        raise InputError(f"{name!r} is not an image file that can be read, or is corrupt") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r} is too large: {_one_line(error)}") from None
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt data.
        raise InputError(f"{name!r} is a corrupt image: {_one_line(error)}") from None
    if 0 in image.size:
        raise InputError(f"{name!r} has no pixels: {image.height} x {image.width}")
    bits = data[24] if image.format == "PNG" else 8
    if image.mode == "L" and bits in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2**bits - 1)  # Pillow scales the pixels alone.
    return image


def _picture(data: bytes, name: str, reading: Reading) -> tuple[np.ndarray, list[str]]:
    notes = []
    reduced = is_deep_png(data)
    image = opened(data, name)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames was used")
    if image.getexif().get(0x0112, 1) not in (0, 1):
        image = ImageOps.exif_transpose(image)
        notes.append("it was turned according to its orientation tag")
    if reduced and "transparency" in image.info:
        raise InputError(
            f"{name!r} has 16 bits and a transparent colour; flatten it, or save it with 8 bits"
        )
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)[..., None]
        pixels, said = _in_range(values if image.mode == "F" else _deep(values), name, reading)
        return pixels, notes + said
    if reduced and image.mode in ("RGB", "RGBA", "LA"):
        notes.append("16-bit colour was read as 8-bit")
    # A PNG of grey or colours may name one of them that is transparent, as a palette does.
    keyed = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if image.mode in ALPHA_MODES or keyed:
        grey = image.mode in ("1", "L", "LA", "La")
        rgba = image.convert("RGBA")
        opaque = rgba.getchannel("A").getextrema() == (255, 255)
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba).convert("L" if grey else "RGB")
        if not opaque:
            notes.append("transparency was composited on white")
        elif not keyed:
            notes.append("its opaque alpha channel was dropped")
    elif image.mode == "P":
        image = image.convert("RGB")
        notes.append("palette colours were read as RGB")
    elif image.mode not in ("L", "RGB"):
        target = "L" if image.mode == "1" else "RGB"
        notes.append(f"mode {image.mode} was converted to {target}")
        image = image.convert(target)
    array = np.asarray(image)
    values = array[..., None] if array.ndim == 2 else array
    if reading.range is None:
        return values.astype(np.float32) / 255, notes
    pixels, said = _in_range(values, name, reading)
    return pixels, notes + said


def _deep(values: np.ndarray) -> np.ndarray:
    """16-bit grey, which Pillow opens at times as 32-bit integers."""
    fits = values.min() >= 0 and values.max() <= _FULL_SCALES[-1]
    return values.astype(np.uint16) if fits else values


def _check_values(array: np.ndarray, name: str, reading: Reading) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        first = np.argwhere(~finite)[0]
        raise InputError(
            f"{name!r} is NaN or infinite in {counted(int((~finite).sum()), 'value')}, the first "
            f"at row {first[0]}, column {first[1]}"
        )
    low, high = float(array.min()), float(array.max())
    if (low < 0 or high > 1) and not reading.as_stored:
        hint = "divide it by 255, or " if low >= 0 and 2 < high <= 255 else ""
        raise InputError(
            f"{name!r} has values in [{low:.6g}, {high:.6g}], expected [0, 1]; {hint}give the "
            "values that become 0 and 1 (--range LOW HIGH), or pass the values unchanged to a "
            "model of your own (--normalisation none)"
        )


def _to_channels(
    array: np.ndarray, channels: int, name: str, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    given = array.shape[-1]
    if given == channels:
        return array, []
    if given == 1 and channels == 3:
        return np.repeat(array, 3, axis=-1), ["grey was repeated for 3 channels"]
    if given == 3 and channels == 1:
        # A weighted sum of ones may round to slightly more than one.
        grey = np.minimum(array @ _LUMINANCE[:, None], 1)
        return grey, ["RGB was converted to luminance"]
    done = f" ({'; '.join(notes)})" if notes else ""
    raise InputError(
        f"{name!r} has {counted(given, 'channel')}{done}, the network expects {channels}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
