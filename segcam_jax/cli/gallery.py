"""`segcam gallery`: a run for each of several networks, and figures that compare them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from segcam_jax.cli import console, study_run
from segcam_jax.cli.arguments import names_in
from segcam_jax.cli.study import Gallery
from segcam_jax.cli.study_run import Config
from segcam_jax.networks.open import name_of
from segcam_jax.reports import words
from segcam_jax.reports.gallery import INDEX, GalleryFolder, Plate, failed_rows, zero_maps
from segcam_jax.runs import StoredRun
from segcam_jax.runs.job import OpenJob
from segcam_jax.runs.pipeline import Progress
from segcam_jax.types import InputError, counted, shortened

METHODS = ("grad_cam", "grad_cam_pp", "eigen_cam", "xgrad_cam")
TAPS = ("first", "middle", "last")
_MOST_LINES = 60


def gallery(command: Gallery) -> int:
    """Explains images by several networks, and draws what was found; returns the exit code."""
    config = study_run.read_config(command.config)
    look = study_run.look_of(command, config)
    opened = _open(command, config)
    if command.dry_run:
        for name, each in opened.items():
            print(name)
            study_run.tell_cost(each)
        return 0
    images = {name: [item.path for item in each.items] for name, each in opened.items()}
    folder = GalleryFolder(command.out, images, look, figures=not command.no_figures)
    if not command.overwrite:
        folder.check_free()
    for each in opened.values():
        study_run.check(command, each)
    done, code = Progress(), 0
    mine: dict[str, None] = {}
    for each in opened.values():
        numbers = study_run.numbers_of(command, each)
        mine |= dict.fromkeys(each.items[n].path for n in study_run.items_of(each, numbers))
        with each.create(beside=folder.folders()) as store:
            found = study_run.compute(command, each, store, numbers)
            finished = study_run.finish(command, each, store, numbers)
            _draw(folder, list(mine))
        done = done.and_then(found, found.seconds, 1)
        code = max(code, study_run.exit_code(found, finished))
    runs = folder.open_runs()
    study_run.tell_images(list(runs.values()), list(mine))
    if done.before:
        console.note(f"{counted(done.before, 'image')} finished before")
    every = list(dict.fromkeys(path for paths in images.values() for path in paths))
    plates = folder.plates(runs, every)
    _summarise(command, runs, plates, complete=folder.finish(plates, runs))
    return code


def _open(command: Gallery, config: Config) -> dict[str, OpenJob]:
    """The networks with their images, by the networks' names."""
    words = study_run.words_without_look(config)
    given = words.pop("weights", ())
    several = command.weights or ((given,) if isinstance(given, str) else given)
    every = [name.strip() for each in several for name in each.split(",")]
    named = names_in(every)
    if twice := [name for name in named if every.count(name) > 1]:
        raise InputError(f"--weights names {twice[0]!r} more than once; give each network once")
    if not named:
        raise InputError("no network was given; add --weights with a name or a file")
    report = functools.cache(console.note)  # What all networks have in common is told once.
    one = dataclasses.replace(command, weights=())
    defaults = {"method": METHODS, "tap": TAPS, **words}
    opened: dict[str, OpenJob] = {}
    for weights in named:
        options = study_run.options_of(one, {**defaults, "weights": weights})
        options = dataclasses.replace(options, store_images=True)
        name = name_of(options.network, list(opened))
        out, taken = command.out / f"{name}.zarr", list(opened)
        each = study_run.open_run(
            command, config, options, out, grows=True, taken=taken, report=report
        )
        for other in opened.values():
            if other.network.sha256 == each.network.sha256:
                raise InputError(
                    f"{other.network.spec.words!r} and {weights!r} are the same network; give one "
                    "of them"
                )
        opened[name] = each
    return opened


def _draw(folder: GalleryFolder, images: Sequence[str]) -> None:
    """Draws what the runs that are there have of some images."""
    plates = folder.plates(folder.open_runs(), images)
    with console.progress("drawing", len(plates)) as advance:
        folder.update(plates, images, advance)


def _summarise(
    command: Gallery, runs: Mapping[str, StoredRun], plates: Sequence[Plate], *, complete: bool
) -> None:
    """Prints a line for each image, network and class, and where everything is."""
    rows = [row for run in runs.values() for row in _lines(run)]
    if rows:
        columns = ("image", "network", "predicted", "share", "explained", "share ")
        console.table(None, columns, rows[:_MOST_LINES])
    if len(rows) > _MOST_LINES:
        print(f"... and {len(rows) - _MOST_LINES} more; {INDEX} lists all")
    for plate in plates:
        for method, why in zero_maps(plate.lines[0]).items() if plate.maps else ():
            console.note(f"{plate.maps}: {method}: {why}")
    images = {row["path"] for run in runs.values() for row in _explained(run)}
    count = 0 if command.no_figures else len(plates)
    after = f"{INDEX} lists them" if complete else "other shares have images left"
    print(f"{counted(count, 'figure')} of {counted(len(images), 'image')}: {command.out}; {after}")


def _explained(run: StoredRun) -> list[dict[str, Any]]:
    failed = {row["row"] for row in failed_rows(run)}
    return [row for row in run.table.to_dicts() if row["row"] not in failed]


def _lines(run: StoredRun) -> list[tuple[str, ...]]:
    return [
        (
            shortened(run.names[about["item"]]),
            shortened(run.manifest.network.title),
            "nothing" if about["predicted"] is None else words.short(about["predicted"]),
            "" if about["predicted"] is None else words.percent(about["predicted_share"]),
            words.explained(about),
            words.percent(about["share"]),
        )
        for about in _explained(run)
    ]
