"""`segcam occlude`: a run of occlusion studies, and its tables and figures as files beside it."""

import dataclasses

from segcam_jax import _files
from segcam_jax.cli import console, study_run
from segcam_jax.cli.arguments import names_in
from segcam_jax.cli.study import Occlude
from segcam_jax.reports import occlusion
from segcam_jax.runs import cost, open_store
from segcam_jax.runs.items import names_of
from segcam_jax.runs.manifest import FILE
from segcam_jax.runs.occlusion import OccludeJob, OccludeOptions
from segcam_jax.runs.stored_run import STORE
from segcam_jax.types import InputError, counted, shortened


def occlude(command: Occlude) -> int:
    """Studies images, writes tables and figures, and tells what came out; returns the exit code."""
    if command.occluded and not names_in(command.occluded):
        raise InputError("--occluded was given no name; choose from foreground, background")
    command = dataclasses.replace(command, occluded=names_in(command.occluded))
    config = study_run.read_config(command.config)
    options = study_run.options_of(command, config.words, OccludeOptions)
    opened = study_run.open_run(command, config, options, command.out / STORE, kind=OccludeJob)
    if command.dry_run:
        print(cost.summary(opened))
        return 0
    names, figures = names_of(item.path for item in opened.items), not command.no_figures
    folders = [command.out, *(command.out / name for name in names)]
    for folder in folders:
        _files.check_folder(folder)
    free = () if command.overwrite else occlusion.files_of(names)
    _files.check_free(command.out, free, unless=command.out / STORE / FILE)
    study_run.check(command, opened)
    before = occlusion.files_there(command.out / STORE) if command.overwrite else []
    numbers = study_run.numbers_of(command, opened)
    mine = study_run.items_of(opened, numbers)
    with opened.create(beside=folders) as store:
        _files.remove(command.out, before)
        done = study_run.compute(command, opened, store, numbers)
        finished = study_run.finish(command, opened, store, numbers)
        run = open_store(command.out / STORE, dict(enumerate(names)))
        study_run.tell_images([run], [opened.items[n].path for n in mine])
        with console.progress("drawing", len(mine)) as advance:
            occlusion.write_images(run, mine, command.out, advance, figures=figures)
        if finished is None:
            print("other shares still have shards to compute; the last one writes the table")
        elif lines := occlusion.write_table(run, command.out, figures=figures):
            shown = [(shortened(name), *more) for name, *more in lines]
            console.table(None, occlusion.WORDS, shown)
            count = counted(len(lines), "image")
            print(f"{count} occluded: {command.out}; {occlusion.TABLE} lists them")
    return study_run.exit_code(done, finished)
