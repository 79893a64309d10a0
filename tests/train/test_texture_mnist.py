import dataclasses
import gzip
import json
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from segcam_jax.data import samples
from segcam_jax.types import InputError
from train.data import digits, textures
from train.data.texture_mnist import (
    BACKGROUND,
    Bias,
    Jitter,
    TextureMnist,
    TextureMnistConfig,
)

STRIPES = "stripes_diagonal"
PLANTED = Bias(2, background_texture=STRIPES)
FIELDS = ("image", "label", "digit", "digit_with_infill", "background", "biased_tile", "is_biased")


def dataset(**config):
    return TextureMnist(TextureMnistConfig(**{"split": "test", **config}))


def layouts(data, count):
    return [data.layout(index) for index in range(count)]


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


# --- samples ---------------------------------------------------------------------------------


def test_a_sample_has_the_documented_form():
    sample = dataset()[7]
    assert sample.image.shape == (64, 64, 1)
    assert sample.image.dtype == np.float32
    assert sample.label.shape == (64, 64)
    assert sample.label.dtype == np.int32
    assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert set(np.unique(sample.label)) == {7, BACKGROUND}


@pytest.mark.parametrize("jitter", [None, Jitter()])
@pytest.mark.parametrize("split", ["train", "test"])
def test_reading_order_and_other_readers_change_nothing(split, jitter):
    config = {"split": split, "jitter": jitter, "bias": (PLANTED,)}
    data, other = dataset(**config), dataset(**config, seed=1)
    forward = {}
    for index in range(25):
        forward[index] = data[index]
        _ = other[index]
        np.random.seed(index)  # noqa: NPY002  the global state must not matter
    again = pickle.loads(pickle.dumps(data))
    for index in reversed(range(25)):
        assert same(again[index], forward[index])
    assert not np.array_equal(other[0].image, data[0].image)


def test_digits_cycle_and_go_through_all_masks_once_a_round():
    data = dataset(samples=1000)
    assert [int(data[n].digit) for n in range(20)] == [*range(10), *range(10)]
    every = digits.resized(np.round(digits.read_digits(None).test[3]), 64)
    one_round = [data.digit_mask(index) for index in range(3, 3 + 10 * len(every), 10)]
    assert {mask.tobytes() for mask in one_round} == {mask.tobytes() for mask in every}
    np.testing.assert_array_equal(data.digit_mask(3 + 10 * len(every)), one_round[0])


def test_masks_partition_the_image():
    for sample in map(dataset(bias=(PLANTED,)).__getitem__, range(10)):
        np.testing.assert_array_equal(sample.background, ~sample.digit_with_infill)
        np.testing.assert_array_equal(sample.digit_with_infill, sample.label != BACKGROUND)
        assert sample.biased_tile.any() == (sample.digit == 2)
        assert sample.is_biased == (sample.digit == 2)


def test_the_image_is_the_composition_of_its_layout():
    data = dataset(background_split=4)
    sample, layout = data[3], data.layout(3)

    def cut(crop, rows, columns):
        texture = data.textures[crop.texture]
        return texture[crop.top : crop.top + rows, crop.left : crop.left + columns]

    quadrants = [cut(crop, 32, 32) for crop in layout.tiles]
    background = np.block([quadrants[:2], quadrants[2:]])
    foreground = cut(layout.foreground, 64, 64)
    expected = np.where(sample.digit_with_infill, foreground, background)
    np.testing.assert_array_equal(sample.image[:, :, 0], expected)


def test_train_shares_textures_within_a_cycle_and_test_does_not():
    train, test = dataset(split="train"), dataset(split="test")
    assert len(set(layouts(train, 10))) == 1
    assert train.layout(10) != train.layout(0)
    assert len(set(layouts(test, 10))) == 10


