"""A folder of comparisons that follows the runs of several networks; none is drawn twice.

    OUT/NETWORK.zarr                          the run of a network
    OUT/IMAGE/NETWORK/TARGET.LAYER.npz, .png  raw maps of all methods, and their figure
    OUT/IMAGE/NETWORK/TARGET.all-layers.png
    OUT/IMAGE/NETWORK/targets.png             all targets, at the last layer
    OUT/IMAGE/TARGET.models.png               all networks, each at its last layer
    OUT/gallery.json                          all of it in words; the last file

A figure carries the mark of what it was drawn of: the rows of the runs, and the look. Its raw maps
are written before it.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars

import segcam_jax
from segcam_jax import _files, viz
from segcam_jax.reports import display, words
from segcam_jax.reports.comparison import Kind, Line, comparison, layers
from segcam_jax.reports.figures import Look
from segcam_jax.reports.processes import spread
from segcam_jax.runs import StoredRun, open_store
from segcam_jax.runs.items import names_of
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.table import MAX, NEGATIVE

INDEX = "gallery.json"
_VERSION = 2
# Of a row, all that is not seen in a figure: it may change when a run grows.
_UNSEEN = ("row", "item", "program")


@dataclasses.dataclass(frozen=True, eq=False)
class Plate:
    """A figure of a gallery.

    Attributes:
        file: relative to the gallery's folder.
        kind: what its lines differ in; of one line alone, raw maps lie beside the figure.
        lines: from top to bottom.
    """

    file: str
    kind: Kind
    lines: tuple[Line, ...]

    @property
    def maps(self) -> str:
        """The file of its raw maps; empty if it has none of its own."""
        return f"{self.file.removesuffix('.png')}.npz" if self.kind == "layer" else ""

    def mark(self, look: Look) -> str:
        """A digest of all that is seen in it."""
        seen = [
            [
                line.tap,
                line.run.manifest.options,
                msgspec.to_builtins(line.run.manifest.network),
                {key: v for key, v in line.run.row(line.row).items() if key not in _UNSEEN},
            ]
            for line in self.lines
        ]
        return _files.key_of([segcam_jax.__version__, self.kind, dataclasses.asdict(look), seen])


class GalleryFolder:
    """The files of a gallery beside the runs of its networks.

    Args:
        images: of the run of each network, all of them, in order, by the networks' names.
    """

    def __init__(
        self, path: Path, images: Mapping[str, Sequence[str]], look: Look, *, figures: bool = True
    ):
        self.path, self._images, self._look, self._figures = path, images, look, figures
        every = list(dict.fromkeys(image for each in images.values() for image in each))
        self._names = dict(zip(every, names_of(every), strict=True))

    def store(self, network: str) -> Path:
        """The run of a network."""
        return self.path / f"{network}.zarr"

    def open_runs(self) -> dict[str, StoredRun]:
        """The runs that are there, as they are now, by the networks' names."""
        return {
            network: open_store(
                self.store(network), {item: self._names[image] for item, image in enumerate(images)}
            )
            for network, images in self._images.items()
            if (self.store(network) / FILE).is_file()
        }

    def folders(self) -> list[Path]:
        """Those where files are written."""
        images = [self.path / name for name in self._names.values()]
        inside = [image / network for image in images for network in self._images]
        return [self.path, *images, *inside]

    def check_free(self) -> None:
        """Checks that nobody else's files are in the way, where no run is there yet."""
        new = [name for name in self._images if not (self.store(name) / FILE).exists()]
        wanted = [f"{image}/{network}" for network in new for image in self._names.values()]
        wanted += [INDEX] if not list(self.path.glob(f"*.zarr/{FILE}")) else []
        _files.check_free(self.path, wanted, ", which is not part of a gallery of this version")

    # ---- what there is to draw

    def plates(self, runs: Mapping[str, StoredRun], images: Sequence[str]) -> list[Plate]:
        """The figures of some images, of all rows that have results."""
        found: list[Plate] = []
        rows = {name: _rows(run, images) for name, run in runs.items()}
        for image in images:
            there = {network: rows[network].get(image, {}) for network in runs}
            for network, run in runs.items():
                found += self._of_network(network, run, image, there[network])
            for target in dict.fromkeys(target for each in there.values() for target in each):
                some = [
                    (runs[name], each[target]) for name, each in there.items() if target in each
                ]
                if len(some) > 1:
                    last = tuple(Line(run, row, layers(run, row)[-1]) for run, row in some)
                    found.append(Plate(f"{self._names[image]}/{target}.models.png", "models", last))
        return found

    def _of_network(
        self, network: str, run: StoredRun, image: str, rows: Mapping[str, int]
    ) -> Iterator[Plate]:
        """The figures of one network and image."""
        folder = f"{self._names[image]}/{network}"
        slugs = _files.unique_names([_files.slug(tap, "layer") for tap in run.taps])
        names = dict(zip(run.taps, slugs, strict=True))
        for target, row in rows.items():
            lines = tuple(Line(run, row, tap) for tap in layers(run, row))
            for line in lines:
                yield Plate(f"{folder}/{target}.{names[line.tap]}.png", "layer", (line,))
            if len(lines) > 1:
                yield Plate(f"{folder}/{target}.all-layers.png", "layers", lines)
        if len(rows) > 1:
            last = tuple(Line(run, row, layers(run, row)[-1]) for row in rows.values())
            yield Plate(f"{folder}/targets.png", "targets", last)

    # ---- in step with the runs

    def update(
        self, plates: Sequence[Plate], images: Sequence[str], advance: Callable[[int, str], None]
    ) -> None:
        """Writes the files of some images that are not there yet, or not current.

        Args:
            plates: all figures of these images.
            images: those; figures of theirs that are no more are removed.
            advance: is called with the number of figures done since the last call, and what is
                there.
        """
        self._remove_others(plates, images)
        left = [
            number
            for number, plate in enumerate(plates)
            if not self._is_current(plate, plate.mark(self._look))
        ]
        advance(len(plates) - len(left), "")
        work = functools.partial(self._write, plates)
        with viz.reused():
            for number in spread(work, left, len(left) if self._figures else 0):
                advance(1, plates[number].file)

    def _write(self, plates: Sequence[Plate], number: int) -> None:
        """Writes the files of a plate."""
        plate = plates[number]
        if plate.maps:
            _files.write_bytes(self.path / plate.maps, _archive(plate.lines[0]))
        if self._figures:
            figure = comparison(plate.lines, plate.kind, self._look)
            viz.save(figure, self.path / plate.file, mark=plate.mark(self._look))

    def _is_current(self, plate: Plate, mark: str) -> bool:
        if plate.maps and not (self.path / plate.maps).is_file():
            return False
        return not self._figures or viz.mark_of(self.path / plate.file) == mark

    def _remove_others(self, plates: Sequence[Plate], images: Sequence[str]) -> None:
        """Removes figures of ours that images had once, and their maps."""
        wanted = {self.path / plate.file for plate in plates}
        for image in (self.path / self._names[image] for image in images):
            folders = [image / network for network in self._images]
            folders += [image] if len(self._images) > 1 else []
            for file in (file for folder in folders for file in folder.glob("*.png")):
                if file not in wanted and viz.mark_of(file) is not None:
                    file.unlink()
                    file.with_suffix(".npz").unlink(missing_ok=True)

    def finish(self, plates: Sequence[Plate], runs: Mapping[str, StoredRun]) -> bool:
        """Writes the index, if the runs are finished and all their files are there."""
        whole = len(runs) == len(self._images) and all(
            run.manifest.finished is not None for run in runs.values()
        )
        done = whole and all(self._is_current(each, each.mark(self._look)) for each in plates)
        if done:
            _files.write_json(self.path / INDEX, self._index(plates, runs))
        return done

    def _index(self, plates: Sequence[Plate], runs: Mapping[str, StoredRun]) -> dict[str, Any]:
        names = {id(run): name for name, run in runs.items()}
        signed = [
            plate.file
            for plate in plates
            if display.is_signed(
                self._look.profile, (each for line in plate.lines for each in line.hidden)
            )
        ]
        return {
            "gallery": _VERSION,
            "versions": next(iter(runs.values())).manifest.versions,
            "networks": {name: self._about_network(name, run) for name, run in runs.items()},
            "look": dataclasses.asdict(self._look),
            "about_maps": "signed and raw, at the resolution of the layer",
            "maps": [
                {"file": each.maps, "model": names[id(each.lines[0].run)], **_about(each.lines[0])}
                for each in plates
                if each.maps
            ],
            "figures": [plate.file for plate in plates] if self._figures else [],
            "signed_figures": signed if self._figures else [],
            "failures": [
                {"model": name, "image": row["path"], "error": row["error"]}
                for name, run in runs.items()
                for row in failed_rows(run)
            ],
        }

    def _about_network(self, name: str, run: StoredRun) -> dict[str, Any]:
        network = run.manifest.network
        return {
            "run": self.store(name).name,
            "title": network.title,
            "sha256": network.sha256,
            "classifies": network.classifies,
            "outputs": network.meaning.to_json(len(network.labels)),
            "background": network.background_index,
        }


