"""A run of images, from what a person asks for to what computes its shards."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from segcam_jax import _files
from segcam_jax.engine import Execution
from segcam_jax.engine.devices import local_mesh
from segcam_jax.networks.image_inputs import ImageForm, Sample, read_sample
from segcam_jax.networks.image_truths import read_labels
from segcam_jax.networks.network import Network
from segcam_jax.networks.open import open_network
from segcam_jax.runs.items import ImageFile, Item, Items, file_of, list_items
from segcam_jax.runs.manifest import FILE, Manifest, NetworkRecord, Source, read_manifest
from segcam_jax.runs.pipeline import Progress, run_shards
from segcam_jax.runs.programs import ImageKernel
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.shard import Loaded
from segcam_jax.runs.store import Store
from segcam_jax.runs.stored_run import StoredRun, open_store
from segcam_jax.runs.table import failure, known_paths
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError, SegcamError

_MOST_ITEMS = 64
_SHARD_BYTES = 64 * 2**20
# Of a pixel and a target: its region, what is predicted there, and the maps.
_TARGET_BYTES = 8
# The first image that can be read says how large images are, with one in the middle and the last.
_TRIED = 256


@dataclasses.dataclass(frozen=True)
class Job:
    """A run as a person asks for it; it can be sent to another process.

    Attributes:
        options: what is explained.
        images: files, folders, a list or an array.
        out: the store.
        devices: how many of this machine share the images; None: all.
        memory_limit: as in `Execution`.
        overwrite: replace another run in the store's place.
        stop_on_error: stop at the first item that fails.
        verify: trust finished shards by digests of their files.
        grows: a run that is there resumes with its own images, and then with others.
        taken: names that the network must not have.
    """

    options: StudyOptions
    images: tuple[Path, ...]
    out: Path
    devices: int | None = None
    memory_limit: int | None = None
    overwrite: bool = False
    stop_on_error: bool = False
    verify: bool = False
    grows: bool = False
    taken: tuple[str, ...] = ()

    def open(self, report: Callable[[str], None] = lambda line: None) -> "OpenJob":
        """Opens the network and lists the images; nothing is written.

        Raises:
            SegcamError: if something that was given is wrong.
        """
        options = self.options.checked()
        items = list_items(self.images, options, report)
        job = dataclasses.replace(self, grows=self.grows and _can_grow(self.out, items, options))
        if job.grows and not self.overwrite:
            job, items = _grown(job, items, options)
        network = open_network(options.network, options.opening, taken=self.taken)
        options.check(network, items.every_goal)
        return self.kind()(job, options, items, network)

    @staticmethod
    def kind() -> "type[OpenJob]":
        """What it is when it is open."""
        return OpenJob


def _can_grow(out: Path, items: Items, options: StudyOptions) -> bool:
    """Whether the images of a run are files, of all of which the same is explained."""
    there = read_manifest(out / FILE).source.words if (out / FILE).is_file() else ()
    lists = any(word.lower().endswith((".csv", ".zarr")) for word in there)
    own = items.rows is not None or items.goals or items.truths
    return not lists and not own and options.where.kind != "mask"


def _grown(job: Job, items: Items, options: StudyOptions) -> tuple[Job, Items]:
    """The images that a run has results of, in their order, and then the others."""
    file = job.out / FILE
    source = read_manifest(file).source if file.is_file() else None
    if source is None or source.digest == items.digest(options.where):
        return job, items
    known = filter(os.path.exists, known_paths(job.out))
    images = dict.fromkeys([*map(Path, source.words), *job.images])
    paths = list(dict.fromkeys([*known, *items.paths]))
    return dataclasses.replace(job, images=tuple(images)), dataclasses.replace(items, paths=paths)


class OpenJob:
    """A run whose network is open and whose images are listed.

    Args:
        job: what was asked for.
        options: the same, checked.
        items: the images.
        network: the network.
    """

    kernel_of: type[ImageKernel] = ImageKernel

    def __init__(self, job: Job, options: StudyOptions, items: Items, network: Network):
        self.job, self.options, self.items, self.network = job, options, items, network
        # Images that were read before the start; each is read once in all.
        self._known: dict[int, Loaded | Failure] = {}
        self.form = ImageForm.of(network, options.fit)
        self.targets = items.targets or len(options.queries)

    @property
    def compares(self) -> bool:
        """Whether a class is explained rather than another one."""
        every = (*self.options.queries, *(goal.query for goal in self.items.every_goal))
        return any(query.second is not None for query in every)

    @functools.cached_property
    def kernel(self) -> ImageKernel:
        """What computes."""
        given = self.job.devices
        count = jax.local_device_count() if given is None else given
        mesh = local_mesh(count, images=count)
        execution = Execution(mesh=mesh, memory_limit=self.job.memory_limit)
        return self.kernel_of(self.network, self.options, self.targets, execution)

    @functools.cached_property
    def first(self) -> Loaded | None:
        """The first image that can be read; None if none of the first ones can."""
        for index in range(min(_TRIED, len(self.items))):
            if isinstance(found := self._ahead(index), Loaded):
                return found
        return None

    def reason(self) -> str:
        """Why the first image cannot be read."""
        found = self._ahead(0)
        return found.reason if isinstance(found, Failure) else ""

    def check(self) -> None:
        """Looks at the first image: what would be said of every image is said before the start.

        Raises:
            SegcamError: if none of the first images can be read, the network's output is not what
                is said of it, or a method cannot explain the network there.
        """
        if self.first is None:
            raise InputError(f"none of the first images can be read: {self.reason()}")
        self.kernel.check(self.first.sample.padded.shape)
        self.kernel.check_output(self.first.sample)

    def check_regions(self) -> None:
        """Looks at a few images: what a run would say of their regions before it explains them.

        Raises:
            SegcamError: if a position lies outside of an image, or a mask is not of its extents.
        """
        for index, loaded in self._some.items():
            item, sample = self.items[index], loaded.sample
            regions = [goal.region for goal in item.goals] or [self.options.where]
            try:
                for region in regions:
                    region.check(sample.extent, sample.file_extent, self.options.fit)
            except SegcamError as error:
                reason = failure({"path": item.path, "error": error})
                raise type(error)(reason) from None

    @functools.cached_property
    def items_per_shard(self) -> int:
        """Items of a shard: 64, fewer where images are large or have many targets.

        A run that resumes keeps what it has.
        """
        if self.options.shard is not None:
            return self.options.shard
        there = self.job.out / FILE
        if there.is_file() and not self.job.overwrite:
            return read_manifest(there).items_per_shard
        images = [each.sample.padded for each in self._some.values()]
        sizes = [
            image.nbytes + self.targets * _TARGET_BYTES * image[..., 0].size for image in images
        ]
        return max(1, min(_MOST_ITEMS, _SHARD_BYTES // max(sizes, default=1)))

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self.items) // self.items_per_shard)

    def read(self, item: Item) -> Loaded | Failure:
        """Reads an item, if that was not done before the start; tells which file it was then."""
        if item.index in self._known:
            return self._known.pop(item.index)
        try:
            file = file_of(item)
        except SegcamError as error:
            return Failure.of(error)
        try:
            sample = read_sample(Path(item.path), self.form)
            return Loaded(sample, file, self._truth(item, sample))
        except SegcamError as error:
            return Failure.of(error, file)

    def _truth(self, item: Item, sample: Sample) -> Int[np.ndarray, "h w"] | None:
        """The truth of an item, of a mask 1 inside and 0 outside."""
        if item.truth is None:
            return None
        return read_labels(
            Path(item.truth),
            sample,
            self.options.truth_reading,
            class_index=1,
            outside=0,
            classes=self.network.config.classes,
            fit=self.options.fit,
        )

    @property
    def _some(self) -> dict[int, Loaded]:
        """The first image that can be read, one in the middle and the last, by their places."""
        if self.first is None:
            return {}
        count = len(self.items)
        found = {index: self._ahead(index) for index in (*self._known, count // 2, count - 1)}
        return {index: each for index, each in found.items() if isinstance(each, Loaded)}

    def _ahead(self, index: int) -> Loaded | Failure:
        if index not in self._known:
            self._known[index] = self.read(self.items[index])
        return self._known[index]

    def digest_of(self, file: ImageFile) -> str:
        """The digest of a file, or of a row of an array, as it is now; empty if there is none."""
        try:
            if self.items.rows is None:
                return _files.sha256_of(file.path)
            return read_sample(Path(file.path), self.form).sha256
        except SegcamError:
            return ""

    def create(self, beside: Iterable[Path] = ()) -> Store:
        """The store, new or of a run that resumes.

        Args:
            beside: folders where files are written while the store is open.

        Raises:
            InputError: if another run is there, or it cannot be written.
        """
        source = Source(
            words=tuple(map(str, self.job.images)),
            items=len(self.items),
            digest=self.items.digest(self.options.where),
        )
        manifest = Manifest.of(
            self.options.to_words(),
            NetworkRecord.of(self.network, self.options.fit),
            source,
            items_per_shard=self.items_per_shard,
            targets=self.targets,
        )
        job = self.job
        return Store.create(
            job.out, manifest, overwrite=job.overwrite, grows=job.grows, beside=beside
        )

    def compute(
        self,
        store: Store,
        numbers: Sequence[int],
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> Progress:
        """Computes shards; raises as `run_shards`."""
        size, count = self.items_per_shard, len(self.items)
        chosen = ((n, range(n * size, min(n * size + size, count))) for n in numbers)
        return run_shards(
            self.kernel,
            self.read,
            self.items,
            chosen,
            store,
            ahead=2 * size,
            stop_on_error=self.job.stop_on_error,
            digest=self.digest_of if self.job.verify else None,
            report=report,
        )

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> StoredRun:
        """Computes all that is not there, and opens the run; raises as `create` and `compute`."""
        with self.create() as store:
            self.compute(store, range(self.shards), report)
            store.finish()
        return open_store(self.job.out)


class JobWorker:
    """Computes shards of a job in a process of its own, as an actor of Ray does.

    Args:
        folder: the one that its names are relative to.
    """

    def __init__(self, job: Job, folder: Path):
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is not a folder of this machine; mount it there")
        os.chdir(folder)
        # What was to be replaced was replaced by who handed out the shards.
        self._open = dataclasses.replace(job, overwrite=False).open()
        self._open.check()
        self._store = self._open.create()

    def compute(self, numbers: Sequence[int]) -> Progress:
        """Computes shards and tells what came of them."""
        return self._open.compute(self._store, numbers)
