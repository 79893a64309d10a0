"""What a run would cost, told before it starts; of the first image, traced and not run."""

import math
import os
from collections.abc import Sequence

import jax
import numpy as np

from segcam_jax import engine
from segcam_jax.engine.plan import Plan, flops_in_words
from segcam_jax.runs.job import OpenJob
from segcam_jax.types import InputError, counted

# More operations a second than a core of a CPU, and than an accelerator, does.
_CORE, _ACCELERATOR = 10**11, 10**15
_YEAR = 365 * 24 * 3600
_MOST_YEARS = 1
_BACKWARDS = 4  # Operations of a gradient, by those of the score, at most.
COLUMNS = ("method", "tap", "map", "evaluations", "FLOP an image", "FLOP in all")


def plans(job: OpenJob) -> list[Plan]:
    """The plan of each method at each tap, for an image of the first one's size.

    Raises:
        SegcamError: if none can be read, a region is none of theirs, or a method cannot explain the
            network there.
    """
    if job.first is None:
        raise InputError(f"none of the first images can be read: {job.reason()}")
    job.check_regions()
    shape = job.first.sample.padded.shape
    image, kernel = jax.ShapeDtypeStruct(shape, np.float32), job.kernel
    target = kernel.any_target(shape)
    return [
        engine.plan_of(
            place.call.method.function,
            job.network.split(place.tap, shape),
            job.network.params,
            image,
            target,
            execution=kernel.execution,
            compile=False,
            **place.call.arguments(job.options.seed),
        )
        for place in kernel.places(shape)
    ]


def check(job: OpenJob, processes: int = 1) -> None:
    """Checks that a run can end, before it starts.

    A plan is made only where the options ask for so much that it might not.

    Args:
        job: the run.
        processes: that share it.

    Raises:
        InputError: if its operations would take more than a year, if the devices did more a second
            than any does.
    """
    rate = jax.local_device_count() * _ACCELERATOR
    if jax.default_backend() == "cpu":
        rate = (os.cpu_count() or 1) * _CORE
    a_year = rate * _YEAR * processes
    each = len(job.items) * job.targets
    if job.first is None or _at_most(job) * each <= _MOST_YEARS * a_year:
        return
    found = plans(job)
    total = sum(map(flops, found)) * each
    if total > _MOST_YEARS * a_year:
        most = max(found, key=flops)
        raise InputError(
            f"the run needs about {total:.0e} operations, {total / a_year:,.0f} years or more on "
            f"this machine: {counted(len(job.items), 'image')}, of each {most.evaluations:,} "
            f"evaluations by {most.method} at {most.tap!r}; give --option fewer, fewer images or a "
            "smaller --size (--dry-run tells the cost)"
        )


def _at_most(job: OpenJob) -> int:
    """More operations than methods need for a target of an image, told without tracing them."""
    assert job.first is not None
    shape, total = job.first.sample.padded.shape, 0
    for place in job.kernel.places(shape):
        method = place.call.method
        defaults = {name: option.default for name, option in method.options.items()}
        given = {**defaults, **dict(place.call.options)}.values()
        evaluations = math.prod(each for each in given if type(each) is int and each > 0)
        evaluations *= math.prod(place.shape) if method.ablates else 1
        total += _BACKWARDS * evaluations * job.network.split(place.tap, shape).flops()
    return total


def rows(job: OpenJob, found: Sequence[Plan]) -> list[tuple[str, ...]]:
    """The plans in words, a row each."""
    targets = len(job.items) * job.targets
    return [
        (
            plan.method,
            plan.tap,
            " x ".join(map(str, plan.activation[:-1])),
            str(plan.evaluations),
            f"{flops_in_words(flops(plan))}FLOP",
            f"{flops_in_words(flops(plan) * targets)}FLOP",
        )
        for plan in found
    ]


def summary(job: OpenJob) -> str:
    """How many images, targets and shards there are, and where they would go."""
    return (
        f"{counted(len(job.items), 'image')}, {counted(job.targets, 'target')} each, in "
        f"{counted(job.shards, 'shard')} of {job.items_per_shard}; what the methods have in common "
        f"is computed once. Nothing was written; the store would be {job.job.out}"
    )


def flops(plan: Plan) -> int:
    """Operations of a plan for one target of one image."""
    last = plan.steps[-1] if plan.steps else None
    evaluations = plan.evaluations if last is None or last.evaluations is None else last.evaluations
    return plan.once_flops + (0 if last is None else last.flops * evaluations)
