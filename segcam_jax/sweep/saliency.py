"""Maps of one instance: the network's input cut out around it, explained, put back in its place.

The network is given a window of the volume, as in the segmentation: as large as a sliding window,
around the instance, moved into the volume; larger where the instance is. So all instances of a run
share one program, whose memory does not grow with the volume. `field="volume"` gives the network
all of it, in one piece.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from segcam_jax.data.instances import Instance, window_around
from segcam_jax.engine import Execution
from segcam_jax.heatmap import resize
from segcam_jax.methods import METHODS, parse_calls
from segcam_jax.networks.network import Network
from segcam_jax.outputs import Meaning
from segcam_jax.sweep.volumes import Segmented
from segcam_jax.targets import Of, Target, region
from segcam_jax.types import InputError

Field = Literal["window", "volume"]
ALL = "all"  # what a map of all modalities together is called
# Samples that run as one call: between calls, progress is told.
_AT_ONCE = 5
_LEAST_SIDE = 8
_OWN_OPTIONS = {"sigma_unit", "channel"}


@dataclasses.dataclass(frozen=True)
class SaliencyOptions:
    """How instances are explained.

    Attributes:
        methods: their names.
        options: of them, as `methods.parse_calls` reads them.
        taps: where methods of activations look; empty: the bottleneck.
        of: whether logits or probabilities are explained; the mean over the instance.
        legacy_divisor: of the mean: divide the sum over the instance's voxels by the number of
            predicted instances of the scan, as the source does, not by that of voxels.
        channel: the modality, from 0, of whose range over the whole volume `sigma` is a share.
        field: what the network is given, a `"window"` or the whole `"volume"`.
        seed: of all random numbers.
    """

    methods: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    of: Of = "logits"
    legacy_divisor: bool = False
    channel: int = 0
    field: Field = "window"
    seed: int = 0

    @functools.cached_property
    def given(self) -> dict[str, dict[str, Any]]:
        """The options that are given of each method.

        Raises:
            InputError: as `methods.parse_calls`, or if the command itself gives one of them.
        """
        calls = parse_calls([METHODS[name] for name in self.methods], self.options)
        if taken := sorted(_OWN_OPTIONS & {name for call in calls for name, _ in call.options}):
            raise InputError(
                f"--option {taken[0]} is not for volumes, where sigma is a share of the range of "
                "--noise-modality over the whole volume"
            )
        return {call.method.name: dict(call.options) for call in calls}

    def value(self, method: str, option: str) -> Any:
        """An option of a method, as given or as the method has it; None if it has none such."""
        known = METHODS[method].options.get(option)
        return None if known is None else self.given[method].get(option, known.default)


@dataclasses.dataclass(frozen=True, eq=False)
class InstanceMaps:
    """What one method makes of one instance.

    Attributes:
        maps: modality, or "all", -> map of the volume's extents; 0 outside of what the network was
            given.
        window: that part of the volume, `(start, stop)` along each axis.
        score: the mean over the instance of what is explained.
    """

    maps: dict[str, Float[np.ndarray, "d h w"]]
    window: tuple[tuple[int, int], ...]
    score: float


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """The part of a volume that the network is given, and where it came from.

    Attributes:
        x: the input.
        mask: the instance in it.
        source: the part of the volume.
        place: where that part is in the input; around it lie zeros.
    """

    x: Float[np.ndarray, "u v w c"]
    mask: Bool[np.ndarray, "u v w"]
    source: tuple[slice, ...]
    place: tuple[slice, ...]

    def restored(
        self, values: Float[np.ndarray, "u v w"], extents: tuple[int, ...]
    ) -> Float[np.ndarray, "d h w"]:
        """A map of the input as one of the volume."""
        out = np.zeros(extents, np.float32)
        out[self.source] = values[self.place]
        return out


def cut_around(
    segmented: Segmented,
    instance: Instance,
    *,
    window: tuple[int, ...],
    multiples: tuple[int, ...],
    field: Field,
) -> Cut:
    """The input around an instance.

    Args:
        segmented: the scan.
        instance: one of it.
        window: extents of the network's window.
        multiples: what extents must be multiples of.
        field: `"window"`, or `"volume"` for all of it.
    """
    x, mask = segmented.x, segmented.mask(instance)
    extents = mask.shape
    least = [
        extent if field == "volume" else max(size, stop - start)
        for (start, stop), size, extent in zip(instance.box, window, extents, strict=True)
    ]
    sizes = [-(-size // each) * each for size, each in zip(least, multiples, strict=True)]
    # Padded on both sides, as the segmentation does it with volumes smaller than a window.
    missing = [max(0, size - extent) for size, extent in zip(sizes, extents, strict=True)]
    widths = [(each // 2, each - each // 2) for each in missing]
    box = [(a + w[0], b + w[0]) for (a, b), w in zip(instance.box, widths, strict=True)]
    padded = [extent + each for extent, each in zip(extents, missing, strict=True)]
    around = window_around(box, sizes, padded)
    source, place = [], []
    for along, (before, _), extent in zip(around, widths, extents, strict=True):
        start, stop = max(0, along.start - before), min(extent, along.stop - before)
        source.append(slice(start, stop))
        place.append(slice(start + before - along.start, stop + before - along.start))
    cut = np.zeros((*sizes, x.shape[-1]), np.float32)
    inside = np.zeros(tuple(sizes), bool)
    cut[tuple(place)], inside[tuple(place)] = x[tuple(source)], mask[tuple(source)]
    return Cut(cut, inside, tuple(source), tuple(place))


def passes(method: str, options: SaliencyOptions) -> int:
    """How many steps of progress a method makes for one instance."""
    return len(_parts(method, options)) if METHODS[method].takes("first") else 1


def _parts(method: str, options: SaliencyOptions) -> list[tuple[int, int]]:
    """First sample and number of samples of each call; alike if possible: a size is a program."""
    samples = options.value(method, "samples")
    even = [size for size in (5, 4, 6, 7, 3) if samples % size == 0]
    size = even[0] if even else min(samples, _AT_ONCE)
    # A maximum takes as many passes per sample as the instance has voxels.
    size = 1 if options.value(method, "aggregation") == "max" else size
    return [(at, min(size, samples - at)) for at in range(0, samples, size)]


def target_of(
    cut: Cut, class_index: int, of: Of, *, tight: bool, meaning: Meaning = Meaning()
) -> Target:
    """The class over the instance, as its mean.

    Args:
        cut: the input around the instance.
        class_index: the class.
        of: what is read.
        tight: give the target the smallest window there is, which pays where a method evaluates it
            hundreds of times; else a cube of 8, 16, 32, ... voxels, so that the instances of a run
            need few programs.
        meaning: what the network's output means.
    """
    said: Any = {"outputs": meaning.outputs, "exclusive": meaning.exclusive}
    target = region(class_index, cut.mask, of=of, reduce="mean", **said)
    assert target.extent is not None
    if tight:
        return target
    side = max(_LEAST_SIDE, 1 << (max(target.extent) - 1).bit_length())
    extent = tuple(min(side, length) for length in cut.mask.shape)
    corner = [
        min(int(first), length - size)
        for first, length, size in zip(target.corner, cut.mask.shape, extent, strict=True)
    ]
    return dataclasses.replace(target, extent=extent, corner=np.asarray(corner, np.int32))


def explain_instance(
    network: Network,
    segmented: Segmented,
    cut: Cut,
    method: str,
    tap: str,
    options: SaliencyOptions,
    class_index: int,
    execution: Execution,
    advance: Callable[[int, int], None],
) -> InstanceMaps:
    """The maps of one method at one tap.

    Methods of the input have a map per modality, where they keep channels apart; others one of
    all, resized linearly to the input's extents, neither clipped nor normalised.

    Args:
        network: what is explained.
        segmented: the scan.
        cut: the input around the instance.
        method: its name.
        tap: `"input"` for methods of the input.
        options: checked options.
        class_index: the class.
        execution: how the engine runs it.
        advance: is called before each pass with the number of samples done and of all; of methods
            that run in one, 0 and 1.

    Raises:
        InputError: if a map is not finite.
    """
    split = network.split(tap, cut.x.shape)
    known = METHODS[method]
    many = known.ablates or options.value(method, "aggregation") == "max"
    target = target_of(cut, class_index, options.of, tight=many, meaning=network.meaning)
    calls = _calls(method, segmented, options)
    total = sum(size for _, size, _ in calls)
    apart = known.per_channel
    values, score = np.zeros((), np.float32), 0.0
    # Added up on the way: parts are as large as the input, and there may be many.
    for first, size, keywords in calls:
        advance(first, total)
        explanation = known.function(
            split, network.params, cut.x, target, execution=execution, **keywords
        )
        part = np.asarray(explanation.attribution if apart else explanation.map, np.float32)
        values = values + part * np.float32(size / total)
        score = float(explanation.score)
    if not np.isfinite(values).all():
        raise InputError(f"{method} at {tap} overflowed float32; explain probabilities")
    extents = segmented.probability.shape
    if apart:
        named = dict(zip(segmented.scan.modalities, np.moveaxis(values, -1, 0), strict=True))
    else:
        named = {ALL: np.asarray(resize(jnp.asarray(values), cut.mask.shape))}
    return InstanceMaps(
        {name: cut.restored(each, extents) for name, each in named.items()},
        tuple((along.start, along.stop) for along in cut.source),
        score,
    )


def _calls(
    method: str, segmented: Segmented, options: SaliencyOptions
) -> list[tuple[int, int, Mapping[str, Any]]]:
    """The calls whose mean is the result: first sample, number of samples, arguments."""
    known, shared = METHODS[method], dict(options.given[method])
    if known.needs_key:
        shared["key"] = jax.random.key(options.seed)
    if known.takes("sigma"):
        # A share of the range over the whole volume, not over the part that the network is given:
        # so that instances compare.
        scale = float(np.ptp(segmented.x[..., options.channel]))
        shared |= {"sigma": options.value(method, "sigma") * scale, "sigma_unit": "absolute"}
    if known.takes("divisor") and options.legacy_divisor:
        shared["divisor"] = float(max(1, len(segmented.predicted)))
    if not known.takes("first"):
        return [(0, 1, shared)]
    return [
        (at, size, {**shared, "samples": size, "first": jnp.int32(at)})
        for at, size in _parts(method, options)
    ]
