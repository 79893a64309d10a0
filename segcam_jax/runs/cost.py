"""What a run would cost, told before it starts; of the first image, traced and not run."""

from collections.abc import Sequence

import jax
import numpy as np

from segcam_jax import engine
from segcam_jax.engine.plan import Plan, flops_in_words
from segcam_jax.runs.job import OpenJob
from segcam_jax.types import InputError, counted

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
