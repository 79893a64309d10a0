"""A run over scans: what the network finds in each, and then a study of every instance, in steps.

run.zarr/
  manifest.json, items/00003.parquet     as of images; a scan is a shard of its own
  00003/probability, instances, missed   (z, y, x), on the network's grid
  00003/map.007.METHOD.TAP               (z, y, x) or (z, y, x, modality): the crop of instance 7

A scan's part of the table grows step by step and says whether any step is left: a run that was
killed resumes with the next one. The next scan is read ahead meanwhile.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from segcam_jax import _files
from segcam_jax.data.instances import Instance, in_words
from segcam_jax.engine import Execution
from segcam_jax.networks.network import Network
from segcam_jax.runs import cost
from segcam_jax.runs.manifest import FILE, Manifest, NetworkRecord, Source
from segcam_jax.runs.reading import Failure, read_ahead
from segcam_jax.runs.store import Store, Variable
from segcam_jax.runs.stored_scans import (
    MISSED,
    PREDICTED,
    PROBABILITY,
    StoredScans,
    found_in,
    scan_rows,
    segmented_of,
)
from segcam_jax.runs.table import Part, failure
from segcam_jax.types import InputError, SegcamError, counted
from segcam_jax.volumes import ScanInput, Segmented, SegmentOptions, read_input, segment
from segcam_jax.volumes.scan_inputs import VolumeCase

if TYPE_CHECKING:
    from segcam_jax.runs.instance_studies import ContextStudy, MapStudy

Row = dict[str, Any]
Advance = Callable[[int, str], None]
Bars = Callable[[str, int], Any]
_AXES = ("z", "y", "x")
_AHEAD = 2  # The scan that is computed, and the one after it.


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step of a scan has come to: arrays, rows of the table, and whether none is left."""

    variables: Sequence[Variable]
    rows: Sequence[Row]
    last: bool


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedScan:
    """A scan as it was read.

    Attributes:
        stamp: of its files, before they were opened.
        sha256: of their contents.
        found: what the network finds in it, once that is known.
    """

    given: ScanInput
    stamp: str
    sha256: str
    found: Segmented | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ScanRun:
    """A run over scans as a command asks for it, all checked."""

    network: Network
    cases: tuple[VolumeCase, ...]
    modalities: tuple[str, ...]
    segmenting: SegmentOptions
    study: "MapStudy | ContextStudy"
    execution: Execution = Execution()

    @property
    def manifest(self) -> Manifest:
        """What makes the run: not the scans' contents, so that one can be mended by itself."""
        names = [[case.name, case.files.truth is not None] for case in self.cases]
        opening = self.network.opening
        opened = {
            "checkpoint": opening.checkpoint and os.path.abspath(opening.checkpoint),
            "layout": opening.layout,
            "mirror": opening.mirror,
        }
        options = {
            **dataclasses.asdict(self.segmenting),
            **self.study.options(),
            "modalities": self.modalities,
            **{word: value for word, value in opened.items() if value},
        }
        words = tuple(os.path.abspath(file) for case in self.cases for file in case.files.files)
        return Manifest.of(
            msgspec.to_builtins(options),
            NetworkRecord.of(self.network, None),
            Source(words=words, items=len(self.cases), digest=_files.key_of(names)),
            items_per_shard=1,
            targets=0,
            kind=self.study.kind,
        )

    def read(self, number: int) -> LoadedScan | Failure:
        """Reads a scan."""
        files = self.cases[number].files
        try:
            stamp, digest = files.stamp(), files.digest()
            return LoadedScan(read_input(files, self.segmenting, self.modalities), stamp, digest)
        except SegcamError as error:
            return Failure.of(error)

    def segmented(
        self, number: int, read: LoadedScan, bars: Bars, report: Callable[[str], None]
    ) -> LoadedScan | Failure:
        """A scan with what the network finds in it, which is told."""
        if read.found is not None:
            return read
        name = self.cases[number].name
        with bars("segmenting", 1) as advance:
            advance(0, name)
            try:
                cost.check_scan(self.network, self.segmenting, self.study.windows, read.given)
                found = segment(self.network, read.given, self.segmenting, self.execution)
            except SegcamError as error:
                return Failure.of(error)
            for note in (*read.given.notes, *found.notes):
                report(note)
            advance(1, f"{name}: {in_words(found.instances())}")
        return dataclasses.replace(read, found=found)

    def about(self, number: int) -> Row:
        """What every row says of its scan."""
        case = self.cases[number]
        files = [os.path.abspath(path) for path in case.files.files]
        truth = case.files.truth
        return {
            "item": number,
            "scan": case.name,
            "path": files[0],
            "files": files,
            "truth": None if truth is None else os.path.abspath(truth),
            "stamp": case.files.stamp(),
        }

    def run(
        self,
        out: Path,
        *,
        overwrite: bool = False,
        stop_on_error: bool = False,
        bars: Bars,
        report: Callable[[str], None] = lambda line: None,
    ) -> StoredScans:
        """Computes what is not there yet.

        Args:
            bars: `bars(what, total)`, a context that yields `advance(count, text)`.
            report: is told what was converted, where nothing was found, and what failed.

        Raises:
            SegcamError: if another run is there, or a scan of the same name from elsewhere with
                other contents; if another process writes the run; if no scan of a new run can be
                read; if something cannot be written, or failed and that is to stop the run.
        """
        known: dict[int, LoadedScan | Failure] = {}
        if overwrite or not (out / FILE).exists():
            known = self._first(bars, report)

        def read(number: int) -> LoadedScan | Failure:
            return known.pop(number) if number in known else self.read(number)

        with Store.create(out, self.manifest, overwrite=overwrite, single=True) as store:
            parts = {number: store.part(number) for number in range(len(self.cases))}
            changed = {n: part for n, part in parts.items() if part and not self._same(n, part)}
            for number, part in changed.items():
                self._check_place(number, part, out)
            for number in changed:
                report(
                    f"{self.cases[number].name}: its files have changed, so it is computed again"
                )
            kernel = ScanKernel(self, StoredScans(out), bars, report)

            left = {n: None if n in changed else part for n, part in parts.items()}
            todo = [n for n, part in left.items() if part is None or part.unfinished]
            with contextlib.closing(read_ahead(read, todo, window=_AHEAD)) as entries:
                for entry in entries:
                    number, part = entry.item, left[entry.item]
                    with contextlib.closing(kernel.steps(number, entry.read, part)) as steps:
                        for step in steps:
                            failed = [row for row in step.rows if row.get("error")]
                            if failed and stop_on_error:
                                raise InputError(failure(failed[0]))
                            part = store.add(
                                number, part, step.variables, step.rows, last=step.last
                            )
            store.finish()
        return StoredScans(out)

    def _first(self, bars: Bars, report: Callable[[str], None]) -> dict[int, LoadedScan | Failure]:
        """The scans up to the first that can be segmented.

        What would be said of every scan is said before anything is written.
        """
        known: dict[int, LoadedScan | Failure] = {}
        for number in range(len(self.cases)):
            found = self.read(number)
            if isinstance(found, LoadedScan):
                found = self.segmented(number, found, bars, report)
            known[number] = found
            if isinstance(found, LoadedScan):
                return known
        first = known[0]
        assert isinstance(first, Failure)
        if len(known) == 1:
            raise InputError(first.reason)
        raise InputError(f"none of the {len(known)} scans can be explained: {first.reason}")

    def _same(self, number: int, part: Part) -> bool:
        """Whether a part is of the scan as its files are now, here or moved from elsewhere."""
        (row,), about = scan_rows(part.table), self.about(number)
        names = ("files", "truth", "stamp")
        if all(row[name] == about[name] for name in names):
            return True
        return row["sha256"] is not None and row["sha256"] == self.cases[number].files.digest()

    def _check_place(self, number: int, part: Part, out: Path) -> None:
        """Raises `InputError` if another scan of the same name would be lost."""
        (row,), about = scan_rows(part.table), self.about(number)
        moved = [name for name in ("files", "truth") if row[name] != about[name]]
        if not moved:
            return
        name = about["scan"]
        other = f"another scan {name!r}, of {row['path']!r}"
        if moved == ["truth"]:
            other = f"scan {name!r} with another truth, {row['truth']!r}"
        raise InputError(
            f"output {str(out.parent)!r} holds {other}; give another folder, or --overwrite"
        )


