"""P12: Ablation-CAM of 32 targets of one image, by single studies, together, and from an atlas."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import segcam_jax as segcam
from benchmarks import timing
from benchmarks.studies import CLASS, Study, regions_of, study
from benchmarks.workloads import WORKLOADS, Size
from segcam_jax.engine import Execution, ablation_drops, encode
from segcam_jax.masks import ChannelMasks

TARGETS = {"full": 32, "tiny": 4}
# Sides of regions, and how many channels of a study are ablated where it is projected.
_SIDES = {"full": (16, 64), "tiny": (4,)}
_CHANNELS = {"full": 16, "tiny": 2}
_CHANNELS_ON_ACCELERATOR = 128
# Of the single studies, which are alike: how many are run.
_SINGLES = 4
_TURNS = 3
_LONG = 20.0
_BLOCK = 2


def run(size: Size) -> Iterator[dict[str, Any]]:
    """Measures one set of targets after the other, then the atlas.

    Yields:
        `{"rows": [{"name", "singles_seconds", "together_seconds", "difference"}, ...]}`, then with
        `"click_seconds"` of an atlas.
    """
    rows: list[dict[str, Any]] = []
    count, channels = TARGETS[size], _CHANNELS[size]
    if size == "full" and jax.default_backend() != "cpu":
        channels = _CHANNELS_ON_ACCELERATOR
    plain = study(WORKLOADS["P12"], size)
    generator = np.random.default_rng(1)
    space = plain.network.image[:-1]
    for side in _SIDES[size]:
        masks = regions_of(space, side, count, generator)
        targets = [segcam.targets.region(CLASS, mask) for mask in masks]
        rows.append(_row(f"{count} regions of {side}x{side}", plain, targets, channels))
        yield {"rows": rows}
    options = {**plain.network.options, "classes": count}
    many = dataclasses.replace(plain.network, options=options)
    workload = dataclasses.replace(plain.workload, networks={size: many})
    classes = [segcam.targets.whole_image(index) for index in range(count)]
    name = f"{count} classes of the whole image"
    rows.append(_row(name, study(workload, size), classes, channels))
    yield {"rows": rows}
    yield {"rows": rows, **_clicks(plain)}


def _row(name: str, base: Study, targets: list[Any], channels: int) -> dict[str, Any]:
    split, params, x = base.split, base.params, base.x
    masks = base.masks(channels)
    execution = Execution()

    def first_channels(split, params, x, target, *, execution):
        activation, carry = encode(split, params, x, execution)
        score, drops = ablation_drops(split, activation, carry, target, masks, execution)
        return segcam.Explanation(activation.sum(-1), score, drops=drops)

    alone = jax.jit(
        lambda params, x, target: first_channels(split, params, x, target, execution=execution)
    )
    stacked = segcam.targets.stack(targets)
    some = range(min(_SINGLES, len(targets)))
    each = [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in some]
    once = jax.jit(lambda params, x: encode(split, params, x, execution))

    def singles() -> np.ndarray:
        return np.stack([np.asarray(alone(params, x, target).drops) for target in each])

    def together() -> np.ndarray:
        return np.asarray(segcam.explain_targets(first_channels, split, params, x, targets).drops)

    def fixed() -> None:
        jax.block_until_ready(once(params, x))

    found, expected = together(), singles()
    fixed()
    encoding = timing.median([timing.seconds(fixed) for _ in range(_TURNS)])
    times = _in_turns(singles, together)
    scale = base.total / channels

    def projected(seconds: list[float], encodes: int) -> float:
        # Two values, the image alone and an ablation more, make the total of all channels.
        part = encodes * encoding
        return part + max(0.0, timing.median(seconds) - part) * scale

    largest = np.abs(expected).max()
    alike = len(targets) / len(each)
    return {
        "name": name,
        "targets": len(targets),
        "count": channels,
        "total": base.total,
        "singles_seconds": alike * projected(times[0], len(each)),
        "together_seconds": projected(times[1], 1),
        "difference": float(np.abs(found[: len(each)] - expected).max() / largest),
    }


def _in_turns(*functions: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each, in turns: fewer of what takes long."""
    first = [timing.seconds(function) for function in functions]
    more = _TURNS - 1 if sum(first) < _LONG else 0
    turns = [first, *([timing.seconds(function) for function in functions] for _ in range(more))]
    return [list(times) for times in zip(*turns, strict=True)]


def _clicks(base: Study) -> dict[str, Any]:
    """Seconds of a target that is read off an atlas, of one pixel and of the whole image."""
    space = base.network.image[:-1]
    atlas = _an_atlas(base)
    targets = {
        "pixel": segcam.targets.pixel(CLASS, [n // 2 for n in space], space),
        "whole image": segcam.targets.whole_image(CLASS),
    }
    seconds = {}
    for name, target in targets.items():
        read = lambda target=target: jax.block_until_ready(atlas.explain(target).map)  # noqa: E731
        read()
        seconds[name] = timing.median([timing.seconds(read) for _ in range(_TURNS)])
    return {"click_seconds": seconds, "atlas_bytes": int(atlas.changes.nbytes)}


def _an_atlas(base: Study) -> segcam.methods.Atlas:
    """An atlas of all channels, every change of it random: a click does not look at the values."""
    split = base.split
    *space, classes = split.output.shape
    blocks = tuple(-(-n // _BLOCK) for n in space)
    generator = np.random.default_rng(0)
    changes = generator.normal(size=(base.total, *blocks, classes)).astype(np.float16)
    activation, carry = split.encode(base.params, base.x)
    return segcam.methods.Atlas(
        activation,
        split.decode(activation, carry),
        jax.numpy.arange(base.total),
        jax.numpy.asarray(changes),
        jax.numpy.ones(base.total),
        split,
        ChannelMasks(base.total),
        _BLOCK,
    )
