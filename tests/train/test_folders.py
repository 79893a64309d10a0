import numpy as np
import pytest
from PIL import Image

from segcam_jax.networks.image_inputs import fitted
from segcam_jax.types import InputError
from train.data.image_folders import read_folders


def save(path, seed=0, shape=(6, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def root(tmp_path):
    save(tmp_path / "kind 10" / "1.png", 1)
    save(tmp_path / "kind 2" / "10.png", 2)
    save(tmp_path / "kind 2" / "2.png", 3)
    save(tmp_path / "kind 2" / "deeper" / "1.png", 4)
    return tmp_path


def test_classes_and_files_are_in_natural_order(root):
    images = read_folders(root)
    assert images.class_names == ("kind 2", "kind 10")
    expected = ("kind 2/2.png", "kind 2/10.png", "kind 2/deeper/1.png", "kind 10/1.png")
    assert images.names == expected
    assert images.labels.tolist() == [0, 0, 0, 1]
    assert images.labels.dtype == np.int32
    assert images.notes == ()


def test_pixels(root):
    images = read_folders(root)
    expected = np.asarray(Image.open(root / "kind 10" / "1.png")).astype(np.float32) / 255
    np.testing.assert_array_equal(images[3], expected)
    assert images.extents[3] == (6, 5)
    assert read_folders(root, channels=1)[0].shape == (6, 5, 1)
    stretched = read_folders(root, size=4)
    assert stretched[0].shape == (4, 4, 3)
    assert stretched[0].dtype == np.float32
    assert stretched.extents == ((4, 4),) * 4


def test_images_are_resized_as_when_they_are_explained(root):
    whole, small = read_folders(root)[3], read_folders(root, size=4)[3]
    np.testing.assert_array_equal(small, fitted(whole, (4, 4), "stretch"))
    constant = np.full((6, 9, 3), 0.3, np.float32)
    np.testing.assert_allclose(fitted(constant, (4, 4), "stretch"), 0.3, atol=1e-6)
    checks = (np.indices((8, 8)).sum(0) % 2).astype(np.float32)[..., None]
    np.testing.assert_allclose(fitted(checks, (2, 2), "stretch"), 0.5, atol=0.05)
    assert fitted(checks, (8, 8), "stretch") is checks


def test_the_fingerprint_tells_contents_names_and_options(root):
    before = read_folders(root)
    assert read_folders(root).sha256 == before.sha256
    assert read_folders(root, size=4).sha256 != before.sha256
    (root / "kind 10" / "1.png").rename(root / "kind 10" / "3.png")
    renamed = read_folders(root)
    assert renamed.sha256 != before.sha256
    save(root / "kind 10" / "3.png", 7)
    assert read_folders(root).sha256 != renamed.sha256


def test_what_is_no_image_is_passed_over(root):
    (root / "kind 2" / ".hidden.png").write_bytes(b"?")
    (root / ".cache").mkdir()
    (root / "kind 2" / "labels.csv").write_text("a")
    (root / "readme").write_text("a")
    images = read_folders(root)
    assert len(images) == 4
    assert images.notes == ("passed over 2 files, no images of a class (.csv, readme)",)


def test_an_image_that_does_not_decode(root):
    (root / "kind 2" / "3.png").write_bytes((root / "kind 2" / "2.png").read_bytes()[:60])
    with pytest.raises(InputError, match="'.*3.png' is .*corrupt"):
        read_folders(root)
    images = read_folders(root, skip_broken=True)
    assert len(images) == 4
    assert len(images.notes) == 1
    assert "3.png" in images.notes[0]


def test_a_class_whose_images_all_are_broken(root):
    (root / "kind 10" / "1.png").write_bytes(b"?")
    with pytest.raises(InputError, match="no image of class 'kind 10'"):
        read_folders(root, skip_broken=True)


def test_folders_that_are_no_data_set(tmp_path, root):
    with pytest.raises(InputError, match="'.*none' does not exist"):
        read_folders(root / "none")
    with pytest.raises(InputError, match="is a file, not a folder"):
        read_folders(root / "kind 10" / "1.png")
    with pytest.raises(InputError, match="has no sub-folders"):
        read_folders(root / "kind 10")
    with pytest.raises(InputError, match="has one class, 'deeper'"):
        read_folders(root / "kind 2")
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="'.*empty' holds no images"):
        read_folders(root)


def test_options(root):
    with pytest.raises(InputError, match="`channels` is 2"):
        read_folders(root, channels=2)
    with pytest.raises(InputError, match="`size` is 0"):
        read_folders(root, size=0)
