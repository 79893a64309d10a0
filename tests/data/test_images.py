"""Image files: what is converted is said, what cannot be used is one clear error."""

import zlib

import numpy as np
import pytest
from PIL import Image

from segcam_jax.data.images import pad_to_multiple, read_image
from segcam_jax.data.mask_images import read_mask, stored_mask
from segcam_jax.types import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 11), dtype=np.uint8)
RGB = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)


def saved(tmp_path, array, name="image.png", **options):
    path = tmp_path / name
    Image.fromarray(array).save(path, **options)
    return path


def test_grey_is_taken_as_it_is(tmp_path):
    image = read_image(saved(tmp_path, GREY), channels=1)
    assert image.notes == ()
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels[..., 0], GREY.astype(np.float32) / 255)


def test_rgb_becomes_luminance_and_grey_is_repeated(tmp_path):
    luminance = read_image(saved(tmp_path, RGB), channels=1)
    np.testing.assert_allclose(
        luminance.pixels[..., 0], (RGB / 255) @ [0.299, 0.587, 0.114], atol=1e-6
    )
    assert "luminance" in luminance.notes[0]
    repeated = read_image(saved(tmp_path, GREY), channels=3)
    assert repeated.pixels.shape == (9, 11, 3)
    assert "repeated" in repeated.notes[0]
    assert (
        read_image(saved(tmp_path, np.full((4, 4, 3), 255, np.uint8)), channels=1).pixels.max() <= 1
    )


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_is_divided_by_65535(tmp_path, name):
    deep = RNG.integers(0, 65536, (9, 11), dtype=np.uint16)
    image = read_image(saved(tmp_path, deep, name), channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], deep / 65535, atol=1e-7)
    assert "65535" in image.notes[0]


def test_16_bit_white_is_zero_is_inverted_as_8_bit_is(tmp_path):
    stored = RNG.integers(0, 65536, (9, 11), dtype=np.uint16)
    image = read_image(saved(tmp_path, stored, "deep.tif", tiffinfo={262: 0}), channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], 1 - stored / 65535, atol=1e-6)
    assert "inverted" in " ".join(image.notes)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    image = read_image(saved(tmp_path, rgba), channels=3)
    assert image.pixels[:2].max() == 0
    assert image.pixels[2:].min() == 1
    assert "white" in image.notes[0]
    rgba[..., 3] = 255
    assert "dropped" in read_image(saved(tmp_path, rgba), channels=3).notes[0]
    with pytest.raises(InputError, match=r"3 channels \(its opaque alpha.* dropped\), the .* 4"):
        read_image(saved(tmp_path, rgba), channels=4)


@pytest.mark.parametrize(("stored", "channels"), [(GREY, 1), (RGB, 3)])
def test_a_colour_that_a_png_names_as_transparent_is_composited_on_white(
    tmp_path, stored, channels
):
    key = stored[2, 3]
    clear = int(key) if channels == 1 else tuple(map(int, key))
    image = read_image(saved(tmp_path, stored, transparency=clear), channels=channels)
    stored = stored.reshape(9, 11, channels)
    expected = np.where((stored == key).all(-1, keepdims=True), 1, stored / 255)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert "white" in image.notes[0]


def test_palette_and_bilevel_are_read_by_colour(tmp_path):
    path = tmp_path / "palette.png"
    Image.fromarray(RGB).quantize(16).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    image = read_image(path, channels=3)
    np.testing.assert_array_equal(image.pixels, expected)
    assert "palette" in image.notes[0]
    Image.fromarray(GREY > 127).save(path)
    assert set(np.unique(read_image(path, channels=1).pixels)) == {0, 1}


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, GREY, "turned.png", exif=exif)
    image = read_image(path, channels=1)
    assert image.pixels.shape == (11, 9, 1)
    assert "orientation" in image.notes[0]


