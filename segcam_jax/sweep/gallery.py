"""The plan of a gallery: images x models x layers x methods, drawn side by side.

    OUT/IMAGE/MODEL/AIM.LAYER.npz    raw maps of all methods, and what is predicted
    OUT/IMAGE/MODEL/AIM.LAYER.png    the input and one map per method
    OUT/IMAGE/MODEL/AIM.all-layers.png
    OUT/IMAGE/MODEL/targets.png      all aims, at the last layer
    OUT/IMAGE/AIM.models.png         all models, at the last layer
    OUT/gallery.json                 all of it in words; the last file

`maps.py` computes the maps, `plates.py` draws the figures from the files of maps alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from segcam_jax import _files
from segcam_jax.methods import METHODS
from segcam_jax.networks import class_queries as aims_module, image_inputs as pictures
from segcam_jax.networks.class_queries import Aim
from segcam_jax.networks.layers import Subject, find_layer, read
from segcam_jax.networks.network import check_map
from segcam_jax.sweep import display
from segcam_jax.taps import INPUT
from segcam_jax.targets import Of
from segcam_jax.types import InputError, SegcamError


@dataclasses.dataclass(frozen=True)
class GalleryOptions:
    """All that determines a gallery's maps and figures, but for images, models and aims.

    Attributes:
        layers: `first`, `middle`, `last`, `conv:N` or taps.
        methods: names of methods.
        of: whether logits or probabilities are explained.
        fit: how images are brought to a classifier's size.
        profile: how raw maps become heatmaps: a profile, or `auto`, as `display` has it.
        colormap: a matplotlib colour table; None: the library's.
        seed: of all random numbers.
    """

    layers: tuple[str, ...] = ("first", "middle", "last")
    methods: tuple[str, ...] = ()
    of: Of = "logits"
    fit: pictures.Fit = "crop"
    profile: str = display.AUTO
    colormap: str | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image file of a gallery; `name` is that of its folder."""

    path: Path
    name: str
    sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """One file of raw maps: all methods at one layer.

    Attributes:
        picture: the image.
        subject: the network.
        aim: what is explained.
        word: the layer as the user named it.
        tap: the layer.
        methods: their names.
        key: digest of all that determines the maps.
    """

    picture: Picture
    subject: Subject
    aim: Aim
    word: str
    tap: str
    methods: tuple[str, ...]
    key: str

    @property
    def file(self) -> str:
        """Relative to the gallery's folder."""
        return f"{self.picture.name}/{self.subject.name}/{self.aim.name}.{slug(self.word)}.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Plate:
    """One figure.

    Attributes:
        file: relative to the gallery's folder.
        kind: what its rows differ in: `""` (one row), `"layers"`, `"targets"` or `"models"`.
        rows: for each row, the files of maps that it is drawn from.
    """

    file: str
    kind: str
    rows: tuple[tuple[Maps, ...], ...]

    def key(self, options: GalleryOptions) -> str:
        """A digest of all that determines the figure."""
        parts = [[maps.key for maps in row] for row in self.rows]
        look = [options.profile, options.colormap, options.methods]
        names = [maps.subject.name for row in self.rows for maps in row]
        words = [maps.word for row in self.rows for maps in row]
        return _files.key_of([self.kind, look, names, words, parts])


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """A gallery that can be made.

    Attributes:
        options: what is drawn.
        maps: all files of maps, in the order in which they are computed.
        plates: all figures.
    """

    options: GalleryOptions
    maps: tuple[Maps, ...]
    plates: tuple[Plate, ...]

    def files(self) -> dict[str, str]:
        """Every file but the index, with its key."""
        plates = {plate.file: plate.key(self.options) for plate in self.plates}
        return {maps.file: maps.key for maps in self.maps} | plates


def slug(word: str) -> str:
    """A layer's name for files."""
    return _files.slug(word, "layer")


