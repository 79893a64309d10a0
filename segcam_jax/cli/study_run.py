"""From a command about images to its run: what `explain` and `sweep` do alike."""

import dataclasses
import functools
import os
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import polars

from segcam_jax import _files, schema
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.study import Drawn, Running
from segcam_jax.data.importance import read_importance
from segcam_jax.engine.devices import local_mesh
from segcam_jax.networks.image_inputs import SUFFIXES
from segcam_jax.reports.figures import Look
from segcam_jax.reports.words import about_background
from segcam_jax.runs import StoredRun, cost, open_store, sharing
from segcam_jax.runs.items import at_full_path, check_apart, file_now
from segcam_jax.runs.job import Job, JobWorker, OpenJob
from segcam_jax.runs.manifest import FILE, Finished, Manifest, read_manifest
from segcam_jax.runs.pipeline import Progress
from segcam_jax.runs.store import Store
from segcam_jax.runs.stored_run import STORE
from segcam_jax.runs.table import FOLDER, failure
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError

Options = TypeVar("Options", bound=StudyOptions)
_LOOK = tuple(field.name for field in dataclasses.fields(Look))
_MOST_NOTES = 8
_ATTEMPTS = 4  # at shards that another process removes
_OF_IMPORTANCE = "given_weights"
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
    """The options in a .toml file, or in a run's manifest."""
    if path is None:
        return Config()
    if path.suffix.lower() == ".toml":
        try:
            return Config(tomllib.loads(_files.read_bytes(path).decode()), None, path)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{str(path)!r} is not TOML: {' '.join(str(error).split())}") from None
    file = path / FILE if path.is_dir() else path
    manifest = read_manifest(file)
    return Config({**manifest.options, **manifest.figures}, manifest, file)


def options_of(
    command: Running, words: Mapping[str, Any], kind: type[Options] = StudyOptions
) -> Options:
    """The options of a command.

    Args:
        command: what was given; it counts more than a file.
        words: of its file, and its own defaults.
    """
    given = {
        name.replace("classes", "class"): value
        for name, value in _values(command, kind).items()
        if value is not None and value is not False and value != ()
    }
    origin = f"{str(command.config)!r}" if command.config else "the command line"
    return kind.of_words({**words, **given}, origin)


def _values(command: Running, kind: type[StudyOptions]) -> dict[str, Any]:
    """What a command line says of the study, files by their full names."""
    fields = {field.name for field in dataclasses.fields(kind)}
    known = fields | {"tap", "method", "option", "classes"}
    values = {name: value for name, value in vars(command).items() if name in known}
    for name in {"tap", "method", "classes", "region"} & values.keys():
        option = f"--{name.replace('classes', 'class')}"
        files = [word for word in values[name] if Path(word).suffix.lower() in _FILES]
        files = [word for word in files if not word.lower().startswith("mask:")]
        if files:
            raise InputError(
                f"{option} was given {files[0]!r}, a file; name images before the options"
            )
    for name in {"tap", "method"} & values.keys():
        values[name] = names_in(values[name])
    if values.get("importance") is not None:
        values["importance"] = read_importance(values["importance"])
        values["method"] = values["method"] or (_OF_IMPORTANCE,)
    for name in {"checkpoint", "labels"} & values.keys():
        if values[name] is not None:
            values[name] = os.path.abspath(values[name])
    if "truth" in values:
        values["truth"] = tuple(map(os.path.abspath, values["truth"]))
    if regions := tuple(at_full_path(each, os.getcwd()) for each in values.get("region", ())):
        values["region"] = regions[0] if len(regions) == 1 else regions
    return values


def look_of(command: Drawn, config: Config) -> Look:
    """How maps are drawn: as a file says, and the command, which counts more."""
    words = {name: config.words[name] for name in _LOOK if name in config.words}
    given = {name: getattr(command, name) for name in _LOOK}
    words |= {name: value for name, value in given.items() if value is not None}
    origin = repr(str(config.file)) if config.file else "the command line"
    return schema.read(words, Look, origin, words={})


def words_without_look(config: Config) -> dict[str, Any]:
    """What a file says of the study."""
    return {word: value for word, value in config.words.items() if word not in _LOOK}


