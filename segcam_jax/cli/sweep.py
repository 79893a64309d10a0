"""`segcam sweep`."""

from pathlib import Path

from segcam_jax.cli import console, study_run
from segcam_jax.cli.study import Running, Sweep
from segcam_jax.runs.job import OpenJob
from segcam_jax.runs.manifest import Finished
from segcam_jax.runs.pipeline import Progress
from segcam_jax.types import counted

METHODS = ("grad_cam",)


def sweep(command: Sweep) -> int:
    """Explains many images; returns the exit code."""
    opened = opened_of(command)
    if command.dry_run:
        study_run.tell_cost(opened)
        return 0
    return study_run.exit_code(*compute(command, opened))


def opened_of(command: Sweep) -> OpenJob:
    """The run that is asked for, its network open and its images listed; nothing is written."""
    config = study_run.read_config(command.config)
    words = config.words if config.manifest is None else config.manifest.options
    options = study_run.options_of(command, {"method": METHODS, **words})
    return study_run.open_run(command, config, options, command.out)


def compute(command: Running, opened: OpenJob) -> tuple[Progress, Finished | None]:
    """Computes a run and says so: what was done, and what the run has come to when it is whole."""
    study_run.check(command, opened)
    numbers = study_run.numbers_of(command, opened)
    with opened.create() as store:
        done = study_run.compute(command, opened, store, numbers)
        finished = study_run.finish(command, opened, store, numbers)
    _tell(command.out, done, finished)
    return done, finished


def _tell(out: Path, done: Progress, finished: Finished | None) -> None:
    """Says what was done."""
    before = f" ({done.before} finished before)" if done.before else ""
    print(
        f"{counted(done.items, 'image')}{before} in {done.seconds:.1f} s, {done.rate:.1f} a "
        f"second, the device busy {100 * done.busy_share:.0f} % of the time: {out}"
    )
    if finished is None:
        print("other shares still have shards to compute; the last one marks the run as finished")
        return
    print(
        f"finished: {counted(finished.explanations, 'explanation')}, "
        f"{counted(finished.failures, 'failure')}, {counted(finished.programs, 'program')}"
    )
    if finished.failures:
        console.note(f"`segcam show {out}` tells why {finished.failures} failed")