def test_arrays(tmp_path):
    path = tmp_path / "a.npy"
    values = RNG.random((5, 6))
    np.save(path, values)
    image = read_image(path, channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], values, rtol=1e-6)
    assert image.notes == ()
    np.save(path, RGB)
    np.testing.assert_allclose(read_image(path, channels=3).pixels, RGB / 255, rtol=1e-6)
    np.save(path, RNG.random((5, 6, 4)))
    assert read_image(path, channels=4).pixels.shape == (5, 6, 4)
    np.save(path, np.array([[0, 65535]], ">u2"))
    assert read_image(path, channels=1).pixels.ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.array([[0.5, np.nan], [0.1, 0.2]]), r"NaN or infinite.*row 0, column 1"),
        (np.array([[0.5, np.inf]]), "NaN or infinite"),
        (np.array([[0.5, 200.0]]), r"\[0.5, 200\].*divide it by 255"),
        (np.array([[-0.5, 0.5]]), r"expected \[0, 1\]"),
        (np.array([[1e300, 0.5]]), "NaN or infinite|expected"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), complex), "real numbers"),
        (np.array([["a"]]), "real numbers"),
        (np.zeros((2, 2, 2, 2)), "shape"),
        (np.zeros((0, 3)), "shape"),
        (np.zeros((4, 4, 2)), r"2 channels, the network expects 1"),
    ],
)
def test_bad_arrays(tmp_path, values, complaint):
    path = tmp_path / "bad.npy"
    np.save(path, values)
    with pytest.raises(InputError, match=complaint) as caught:
        read_image(path, channels=1)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.png", channels=1)
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path, channels=1)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(InputError, match="not an image file"):
        read_image(text, channels=1)
    whole = saved(tmp_path, RNG.integers(0, 256, (64, 64), dtype=np.uint8))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(InputError, match="corrupt"):
        read_image(cut, channels=1)
    for damaged in (b"", b"\x93NUMPY", b"junk"):
        array = tmp_path / "cut.npy"
        array.write_bytes(damaged)
        with pytest.raises(InputError, match="not a readable"):
            read_image(array, channels=1)
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable"):
        read_image(objects, channels=1)


def test_masks(tmp_path):
    inside = GREY > 200
    for name in ("mask.png", "mask.npy"):
        path = tmp_path / name
        if name.endswith("npy"):
            np.save(path, inside)
        else:
            Image.fromarray(inside.astype(np.uint8) * 7).save(path)
        np.testing.assert_array_equal(read_mask(path, (9, 11)), inside)
        with pytest.raises(InputError, match="extents"):
            read_mask(path, (8, 11))


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_are_turned_as_images_are(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((12, 12), np.uint8)
    stored[1:4, 7:12] = 255
    path = saved(tmp_path, stored, name, exif=exif)
    right = np.rot90(stored > 0, {3: 2, 6: -1}[orientation])
    np.testing.assert_array_equal(read_mask(path, (12, 12)), right)
    np.testing.assert_array_equal(read_image(path, channels=1).pixels[..., 0] > 0, right)


def test_palette_masks_are_read_by_index(tmp_path):
    label = np.zeros((16, 16), np.uint8)
    label[2:6, 3:8] = 1
    path = tmp_path / "palette.png"
    for background, drawn in (([255, 255, 255], [0, 0, 9]), ([0, 0, 0], [0, 0, 0])):
        palette = Image.fromarray(label)
        palette.putpalette(background + drawn + [7] * (254 * 3))
        palette.save(path)
        np.testing.assert_array_equal(read_mask(path, (16, 16)), label == 1)
    label[10:12] = 2
    palette = Image.fromarray(label)
    palette.putpalette([255] * 3 + [0] * 3 + [7] * (254 * 3))
    palette.save(path)
    with pytest.raises(InputError, match=r"values 0, 1, 2.*mask:FILE=VALUE"):
        read_mask(path, (16, 16))
    np.testing.assert_array_equal(read_mask(path, (16, 16), value=2), label == 2)
    np.testing.assert_array_equal(read_mask(path, (16, 16), threshold=0), label > 0)
    with pytest.raises(InputError, match="no value 3; it has 0, 1, 2"):
        read_mask(path, (16, 16), value=3)


@pytest.mark.parametrize(
    ("mode", "clear", "drawn", "expected"),
    [
        # Transparency says what is inside: black on a transparent colour, whichever its number is.
        ("P", 0, 1, 1),
        ("P", 1, 0, 1),
        ("L", 255, 0, 1),
        ("L", 255, 7, 7),
        ("L", 0, 2, 2),
        ("RGB", (255, 255, 255), (0, 0, 0), 1),
        ("1", 1, 0, 1),
    ],
)
def test_masks_drawn_on_a_transparent_colour(tmp_path, mode, clear, drawn, expected):
    inside = np.zeros((6, 7), bool)
    inside[1:3, 2:6] = True
    image = Image.new(mode, (7, 6), clear)
    if mode == "P":
        image.putpalette([0] * 3 * clear + [255] * 3 + [0] * 3 * (not clear) + [9] * 9)
    image.paste(drawn, (2, 1, 6, 3))
    path = tmp_path / "mask.png"
    image.save(path, transparency=255 if mode == "1" else clear)
    np.testing.assert_array_equal(read_mask(path, (6, 7)), inside)
    np.testing.assert_array_equal(stored_mask(path), np.where(inside, expected, 0))


def test_grey_of_few_bits_with_a_transparent_one(tmp_path):
    """Pillow scales the pixels of 2 and 4 bits to 255, and not the transparent one."""
    grey = np.array([[0, 5, 15, 5]], np.uint8)
    path = tmp_path / "grey.png"
    Image.fromarray(17 * grey).save(path)
    data = path.read_bytes()

    def chunk(name, content):
        return (
            len(content).to_bytes(4, "big")
            + name
            + content
            + zlib.crc32(name + content).to_bytes(4, "big")
        )

    header = chunk(b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 1, 4, 0, 0, 0, 0]))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0x05, 0xF5])))
    path.write_bytes(
        data[:8] + header + chunk(b"tRNS", bytes([0, 5])) + pixels + chunk(b"IEND", b"")
    )
    image = read_image(path, channels=1)
    np.testing.assert_allclose(image.pixels[..., 0], [[0, 1, 1, 1]])
    assert "transparency was composited on white" in image.notes


