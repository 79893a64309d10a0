"""TIFFs of all bands and numbers, and what their values become."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from segcam_jax.data.images import Reading, read_image
from segcam_jax.data.mask_images import read_mask
from segcam_jax.types import InputError

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 4096, (8, 9, 3), dtype=np.uint16)
DEEP[0, 0] = 4095


def written(tmp_path, values, **options):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_colour_keeps_its_bits(tmp_path, planar):
    """12 bits of data: Pillow leaves 16 of their 4,096 levels."""
    given = DEEP if planar == "contig" else np.moveaxis(DEEP, -1, 0)
    path = written(tmp_path, given, photometric="rgb", planarconfig=planar)
    image = read_image(path, channels=3)
    np.testing.assert_allclose(image.pixels, DEEP / 4095, rtol=1e-6)
    assert "uint16 values were divided by 4095" in image.notes[0]


@pytest.mark.parametrize(
    ("largest", "top"), [(235, 255), (256, 1023), (16383, 16383), (16384, 65535)]
)
def test_16_bits_are_divided_by_the_range_that_they_use(tmp_path, largest, top):
    """A largest value of 235 became 0.0036, black, without a word."""
    values = np.full((8, 9), largest, np.uint16)
    for path in (written(tmp_path, values), tmp_path / "image.npy"):
        np.save(tmp_path / "image.npy", values)
        image = read_image(path, channels=1)
        np.testing.assert_allclose(image.pixels, largest / top, rtol=1e-6)
        assert f"divided by {top}" in image.notes[0]
        assert ("--range 0 65535" in image.notes[0]) == (top < 65535)


def test_a_range_is_obeyed_and_clips_what_lies_beyond(tmp_path):
    values = np.array([[100, 200], [300, 500]], np.uint16)
    image = read_image(written(tmp_path, values), channels=1, reading=Reading((100, 300)))
    np.testing.assert_array_equal(image.pixels[..., 0], [[0, 0.5], [1, 1]])
    assert "1 beyond were clipped" in image.notes[0]
    with pytest.raises(InputError, match="--range was given 3 1; give"):
        Reading((3, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    values = RNG.random((8, 9)).astype(dtype)
    image = read_image(written(tmp_path, values), channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], values.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_bands_are_channels(tmp_path, dtype):
    values = (RNG.random((8, 9, 5)) * (1 if dtype is np.float32 else 255)).astype(dtype)
    path = written(tmp_path, values, photometric="minisblack", planarconfig="contig")
    scale = 1 if dtype is np.float32 else 255
    np.testing.assert_allclose(read_image(path, channels=5).pixels, values / scale, rtol=1e-6)
    with pytest.raises(InputError, match=r"5 channels.*, the network expects 3"):
        read_image(path, channels=3)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("bands", "photometric"), [(2, "minisblack"), (4, "rgb")])
def test_8_bit_bands_whose_meaning_is_not_said_are_channels(tmp_path, bands, photometric, planar):
    """Pillow drops them, or cannot open the file."""
    values = RNG.integers(0, 256, (8, 9, bands), dtype=np.uint8)
    given = values if planar == "contig" else np.moveaxis(values, -1, 0)
    told = {"photometric": photometric, "planarconfig": planar, "extrasamples": ["unspecified"]}
    path = written(tmp_path, given, **told)
    np.testing.assert_allclose(read_image(path, channels=bands).pixels, values / 255, rtol=1e-6)
    with pytest.raises(InputError, match=f"{bands} channels .*, the network expects {bands - 1}"):
        read_image(path, channels=bands - 1)


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_z_scored_images_are_taken_as_they_are_stored_or_asked_about(tmp_path, suffix):
    values = RNG.normal(size=(8, 9)).astype(np.float32)
    path = tmp_path / f"image.{suffix}"
    np.save(path, values) if suffix == "npy" else tifffile.imwrite(path, values)
    with pytest.raises(InputError, match=r"--range LOW HIGH.*--normalisation none"):
        read_image(path, channels=1)
    image = read_image(path, channels=1, reading=Reading(as_stored=True))
    np.testing.assert_array_equal(image.pixels[..., 0], values)


def test_signed_integers_need_a_range(tmp_path):
    values = np.array([[-1024, 0], [1000, 3071]], np.int16)
    path = written(tmp_path, values)
    with pytest.raises(InputError, match=r"int16 values from -1024 to 3071.*--range LOW HIGH"):
        read_image(path, channels=1)
    image = read_image(path, channels=1, reading=Reading((-1024, 3071)))
    np.testing.assert_allclose(image.pixels[..., 0], (values + 1024.0) / 4095, rtol=1e-6)


def test_pages_orientation_alpha_and_what_cannot_be_decoded_are_said(tmp_path):
    stack = np.stack([DEEP[..., 0], DEEP[..., 1]])
    image = read_image(written(tmp_path, stack, photometric="minisblack"), channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], DEEP[..., 0] / 4095, rtol=1e-6)
    assert "the first of 2 pages" in image.notes[0]

    turned = written(tmp_path, DEEP, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    expected = np.rot90(DEEP, -1) / 4095
    np.testing.assert_allclose(read_image(turned, channels=3).pixels, expected, rtol=1e-6)

    alpha = np.concatenate([DEEP, np.full((8, 9, 1), 65535, np.uint16)], -1)
    opaque = written(tmp_path, alpha, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read_image(opaque, channels=3).pixels, DEEP / 4095, rtol=1e-6)
    alpha[0, 0, 3] = 7
    clear = written(tmp_path, alpha, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(InputError, match="partly transparent"):
        read_image(clear, channels=3)

    cut = tmp_path / "cut.tif"
    for length in (6, 30, 200):
        cut.write_bytes(opaque.read_bytes()[:length])
        with pytest.raises(InputError):
            read_image(cut, channels=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_without_pixels_are_one_line(tmp_path, dtype):
    path = tmp_path / "a.tif"
    Image.fromarray(np.ones((16, 16), dtype)).save(path)
    data = path.read_bytes()
    tags = {int.from_bytes(data[at : at + 2], "little"): at for at in range(10, 10 + 12 * 9, 12)}
    for tag in (256, 257):  # Width and height.
        path.write_bytes(data[: tags[tag] + 8] + bytes(4) + data[tags[tag] + 12 :])
        with pytest.raises(InputError, match=r"a\.tif' (has no pixels|is (a|not an) )"):
            read_image(path, channels=1)


def test_a_damaged_second_frame_is_one_line(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.ones((16, 16), np.uint8)).save(path)
    data = path.read_bytes()
    end = 10 + 12 * int.from_bytes(data[8:10], "little")
    # A frame behind all others, of one tag that says no extents.
    frame = (1).to_bytes(2, "little") + bytes(16)
    path.write_bytes(data[:end] + len(data).to_bytes(4, "little") + data[end + 4 :] + frame)
    with pytest.raises(InputError, match="is a corrupt image"):
        read_image(path, channels=1)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint16, 4095), (np.uint8, 255)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_strips_that_are_missing_are_one_line(tmp_path, dtype, largest, compression):
    """Of 8 bits, Pillow made them black without a word."""
    values = np.minimum(DEEP[..., 0], largest).astype(dtype)
    path = written(tmp_path, values, rowsperstrip=2, compression=compression)
    pixels = read_image(path, channels=1).pixels[..., 0]
    np.testing.assert_allclose(pixels, values / largest, rtol=1e-6)
    for height, parts in ((16, 8), (2**24, 8_388_608)):
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags["ImageLength"].overwrite(height)
        with pytest.raises(InputError, match=f"it has 4 of the {parts} strips or tiles"):
            read_image(path, channels=1)
        with pytest.raises(InputError, match=f"it has 4 of the {parts} strips or tiles"):
            read_mask(path, (height, 9), threshold=9)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64, np.float16])
def test_masks_have_any_numbers(tmp_path, dtype):
    """Label maps of scikit-image have 64 bits, which Pillow does not read."""
    labels = np.array([[0, 3, 3], [0, 0, 3]], dtype)
    for photometric in ("minisblack", "miniswhite"):
        path = written(tmp_path, labels, photometric=photometric)
        np.testing.assert_array_equal(read_mask(path, (2, 3)), labels == 3)
    path = written(tmp_path, np.stack([labels, labels]), photometric="minisblack")
    with pytest.raises(InputError, match="2 pages; save one page"):
        read_mask(path, (2, 3))
