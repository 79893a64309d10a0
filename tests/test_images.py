"""Image files: what is converted is said, what cannot be used is one clear error."""

import numpy as np
import pytest
from PIL import Image

from segcam_jax.data.images import pad_to_multiple, read_image, read_mask
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


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    image = read_image(saved(tmp_path, rgba), channels=3)
    assert image.pixels[:2].max() == 0
    assert image.pixels[2:].min() == 1
    assert "white" in image.notes[0]
    rgba[..., 3] = 255
    assert "dropped" in read_image(saved(tmp_path, rgba), channels=3).notes[0]


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
        (np.zeros((4, 4, 2)), r"2 channel\(s\), the network expects 1"),
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
    with pytest.raises(InputError, match="no image file"):
        read_image(text, channels=1)
    whole = saved(tmp_path, RNG.integers(0, 256, (64, 64), dtype=np.uint8))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(InputError, match="corrupt"):
        read_image(cut, channels=1)
    for damaged in (b"", b"\x93NUMPY", b"junk"):
        array = tmp_path / "cut.npy"
        array.write_bytes(damaged)
        with pytest.raises(InputError, match="no readable"):
            read_image(array, channels=1)
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="no readable"):
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


def test_padding_mirrors_at_the_end():
    pixels = RNG.random((5, 8, 1)).astype(np.float32)
    padded = pad_to_multiple(pixels, 4)
    assert padded.shape == (8, 8, 1)
    np.testing.assert_array_equal(padded[:5], pixels)
    np.testing.assert_array_equal(padded[5], pixels[3])
    assert pad_to_multiple(np.ones((1, 1, 1)), 8).shape == (8, 8, 1)
    assert pad_to_multiple(pixels[:4], 4) is not None
