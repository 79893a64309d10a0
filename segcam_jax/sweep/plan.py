"""The plan of a run: every image read and every target found, before anything is written."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax import _files, targets
from segcam_jax.methods import MethodCall
from segcam_jax.networks import class_queries as aims, regions
from segcam_jax.networks.class_queries import Aim, Sight
from segcam_jax.networks.layers import Subject, find_layer, read
from segcam_jax.networks.network import check_map
from segcam_jax.outputs import Meaning
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
        about: what is explained, and what the network predicts, as `aims.summary` says it.
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
    def words(self) -> str:
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
        subject: what is explained.
        options: checked options.
        cases: the images, and each of their targets.
        pairs: for each case, which methods look at which taps.
        key: digest of options, weights and images: equal keys give equal maps.
        left_out: images of which nothing is explained, for only the background is predicted there.
    """

    subject: Subject
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
    subject: Subject,
    paths: Sequence[Path],
    options: ExplainOptions,
    *,
    version: str,
    report: Report = lambda line: None,
    advance: Advance = lambda images, text: None,
) -> Plan:
    """Reads every image, runs the network on it, finds its targets, and cuts the taps.

    Args:
        subject: what is explained.
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
    goals = _goals(subject, options)
    if said := subject.network.explained_as(options.of):
        report(said)
    if said := aims.about_background(subject.background, subject.labels, goals, "--class-index"):
        report(said)
    cases: list[Case] = []
    left_out: list[Path] = []
    paths = _distinct(paths, report)
    for path, name in zip(paths, _files.names_of(paths), strict=True):
        advance(0, f"reading {path}")
        try:
            found = _cases(subject, path, name, goals, options)
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
    pairs = tuple(_pairs(subject, case, options, traced) for case in cases)
    inputs = [[case.name, case.sha256, case.class_index] for case in cases]
    masks = [None if c.region is None else _files.key_of(c.region.tolist()) for c in cases]
    what = [subject.key, subject.labels, inputs, masks]
    key = _files.key_of([version, options.to_json(), *what])
    return Plan(subject, options, tuple(cases), pairs, key, tuple(left_out))


def _goals(subject: Subject, options: ExplainOptions) -> list[Aim]:
    """What is explained of every image; checks what can be checked without one."""
    if subject.classifies:
        region = regions.parse(options.region).kind
        given = options.min_probability is not None or region not in ("predicted", "all")
        if given or options.reduce != "sum":
            raise InputError(
                f"{subject.name} classifies whole images; leave out --region, --min-probability "
                "and --reduce"
            )
    words = options.classes if options.class_index is None else (options.class_index,)
    goals = aims.make_aims(top=options.top, classes=words)
    for goal in goals:
        aims.class_or_rank(goal.first, subject.labels)
    return goals


def _cases(
    subject: Subject, path: Path, name: str, goals: Sequence[Aim], options: ExplainOptions
) -> list[Case]:
    """The targets of one image; none where only the background is predicted, and not asked for."""
    image, shown, padded = read(path, subject, options.fit)
    notes = list(image.notes)
    height, width, _ = shown.shape
    if padded.shape != shown.shape:
        notes.append(
            f"{height} x {width} was mirrored at the bottom and right to {padded.shape[0]} x "
            f"{padded.shape[1]} for the network, and cropped back"
        )
    logits = subject.network.logits(padded)
    if not subject.classifies:
        logits = logits[:height, :width]
    meaning = subject.network.meaning
    sight = aims.look(logits, subject.labels, meaning, subject.background)
    ranks = all(goal.first.startswith(aims.TOP) for goal in goals)
    if ranks and sight.order == [sight.background]:
        return []
    cases = []
    for goal in goals:
        class_index = _class(goal, sight, subject.labels)
        region = _region(logits, class_index, options, meaning, image.pixels.shape[:2])
        aims.check_possible(logits, class_index, region, subject.labels)
        cases.append(
            Case(
                path=path,
                picture=name,
                name=name if len(goals) == 1 else f"{name}.{goal.name}",
                sha256=image.sha256,
                notes=tuple(notes),
                extent=(height, width),
                padded=(padded.shape[0], padded.shape[1]),
                channels=padded.shape[2],
                class_index=class_index,
                about=aims.summary(aims.Found(class_index, None, None), sight, subject.labels),
                chosen=aims.how_chosen(goal.first, sight),
                region=region,
                prediction=sight.drawn(class_index),
                meaning=meaning,
            )
        )
    return cases


def _class(goal: Aim, sight: Sight, labels: Sequence[str]) -> int:
    """The class of a goal: of a network with one class that one, predicted or not."""
    only = sight.masks is not None and len(labels) == 1
    return 0 if only else aims.chosen(goal.first, sight, labels)


def _region(
    output: Float[np.ndarray, "*space k"],
    class_index: int,
    options: ExplainOptions,
    meaning: Meaning,
    file_extent: tuple[int, int],
) -> Bool[np.ndarray, "h w"] | None:
    if output.ndim == 1:
        return None
    region = regions.parse(options.region)
    return regions.resolve(
        region,
        output,
        class_index,
        meaning,
        min_probability=options.min_probability,
        file_extent=file_extent,
        fit=options.fit,
        mask_threshold=options.mask_threshold,
    )


def _pairs(
    subject: Subject, case: Case, options: ExplainOptions, traced: set[tuple]
) -> tuple[Pair, ...]:
    """The pairs of one case, each known to be possible.

    Args:
        subject: what is explained.
        case: one of its images.
        options: checked options.
        traced: the pairs and shapes of cases before; each is traced once.
    """
    given = subject.network.list_taps(case.input_shape)
    words = options.taps or (subject.default_layer,)
    taps = dict.fromkeys(find_layer(subject, word, given) for word in words)
    pairs = options_module.pairs(options, list(taps))
    for call, tap in pairs:
        check_map(tap, subject.network.split(tap, case.input_shape).activation)
        what = (call.method.name, tap, case.input_shape)
        if call.options and what not in traced:
            _check_options(subject, case, options, call, tap)
        traced.add(what)
    return tuple(pairs)


def _check_options(
    subject: Subject, case: Case, options: ExplainOptions, call: MethodCall, tap: str
) -> None:
    """Traces the method: what it says of its options is said before anything is written."""
    split = subject.network.split(tap, case.input_shape)
    arguments = call.arguments(options.seed)
    target = case.target(options)

    def explained(params: Any, x: Any) -> Any:
        return call.method.function(split, params, x, target, **arguments).map

    try:
        jax.eval_shape(
            explained,
            subject.network.model.params,
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
