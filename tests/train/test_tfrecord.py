import numpy as np
import pytest

from tests.goldens import polen as golden
from tests.support import tfrecords
from tests.support.tfrecords import framed, record

pytest.importorskip("google_crc32c")

from segcam_jax.types import InputError
from train.data import tfrecord
from train.data.pollen23e import read_tfrecords


def image(seed, shape=(3, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def records():
    names = ["b/1.png", "a/1.png", "b/2.png", "a/2.png"]
    return [record(image(n), 1 - n % 2, name) for n, name in enumerate(names)]


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path / "whole.tfrecords", b"".join(map(framed, records())))


def data_of(index):
    return [tfrecord.read(each) for each in index.records]


def test_checksums_are_those_of_the_definition():
    assert tfrecords.crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"\0" * 8, bytes(range(256))):
        masked = tfrecord.masked_checksum(data)
        assert masked.to_bytes(4, "little") == tfrecords.masked(data)


def test_records_are_found_and_read(whole):
    index = tfrecord.index(whole)
    assert data_of(index) == records()
    assert [each.number for each in index.records] == [1, 2, 3, 4]
    assert index.problems == ()


def test_a_file_that_tensorflow_wrote():
    images = read_tfrecords(golden.PATH)
    assert images.class_names == ("Arecaceae", "Cecropia pachystachya", "Qualea")
    assert images.names == tuple(name for name, _ in golden.FILES)
    assert images.labels.tolist() == [label for _, label in golden.FILES]
    for index in range(len(images)):
        expected = golden.image(index) / np.float32(255)
        np.testing.assert_array_equal(images[index], expected)


def test_images_labels_and_names(whole):
    images = read_tfrecords(whole)
    assert len(images) == 4
    assert images.class_names == ("a", "b")
    assert images.labels.dtype == np.int32
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.names[2] == "b/2.png"
    assert images.extents == ((3, 4),) * 4
    assert images[3].dtype == np.float32
    np.testing.assert_array_equal(images[3], image(3) / np.float32(255))


def test_options(whole):
    assert read_tfrecords(whole, size=7)[0].shape == (7, 7, 3)
    named = read_tfrecords([whole, whole], class_names=("x", "y"))
    assert named.class_names == ("x", "y")
    assert len(named) == 8
    assert read_tfrecords(whole).sha256 == read_tfrecords(whole).sha256
    assert read_tfrecords(whole).sha256 != named.sha256


def test_defaults_of_missing_features(tmp_path):
    large = [np.full((224, 224, 3), value, np.float32) for value in (0, 255)]
    changed = {"height": b"", "width": b"", "depth": b"", "filename": b""}
    data = [framed_fast(record(each, n, "", **changed)) for n, each in enumerate(large)]
    images = read_tfrecords(write(tmp_path / "a.tfrecords", b"".join(data)))
    assert images[1].shape == (224, 224, 3)
    assert images.class_names == ("0", "1")
    assert images.names[0].startswith("record 1 of")


def framed_fast(data):
    """`framed` with the reader's checksum, which is compared above."""
    length = len(data).to_bytes(8, "little")
    sums = [tfrecord.masked_checksum(each).to_bytes(4, "little") for each in (length, data)]
    return length + sums[0] + data + sums[1]


def broken(kind):
    """The whole file's bytes with the second record damaged."""
    parts = [framed(each) for each in records()]
    damaged = bytearray(parts[1])
    place = {"data": 40, "length": 1, "length checksum": 9, "checksum": -1}.get(kind)
    if place is not None:
        damaged[place] ^= 4
    else:
        damaged = damaged[:50]  # a writer was killed, another went on
    return b"".join([parts[0], bytes(damaged), *parts[2:]])


@pytest.mark.parametrize("kind", ["data", "length", "length checksum", "checksum", "cut off"])
def test_a_broken_record_is_named_and_what_is_found_of_the_rest_kept_on_request(tmp_path, kind):
    path = write(tmp_path / "broken.tfrecords", broken(kind))
    start = len(framed(records()[0]))
    with pytest.raises(InputError, match=rf"record 2 of '.*broken.tfrecords', at byte {start}, "):
        tfrecord.index(path)
    index = tfrecord.index(path, skip_broken=True)
    assert "record 2 of" in index.problems[0]
    if kind in ("data", "checksum"):
        assert data_of(index) == [each for n, each in enumerate(records()) if n != 1]
        assert len(index.problems) == 1
        images = read_tfrecords(path, skip_broken=True)
        assert images.names == ("b/1.png", "b/2.png", "a/2.png")
        assert images.notes == (f"left out: {index.problems[0]}",)
    else:
        # Nothing says where the next record begins.
        assert data_of(index) == records()[:1]
        assert "what follows it is left out too" in index.problems[-1]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_file(tmp_path, whole, cut):
    path = write(tmp_path / "cut.tfrecords", whole.read_bytes()[:-cut])
    with pytest.raises(InputError, match="record 4 of .* is cut off: .* bytes are left"):
        tfrecord.index(path)
    assert data_of(tfrecord.index(path, skip_broken=True)) == records()[:3]