def make_gallery(
    paths: Sequence[Path],
    subjects: Sequence[Subject],
    aims: Sequence[Aim],
    options: GalleryOptions,
    *,
    version: str,
    report: pictures.Report = lambda line: None,
) -> Gallery:
    """Checks everything that can be checked before a network runs, and names every file.

    Args:
        paths: image files.
        subjects: networks.
        aims: what is explained.
        options: checked options.
        version: of the library, part of every key.
        report: is told what was converted.

    Raises:
        SegcamError: whatever would stop the work later; names the image or the model.
    """
    within = [name for name in options.methods if METHODS[name].explains == "input"]
    hidden = tuple(name for name in options.methods if name not in within)
    _check_methods(options, aims)
    for subject in subjects:
        for aim in aims:
            for word in filter(None, (aim.first, aim.second)):
                _named(subject, aims_module.class_or_rank, word, subject.labels)
        if said := subject.network.explained_as(options.of):
            report(said)
        said = aims_module.about_background(subject.background, subject.labels, aims, "--classes")
        if said:
            report(f"{subject.name}: {said}")
    seen = [_picture(path, name, subjects, options, report)
            for path, name in zip(paths, _files.names_of(paths), strict=True)]  # fmt: skip
    words = tuple(dict.fromkeys(options.layers)) if hidden else (INPUT,)
    maps: list[Maps] = []
    for subject in subjects:
        groups = {word: [find_layer(subject, word), hidden] for word in words}
        for word, (tap, _) in groups.items():
            _check_positions(subject, word, tap)
        if within:
            both = groups.get(INPUT, [INPUT, ()])[1]
            groups[INPUT] = [INPUT, tuple(n for n in options.methods if n in within or n in both)]
        for word, (tap, methods) in groups.items():
            maps += [
                _planned(picture, subject, aim, word, tap, tuple(methods), options, version)
                for picture in seen
                for aim in aims
            ]
    return Gallery(options, tuple(maps), tuple(_plates(maps, words)))


def _named(subject: Subject, function: Callable, *arguments: Any) -> Any:
    """Calls a function, and says in its errors which model was meant."""
    try:
        return function(*arguments)
    except SegcamError as error:
        raise type(error)(f"{subject.name}: {error}") from None


def _check_methods(options: GalleryOptions, aims: Sequence[Aim]) -> None:
    single = [name for name in options.methods if METHODS[name].contrasts]
    if single and any(aim.second is not None for aim in aims):
        raise InputError(f"{single[0]} compares classes by itself; leave out --difference")


def _check_positions(subject: Subject, word: str, tap: str) -> None:
    try:
        check_map(tap, subject.taps[tap])
    except InputError as error:
        raise InputError(f"layer {word!r} of {subject.name}: {error}") from None


def _picture(
    path: Path,
    name: str,
    subjects: Sequence[Subject],
    options: GalleryOptions,
    report: pictures.Report,
) -> Picture:
    notes: dict[str, None] = {}
    digest = ""
    for subject in subjects:
        image, _, _ = read(path, subject, options.fit)
        digest = image.sha256
        notes |= dict.fromkeys(image.notes)
    for note in notes:
        report(f"{path}: {note}")
    return Picture(path, name, digest)


def _planned(picture, subject, aim, word, tap, methods, options, version) -> Maps:
    what = [options.of, options.fit, options.seed]
    goal = [aim.first, aim.second, subject.labels]
    key = _files.key_of([version, picture.sha256, subject.key, goal, tap, methods, what])
    return Maps(picture, subject, aim, word, tap, methods, key)


def _plates(maps: Sequence[Maps], words: Sequence[str]) -> Iterator[Plate]:
    """The figures: single rows, then layers, aims and models below each other."""
    table = {(m.picture.name, m.subject.name, m.aim.name, m.word): m for m in maps}
    names = [list(dict.fromkeys(key[axis] for key in table)) for axis in range(3)]
    last = words[-1]

    def row(picture: str, subject: str, aim: str, word: str) -> tuple[Maps, ...]:
        found = [table.get((picture, subject, aim, each)) for each in dict.fromkeys((word, INPUT))]
        return tuple(filter(None, found))

    for picture in names[0]:
        for subject in names[1]:
            base = f"{picture}/{subject}"
            for aim in names[2]:
                rows = [row(picture, subject, aim, word) for word in words]
                for word, each in zip(words, rows, strict=True):
                    yield Plate(f"{base}/{aim}.{slug(word)}.png", "", (each,))
                if len(words) > 1:
                    yield Plate(f"{base}/{aim}.all-layers.png", "layers", tuple(rows))
            if len(names[2]) > 1:
                rows = [row(picture, subject, aim, last) for aim in names[2]]
                yield Plate(f"{base}/targets.png", "targets", tuple(rows))
        if len(names[1]) > 1:
            for aim in names[2]:
                rows = [row(picture, subject, aim, last) for subject in names[1]]
                yield Plate(f"{picture}/{aim}.models.png", "models", tuple(rows))
