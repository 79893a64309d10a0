"""Data sets of images with label maps: folders, Cityscapes, COCO."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcam_jax.types import InputError
from train.data.cityscapes import CATEGORIES, category_of_id, read_cityscapes
from train.data.coco_panoptic import read_panoptic
from train.data.mask_folders import MaskValues, read_mask_folders
from train.data.segmented import Form

GREY = Form(channels=1)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def folder(root, masks, *, images=None, mask_names=None):
    """A folder with these masks, and grey images that hold their numbers."""
    names = mask_names or [f"{n}.png" for n in range(len(masks))]
    for number, (name, mask) in enumerate(zip(names, masks, strict=True)):
        save(root / "masks" / name, mask)
        extents = np.shape(mask)[:2] if images is None else images
        save(root / "images" / f"{number}.png", np.full(extents, number))
    return root


def read(root, **options):
    return read_mask_folders([root], form=GREY, values=MaskValues(**options))


@pytest.mark.parametrize(
    ("masks", "options", "names", "labels"),
    [
        ([[[0, 255]]], {}, "background foreground", [[[0, 1]]]),
        ([[[0, 0]], [[7, 0]]], {}, "background foreground", [[[0, 0]], [[1, 0]]]),
        ([[[0, 2]], [[1, 0]]], {}, "class 0,class 1,class 2", [[[0, 2]], [[1, 0]]]),
        ([[[0, 1, 255]]], {"ignore": 255}, "background foreground", [[[0, 1, -1]]]),
        ([[[0, 3]]], {"class_names": tuple("abcd")}, "a b c d", [[[0, 3]]]),
        ([[[0, 3]]], {"class_names": ("bad", "good")}, "bad good", [[[0, 1]]]),
        ([[[3, 90, 120, 255]]], {"threshold": 100}, "background foreground", [[[0, 0, 1, 1]]]),
    ],
)
def test_the_values_of_masks_become_classes(masks, options, names, labels, tmp_path):
    found = read(folder(tmp_path / "data", masks), **options)
    assert found.class_names == tuple(names.split("," if "," in names else None))
    assert len(found) == len(masks)
    assert found.held_out == ()
    for number, expected in enumerate(labels):
        image, label = found[number]
        np.testing.assert_array_equal(label, expected)
        np.testing.assert_array_equal(image, np.full((*label.shape, 1), number, np.float32) / 255)


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ([[[0, 0]], [[0, 0]]], {}, "hold one value, 0; a network needs at least two classes"),
        ([[[0, 1, 2, 255]]], {}, "the values 0, 1, 2, 255, and they do not number classes from 0"),
        ([[[0, 128, 255]]], {"class_names": tuple("abc")}, "and 3 classes are named: say which"),
        ([[[0, 5]]], {"class_names": ("a",)}, "one class name was given"),
        ([[[0, 1, 2]]], {"class_names": tuple("abc"), "ignore": 1}, "label 1 is among 0 to 2, the"),
        ([[[0, 9]]], {"threshold": 100}, "have the values 0, 9: none on one side of the thresh"),
        ([[[0, 9]]], {"threshold": 5, "ignore": 9}, "makes two classes; give no more names"),
        ([[[[0, 1, 2]]]], {}, "has colours; save the numbers of classes"),
    ],
)
def test_values_that_are_no_classes_are_refused(masks, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(folder(tmp_path / "data", masks), **options)


def test_folders_that_are_incomplete_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; give a folder"):
        read(tmp_path / "none")
    root = folder(tmp_path / "data", [[[0, 1]], [[1, 0]]], mask_names=["0.png", "x.png"])
    with pytest.raises(InputError, match=r"\(1.png\) and 1 mask has no image \(x.png\)"):
        read(root)
    (root / "masks").rename(root / "truths")
    with pytest.raises(
        InputError, match="no folder 'masks', it has images, truths; name the one of masks"
    ):
        read(root)
    (root / "masks").mkdir()
    with pytest.raises(InputError, match=r"masks' holds no masks \(.bmp"):
        read(root)
    for size in ((2, 2), (1, 3)):
        other = folder(tmp_path / f"other{size[1]}", [[[0, 1]]], images=size)
        with pytest.raises(InputError, match=f"is {size[0]} x {size[1]}, its mask 1 x 2"):
            read(other)


def test_a_folder_of_held_out_images_has_the_same_classes(tmp_path):
    """Class 2 is in the one alone, class 1 in the other."""
    roots = [folder(tmp_path / n, masks) for n, masks in (("a", [[[0, 2]]]), ("b", [[[0, 1]]] * 2))]
    found = read_mask_folders(roots, form=GREY)
    assert len(found.class_names) == 3
    assert found.held_out == (1, 2)
    assert found.names == ("a/0.png", "b/0.png", "b/1.png")
    assert found[0][1].tolist() == [[0, 2]]
    assert found[1][1].tolist() == [[0, 1]]


def test_the_digest_is_of_contents_and_of_what_they_are_read_as(tmp_path):
    root = folder(tmp_path / "data", [[[0, 1]]])
    digest = read(root).sha256
    assert read(root.rename(tmp_path / "moved").rename(root)).sha256 == digest
    assert read_mask_folders([root], form=Form(3)).sha256 != digest
    assert read(root, class_names=("a", "b")).sha256 != digest
    save(root / "images" / "0.png", [[9, 9]])
    assert read(root).sha256 != digest


@pytest.mark.parametrize("size", [(2, 3), (6, 9), (5, 4), (1, 1)])
def test_labels_are_brought_to_size_by_the_nearest_pixel(size, tmp_path):
    """Of each new pixel's middle, the label that lies there."""
    labels = np.arange(6 * 9).reshape(6, 9)
    image = tmp_path / "image.png"
    save(image, labels)
    rows, columns = (
        ((2 * np.arange(new) + 1) * old // (2 * new))
        for new, old in zip(size, labels.shape, strict=True)
    )
    _, found = Form(channels=1, size=size).pair(image, labels)
    np.testing.assert_array_equal(found, labels[rows[:, None], columns])


IDS = {
    "void": range(7),
    "flat": range(7, 11),
    "construction": range(11, 17),
    "object": range(17, 21),
    "nature": (21, 22),
    "sky": (23,),
    "human": (24, 25),
    "vehicle": (*range(26, 34), 255),
}


def write_cityscapes(root):
    """Three images of 16 x 32 in Cityscapes' layout; each of two has all ids, the third the sky."""
    ids = np.resize([*range(34), 255], (16, 32))
    for name, labels in (
        ("train/aachen/aachen_000000_000019", ids),
        ("train/bochum/bochum_000000_000313", ids[::-1]),
        ("val/lindau/lindau_000000_000019", np.full((16, 32), 23)),
    ):
        save(root / f"leftImg8bit/{name}_leftImg8bit.png", np.full((16, 32, 3), (10, 20, 30)))
        save(root / f"gtFine/{name}_gtFine_labelIds.png", labels)
    return ids


def test_cityscapes_in_eight_categories(tmp_path):
    by_id = category_of_id()
    for name, members in IDS.items():
        assert {CATEGORIES[by_id[n]] for n in members} == {name}
    assert (by_id >= 0).sum() == 35
    ids = write_cityscapes(tmp_path)
    found = read_cityscapes(tmp_path, form=Form())
    assert found.class_names == tuple(IDS)
    assert found.names[0] == "train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert found.held_out == (2,)
    image, labels = found[0]
    np.testing.assert_allclose(image[3, 5], np.array([10, 20, 30]) / 255, rtol=1e-6)
    np.testing.assert_array_equal(labels, by_id[ids])
    # A quarter: the labels are those nearest to the middle of each pixel.
    image, labels = read_cityscapes(tmp_path, form=Form(size=(4, 8)))[1]
    np.testing.assert_array_equal(labels, by_id[ids[::-1][2::4, 2::4]])
    assert image.shape == (4, 8, 3)
    assert (found[2][1] == CATEGORIES.index("sky")).all()


def test_cityscapes_that_is_incomplete_is_refused(tmp_path):
    with pytest.raises(InputError, match="leftImg8bit/train' does not exist; Cityscapes has"):
        read_cityscapes(tmp_path, form=Form())
    write_cityscapes(tmp_path)
    labels = tmp_path / "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png"
    save(labels, np.full((16, 32), 40))
    with pytest.raises(InputError, match="has the label id 40; ids are 0 to 33"):
        read_cityscapes(tmp_path, form=Form())[1]
    labels.unlink()
    with pytest.raises(InputError, match="1 image of .* the first lacks bochum_000000_000313_gtF"):
        read_cityscapes(tmp_path, form=Form())
    (tmp_path / "gtFine").rename(tmp_path / "other")
    with pytest.raises(InputError, match="gtFine/train' does not exist; .* unpack both archives"):
        read_cityscapes(tmp_path, form=Form())


def write_panoptic(root, **changes):
    """One image of 2 x 3: a dog (id 300 = 44 + 1 * 256), grass (id 70000), and void."""
    ids = np.array([[300, 300, 0], [70000, 70000, 300]])
    save(root / "val2017/0001.jpg", np.full((2, 3, 3), 128))
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    save(root / "annotations/panoptic_val2017/0001.png", colours)
    segments = [{"id": 300, "category_id": 18}, {"id": 70000, "category_id": 193}]
    content = {
        "images": [{"id": 1, "file_name": "0001.jpg", "height": 2, "width": 3}],
        "annotations": [{"image_id": 1, "file_name": "0001.png", "segments_info": segments}],
        "categories": [{"id": 193, "name": "grass"}, {"id": 18, "name": "dog"}],
    } | changes
    path = root / "annotations/panoptic_val2017.json"
    path.write_text(json.dumps(content))
    return path


def test_panoptic_annotations_of_coco(tmp_path):
    path = write_panoptic(tmp_path)
    found = read_panoptic([path], form=Form())
    assert found.class_names == ("dog", "grass")
    assert (found.names, found.held_out) == (("val2017/0001.jpg",), ())
    assert found[0][1].tolist() == [[0, 0, -1], [1, 1, 0]]
    both = read_panoptic([path, path], form=GREY)
    assert both.held_out == (1,)
    assert both[1][0].shape == (2, 3, 1)
    labels = found[0][1].tolist()
    (tmp_path / "val2017").rename(tmp_path / "pictures")
    with pytest.raises(InputError, match="val2017', the folder of images, which --images names"):
        read_panoptic([path], form=Form())
    elsewhere = read_panoptic([path], form=Form(), images=tmp_path / "pictures")
    assert elsewhere[0][1].tolist() == labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 18, "name": "dog"}]}, "has 1 categories and 1 images; expected"),
        ({"annotations": []}, "1 of its images have no annotation, the first is 0001.jpg"),
        ({"images": {}}, "has 2 categories and 0 images"),
        ({"annotations": [{"image_id": 1}]}, "is not a panoptic annotation of COCO.*file_name"),
        (
            {"categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}]},
            "0001.png has the category 193, which is not among the file's",
        ),
        (
            {"annotations": [{"image_id": 1, "file_name": "0001.png", "segments_info": []}]},
            "has the segment 300, which has no entry",
        ),
        ({"images": [{"id": 1, "file_name": "x.jpg"}]}, "x.jpg' does not exist, and .* names it"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(changes, message, tmp_path):
    path = write_panoptic(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read_panoptic([path], form=Form())[0]


def test_bad_json_and_other_files(tmp_path):
    path: Path = write_panoptic(tmp_path)
    path.write_text("[")
    with pytest.raises(InputError, match="panoptic_val2017.json' is not JSON: "):
        read_panoptic([path], form=Form())
    with pytest.raises(InputError, match="none.json' does not exist"):
        read_panoptic([tmp_path / "none.json"], form=Form())
    path.write_text("[1]")
    with pytest.raises(InputError, match="is not a panoptic annotation"):
        read_panoptic([path], form=Form())
