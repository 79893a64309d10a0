"""POLEN23E, and any data set in its layout: TFRecord files of images as FastAblationCAM reads them.

    images = read_tfrecords(["train.tfrecords", "test.tfrecords"])
    images[0]                               # float32 224 224 3, in [0, 1]
    images.labels[0], images.class_names

POLEN23E shows 23 types of pollen of the Brazilian savannah, 35 images each. A record is a
`tf.train.Example` with the features

    label                   int64
    image                   what `tf.io.serialize_tensor` makes of a float32 tensor, values 0 to 255
    height, width, depth    int64, 224, 224 and 3 if missing
    filename                the image's file; the folder that it lies in is the name of its class

Messages are read by `protobuf` (extra `train`) from the few fields named here, in a pool of their
own: TensorFlow, if it is there too, is not disturbed.

References:
    Sipila, FastAblationCAM, 2022: the layout. Goncalves et al., "Feature extraction and machine
    learning for the classification of Brazilian Savannah pollen grains", PLOS ONE, 2016: POLEN23E.
"""

import functools
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from segcam_jax.extras import require
from segcam_jax.files import digest_of
from segcam_jax.networks.image_inputs import fitted
from segcam_jax.types import InputError, counted
from train.data import labelled, tfrecord
from train.data.labelled import LabelledImages

SHAPE = {"height": 224, "width": 224, "depth": 3}
_FLOAT32 = 1  # TensorFlow's number of the type
_MOST_CLASSES = 1 << 16  # A larger label is a broken one, or a number of another kind.
# message -> (field, its number, its type, whether it is repeated); a type in capitals is a message.
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "BytesList": (("value", 1, "bytes", True),),
    "Int64List": (("value", 1, "int64", True),),
    "Feature": (("bytes_list", 1, "BytesList", False), ("int64_list", 3, "Int64List", False)),
    # A map is a repeated pair on the wire.
    "Entry": (("key", 1, "string", False), ("value", 2, "Feature", False)),
    "Features": (("feature", 1, "Entry", True),),
    "Example": (("features", 1, "Features", False),),
    "Dimension": (("size", 1, "int64", False),),
    "Shape": (("dim", 2, "Dimension", True),),
    "Tensor": (
        ("dtype", 1, "int32", False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, "bytes", False),
        ("float_val", 5, "float", True),
    ),
}


class _Example(NamedTuple):
    """A record, decoded; pixels as they are stored."""

    label: int
    filename: str
    pixels: np.ndarray


class _Kept(NamedTuple):
    """What is remembered of a record that is whole."""

    record: tfrecord.Record
    label: int
    filename: str
    extents: tuple[int, int]
    highest: float
    sha256: str