def test_a_file_cut_off_in_a_header(tmp_path, whole):
    path = write(tmp_path / "cut.tfrecords", whole.read_bytes() + b"\0" * 7)
    with pytest.raises(InputError, match="record 5 of .* 7 bytes are left, a header has 12"):
        tfrecord.index(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is some other file, of text", "record 1 of .* checksum is wrong"),
        (b"\x1f\x8b" + b"\0" * 30, "compressed by gzip"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = write(tmp_path / "other.tfrecords", content)
    with pytest.raises(InputError, match=message):
        tfrecord.index(path)
    with pytest.raises(InputError, match="is empty|holds no whole record"):
        tfrecord.index(path, skip_broken=True)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        tfrecord.index(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        tfrecord.index(tmp_path)


def test_a_file_shortened_after_it_was_indexed(whole):
    last = tfrecord.index(whole).records[-1]
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InputError, match="record 4 of .* was changed"):
        tfrecord.read(last)
    whole.unlink()
    with pytest.raises(InputError, match="record 4 of .* cannot be read"):
        tfrecord.read(last)


FAULTS = {
    "no example": (b"\xff\xff\xff", "something other than a tf.train.Example"),
    "no image": (record(image(0), 0, "a/1", image=b""), "no feature 'image' \\(it has depth"),
    "no label": (record(image(0), 0, "a/1", label=b""), "label -1; labels count from 0"),
    "huge label": (record(image(0), 2**40, "a/1"), "label 1099511627776; labels count from 0"),
    "text label": (record(image(0), 0, "a/1", label=b"x"), "0 int64 value"),
    "no tensor": (record(image(0), 0, "a/1", image=b"\xff"), "other than an image"),
    "other type": (
        record(image(0), 0, "a/1", image=tfrecords.tensor(image(0), dtype=4)),
        "TensorFlow's type 4, expected 1",
    ),
    "other shape": (record(image(0), 0, "a/1", height=9), r"shape \(3, 4, 3\) with 36 values.*9"),
    "no height": (record(image(0), 0, "a/1", height=0), "height, width and depth are"),
    "few bytes": (
        record(image(0), 0, "a/1", image=tfrecords.tensor(image(0))[:-1] + b""),
        "other than an image",
    ),
    "not a number": (record(image(0) * np.nan, 0, "a/1"), r"values in \[nan, nan\]"),
    "too bright": (record(image(0) + 255, 0, "a/1"), r"expected \[0, 255\]"),
    "grey": (record(image(0, (3, 4, 1)), 0, "a/1"), "depth 1, expected 3"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_record_of_another_layout(tmp_path, kind):
    data, message = FAULTS[kind]
    content = framed(records()[0]) + framed(data) + b"".join(map(framed, records()[1:]))
    path = write(tmp_path / "odd.tfrecords", content)
    with pytest.raises(InputError, match=f"record 2 of '.*odd.tfrecords' .*{message}"):
        read_tfrecords(path)
    images = read_tfrecords(path, skip_broken=True)
    assert len(images) == 4
    assert len(images.notes) == 1
    with pytest.raises(InputError, match="holds no record of this layout"):
        read_tfrecords(write(path, framed(data)), skip_broken=True)


def file_of(tmp_path, *labelled):
    data = [framed(record(image(n), label, name)) for n, (label, name) in enumerate(labelled)]
    return write(tmp_path / "few.tfrecords", b"".join(data))


def test_classes_that_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="label 0 both for files in 'a' and in 'b'"):
        read_tfrecords(file_of(tmp_path, (0, "a/1"), (1, "c/1"), (0, "b/1")))
    twice = file_of(tmp_path, (0, "a/1"), (1, "a/2"))
    with pytest.raises(InputError, match="several labels for files in 'a'"):
        read_tfrecords(twice)
    assert len(read_tfrecords(twice, class_names=("a", "b"))) == 2


def test_too_few_classes(tmp_path):
    with pytest.raises(InputError, match="has one class, 'a'"):
        read_tfrecords(file_of(tmp_path, (0, "a/1"), (0, "a/2")))
    gap = file_of(tmp_path, (0, "a/1"), (2, "c/1"))
    with pytest.raises(InputError, match="no image of class '1'"):
        read_tfrecords(gap)
    with pytest.raises(InputError, match="2 class names were given, but record 2 of .* label 2"):
        read_tfrecords(gap, class_names=("a", "b"))


def test_the_scale(tmp_path):
    data = [framed(record(image(n) / 255, n, f"{n}/1")) for n in range(2)]
    path = write(tmp_path / "unit.tfrecords", b"".join(data))
    with pytest.raises(InputError, match="no value .* is above 1.*give scale 1"):
        read_tfrecords(path)
    np.testing.assert_array_equal(read_tfrecords(path, scale=1)[1], image(1) / 255)
    with pytest.raises(InputError, match="`scale` is 0"):
        read_tfrecords(path, scale=0)
    with pytest.raises(InputError, match="no TFRecord file was given"):
        read_tfrecords([])