def open_run(
    command: Running,
    config: Config,
    options: StudyOptions,
    out: Path,
    *,
    kind: type[Job] = Job,
    grows: bool = False,
    taken: Sequence[str] = (),
    report: Callable[[str], None] = console.note,
) -> OpenJob:
    """Opens the network and lists the images; nothing is written.

    Args:
        report: is told what is to know of the images, the network and its classes.
    """
    _files.check_folder(command.out)
    if command.share is not None and command.ray is not None:
        raise InputError("give one of --share and --ray")
    if command.ray is not None:
        sharing.check_cluster(command.ray)
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
    job = kind(
        options,
        images,
        out,
        command.devices,
        bytes_of(command.memory_limit),
        command.overwrite,
        command.on_error == "stop",
        command.verify,
        grows,
        tuple(taken),
    )
    opened = job.open(report)
    check_apart(command.out, images, opened.items.paths)
    if repeated is not None and config.file is not None:
        _check_repeated(opened, repeated, config.file)
    _tell(opened, report)
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


def _tell(opened: OpenJob, report: Callable[[str], None]) -> None:
    """Says once what is to know of a network and its classes."""
    network, options = opened.network, opened.options
    if network.note:
        report(network.note)
    if network.random:
        report(f"{network.name} has random weights: its maps mean nothing")
    if not options.methods:
        return
    if said := network.explained_as(options.of):
        report(said)
    if said := about_background(network, options.queries, "--class"):
        report(f"{network.name}: {said}")


def tell_cost(opened: OpenJob) -> None:
    """Prints what a run would do, and what that costs."""
    console.table(None, cost.COLUMNS, cost.rows(opened, cost.plans(opened)))
    print(cost.summary(opened))


def check(command: Running, opened: OpenJob) -> None:
    """Looks at the first image, and whether the run can end; raises `SegcamError` if not."""
    _, count = sharing.parse_share(command.share)
    if command.ray is None:  # Other machines do the work, and are not known here.
        cost.check(opened, count)
    opened.check()


def numbers_of(command: Running, opened: OpenJob) -> Sequence[int]:
    """The shards that this process is to compute."""
    return sharing.numbers_of(sharing.parse_share(command.share), opened.shards)


def items_of(opened: OpenJob, numbers: Sequence[int]) -> list[int]:
    """The images of shards."""
    size, count = opened.items_per_shard, len(opened.items)
    return [n for k in numbers for n in range(k * size, min(k * size + size, count))]


def compute(command: Running, opened: OpenJob, store: Store, numbers: Sequence[int]) -> Progress:
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


def tell_images(runs: Sequence[StoredRun], images: Sequence[str]) -> None:
    """Says what was done to images before they were explained, and which failed."""
    tables = [run.table.filter(polars.col("path").is_in(images)) for run in runs]
    notes: dict[str, None] = {}
    failures: dict[str, None] = {}
    rows = [(run, row) for run, table in zip(runs, tables, strict=True) for row in table.to_dicts()]
    for run, about in rows:
        if about["error"] is not None:
            # An image that cannot be read fails for all networks.
            network = f"{run.manifest.network.title}: " if len(runs) > 1 and about["sha256"] else ""
            failures[network + failure(about)] = None
        for note in (about["notes"] or "").split("; "):
            if note:
                notes[f"{about['path']}: {note}"] = None
        if about["padded"] != about["extent"]:
            notes[f"{about['path']}: {_padded(about)}"] = None
    for found in (notes, failures):
        for line in list(found)[:_MOST_NOTES]:
            console.note(line)
        if len(found) > _MOST_NOTES:
            console.note(f"... and {len(found) - _MOST_NOTES} more; the table lists all")


def _padded(about: Mapping[str, Any]) -> str:
    small, large = (about[name].replace("x", " x ") for name in ("extent", "padded"))
    return (
        f"{small} was mirrored at the bottom and right to {large} for the network, and cropped back"
    )


def finish(
    command: Running, opened: OpenJob, store: Store, numbers: Sequence[int]
) -> Finished | None:
    """What a run has come to; None where other processes have shards to compute.

    A process that writes a shard removes the earlier version of it first. If that happens to a
    shard of this process, because both were given the same ones, this process computes it again:
    the other may die before it has written it.
    """
    _, count = sharing.parse_share(command.share)
    for attempt in range(_ATTEMPTS):
        if attempt > 0:
            compute(command, opened, store, numbers)
        manifest = store.finish()
        if manifest is not None:
            return manifest.finished
        if count > 1:
            return None
    raise InputError(
        f"{str(command.out)!r} lacks shards that this process computed {_ATTEMPTS} times: another "
        "process removes them; end it and start the same command again, which computes what is "
        "missing"
    )


def exit_code(done: Progress, finished: Finished | None) -> int:
    """0, or another where images failed: of the run, or while it is not finished of this share."""
    failures = done.failures if finished is None else finished.failures
    return console.WITH_FAILURES if failures else 0