def read_tfrecords(
    paths: str | Path | Sequence[str | Path],
    *,
    channels: int = 3,
    size: int | None = None,
    scale: float = 255.0,
    class_names: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> LabelledImages:
    """Reads TFRecord files in the layout of POLEN23E.

    All records are decoded once, so that faults show before work begins; images are read again
    whenever they are asked for.

    Args:
        paths: a file, or several that make one data set.
        channels: that every image must have: 3 or 1.
        size: images are stretched to this height and width; None keeps their own.
        scale: what stored values are divided by; 1 if they lie in [0, 1].
        class_names: names of the classes in the order of their labels; None takes the folders in
            the file names, and the label's number where there is none.
        skip_broken: leave out records that are broken or not of this layout, and say so in
            `notes`; else they are errors.
    """
    labelled.check_options(channels=channels, size=size)
    if not scale > 0:
        raise InputError(f"`scale` is {scale}; give more than 0")
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not files:
        raise InputError("no TFRecord file was given; give at least one")
    source = ", ".join(map(str, files))
    kept, notes = _examples(files, channels, scale, skip_broken)
    if not kept:
        raise InputError(f"{source!r} holds no record of this layout: {notes[0]}")
    if scale > 1 and max(example.highest for example in kept) <= 1:
        raise InputError(
            f"no value in {source!r} is above 1, but values are divided by `scale` {scale:g}; "
            "give scale 1"
        )
    names = _class_names(kept, source) if class_names is None else tuple(class_names)
    labels = np.array([example.label for example in kept], np.int32)
    if labels.max() >= len(names):
        raise InputError(
            f"{len(names)} class names were given, but {kept[int(labels.argmax())].record} has "
            f"label {labels.max()}; give a name for each label"
        )
    labelled.check_classes(labels, names, source)

    def pixels(index: int) -> np.ndarray:
        image = _decoded(tfrecord.read(kept[index].record)).pixels / np.float32(scale)
        return image if size is None else fitted(image, (size, size), "stretch")

    return LabelledImages(
        labels=labels,
        class_names=names,
        names=tuple(example.filename or str(example.record) for example in kept),
        extents=tuple((size, size) if size else example.extents for example in kept),
        notes=notes,
        sha256=labelled.fingerprint(
            [(channels, size, scale, *names), *((e.label, e.sha256) for e in kept)]
        ),
        pixels=pixels,
    )


def _examples(
    files: list[Path], channels: int, scale: float, skip_broken: bool
) -> tuple[list[_Kept], tuple[str, ...]]:
    """All records of the layout, and what was wrong with those left out."""
    kept, notes = [], []
    for path in files:
        index = tfrecord.index(path, skip_broken=skip_broken)
        notes += [f"left out: {problem}" for problem in index.problems]
        for record in index.records:
            data = tfrecord.read(record)
            try:
                example = _decoded(data)
                _check(example, channels, scale)
            except InputError as error:
                if not skip_broken:
                    raise InputError(f"{record} {error}") from None
                notes.append(f"left out: {record} {error}")
                continue
            height, width, _ = example.pixels.shape
            kept.append(
                _Kept(
                    record,
                    example.label,
                    example.filename,
                    (height, width),
                    float(example.pixels.max()),
                    digest_of(data),
                )
            )
    return kept, tuple(notes)


def _decoded(data: bytes) -> _Example:
    """A serialized `tf.train.Example` of the layout."""
    features = {entry.key: entry.value for entry in _parsed("Example", data).features.feature}
    numbers = {"label": -1} | SHAPE
    for name in numbers:
        if name in features:
            numbers[name] = _single(features[name].int64_list.value, name, "int64")
    label, *shape = numbers.values()
    if "image" not in features:
        has = ", ".join(sorted(features)) or "none"
        raise InputError(f"has no feature 'image' (it has {has}); it is of another layout")
    content = _single(features["image"].bytes_list.value, "image", "bytes")
    filename = b""
    if "filename" in features:
        filename = _single(features["filename"].bytes_list.value, "filename", "bytes")
    return _Example(label, filename.decode(errors="replace"), _tensor(content, tuple(shape)))


def _single(values: Any, name: str, kind: str) -> Any:
    if len(values) != 1:
        raise InputError(
            f"has {counted(len(values), f'{kind} value')} in feature {name!r}, expected one"
        )
    return values[0]


def _tensor(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """What `tf.io.serialize_tensor` made of a float32 tensor, in the shape that its record says."""
    tensor = _parsed("Tensor", content)
    if tensor.dtype != _FLOAT32:
        raise InputError(
            f"holds an image of TensorFlow's type {tensor.dtype}, expected {_FLOAT32} (float32)"
        )
    if tensor.tensor_content:
        if len(tensor.tensor_content) % 4:
            raise InputError("holds an image whose bytes are not float32 values")
        values = np.frombuffer(tensor.tensor_content, "<f4").astype(np.float32)
    else:
        values = np.array(tensor.float_val, np.float32)
        # TensorFlow's rule: what is not written repeats the last value.
        missing = int(np.prod(shape)) - values.size if min(shape) > 0 else 0
        if values.size and missing > 0:
            values = np.pad(values, (0, missing), mode="edge")
    extents = [dimension.size for dimension in tensor.tensor_shape.dim]
    if min(shape) < 1 or not values.size == np.prod(shape) == np.prod(extents):
        raise InputError(
            f"holds an image of shape {tuple(extents)} with {values.size} values, its height, "
            f"width and depth are {shape}"
        )
    return values.reshape(shape)


def _check(example: _Example, channels: int, scale: float) -> None:
    """Checks what decodes, but may still be no image with a class."""
    if not 0 <= example.label < _MOST_CLASSES:
        raise InputError(
            f"has label {example.label}; labels count from 0 and are less than {_MOST_CLASSES}"
        )
    if example.pixels.shape[-1] != channels:
        raise InputError(f"has depth {example.pixels.shape[-1]}, expected {channels}")
    low, high = float(example.pixels.min()), float(example.pixels.max())
    # Also true for what is not a number.
    if not (low >= 0 and high <= scale):
        raise InputError(f"has values in [{low:.6g}, {high:.6g}], expected [0, {scale:g}]")


def _class_names(kept: list[_Kept], source: str) -> tuple[str, ...]:
    """The folder of each label's files."""
    folders: dict[int, str] = {}
    for example in kept:
        # It takes both kinds of slash: the files may have been listed on Windows.
        folder = PureWindowsPath(example.filename).parent.name
        known = folders.setdefault(example.label, folder)
        if folder != known:
            raise InputError(
                f"{source!r} has label {example.label} both for files in {known!r} and in "
                f"{folder!r} ({example.record}); give class_names if that is right"
            )
    names = [folders.get(label) or str(label) for label in range(max(folders) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"{source!r} has several labels for files in {twice!r}; give class_names if that is "
            "right"
        )
    return tuple(names)


def _parsed(name: str, data: bytes) -> Any:
    """A message of the given name."""
    error = require("google.protobuf.message", extra="train").DecodeError
    try:
        return _messages()[name].FromString(data)
    except error:
        what = "a tf.train.Example" if name == "Example" else "an image made by serialize_tensor"
        raise InputError(f"holds something other than {what}") from None


@functools.cache
def _messages() -> dict[str, Any]:
    """The classes of the messages in `_MESSAGES`."""
    descriptor_pb2 = require("google.protobuf.descriptor_pb2", extra="train")
    pool = require("google.protobuf.descriptor_pool", extra="train").DescriptorPool()
    factory = require("google.protobuf.message_factory", extra="train")
    package, kinds = "segcam", descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            label = kinds.LABEL_REPEATED if is_repeated else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool.Add(file)
    return {
        name: factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES
    }
