"""The plan of a run: every image read and every target found, before anything is written."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from segcam_jax import _files, targets
from segcam_jax.methods import MethodCall
from segcam_jax.networks.class_queries import (
    ClassQuery,
    Prediction,
    ResolvedClass,
    check_possible,
)
from segcam_jax.networks.image_inputs import ImageForm, read_sample
from segcam_jax.networks.layers import check_map, default_layer, find_layer
from segcam_jax.networks.network import Network
from segcam_jax.outputs import Meaning
from segcam_jax.reports import words
from segcam_jax.sweep import options as options_module, store
from segcam_jax.sweep.options import ExplainOptions
from segcam_jax.types import InputError, SegcamError, TargetError

Report = Callable[[str], None]
Advance = Callable[[int, str], None]
Pair = tuple[MethodCall, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One target of one image of a run.

    Attributes:
        path: the image's file.
        picture: what the image is called.
        name: what its output folder is called; unique in the run, whatever the file system's case.
        sha256: of the file.
        notes: what was converted.
        extent: `(h, w)` of the image.
        padded: `(u, v)` that the network is given; more at the bottom and the right.
        channels: of the network's input.
        class_index: the explained class.
        about: what is explained, and what the network predicts, as `ResolvedClass.summary` says it.
        chosen: how the class was found, in words.
        region: the explained pixels; None for a classifier.
        prediction: predicted class of each pixel, -1 where there is none; of classes that do not
            exclude each other, where the explained one is predicted. None for a classifier.
        meaning: what the network's output means.
    """

    path: Path
    picture: str
    name: str
    sha256: str
    notes: tuple[str, ...]
    extent: tuple[int, int]
    padded: tuple[int, int]
    channels: int
    class_index: int
    about: dict[str, Any]
    chosen: str
    region: Bool[np.ndarray, "h w"] | None
    prediction: Int[np.ndarray, "h w"] | None
    meaning: Meaning = Meaning("logits")

    def target(self, options: ExplainOptions) -> targets.Target:
        """The score to explain; padding is never in its region."""
        # An array, so that one program serves all classes.
        index: Any = np.asarray(self.class_index, np.int32)
        said: Any = {"outputs": self.meaning.outputs, "exclusive": self.meaning.exclusive}
        if self.region is None:
            return targets.whole_image(index, of=options.of, **said)
        widths = [(0, large - small) for large, small in zip(self.padded, self.extent, strict=True)]
        mask = np.pad(self.region, widths)
        return targets.region(self.class_index, mask, of=options.of, reduce=options.reduce, **said)

    @property
    def where(self) -> str:
        """The image, and which of its targets, if there are several."""
        several = self.name.startswith(f"{self.picture}.")
        return f"{self.path}, {self.about['explained']['label']}" if several else str(self.path)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of what the network is given."""
        return (*self.padded, self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A run that can be carried out.

    Attributes:
        network: what is explained.
        options: checked options.
        cases: the images, and each of their targets.
        pairs: for each case, which methods look at which taps.
        key: digest of options, weights and images: equal keys give equal maps.
        left_out: images of which nothing is explained, for only the background is predicted there.
    """

    network: Network
    options: ExplainOptions
    cases: tuple[Case, ...]
    pairs: tuple[tuple[Pair, ...], ...]
    key: str
    left_out: tuple[Path, ...] = ()

    def share(self, index: int, count: int) -> list[tuple[Case, tuple[Pair, ...]]]:
        """Cases and pairs of the images `index`, `index + count`, ..."""
        mine = list(dict.fromkeys(case.path for case in self.cases))[index::count]
        both = zip(self.cases, self.pairs, strict=True)
        return [(case, pairs) for case, pairs in both if case.path in mine]

    def files(self) -> list[str]:
        """All that the run writes, the manifest last."""
        written = [
            file
            for case, pairs in zip(self.cases, self.pairs, strict=True)
            for file in case_files(case, pairs).values()
        ]
        records = [f"{case.name}/{store.RECORD}" for case in self.cases]
        return [*written, *records, store.MANIFEST]


def make_plan(
    network: Network,
    paths: Sequence[Path],
    options: ExplainOptions,
    *,
    version: str,
    report: Report = lambda line: None,
    advance: Advance = lambda images, text: None,
) -> Plan:
    """Reads every image, runs the network on it, finds its targets, and cuts the taps.

    Args:
        network: what is explained.
        paths: image files.
        options: checked options.
        version: of the library, part of the run's key.
        report: is told what was converted.
        advance: is called with the number of images done since the last call, and what is going on.

    Raises:
        SegcamError: whatever would stop the run later; names the image.
    """
    if not paths:
        raise InputError("no images were given; name at least one file")
    _check_queries(network, options)
    if said := network.explained_as(options.of):
        report(said)
    if said := words.about_background(network, options.queries, "--class-index"):
        report(said)
    cases: list[Case] = []
    left_out: list[Path] = []
    paths = _distinct(paths, report)
    for path, name in zip(paths, _files.names_of(paths), strict=True):
        advance(0, f"reading {path}")
        try:
            found = _cases(network, path, name, options)
        except SegcamError as error:
            text = str(error)
            known = repr(str(path)) in text
            raise type(error)(text if known else f"{str(path)!r}: {text}") from None
        for note in dict.fromkeys(note for case in found for note in case.notes):
            report(f"{path}: {note}")
        if not found:
            left_out.append(path)
            report(f"{path}: only the background is predicted, so the image is left out")
        cases += found
        advance(1, "")
    if not cases:
        raise TargetError(
            "only the background is predicted, which is explained only when asked for; name a "
            "class (--class-index)"
        )
    names = _files.unique_names([case.name for case in cases])
    cases = [dataclasses.replace(c, name=name) for c, name in zip(cases, names, strict=True)]
    traced: set[tuple] = set()
    pairs = tuple(_pairs(network, case, options, traced) for case in cases)
    inputs = [[case.name, case.sha256, case.class_index] for case in cases]
    masks = [None if c.region is None else _files.key_of(c.region.tolist()) for c in cases]
    what = [network.key, network.labels, inputs, masks]
    key = _files.key_of([version, options.to_json(), *what])
    return Plan(network, options, tuple(cases), pairs, key, tuple(left_out))


