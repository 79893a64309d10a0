"""What a run would cost, told before it starts; of the first image, traced and not run."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from segcam_jax import engine
from segcam_jax.engine.plan import Plan, flops_in_words
from segcam_jax.engine.sliding import Tiling, tiling
from segcam_jax.methods import MethodCall
from segcam_jax.methods.augmented import AUGMENTED
from segcam_jax.networks.network import Network
from segcam_jax.runs.job import OpenJob
from segcam_jax.taps import INPUT, Split
from segcam_jax.targets import Target
from segcam_jax.types import InputError, counted

if TYPE_CHECKING:
    from segcam_jax.volumes import ScanInput, SegmentOptions

# More operations a second than a core of a CPU, and than an accelerator, does.
_CORE, _ACCELERATOR = 10**11, 10**15
_YEAR = 365 * 24 * 3600
_WINDOW = 10**15  # More operations than a network takes for a window.
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
    found = []
    for place in kernel.places(shape):
        plan = engine.plan_of(
            place.call.method.function,
            job.network.split(place.tap, shape),
            job.network.params,
            image,
            target,
            execution=kernel.execution,
            compile=False,
            **place.call.arguments(job.options.seed),
        )
        found.append(_six_times(plan) if place.call.aug_smooth else plan)
    return found


def _six_times(plan: Plan) -> Plan:
    """The plan of `aug_smooth`, from that of one of its maps."""
    steps = [
        dataclasses.replace(each, evaluations=each.evaluations and AUGMENTED * each.evaluations)
        for each in plan.steps
    ]
    return dataclasses.replace(
        plan,
        evaluations=AUGMENTED * plan.evaluations,
        once_flops=AUGMENTED * plan.once_flops,
        steps=tuple(steps),
    )


def check(job: OpenJob, processes: int = 1) -> None:
    """Checks that a run can end, before it starts.

    A plan is made only where the options ask for so much that it might not.

    Args:
        processes: that share it.

    Raises:
        InputError: if its operations would take more than a year, if the devices did more a second
            than any does.
    """
    if job.first is None:
        return
    shape = job.first.sample.padded.shape
    most = sum(
        _at_most(job.network.split(place.tap, shape), place.call)
        for place in job.kernel.places(shape)
    )
    each = len(job.items) * job.targets
    if most * each > _in_a_year() * processes:
        of = f"{counted(len(job.items), 'image')}, of each"
        _refuse(plans(job), each, of, ", fewer images or a smaller --size", processes)


def check_instance(
    split: Split, params: Any, shape: tuple[int, ...], call: MethodCall, target: Target
) -> None:
    """The same of one instance of a scan, and of one call.

    Args:
        target: the least that an instance can be.
    """
    if _at_most(split, call) > _in_a_year():
        image = jax.ShapeDtypeStruct(shape, np.float32)
        method, options = call.method.function, call.arguments()
        plan = engine.plan_of(method, split, params, image, target, compile=False, **options)
        _refuse([plan], 1, "of each instance", " or a smaller --roi")


def check_scan(
    network: Network,
    segmenting: "SegmentOptions",
    of_an_instance: Callable[[Tiling], int],
    given: "ScanInput",
) -> None:
    """The same of a scan: its windows, and those of one instance.

    Args:
        of_an_instance: how many windows it takes, of all that there are.
    """
    *extents, channels = given.x.shape
    roi, overlap = segmenting.window, segmenting.overlap
    tiles = tiling(extents, roi, overlap=overlap, windows=segmenting.windows)
    once, again = math.prod(tiles.counts), of_an_instance(tiles)
    if (once + again) * _WINDOW > _in_a_year():
        total = (once + again) * network.split(INPUT, (*roi, channels)).flops()
        steps = f" and of each instance {again:,} more" if again else ""
        _check(
            total,
            f"of a scan {once:,} windows of {' x '.join(map(str, roi))} voxels{steps}",
            f"a smaller --overlap than {overlap:g}{', fewer --steps' if again else ''}",
        )


def _refuse(found: Sequence[Plan], each: int, of: str, otherwise: str, processes: int = 1) -> None:
    """Raises `InputError` if plans would take more than a year, each so many times."""
    most = max(found, key=flops)
    _check(
        sum(map(flops, found)) * each,
        f"{of} {most.evaluations:,} evaluations by {most.method} at {most.tap!r}",
        f"smaller numbers by --option{otherwise}",
        processes,
    )


def _check(total: int, of: str, instead: str, processes: int = 1) -> None:
    """Raises `InputError` if so many operations take more than a year; says what else to give."""
    a_year = _in_a_year() * processes
    if total > a_year:
        raise InputError(
            f"the run needs about {total:.0e} operations, {total / a_year:,.0f} years or more on "
            f"this machine: {of}; give {instead}"
        )


def _in_a_year() -> int:
    """Operations that the devices of this machine cannot do in a year."""
    if jax.default_backend() == "cpu":
        return (os.cpu_count() or 1) * _CORE * _YEAR
    return jax.local_device_count() * _ACCELERATOR * _YEAR


def _at_most(split: Split, call: MethodCall) -> int:
    """More operations than a method needs for a target, told without tracing it."""
    defaults = {name: option.default for name, option in call.method.options.items()}
    given = {**defaults, **dict(call.options)}.values()
    evaluations = math.prod(each for each in given if type(each) is int and each > 0)
    evaluations *= math.prod(split.activation.shape) if call.method.ablates else 1
    evaluations *= AUGMENTED if call.aug_smooth else 1
    return _BACKWARDS * evaluations * split.flops()


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
