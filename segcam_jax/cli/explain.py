"""`segcam explain`: a run of images, and its maps and figures as files beside it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import polars

from segcam_jax import _files
from segcam_jax.cli import console, study_run
from segcam_jax.cli.study import Explain
from segcam_jax.reports import display, images
from segcam_jax.reports.figures import Look
from segcam_jax.reports.folder import ReportFolder
from segcam_jax.reports.words import explained, percent, short
from segcam_jax.runs import StoredRun
from segcam_jax.runs.job import OpenJob
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.stored_run import STORE
from segcam_jax.runs.table import MAX, NEGATIVE
from segcam_jax.types import counted, shortened

METHODS = ("grad_cam", "ablation_cam")
_MOST_LINES, _MOST_NAMED = 60, 4


def explain(command: Explain) -> int:
    """Explains images, and draws what was found; returns the exit code."""
    config = study_run.read_config(command.config)
    look = study_run.look_of(command, config)
    words = study_run.words_without_look(config)
    # Figures are drawn of the run alone.
    options = dataclasses.replace(
        study_run.options_of(command, {"method": METHODS, **words}), store_images=True
    )
    opened = study_run.open_run(command, config, options, command.out / STORE)
    if command.dry_run:
        study_run.tell_cost(opened)
        return 0
    folder = _folder(command, opened, look)
    if not command.overwrite:
        folder.check_free()
    study_run.check(command, opened)
    before = folder.files_there() if command.overwrite else [FILE]
    numbers = study_run.numbers_of(command, opened)
    mine = study_run.items_of(opened, numbers)
    with opened.create(beside=folder.folders()) as store:
        _files.remove(command.out, before)
        done = study_run.compute(command, opened, store, numbers)
        finished = study_run.finish(command, opened, store, numbers)
        run = folder.open_run()
        study_run.tell_images([run], [opened.items[n].path for n in mine])
        with console.progress("drawing", folder.count(run, mine)) as advance:
            folder.update(run, mine, advance)
        # A process looks at the files of others after it has written its own: one sees all.
        complete = folder.finish(folder.open_run())
    if done.before:
        console.note(f"{counted(done.before, 'image')} finished before")
    _summarise(folder.open_run(), command, look, complete=complete)
    if drawn := [each.name for each in folder.layers(run, mine)]:
        print(f"all layers and targets: {', '.join(drawn[:_MOST_NAMED])}")
    return study_run.exit_code(done, finished)


def _folder(command: Explain, opened: OpenJob, look: Look) -> ReportFolder:
    titles = [
        *(query.name for query in opened.options.queries),
        *(goal.title for goal in opened.items.every_goal),
    ]
    calls = [call.method for call in opened.options.calls]
    several = opened.targets > 1
    return ReportFolder(
        command.out,
        (item.path for item in opened.items),
        list(dict.fromkeys(titles)) if several else [],
        [each.name for each in calls if each.explains == "activation"] if several else [],
        look,
        figures=not command.no_figures,
    )


def _summarise(run: StoredRun, command: Explain, look: Look, *, complete: bool) -> None:
    """Prints a line for each map, and where everything is."""
    there = run.table.filter(polars.col("error").is_null())
    maps = [name for name in there.columns if name.endswith(MAX)]
    lines = [
        line
        for about in there.head(max(1, _MOST_LINES // max(1, len(maps)))).iter_rows(named=True)
        for line in _lines(run, about, look)
    ]
    classifies = run.manifest.network.classifies
    seen = ("predicted", "probability", "explained") if classifies else ("class", "pixels")
    if lines:
        columns = ("image", *seen, "method", "tap", "score", "max", "negative", "figure")
        console.table(None, columns, lines)
    count = sum(there[name].count() for name in maps)
    if count > len(lines):
        print(f"... and {count - len(lines)} more; items.csv lists all")
    left = run.manifest.source.items - run.table["item"].n_unique()
    after = f"; the manifest is {FILE}"
    if not complete:
        after = f"; {counted(left, 'image')} left to other shares; the last one writes the manifest"
    print(
        f"{counted(count, 'map')} of {counted(there['item'].n_unique(), 'image')}: "
        f"{command.out}{after}"
    )


def _lines(run: StoredRun, about: Mapping[str, Any], look: Look) -> list[tuple[object, ...]]:
    """A line for each map of a row."""
    name = shortened(run.names[about["item"]])
    classifies = run.manifest.network.classifies
    seen = _predicted(about) if classifies else (explained(about), about["pixels"])
    return [
        (
            name,
            *seen,
            method,
            tap,
            f"{about['score']:.4g}",
            f"{about[f'{method}.{tap}{MAX}']:.4g}",
            percent(about[f"{method}.{tap}{NEGATIVE}"]),
            _shown(run, about, (method, tap), look),
        )
        for method, tap in images.pairs(run, [about["row"]])
    ]


def _predicted(about: Mapping[str, Any]) -> tuple[str, str, str]:
    """The predicted class, its probability, and the explained class."""
    other = "" if about["predicted"] == about["class"] else f" ({percent(about['share'])})"
    return (
        short(about["predicted"]),
        percent(about["predicted_share"]),
        f"{explained(about)}{other}",
    )


def _shown(run: StoredRun, about: Mapping[str, Any], pair: images.Pair, look: Look) -> str:
    """How a map is drawn, or why there is nothing to draw."""
    method, tap = pair
    if about[f"{method}.{tap}{MAX}"] <= 0:
        shown, _ = images.displays(run, about["row"], [pair], look)
        if shown[pair].zero:
            return shown[pair].zero
    negative = [(method, about[f"{method}.{tap}{NEGATIVE}"])]
    return display.profile_of(
        look.profile, method, signed=display.is_signed(look.profile, negative)
    )
