"""`segcam sweep`."""

import dataclasses
import functools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segcam_jax import _files
from segcam_jax.cli import console
from segcam_jax.cli.arguments import bytes_of, names_in
from segcam_jax.cli.sweeping import Sweep
from segcam_jax.engine.devices import local_mesh
from segcam_jax.runs import cost, sharing
from segcam_jax.runs.job import Job, JobWorker, OpenJob
from segcam_jax.runs.manifest import Finished, read_manifest
from segcam_jax.runs.pipeline import Progress
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError, counted

# Finished, and some images could not be explained.
WITH_FAILURES = 3
METHODS = ("grad_cam",)


def sweep(command: Sweep) -> int:
    """Explains many images; returns the exit code."""
    if command.share is not None and command.ray is not None:
        raise InputError("give one of --share and --ray")
    if command.workers < 1:
        raise InputError(f"--workers was given {command.workers}; give at least 1")
    share = sharing.parse_share(command.share)
    if command.devices is not None:
        local_mesh(command.devices)
    job = Job(
        _options(command),
        command.images,
        command.out,
        command.devices,
        bytes_of(command.memory_limit),
        command.overwrite,
        command.on_error == "stop",
        command.verify,
    )
    opened = job.open(console.note)
    if opened.network.note:
        console.note(opened.network.note)
    if opened.network.random:
        console.note(f"{opened.network.name} has random weights: its maps mean nothing")
    if command.dry_run:
        console.table(None, cost.COLUMNS, cost.rows(opened, cost.plans(opened)))
        print(cost.summary(opened))
        return 0
    opened.check()
    with opened.create() as store:
        numbers = sharing.numbers_of(share, opened.shards)
        with console.rates("explaining", _items_of(opened, numbers)) as show:
            done = _computed(command, opened, store, numbers, show)
        manifest = store.finish()
        finished = None if manifest is None else manifest.finished
    return _told(command.out, done, finished)


def _computed(
    command: Sweep, opened: OpenJob, store: Any, numbers: Any, show: Callable
) -> Progress:
    if command.ray is None:
        return opened.compute(store, numbers, show)
    total = Progress()
    make = functools.partial(JobWorker, opened.job)
    for each in sharing.on_ray(make, numbers, address=command.ray, workers=command.workers):
        total = total.and_also(each)
        show(total)
    return total


def _items_of(opened: OpenJob, numbers: Sequence[int]) -> int:
    size, count = opened.items_per_shard, len(opened.items)
    return sum(min(size, count - number * size) for number in numbers)


def _told(out: Path, done: Progress, finished: Finished | None) -> int:
    """Says what was done; returns the exit code."""
    before = f" ({done.before} finished before)" if done.before else ""
    print(
        f"{counted(done.items, 'image')}{before} in {done.seconds:.1f} s, {done.rate:.1f} a "
        f"second, the device busy {100 * done.busy_share:.0f} % of the time: {out}"
    )
    if finished is None:
        print("other shares have shards to compute; the last one writes that the run is finished")
        return WITH_FAILURES if done.failures else 0
    print(
        f"finished: {counted(finished.explanations, 'explanation')}, "
        f"{counted(finished.failures, 'failure')}, {counted(finished.programs, 'program')}"
    )
    if finished.failures:
        console.note(f"`segcam show {out}` tells why {finished.failures} failed")
    return WITH_FAILURES if finished.failures else 0


def _options(command: Sweep) -> StudyOptions:
    """The options of a file and of the command line, which count more."""
    words = dict(_config(command.config)) if command.config else {}
    given = {
        name.replace("classes", "class"): value
        for name, value in _values(command).items()
        if value not in (None, (), False)
    }
    origin = f"{str(command.config)!r}" if command.config else "the command line"
    return StudyOptions.of_words({"method": METHODS, **words, **given}, origin)


def _values(command: Sweep) -> dict[str, Any]:
    """What a command line says of the study, files by their full names."""
    fields = {field.name for field in dataclasses.fields(StudyOptions)}
    known = fields | {"tap", "method", "option", "classes"}
    values = {name: value for name, value in vars(command).items() if name in known}
    for name in ("tap", "method", "classes"):
        option = f"--{name.replace('classes', 'class')}"
        files = [word for word in values[name] if Path(word).is_file()]
        if files:
            raise InputError(f"{option} was given {files[0]!r}, a file; name images first")
    for name in ("tap", "method"):
        values[name] = names_in(values[name])
    if command.labels is not None:
        values["labels"] = str(command.labels.resolve())
    kind, _, file = (command.region or "").partition(":")
    if kind.strip().lower() == "mask" and file:
        values["region"] = f"mask:{Path(file).resolve()}"
    return values


def _config(path: Path) -> Mapping[str, Any]:
    """The options in a .toml file, or in a run's manifest."""
    if path.suffix.lower() == ".toml":
        try:
            return tomllib.loads(_files.read_bytes(path).decode())
        except ValueError as error:
            raise InputError(f"{str(path)!r} is no TOML: {' '.join(str(error).split())}") from None
    return read_manifest(path / "manifest.json" if path.is_dir() else path).options
