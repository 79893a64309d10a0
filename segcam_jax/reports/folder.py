"""A folder for people that follows a run: its maps and figures as files, none made twice.

OUT/run.zarr                         the run
OUT/cat/grad_cam.bottleneck.npy ...  the files of a row, as `export` writes them; montage.png last
OUT/cat.grad_cam.layers.png          of several targets, all layers by a method
OUT/items.csv, OUT/manifest.json     written when the run is finished and all its files are there

A row is done when its files are there and its montage carries the mark of what it was drawn of: the
row, its run, and the look. So an image that changed, or another colour table, draws it again; so
with figures of all layers.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars

import segcam_jax
from segcam_jax import _files, viz
from segcam_jax.reports.export import TABLE, RowTask, row_files, row_names, write_table, write_tasks
from segcam_jax.reports.figures import Look
from segcam_jax.reports.layers import LayersTask, file_of, layers_tasks
from segcam_jax.runs import StoredRun, open_store
from segcam_jax.runs.items import names_of
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.stored_run import STORE
from segcam_jax.types import InputError


class ReportFolder:
    """The files of a run beside it.

    Args:
        images: of the run, all of them, in order.
        targets: names of what is explained of each image, where that is known and several.
        methods: names of those whose figures of all layers there may be.
    """

    def __init__(
        self,
        path: Path,
        images: Iterable[str],
        targets: Sequence[str],
        methods: Sequence[str],
        look: Look,
        *,
        figures: bool,
    ):
        self.path, self._look, self._figures = path, look, figures
        self._names = dict(enumerate(names_of(images)))
        self._ends = [f".{target}" for target in targets] or [""]
        self._methods = methods

    @property
    def store(self) -> Path:
        """The run."""
        return self.path / STORE

    def open_run(self) -> StoredRun:
        """The run as it is now."""
        return open_store(self.store, self._names)

    def folders(self) -> list[Path]:
        """Those where files are written."""
        names = self._names.values()
        return [self.path, *(self.path / f"{name}{end}" for name in names for end in self._ends)]

    def check_free(self) -> None:
        """Checks that nobody else's files are in the way, where no run is there yet."""
        folders = (folder.name for folder in self.folders()[1:])
        wanted = [*folders, *self._of_layers(self._names), TABLE, FILE]
        _files.check_free(self.path, wanted, unless=self.store / FILE)

    def files_there(self) -> list[str]:
        """The files of the run that is there, in the folder; none where it cannot be read."""
        with contextlib.suppress(InputError):
            run = open_store(self.store)
            names = row_names(run)
            files = row_files(run, names, ("npy", "png"))
            rows = [f"{name}/{each.name}" for name in names.values() for each in files]
            drawn = [task.name for task in layers_tasks(run, self.path, self._look)]
            return [*rows, *drawn, TABLE, FILE]
        return []

    def _of_layers(self, items: Iterable[int]) -> list[str]:
        """The figures of all layers that there may be of some images."""
        return [file_of(self._names[item], method) for item in items for method in self._methods]

    def layers(self, run: StoredRun, items: Sequence[int] | None = None) -> list[LayersTask]:
        """The figures of all layers that are to be there of some images; None: of all."""
        return layers_tasks(run, self.path, self._look, items) if self._figures else []

    def update(
        self, run: StoredRun, items: Sequence[int], advance: Callable[[int, str], None]
    ) -> None:
        """Writes the files of some images that are not there yet, or not current.

        Args:
            advance: is called with the number of rows and figures of all layers (`count`) done
                since the last call, and what is there.
        """
        tasks = self._tasks(run, items)
        self._remove_failed(run, items)
        # Arrays alone carry no mark; to write them again costs little.
        left = [task for task in tasks if not (self._figures and task.is_there())]
        advance(len(tasks) - len(left), "")
        with viz.reused():
            for task in write_tasks(run, left, self._look):
                advance(1, task.said)

    def count(self, run: StoredRun, items: Sequence[int]) -> int:
        """How many rows with results, and figures of all layers, some images have."""
        return len(self._tasks(run, items))

    def _tasks(
        self, run: StoredRun, items: Sequence[int] | None = None
    ) -> list[RowTask | LayersTask]:
        """What is to be there of some images; None: of all."""
        rows = [
            RowTask(row, self.path / name, row_files(run, [row], self._what), self._mark(run, row))
            for row, name in row_names(run, items).items()
        ]
        return [*rows, *self.layers(run, items)]

    def _remove_failed(self, run: StoredRun, items: Sequence[int]) -> None:
        """Removes the files of images that had results once, and fail now."""
        failed = run.table.filter(
            polars.col("error").is_not_null(), polars.col("item").is_in(list(items))
        )
        if failed.is_empty():
            return
        # Figures that an earlier command drew stay, whether this one draws any or not.
        drawn = layers_tasks(run, self.path, self._look, items)
        kept = {*row_names(run, items).values(), *(task.name for task in drawn)}
        names = {f"{self._names[item]}{end}" for item in failed["item"] for end in self._ends}
        files = row_files(run, run.table["row"], ("npy", "png"))
        gone = [f"{name}/{each.name}" for name in names - kept for each in files]
        _files.remove(self.path, [*gone, *(set(self._of_layers(failed["item"])) - kept)])

    def finish(self, run: StoredRun) -> bool:
        """Writes the table and the manifest, if the run is finished and all files are there."""
        finished = run.manifest.finished is not None
        done = finished and all(task.is_there() for task in self._tasks(run))
        if done:
            write_table(run, self.path)
            manifest = dataclasses.replace(run.manifest, figures=dataclasses.asdict(self._look))
            _files.write_bytes(self.path / FILE, manifest.encode())
        return done

    @property
    def _what(self) -> tuple:
        return ("npy", "png") if self._figures else ("npy",)

    def _mark(self, run: StoredRun, row: int) -> str:
        look = dataclasses.asdict(self._look)
        return _files.key_of([segcam_jax.__version__, run.manifest.key, run.row(row), look])
