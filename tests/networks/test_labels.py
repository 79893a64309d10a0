"""Names of classes: ImageNet's, and files of names that fit or do not."""

import json

import pytest

from segcam_jax.data import labels
from segcam_jax.types import InputError


def test_imagenets_names():
    names = labels.imagenet_labels()
    assert len(names) == len(set(names)) == labels.IMAGENET_CLASSES
    assert names[0] == "tench"
    assert (names[285], names[657], names[967]) == ("Egyptian cat", "missile", "espresso")
    assert names[-1] == "toilet tissue"
    assert all(name == name.strip() for name in names)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "cat\nwild  boar \r\n\u00e9mu\n\n"),
        ("b.txt", "\ufeffcat\nwild boar\n\u00e9mu"),
        ("c.json", json.dumps(["cat", "wild boar", "\u00e9mu"])),
        ("d.json", json.dumps({"2": "\u00e9mu", "0": "cat", "1": "wild boar"})),
        (
            "e.json",
            json.dumps({"0": ["n1", "cat"], "1": ["n2", "wild boar"], "2": ["n3", "\u00e9mu"]}),
        ),
    ],
)
def test_files_of_names(tmp_path, file, text):
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    assert labels.read_labels(path) == ["cat", "wild boar", "\u00e9mu"]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("a.txt", b"", "do not hold a name"),
        ("a.txt", b"cat\n\ndog\n", "no name for class 1"),
        ("a.txt", b"\xff\xfe\x00", "not text in UTF-8"),
        ("a.json", b"[", "are not JSON"),
        ("a.json", b"3", "not hold a list of names"),
        ("a.json", b'["cat", 3]', "hold 3, which is not a name"),
        ("a.json", b'{"0": "cat", "2": "dog"}', "none for class 1"),
    ],
)
def test_files_that_do_not_name_classes(tmp_path, file, data, message):
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        labels.read_labels(path)
    with pytest.raises(InputError, match="cannot be read"):
        labels.read_labels(tmp_path / "none.txt")


def test_one_label_each():
    labels.check_labels(["a", "b"], 2, "labels.txt")
    with pytest.raises(InputError, match=r"labels.txt has 2 labels for 3 classes"):
        labels.check_labels(["a", "b"], 3, "labels.txt")
