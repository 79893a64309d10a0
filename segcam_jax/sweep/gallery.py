"""The plan of a gallery: images x models x layers x methods, drawn side by side.

    OUT/IMAGE/MODEL/CLASS.LAYER.npz        raw maps of all methods, and what is predicted
    OUT/IMAGE/MODEL/CLASS.LAYER.png        the input and one map per method
    OUT/IMAGE/MODEL/CLASS.all-layers.png
    OUT/IMAGE/MODEL/targets.png            all classes, at the last layer
    OUT/IMAGE/CLASS.models.png             all models, at the last layer
    OUT/gallery.json                       all of it in words; the last file

`maps.py` computes the maps, `plates.py` draws the figures from the files of maps alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from segcam_jax import _files
from segcam_jax.methods import METHODS
from segcam_jax.networks.class_queries import ClassQuery
from segcam_jax.networks.image_inputs import Fit, ImageForm, Report, read_sample
from segcam_jax.networks.layers import check_map, find_layer
from segcam_jax.networks.network import Network
from segcam_jax.reports import display, words
from segcam_jax.taps import INPUT
from segcam_jax.targets import Of
from segcam_jax.types import InputError, SegcamError


@dataclasses.dataclass(frozen=True)
class GalleryOptions:
    """All that determines a gallery's maps and figures, but for images, models and classes.

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
    fit: Fit = "crop"
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
        network: the network.
        query: what is explained.
        word: the layer as the user named it.
        tap: the layer.
        methods: their names.
        key: digest of all that determines the maps.
    """

    picture: Picture
    network: Network
    query: ClassQuery
    word: str
    tap: str
    methods: tuple[str, ...]
    key: str

    @property
    def file(self) -> str:
        """Relative to the gallery's folder."""
        return f"{self.picture.name}/{self.network.name}/{self.query.name}.{slug(self.word)}.npz"


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
        names = [maps.network.name for row in self.rows for maps in row]
        layers = [maps.word for row in self.rows for maps in row]
        return _files.key_of([self.kind, look, names, layers, parts])


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
    networks: Sequence[Network],
    queries: Sequence[ClassQuery],
    options: GalleryOptions,
    *,
    version: str,
    report: Report = lambda line: None,
) -> Gallery:
    """Checks everything that can be checked before a network runs, and names every file.

    Args:
        paths: image files.
        networks: networks.
        queries: what is explained.
        options: checked options.
        version: of the library, part of every key.
        report: is told what was converted.

    Raises:
        SegcamError: whatever would stop the work later; names the image or the model.
    """
    within = [name for name in options.methods if METHODS[name].explains == "input"]
    hidden = tuple(name for name in options.methods if name not in within)
    _check_methods(options, queries)
    for network in networks:
        for query in queries:
            _check_query(query, network)
        if said := network.explained_as(options.of):
            report(said)
        said = words.about_background(network, queries, "--classes")
        if said:
            report(f"{network.name}: {said}")
    seen = [_picture(path, name, networks, options, report)
            for path, name in zip(paths, _files.names_of(paths), strict=True)]  # fmt: skip
    layers = tuple(dict.fromkeys(options.layers)) if hidden else (INPUT,)
    maps: list[Maps] = []
    for network in networks:
        groups = {word: [find_layer(network, word), hidden] for word in layers}
        for word, (tap, _) in groups.items():
            _check_positions(network, word, tap)
        if within:
            both = groups.get(INPUT, [INPUT, ()])[1]
            groups[INPUT] = [INPUT, tuple(n for n in options.methods if n in within or n in both)]
        for word, (tap, methods) in groups.items():
            maps += [
                _planned(picture, network, query, word, tap, tuple(methods), options, version)
                for picture in seen
                for query in queries
            ]
    return Gallery(options, tuple(maps), tuple(_plates(maps, layers)))


def _check_query(query: ClassQuery, network: Network) -> None:
    """Checks a query, and says in its errors which model was meant."""
    try:
        query.check(network.labels)
    except SegcamError as error:
        raise type(error)(f"{network.name}: {error}") from None


def _check_methods(options: GalleryOptions, queries: Sequence[ClassQuery]) -> None:
    single = [name for name in options.methods if METHODS[name].contrasts]
    if single and any(query.second is not None for query in queries):
        raise InputError(f"{single[0]} compares classes by itself; leave out --difference")


def _check_positions(network: Network, word: str, tap: str) -> None:
    try:
        check_map(tap, network.taps[tap])
    except InputError as error:
        raise InputError(f"layer {word!r} of {network.name}: {error}") from None


def _picture(
    path: Path,
    name: str,
    networks: Sequence[Network],
    options: GalleryOptions,
    report: Report,
) -> Picture:
    notes: dict[str, None] = {}
    digest = ""
    for network in networks:
        sample = read_sample(path, ImageForm.of(network, options.fit))
        digest = sample.sha256
        notes |= dict.fromkeys(sample.notes)
    for note in notes:
        report(f"{path}: {note}")
    return Picture(path, name, digest)


def _planned(picture, network, query, word, tap, methods, options, version) -> Maps:
    what = [options.of, options.fit, options.seed]
    goal = [*(choice.words for choice in query.choices), list(network.labels)]
    key = _files.key_of([version, picture.sha256, network.key, goal, tap, methods, what])
    return Maps(picture, network, query, word, tap, methods, key)


def _plates(maps: Sequence[Maps], layers: Sequence[str]) -> Iterator[Plate]:
    """The figures: single rows, then layers, classes and models below each other."""
    table = {(m.picture.name, m.network.name, m.query.name, m.word): m for m in maps}
    names = [list(dict.fromkeys(key[axis] for key in table)) for axis in range(3)]
    last = layers[-1]

    def row(picture: str, network: str, query: str, word: str) -> tuple[Maps, ...]:
        places = dict.fromkeys((word, INPUT))
        found = [table.get((picture, network, query, place)) for place in places]
        return tuple(filter(None, found))

    for picture in names[0]:
        for network in names[1]:
            base = f"{picture}/{network}"
            for query in names[2]:
                rows = [row(picture, network, query, word) for word in layers]
                for word, each in zip(layers, rows, strict=True):
                    yield Plate(f"{base}/{query}.{slug(word)}.png", "", (each,))
                if len(layers) > 1:
                    yield Plate(f"{base}/{query}.all-layers.png", "layers", tuple(rows))
            if len(names[2]) > 1:
                rows = [row(picture, network, query, last) for query in names[2]]
                yield Plate(f"{base}/targets.png", "targets", tuple(rows))
        if len(names[1]) > 1:
            for query in names[2]:
                rows = [row(picture, network, query, last) for network in names[1]]
                yield Plate(f"{picture}/{query}.models.png", "models", tuple(rows))