def _check_queries(network: Network, options: ExplainOptions) -> None:
    """Checks what is explained, as far as that can be done without an image."""
    if network.classifies:
        where = options.where
        given = where.min_probability is not None or where.kind not in ("predicted", "all")
        if given or options.reduce != "sum":
            raise InputError(
                f"{network.name} classifies whole images; leave out --region, --min-probability "
                "and --reduce"
            )
    for query in options.queries:
        query.check(network.labels)


def _cases(network: Network, path: Path, name: str, options: ExplainOptions) -> list[Case]:
    """The targets of one image; none where only the background is predicted, and not asked for."""
    sample = read_sample(path, ImageForm.of(network, options.fit))
    queries = options.queries
    (height, width), (high, wide, channels) = sample.extent, sample.padded.shape
    notes = sample.notes
    if sample.padded.shape != sample.shown.shape:
        mirrored = (
            f"{height} x {width} was mirrored at the bottom and right to {high} x {wide} for the "
            "network, and cropped back"
        )
        notes = (*notes, mirrored)
    output = sample.cropped(network.logits(sample.padded))
    prediction = Prediction.of(output, network.labels, network.meaning, network.background)
    ranked = all(query.first.rank is not None for query in queries)
    if ranked and prediction.order == [prediction.background]:
        return []
    cases = []
    for query in queries:
        class_index = _class(query, prediction, network.labels)
        region = None
        if prediction.masks is not None:
            region = options.where.resolve(
                output,
                class_index,
                network.meaning,
                file_extent=sample.file_extent,
                fit=options.fit,
            )
        check_possible(output, class_index, region, network.labels)
        found = ResolvedClass(class_index, None, region)
        cases.append(
            Case(
                path=path,
                picture=name,
                name=name if len(queries) == 1 else f"{name}.{query.name}",
                sha256=sample.sha256,
                notes=notes,
                extent=(height, width),
                padded=(high, wide),
                channels=channels,
                class_index=class_index,
                about=found.summary(prediction, network.labels),
                chosen=words.how_chosen(query.first, prediction),
                region=region,
                prediction=prediction.drawn(class_index),
                meaning=network.meaning,
            )
        )
    return cases


def _class(query: ClassQuery, prediction: Prediction, labels: Sequence[str]) -> int:
    """The class of a query: of a network with one class that one, predicted or not."""
    only = prediction.masks is not None and len(labels) == 1
    return 0 if only else query.first.resolve(prediction, labels)


def _pairs(
    network: Network, case: Case, options: ExplainOptions, traced: set[tuple]
) -> tuple[Pair, ...]:
    """The pairs of one case, each known to be possible.

    Args:
        network: what is explained.
        case: one of its images.
        options: checked options.
        traced: the pairs and shapes of cases before; each is traced once.
    """
    given = network.list_taps(case.input_shape)
    layers = options.taps or (default_layer(network),)
    taps = dict.fromkeys(find_layer(network, word, given) for word in layers)
    pairs = options_module.pairs(options, list(taps))
    for call, tap in pairs:
        check_map(tap, network.split(tap, case.input_shape).activation)
        what = (call.method.name, tap, case.input_shape)
        if call.options and what not in traced:
            _check_options(network, case, options, call, tap)
        traced.add(what)
    return tuple(pairs)


def _check_options(
    network: Network, case: Case, options: ExplainOptions, call: MethodCall, tap: str
) -> None:
    """Traces the method: what it says of its options is said before anything is written."""
    split = network.split(tap, case.input_shape)
    arguments = call.arguments(options.seed)
    target = case.target(options)

    def explained(params: Any, x: Any) -> Any:
        return call.method.function(split, params, x, target, **arguments).map

    try:
        jax.eval_shape(
            explained,
            network.params,
            jax.ShapeDtypeStruct(case.input_shape, np.float32),
        )
    except SegcamError as error:
        raise type(error)(f"{call.method.name} at tap {tap!r}: {error}") from None


def _distinct(paths: Iterable[Path], report: Report) -> list[Path]:
    """The paths without those given twice."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            report(f"{path}: given more than once, explained once")
        seen.setdefault(path.resolve(), path)
    return list(seen.values())


def case_files(case: Case, pairs: Sequence[Pair]) -> dict[Any, str]:
    """Names of an image's files, relative to the run's folder.

    Returns:
        By (method, tap, part) with part `"map"`, `"attribution"` (input methods) or `"figure"`,
        and by `"montage"`.
    """
    taps = list(dict.fromkeys(tap for _, tap in pairs))
    names = _files.unique_names([_files.slug(tap, "tap") for tap in taps])
    slugs = dict(zip(taps, names, strict=True))
    files: dict[Any, str] = {}
    for call, tap in pairs:
        method = call.method.name
        start = f"{case.name}/{method}.{slugs[tap]}"
        files[method, tap, "map"] = f"{start}.npy"
        if call.method.explains == "input":
            files[method, tap, "attribution"] = f"{start}.attribution.npy"
        files[method, tap, "figure"] = f"{start}.png"
    files["montage"] = f"{case.name}/montage.png"
    return files