def test_train_and_test_digits_are_disjoint_and_whole():
    found = digits.read_digits(None)
    numbers = [len(a) + len(b) for a, b in zip(found.train, found.test, strict=True)]
    assert sum(numbers) == 1797
    assert [len(members) for members in found.test] == [n // 5 for n in numbers]


def test_length_and_indices():
    assert len(dataset()) == 1000
    assert len(dataset(split="train")) == 50_000
    data = dataset(samples=12)
    for index in (-1, 12):
        with pytest.raises(IndexError, match="there are 12"):
            data[index]


def test_a_batch_stacks_samples():
    data = dataset()
    batch = data.batch([4, 2])
    assert batch.image.shape == (2, 64, 64, 1)
    np.testing.assert_array_equal(batch.label[1], data[2].label)


def test_grain_reads_it():
    grain = pytest.importorskip("grain")
    data = dataset()
    assert isinstance(data, grain.sources.RandomAccessDataSource)
    batch = grain.MapDataset.source(data).shuffle(seed=0).batch(5)[3]
    assert batch.image.shape == (5, 64, 64, 1)


def test_jitter_changes_digits_and_not_textures():
    plain, moved = dataset(), dataset(jitter=Jitter())
    assert layouts(plain, 10) == layouts(moved, 10)
    still = dataset(jitter=Jitter(0.0, 0.0, 0.0, 0.0))
    for index in range(10):
        assert not np.array_equal(plain.digit_mask(index), moved.digit_mask(index))
        # The identity differs from the plain enlargement by rounding at exactly one half only.
        assert (plain.digit_mask(index) != still.digit_mask(index)).mean() < 0.01


# --- bias ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (0.5, 0.4, 0.6), (1, 1, 1)])
def test_background_bias_occurs_as_often_as_asked(probability, low, high):
    bias = Bias(2, background_texture=STRIPES, background_probability=probability)
    data = dataset(samples=4000, bias=(bias,), exclude_bias_textures=True)
    found = [data.layout(index) for index in range(2, 4000, 10)]
    share = np.mean([layout.is_biased for layout in found])
    assert low <= share <= high
    for layout in found:
        if layout.is_biased:
            assert STRIPES in [crop.texture for crop in layout.tiles]


def test_foreground_bias_and_its_override():
    fills = Bias(
        1, foreground_texture="weave", foreground_probability=1.0, background_probability=0.0
    )
    both = Bias(4, "weave", 1.0, STRIPES, 1.0)
    data = dataset(samples=500, bias=(fills, both))
    for index in range(1, 500, 10):
        sample = data[index]
        assert data.layout(index).foreground.texture == "weave"
        assert sample.is_biased
        assert not sample.biased_tile.any()
    chosen = [data.layout(index) for index in range(4, 500, 10)]
    assert all(STRIPES in [crop.texture for crop in layout.tiles] for layout in chosen)
    assert not all(layout.foreground.texture == "weave" for layout in chosen)


def test_the_biased_tile_is_chosen_at_random_and_marked():
    data = dataset(samples=2000, bias=(PLANTED,))
    upper = 0
    for index in range(2, 2000, 10):
        tile, layout = data[index].biased_tile, data.layout(index)
        assert tile[0].all() == tile[31].all() == (layout.tiles[0].texture == STRIPES)
        assert tile[32].all() == tile[63].all() == (layout.tiles[1].texture == STRIPES)
        upper += tile[0, 0]
    assert 70 < upper < 130


def test_excluded_textures_are_in_no_unbiased_draw():
    for excluded in (True, False):
        data = dataset(samples=1500, bias=(PLANTED,), exclude_bias_textures=excluded)
        seen = {
            crop.texture
            for index, layout in enumerate(layouts(data, 1500))
            if index % 10 != 2
            for crop in (*layout.tiles, layout.foreground)
        }
        assert (STRIPES in seen) is not excluded
        assert len(seen) == 28 - excluded


def test_a_bias_that_never_happens_excludes_nothing():
    idle = dataclasses.replace(PLANTED, background_probability=0.0)
    data = dataset(samples=1500, bias=(idle,), exclude_bias_textures=True)
    assert any(layout.foreground.texture == STRIPES for layout in layouts(data, 1500))


@pytest.mark.parametrize("bias", [(), (PLANTED,)])
def test_the_digit_never_has_the_texture_behind_it(bias):
    for layout in layouts(dataset(bias=bias), 1000):
        assert layout.foreground.texture not in [crop.texture for crop in layout.tiles]
    repeated = layouts(dataset(bias=bias, distinct_textures=False), 1000)
    assert any(
        layout.foreground.texture in [crop.texture for crop in layout.tiles] for layout in repeated
    )


@pytest.mark.parametrize(("split", "area"), [(1, 1.0), (2, 0.5), (4, 0.25)])
def test_background_splits(split, area):
    data = dataset(background_split=split, bias=(PLANTED,))
    sample, layout = data[2], data.layout(2)
    assert len(layout.tiles) == split
    held = sum(crop.texture == STRIPES for crop in layout.tiles)
    assert sample.biased_tile.mean() == held * area


def test_retextured_changes_one_tile_only():
    data = dataset(bias=(PLANTED,))
    layout = data.layout(2)
    place = [crop.texture for crop in layout.tiles].index(STRIPES)
    sample = data.render(2, data.retextured(layout, place, "waves"))
    before, rows = data[2], slice(32 * place, 32 * place + 32)
    changed = (sample.image != before.image)[:, :, 0]
    assert changed[rows].any()
    assert not (changed & before.digit_with_infill).any()
    changed[rows] = False
    assert not changed.any()


# --- sources ---------------------------------------------------------------------------------


def test_procedural_textures_are_distinct_and_mid_contrast():
    found = textures.procedural_textures(128)
    assert len(found) == 25
    stack = np.stack(list(found.values()))
    assert stack.dtype == np.float32
    assert stack.min() >= 0.19
    assert stack.max() <= 0.81
    assert stack.std(axis=(1, 2)).min() > 0.1
    flat = stack.reshape(25, -1)
    correlation = np.corrcoef(flat) - np.eye(25)
    assert np.abs(correlation).max() < 0.8


def test_small_textures_are_tiled_as_often_as_the_shorter_side_needs():
    texture = np.arange(20 * 36, dtype=np.float32).reshape(20, 36)
    found = textures.tiled(texture, 400)
    assert found.shape == (400, 720)
    np.testing.assert_array_equal(found[20:40, 36:72], texture)
    assert textures.tiled(texture, 20) is texture


def test_textures_from_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "LICENSE").write_text("no image")
    data = dataset(textures=str(tmp_path), texture_resolution=100)
    assert list(data.textures) == ["a", "b", "c"]
    assert data.textures["a"].shape == (120, 150)
    assert data[0].image.shape == (64, 64, 1)