def test_a_palette_with_black_after_another_colour_asks_which_is_inside(tmp_path):
    """Programs that reduce colours put white first, and the mask was the inverse of the drawn."""
    inside = np.zeros((6, 7), bool)
    inside[1:3, 2:6] = True
    for name, first in (("white.png", 255), ("black.gif", 0)):
        image = Image.fromarray((inside == (first == 0)).astype(np.uint8), "P")
        image.putpalette([first] * 3 + [255 - first] * 3)
        image.save(tmp_path / name, optimize=False)
    path = tmp_path / "white.png"
    with pytest.raises(InputError, match=r"black at 1, and another .*FILE=0 or mask:FILE=1\)"):
        read_mask(path, (6, 7))
    with pytest.raises(InputError, match=r"--truth-value 0 or --truth-value 1"):
        read_mask(path, (6, 7), truth=True)
    np.testing.assert_array_equal(read_mask(path, (6, 7), value=0), inside)
    np.testing.assert_array_equal(read_mask(tmp_path / "black.gif", (6, 7)), inside)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks_of_white_is_zero_are_not_inverted(tmp_path, dtype):
    inside = GREY > 200
    path = tmp_path / "mask.tif"
    # What is displayed white is stored as 0: the region is what is stored as something else.
    displayed = ~inside if dtype is bool else np.where(inside, 0, 255).astype(np.uint8)
    Image.fromarray(displayed).save(path, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_mask(path, (9, 11)), inside)


@pytest.mark.parametrize("colour", [0, 255])
def test_opacity_is_the_mask_of_what_is_drawn_on_transparency(tmp_path, colour):
    rgba = np.full((20, 20, 4), colour, np.uint8)
    rgba[..., 3] = 0
    rgba[5:15, 5:15, 3] = 255
    mask = read_mask(saved(tmp_path, rgba), (20, 20))
    np.testing.assert_array_equal(mask, rgba[..., 3] > 0)
    assert mask.sum() == 100
    rgba[..., 3] = 255
    rgba[:5, :, :3] = 0
    rgba[5:, :, :3] = 9
    assert read_mask(saved(tmp_path, rgba), (20, 20)).sum() == 300


def test_lossy_and_grey_masks_ask_for_a_threshold(tmp_path):
    inside = np.zeros((24, 24), bool)
    inside[5:15, 3:14] = True
    path = saved(tmp_path, inside.astype(np.uint8) * 255, "mask.jpg", quality=75)
    with pytest.raises(InputError, match=r"has the values 0, .*in all.*--mask-threshold"):
        read_mask(path, (24, 24))
    np.testing.assert_array_equal(read_mask(path, (24, 24), threshold=127), inside)
    deep = saved(tmp_path, np.where(inside, 300, 0).astype(np.uint16))
    np.testing.assert_array_equal(read_mask(deep, (24, 24)), inside)


def test_doubtful_masks_are_refused(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.array([[0, 1], [np.nan, 0]]))
    with pytest.raises(InputError, match="NaN"):
        read_mask(path, (2, 2))
    page = Image.fromarray(GREY)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match="2 pages"):
        read_mask(tmp_path / "pages.tif", (9, 11))
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[0, :, 0], colours[1, :, 1] = 255, 255
    with pytest.raises(InputError, match="0 0 0, 0 255 0, 255 0 0"):
        read_mask(saved(tmp_path, colours), (4, 4))
    colours[1] = 0
    assert read_mask(saved(tmp_path, colours), (4, 4)).sum() == 4


def test_padding_mirrors_at_the_end():
    pixels = RNG.random((5, 8, 1)).astype(np.float32)
    padded = pad_to_multiple(pixels, 4)
    assert padded.shape == (8, 8, 1)
    np.testing.assert_array_equal(padded[:5], pixels)
    np.testing.assert_array_equal(padded[5], pixels[3])
    assert pad_to_multiple(np.ones((1, 1, 1)), 8).shape == (8, 8, 1)
    assert pad_to_multiple(pixels[:4], 4) is not None