class ScanKernel:
    """Segments a scan, and studies its instances, one call a step.

    Args:
        stored: what earlier starts have left.
        bars: as `ScanRun.run` has it.
    """

    def __init__(
        self, run: ScanRun, stored: StoredScans, bars: Bars, report: Callable[[str], None]
    ):
        self._run, self._stored, self._bars, self._report = run, stored, bars, report

    def steps(
        self, number: int, read: LoadedScan | Failure, part: Part | None
    ) -> Generator[Step, None, None]:
        """The steps that are left of a scan: what is found in it, then each call of an instance."""
        run, about, step = self._run, self._run.about(number), 0
        if isinstance(read, LoadedScan):
            about |= {"stamp": read.stamp}
            if part is None:
                read = run.segmented(number, read, self._bars, self._report)
        if isinstance(read, Failure):
            self._report(f"{about['scan']} failed: {read.reason}")
            yield Step([], [{**about, "step": 0, "error": read.reason}], last=True)
            return
        if part is not None:
            found = segmented_of(
                found_in(part.table, number).values(), lambda name: self._stored.array(number, name)
            )
            step = int(part.table["step"].to_numpy().max())
        else:
            found = read.found
            assert found is not None
        todo = [
            (instance, call)
            for instance in found.instances()
            if run.study.wanted(instance)
            for call in run.study.calls()
        ]
        if part is None:
            variables, rows = _of_scan(found)
            rows[0] |= {"sha256": read.sha256, "notes": [*read.given.notes, *found.notes]}
            rows[0] |= {} if found.scores is None else dataclasses.asdict(found.scores)
            yield Step(variables, [{**about, "step": 0, **row} for row in rows], last=not todo)
        left = todo[step:]
        with self._bars("explaining", sum(run.study.passes(call) for _, call in left)) as advance:
            for number, (instance, call) in enumerate(left, step + 1):
                variables, rows = self._study(read.given, found, instance, call, about, advance)
                own = {**about, "step": number, **_of_instance(instance, found)}
                yield Step(variables, [{**own, **row} for row in rows], last=number == len(todo))

    def _study(
        self,
        given: ScanInput,
        found: Segmented,
        instance: Instance,
        call: Any,
        about: Row,
        advance: Advance,
    ) -> tuple[list[Variable], list[Row]]:
        """A call of an instance; where it fails, a row that says why."""
        where, begun = f"{about['scan']}: instance {instance.label}", 0

        def tell(text: str) -> None:
            nonlocal begun
            advance(min(1, begun), "")  # The pass before this one is done.
            advance(0, f"{where}{text}")
            begun = 1

        try:
            study = self._run.study
            variables, rows = study.compute(given, found, instance, call, self._run.execution, tell)
        except SegcamError as error:
            reason = Failure.of(error).reason
            self._report(f"{where} failed: {reason}")
            return [], [{"error": reason}]
        advance(1, f"{where}, {instance.group or 'found'}: {counted(instance.voxels, 'voxel')}")
        return variables, rows


def _of_scan(found: Segmented) -> tuple[list[Variable], list[Row]]:
    """The arrays of what is found in a scan, and its rows: of the scan, and of each instance."""
    arrays = {PROBABILITY: found.probability, PREDICTED: found.predicted.labels}
    if found.missed is not None:
        arrays[MISSED] = found.missed.labels
    variables = [Variable(name, _AXES, np.asarray(values)) for name, values in arrays.items()]
    return variables, [{}, *(_of_instance(each, found) for each in found.instances())]


def _of_instance(instance: Instance, found: Segmented) -> Row:
    """What every row says of its instance."""
    inside = found.mask(instance)[instance.slices]
    return {
        "instance": instance.label,
        "group": instance.group,
        "voxels": instance.voxels,
        "volume_mm3": instance.volume,
        "box": [end for along in instance.box for end in along],
        "touches_border": instance.touches_border,
        "iou": None if np.isnan(instance.iou) else instance.iou,
        "adjusted_iou": None if np.isnan(instance.iou) else instance.adjusted_iou,
        "mean_probability": float(found.probability[instance.slices][inside].mean()),
    }