@pytest.mark.parametrize(("source", "size"), [(8, 64), (28, 64), (28, 16)])
def test_resized_is_the_bilinear_resize_of_scikit_image(source, size):
    transform = pytest.importorskip("skimage.transform")
    greys = np.random.default_rng(0).random((3, source, source))
    for digit, found in zip(greys, digits.resized(greys, size), strict=True):
        expected = transform.resize(
            digit, (size, size), order=1, anti_aliasing=False, mode="constant"
        )
        decided = np.abs(expected - 0.5) > 1e-6
        np.testing.assert_array_equal(found[decided], (expected >= 0.5)[decided])


@pytest.mark.parametrize("jitter", [None, Jitter(0.0, 0.0, 0.0, 0.0)])
def test_digits_are_rounded_before_or_after_they_are_enlarged(jitter):
    grey = digits.read_digits(None).test[5]
    for rounding, source in (("before", np.round(grey)), ("after", grey)):
        masks = {mask.tobytes() for mask in digits.resized(source, 64)}
        data = dataset(digit_rounding=rounding, jitter=jitter)
        inside = [data.digit_mask(index).tobytes() in masks for index in range(5, 105, 10)]
        assert np.mean(inside) == 1 if jitter is None else np.mean(inside) > 0.3


def idx(array, magic):
    array = np.asarray(array, np.uint8)
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28))
        content = gzip.compress(idx(images, 2051))
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(content)
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10, 2049))
    return tmp_path


def test_idx_files_plain_and_gzipped(idx_folder):
    found = digits.read_digits(str(idx_folder))
    assert [len(members) for members in found.train] == [3] * 10
    assert [len(members) for members in found.test] == [2] * 10
    images = digits.read_idx_images(idx_folder / "train-images-idx3-ubyte.gz")
    np.testing.assert_allclose(found.train[4][1], images[14] / 255, rtol=1e-6)
    assert dataset(digits=str(idx_folder))[4].digit == 4


def test_json_folder(tmp_path):
    rng = np.random.default_rng(0)
    greys = rng.random((10, 5, 784))
    for digit in range(10):
        content = json.dumps({"data": greys[digit].ravel().tolist()})
        (tmp_path / f"{digit}.json").write_text(content)
    found = digits.read_digits(str(tmp_path))
    assert [len(members) for members in found.train] == [4] * 10
    np.testing.assert_allclose(found.test[3][0].ravel(), greys[3, 4], rtol=1e-6)


# --- bad input -------------------------------------------------------------------------------


def broken_idx(folder, name, content):
    (folder / name).write_bytes(content)
    return digits.read_digits.__wrapped__(str(folder))


def broken_json(folder, content):
    for digit in range(10):
        (folder / f"{digit}.json").write_text(content)
    return digits.read_digits.__wrapped__(str(folder))


