"""The plan of a run: every image read and every target found, before anything is written."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.data import images
from segcam_jax.sweep import options as options_module, regions, store
from segcam_jax.sweep.network import Network, find_class, predicted_labels, usual_class
from segcam_jax.sweep.options import ExplainOptions
from segcam_jax.types import InputError, SegcamError

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One image of a run, with its target.

    Attributes:
        path: its file.
        name: what its output folder is called; unique in the run, whatever the file system's case.
        sha256: of the file.
        notes: what was converted.
        extent: `(h, w)` of the image.
        padded: `(u, v)` that the network is given; more at the bottom and the right.
        channels: of the network's input.
        class_index: the explained class.
        region: the explained pixels.
        prediction: predicted class of each pixel.
    """

    path: Path
    name: str
    sha256: str
    notes: tuple[str, ...]
    extent: tuple[int, int]
    padded: tuple[int, int]
    channels: int
    class_index: int
    region: Bool[np.ndarray, "h w"]
    prediction: Int[np.ndarray, "h w"]

    @property
    def mask(self) -> Bool[np.ndarray, "u v"]:
        """The region at the network's extent; padding is never in it."""
        widths = [(0, large - small) for large, small in zip(self.padded, self.extent, strict=True)]
        return np.pad(self.region, widths)

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
        cases: the images.
        pairs: for each image its (method, tap) pairs.
        key: digest of options, weights and images: equal keys give equal maps.
    """

    network: Network
    options: ExplainOptions
    cases: tuple[Case, ...]
    pairs: tuple[tuple[tuple[str, str], ...], ...]
    key: str

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
) -> Plan:
    """Reads every image, runs the network on it, finds its target, and cuts the taps.

    Args:
        network: what is explained.
        paths: image files.
        options: checked options.
        version: of the library, part of the run's key.
        report: is told what was converted.

    Raises:
        SegcamError: whatever would stop the run later; names the image.
    """
    if not paths:
        raise InputError("no images were given; name at least one file")
    paths = _distinct(paths, report)
    cases = []
    for path, name in zip(paths, unique_names(paths), strict=True):
        try:
            case = _case(network, path, name, options)
        except SegcamError as error:
            text = str(error)
            known = repr(str(path)) in text
            raise type(error)(text if known else f"{str(path)!r}: {text}") from None
        for note in case.notes:
            report(f"{path}: {note}")
        cases.append(case)
    pairs = tuple(_pairs(network, case, options) for case in cases)
    inputs = [[case.name, case.sha256] for case in cases]
    masks = [store.key_of(case.region.tolist()) for case in cases]
    key = store.key_of([version, options.to_json(), network.sha256, inputs, masks])
    return Plan(network, options, tuple(cases), pairs, key)


def read_padded(
    path: Path, network: Network
) -> tuple[images.ReadImage, Float[np.ndarray, "u v c"]]:
    """An image, and the same padded to what the network can divide."""
    config = network.model.config
    image = images.read_image(path, channels=config.in_channels)
    return image, images.pad_to_multiple(image.pixels, config.multiple)


def _case(network: Network, path: Path, name: str, options: ExplainOptions) -> Case:
    image, padded = read_padded(path, network)
    notes = list(image.notes)
    height, width, _ = image.pixels.shape
    if padded.shape != image.pixels.shape:
        notes.append(
            f"{height} x {width} was mirrored at the bottom and right to {padded.shape[0]} x "
            f"{padded.shape[1]} for the network, and cropped back"
        )
    logits = network.logits(padded)[:height, :width]
    names = network.class_names
    if options.class_index is None:
        class_index, note = usual_class(logits, names)
        notes += [note] if note else []
    else:
        class_index = find_class(options.class_index, names)
    region = regions.parse(options.region)
    mask = regions.resolve(region, logits, class_index, min_probability=options.min_probability)
    return Case(
        path=path,
        name=name,
        sha256=image.sha256,
        notes=tuple(notes),
        extent=(height, width),
        padded=(padded.shape[0], padded.shape[1]),
        channels=padded.shape[2],
        class_index=class_index,
        region=mask,
        prediction=predicted_labels(logits).astype(np.int32),
    )


def _pairs(network: Network, case: Case, options: ExplainOptions) -> tuple[tuple[str, str], ...]:
    """The pairs of one image, each known to be possible."""
    pairs = options_module.pairs(options, network.bottleneck(case.input_shape))
    for method, tap in pairs:
        split = network.split(tap, case.input_shape)
        if method == "fast_ablation_cam":
            options_module.check_windows(split, options)
    return tuple(pairs)


def _distinct(paths: Iterable[Path], report: Report) -> list[Path]:
    """The paths without those given twice."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            report(f"{path}: given more than once, explained once")
        seen.setdefault(path.resolve(), path)
    return list(seen.values())


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for each image: its stem, numbered where several have the same."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = path.stem.strip(". ") or "image"
        candidates = itertools.chain([stem], (f"{stem}-{k}" for k in itertools.count(2)))
        name = next(each for each in candidates if each.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def case_files(case: Case, pairs: Sequence[tuple[str, str]]) -> dict[Any, str]:
    """Names of an image's files, relative to the run's folder.

    Returns:
        By (method, tap, part) with part `"map"`, `"attribution"` (input methods) or `"figure"`,
        and by `"montage"`.
    """
    from segcam_jax.methods import METHODS

    taps = list(dict.fromkeys(tap for _, tap in pairs))
    slugs: dict[str, str] = {}
    for tap in taps:
        slug = re.sub(r"[^\w.-]+", "-", tap)
        while slug.casefold() in {each.casefold() for each in slugs.values()}:
            slug += "-"
        slugs[tap] = slug
    files: dict[Any, str] = {}
    for method, tap in pairs:
        start = f"{case.name}/{method}.{slugs[tap]}"
        files[method, tap, "map"] = f"{start}.npy"
        if METHODS[method].explains == "input":
            files[method, tap, "attribution"] = f"{start}.attribution.npy"
        files[method, tap, "figure"] = f"{start}.png"
    files["montage"] = f"{case.name}/montage.png"
    return files