def failed_rows(run: StoredRun) -> list[dict[str, Any]]:
    """The rows of a run that have no results."""
    return run.table.filter(polars.col("error").is_not_null()).to_dicts()


def zero_maps(line: Line) -> dict[str, str]:
    """Why maps are zero everywhere, by method."""
    about, found = line.run.row(line.row), {}
    for method, tap in line.pairs:
        if about[f"{method}.{tap}{MAX}"] == about[f"{method}.{tap}{NEGATIVE}"] == 0:
            weights: Any = line.run.weights(line.row, tap, method)
            raw = line.run.map(line.row, tap, method)
            found[method] = display.why_zero(raw, method, weights)
    return found


def _rows(run: StoredRun, images: Sequence[str]) -> dict[str, dict[str, int]]:
    """The rows of some images that have results, by the names of their targets."""
    there = run.table.filter(polars.col("error").is_null(), polars.col("path").is_in(list(images)))
    found: dict[str, list[tuple[str, int]]] = {}
    for path, target, row in there.select("path", "target", "row").rows():
        found.setdefault(path, []).append((target, row))
    named = {}
    for path, each in found.items():  # A list may name one class with several regions.
        targets = _files.unique_names([target for target, _ in each])
        named[path] = dict(zip(targets, (row for _, row in each), strict=True))
    return named


def _archive(line: Line) -> bytes:
    """Raw maps by method, and the explained pixels, as a file in memory."""
    arrays: dict[str, Any] = {**line.maps()}
    if (region := line.run.region(line.row)) is not None:
        arrays["region"] = region
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _about(line: Line) -> dict[str, Any]:
    """What JSON can hold of what is explained, and of its maps."""
    about = line.run.row(line.row)
    told = ("target", "class_index", "class", "share", "rather_than", "chosen", "predicted")
    told = (*told, "predicted_share", "pixels", "score", "extent", "padded", "notes")
    return {
        "image": about["path"],
        "sha256": about["sha256"],
        "tap": line.tap,
        **{name: about[name] for name in told},
        "said": words.in_words(about, line.run.manifest.network),
        "methods": [method for method, _ in line.pairs],
        "relu_hides": dict(line.hidden),
        "zero": zero_maps(line),
    }
