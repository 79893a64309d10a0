"""From a command about images to its run: what `explain` and `sweep` do alike."""

import dataclasses
import functools
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from segcam_jax import _files
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.study import Study
from segcam_jax.engine.devices import local_mesh
from segcam_jax.networks.image_inputs import SUFFIXES
from segcam_jax.reports.words import about_background
from segcam_jax.runs import cost, open_store, sharing
from segcam_jax.runs.items import file_now
from segcam_jax.runs.job import Job, JobWorker, OpenJob
from segcam_jax.runs.manifest import FILE, Finished, Manifest, read_manifest
from segcam_jax.runs.pipeline import Progress
from segcam_jax.runs.store import Store
from segcam_jax.runs.stored_run import STORE
from segcam_jax.runs.table import FOLDER
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError

_FILES = (*SUFFIXES, ".csv", ".zarr")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a file says of a run.

    Attributes:
        words: options by the words of the command line.
        manifest: of a run, if the file is one.
        file: it.
    """

    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    manifest: Manifest | None = None
    file: Path | None = None


def read_config(path: Path | None) -> Config:
    """The options in a .toml file, or in a run's manifest.

    Raises:
        InputError: if it cannot be read, or is neither.
    """
    if path is None:
        return Config()
    if path.suffix.lower() == ".toml":
        try:
            return Config(tomllib.loads(_files.read_bytes(path).decode()), None, path)
        except ValueError as error:
            raise InputError(f"{str(path)!r} is no TOML: {' '.join(str(error).split())}") from None
    file = path / FILE if path.is_dir() else path
    manifest = read_manifest(file)
    return Config({**manifest.options, **manifest.figures}, manifest, file)


def options_of(command: Study, words: Mapping[str, Any], methods: Sequence[str]) -> StudyOptions:
    """The options of a command.

    Args:
        command: what was given; it counts more than a file.
        words: of its file.
        methods: where neither names any.

    Raises:
        InputError: if a word is unknown, or a value is none of its kind.
    """
    given = {
        name.replace("classes", "class"): value
        for name, value in _values(command).items()
        if value is not None and value is not False and value != ()
    }
    origin = f"{str(command.config)!r}" if command.config else "the command line"
    return StudyOptions.of_words({"method": methods, **words, **given}, origin)


def _values(command: Study) -> dict[str, Any]:
    """What a command line says of the study, files by their full names."""
    fields = {field.name for field in dataclasses.fields(StudyOptions)}
    known = fields | {"tap", "method", "option", "classes"}
    values = {name: value for name, value in vars(command).items() if name in known}
    for name in ("tap", "method", "classes"):
        option = f"--{name.replace('classes', 'class')}"
        files = [word for word in values[name] if Path(word).suffix.lower() in _FILES]
        if files:
            raise InputError(
                f"{option} was given {files[0]!r}, a file; name images before the options"
            )
    for name in ("tap", "method"):
        values[name] = names_in(values[name])
    for name in ("checkpoint", "labels"):
        if (file := getattr(command, name)) is not None:
            values[name] = str(file.resolve())
    kind, _, file = (command.region or "").partition(":")
    if kind.strip().lower() == "mask" and file:
        values["region"] = f"mask:{Path(file).resolve()}"
    return values


def open_run(command: Study, config: Config, options: StudyOptions, out: Path) -> OpenJob:
    """Opens the network and lists the images; nothing is written.

    Raises:
        SegcamError: if something that was given is wrong.
    """
    if command.share is not None and command.ray is not None:
        raise InputError("give one of --share and --ray")
    if command.ray is not None:
        # This process hands out shards; the devices are the workers'.
        jax.config.update("jax_platforms", "cpu")
    if command.workers < 1:
        raise InputError(f"--workers was given {command.workers}; give at least 1")
    _, count = sharing.parse_share(command.share)
    if count > 1 and command.overwrite:
        raise InputError(
            "a run that several processes share cannot overwrite another; remove "
            f"{str(command.out)!r} first, or give another folder"
        )
    if command.devices is not None:
        local_mesh(command.devices)
    repeated = None if command.images else config.manifest
    images = command.images if repeated is None else tuple(map(Path, repeated.source.words))
    job = Job(
        options,
        images,
        out,
        command.devices,
        bytes_of(command.memory_limit),
        command.overwrite,
        command.on_error == "stop",
        command.verify,
    )
    opened = job.open(console.note)
    if repeated is not None and config.file is not None:
        _check_repeated(opened, repeated, config.file)
    _tell(opened)
    return opened


def _check_repeated(opened: OpenJob, manifest: Manifest, file: Path) -> None:
    """Raises `InputError` if a network or an image is not that of a manifest."""
    if opened.network.sha256 != manifest.network.sha256:
        what = "source or parameters are" if opened.network.spec.kind == "user" else "weights are"
        raise InputError(
            f"{manifest.network.given!r}: its {what} not those of {str(file)!r} (SHA-256)"
        )
    if opened.items.digest(opened.options.where) != manifest.source.digest:
        raise InputError(
            f"the images are not those of {str(file)!r}: other files are listed by "
            f"{' '.join(manifest.source.words)!r} here; name the images"
        )
    for store in (file.parent, file.parent / STORE):
        if (store / FOLDER).is_dir():
            known = dict(open_store(store).table.select("path", "sha256").rows())
            for item in opened.items:
                if known.get(item.path) and opened.digest_of(file_now(item)) != known[item.path]:
                    raise InputError(f"{item.path!r} is not the file of {str(file)!r} (SHA-256)")


def _tell(opened: OpenJob) -> None:
    """Says once what is to know of a network and its classes."""
    network, options = opened.network, opened.options
    if network.note:
        console.note(network.note)
    if network.random:
        console.note(f"{network.name} has random weights: its maps mean nothing")
    if said := network.explained_as(options.of):
        console.note(said)
    if said := about_background(network, options.queries, "--class"):
        console.note(said)


def tell_cost(opened: OpenJob) -> None:
    """Prints what a run would do, and what that costs."""
    console.table(None, cost.COLUMNS, cost.rows(opened, cost.plans(opened)))
    print(cost.summary(opened))


def numbers_of(command: Study, opened: OpenJob) -> Sequence[int]:
    """The shards that this process is to compute."""
    return sharing.numbers_of(sharing.parse_share(command.share), opened.shards)


def compute(command: Study, opened: OpenJob, store: Store, numbers: Sequence[int]) -> Progress:
    """Computes shards, and shows how far it is."""
    size, count = opened.items_per_shard, len(opened.items)
    items = sum(min(size, count - number * size) for number in numbers)
    with console.rates("explaining", items) as show:
        if command.ray is None:
            return opened.compute(store, numbers, show)
        total, start = Progress(), time.perf_counter()
        make = functools.partial(JobWorker, opened.job, Path.cwd())
        for each in sharing.on_ray(make, numbers, address=command.ray, workers=command.workers):
            total = total.and_then(each, time.perf_counter() - start, command.workers)
            show(total)
        return total


def check_whole(command: Study, store: Store) -> Finished | None:
    """What a run has come to; None where other processes have shards to compute.

    Raises:
        InputError: if shards are missing that this process was to compute.
    """
    manifest = store.finish()
    _, count = sharing.parse_share(command.share)
    if manifest is None and count == 1:
        raise InputError(
            f"{str(command.out)!r} lacks shards that were computed; did another process take them "
            "away? The same command computes them again"
        )
    return None if manifest is None else manifest.finished


def exit_code(done: Progress, finished: Finished | None) -> int:
    """0, or another where images failed: of the run, or while it is not finished of this share."""
    failures = done.failures if finished is None else finished.failures
    return console.WITH_FAILURES if failures else 0