def broken_image(folder):
    (folder / "a.png").write_bytes(b"\x89PNG but no more")
    return textures.read_textures(folder)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: broken_idx(f, IMAGES, idx(np.zeros(4), 2049)), "ends within its header"),
        (lambda f: broken_idx(f, IMAGES, idx(np.zeros((9, 9)), 2049)), "magic number 2049"),
        (lambda f: broken_idx(f, IMAGES, idx(np.zeros((2, 28, 28)), 2051)[:-1]), "1567 bytes"),
        (lambda f: broken_idx(f, IMAGES, gzip.compress(bytes(99))[:-9]), "cannot be read"),
        (lambda f: broken_idx(f, LABELS, idx(np.zeros(3), 2049)), "30 images"),
        (lambda f: broken_idx(f, LABELS, idx(np.zeros(30), 2049)), "no digit of class 1, 2"),
    ],
)
def test_broken_idx_files(idx_folder, call, match):
    with pytest.raises(InputError, match=match) as caught:
        call(idx_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: digits.read_digits(str(f / "none")), "does not exist"),
        (lambda f: digits.read_digits(str(f)), "neither IDX files"),
        (lambda f: broken_json(f, "["), "is not JSON"),
        (lambda f: broken_json(f, '{"data": [1, 2]}'), "multiple of 784"),
        (lambda f: broken_json(f, json.dumps({"data": [0] * 784})), "fewer than 5"),
        (lambda f: textures.read_textures(f / "none"), "does not exist"),
        (lambda f: textures.read_textures(f), "holds no image"),
        (broken_image, "cannot be read"),
        (lambda f: samples.load(f / "none.npz"), "texture_mnist_samples"),
        (lambda f: textures.procedural_textures(8), "at least 16"),
    ],
)
def test_broken_folders(tmp_path, call, match):
    with pytest.raises(InputError, match=match) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dataset(split="val"), "'train' or 'test'"),
        (lambda: dataset(seed=-1), "`seed`"),
        (lambda: dataset(samples=0), "`samples`"),
        (lambda: dataset(digit_rounding="never"), "'before' or 'after'"),
        (lambda: dataset(background_split=3), "1, 2 or 4"),
        (lambda: dataset(tile_size=63), "even"),
        (lambda: dataset(texture_resolution=32), "`texture_resolution`"),
        (lambda: dataset(bias=(PLANTED, PLANTED)), "at most one bias"),
        (lambda: dataset(bias=(Bias(2),)), "no `background_texture`"),
        (lambda: dataset(bias=(Bias(2, background_texture="stripe"),)), "choose from stripes_"),
        (lambda: dataset().retextured(dataset().layout(0), 2, "waves"), "tile 2"),
        (lambda: dataset().retextured(dataset().layout(0), 1, "wave"), "choose from weave"),
        (lambda: Bias(10), "0 to 9"),
        (lambda: Bias(1, background_probability=1.5), "0 to 1"),
    ],
)
def test_bad_configurations(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- bundled samples -------------------------------------------------------------------------


def test_bundled_samples():
    assert samples.PATH.stat().st_size < 1.2e6
    found = samples.load()
    assert found.unbiased.digit.tolist() == list(range(10))
    assert not found.unbiased.is_biased.any()
    assert found.biased.image.shape == (200, 64, 64, 1)
    assert (found.biased.digit == 2).all()
    assert found.biased.is_biased.all()
    assert found.biased.image.max() <= 1
    data = dataset(
        samples=2000, bias=(PLANTED,), exclude_bias_textures=True, digit_rounding="after"
    )
    np.testing.assert_allclose(found.biased.image[3], data[32].image, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(found.biased.biased_tile[3], data[32].biased_tile)
    np.testing.assert_array_equal(found.biased.label[3], data[32].label)


def test_bundled_samples_that_are_cut_off(tmp_path):
    path = tmp_path / "cut.npz"
    path.write_bytes(samples.PATH.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        samples.load(path)


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("import segcam_jax.data.texture_mnist", "train.data.texture_mnist"),
        ("from segcam_jax.data.texture_mnist_config import Bias", "train.data.texture_mnist"),
        ("from segcam_jax.data import polen", "train.data.pollen23e"),
    ],
)
def test_what_was_in_the_package_says_where_it_is(code, place):
    with pytest.raises(ImportError, match=f"is now {place}, .*pip install -e"):
        exec(code)
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from segcam_jax.data import nothing")


@pytest.mark.parametrize("field", ["rotation", "scale", "shear", "shift"])
def test_bounds_of_a_jitter(field):
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"`Jitter.{field}` is {value}"):
            Jitter(**{field: value})
    with pytest.raises(InputError, match="below 1"):
        Jitter(scale=1.0)
