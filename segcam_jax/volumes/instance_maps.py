"""Maps of one instance: the network's input around it, explained by a method, and what it shows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Bool, Float

from segcam_jax.engine import Execution
from segcam_jax.heatmap import resize
from segcam_jax.methods import METHODS, parse_calls
from segcam_jax.networks.spec import check_seed
from segcam_jax.outputs import Meaning
from segcam_jax.taps import Split
from segcam_jax.targets import Of, Target, region
from segcam_jax.types import InputError
from segcam_jax.volumes.crops import Crop, Field

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
        field: what the network is given, a `"window"`, the whole `"volume"`, or the blended windows
            of the segmentation (`"stitched"`).
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

    def __post_init__(self):
        check_seed(self.seed)

    @functools.cached_property
    def given(self) -> dict[str, dict[str, Any]]:
        """The options that are given of each method.

        Raises:
            InputError: as `methods.parse_calls`, or if the command itself gives one of them.
        """
        calls = parse_calls([METHODS[name] for name in self.methods], self.options)
        if any(call.aug_smooth for call in calls):
            raise InputError("--option aug_smooth mirrors images, and is not for volumes")
        if taken := sorted(_OWN_OPTIONS & {name for call in calls for name, _ in call.options}):
            raise InputError(
                f"--option {taken[0]} does not apply to volumes, where sigma is a share of the "
                "range of --noise-modality over the whole volume"
            )
        return {call.method.name: dict(call.options) for call in calls}

    def value(self, method: str, option: str) -> Any:
        """An option of a method, as given or as the method has it; None if it has none such."""
        known = METHODS[method].options.get(option)
        return None if known is None else self.given[method].get(option, known.default)


@dataclasses.dataclass(frozen=True, eq=False)
class InstanceMap:
    """What one method makes of one instance.

    Attributes:
        values: at the positions of the crop: one map, or of methods that keep channels apart one
            for each; signed, not normalised.
        score: the mean over the instance of what is explained.
    """

    values: Float[np.ndarray, "u v w *c"]
    score: float


def explain_instance(
    split: Split,
    params: Any,
    crop: Crop,
    method: str,
    options: SaliencyOptions,
    *,
    class_index: int,
    scale: float = 1.0,
    instances: int = 1,
    meaning: Meaning = Meaning(),
    execution: Execution = Execution(),
    advance: Callable[[int, int], None] = lambda done, samples: None,
) -> InstanceMap:
    """Explains one instance by one method at one tap.

    Methods of the input have a map per modality, where they keep channels apart; others one of
    all, resized linearly to the crop's extents, neither clipped nor normalised. Samples run in
    parts, whose mean is the result.

    Args:
        split: the network, cut at a tap, for inputs of the crop's extents.
        params: its parameters.
        crop: the input around the instance.
        method: one of the options' methods; those of the input take the split at `"input"`.
        options: checked options.
        class_index: the class.
        scale: what the option `sigma` is a share of, in units of the input: `scale_of`.
        instances: how many are predicted in the scan, for `legacy_divisor`.
        meaning: what the network's output means.
        execution: how the engine runs it.
        advance: is called before each part with the number of samples done and of all; of methods
            that run in one, 0 and 1.

    Raises:
        InputError: if a map is not finite, or the options do not name the method.
    """
    if method not in options.methods:
        raise InputError(
            f"method {method!r} is not one of the run's methods ({', '.join(options.methods)})"
        )
    known = METHODS[method]
    many = known.ablates or options.value(method, "aggregation") == "max"
    target = target_of(crop.mask, class_index, options.of, tight=many, meaning=meaning)
    calls = _calls(method, options, scale, instances)
    total = sum(size for _, size, _ in calls)
    values, score = np.zeros((), np.float32), 0.0
    # Added up on the way: parts are as large as the input, and there may be many.
    for first, size, keywords in calls:
        advance(first, total)
        found = known.function(split, params, crop.x, target, execution=execution, **keywords)
        part = np.asarray(found.attribution if known.per_channel else found.map, np.float32)
        values = values + part * np.float32(size / total)
        score = float(found.score)
    if not np.isfinite(values).all():
        raise InputError(f"{method} at {split.tap} overflowed float32; explain probabilities")
    if not known.per_channel:
        values = np.asarray(resize(jnp.asarray(values), crop.mask.shape))
    return InstanceMap(values, score)


def method_of(
    method: str, options: SaliencyOptions, scale: float = 1.0, instances: int = 1
) -> Callable:
    """A method with the options that `explain_instance` gives it, all samples in one call."""
    return functools.partial(
        METHODS[method].function, **_arguments(method, options, scale, instances)
    )


def scale_of(x: Float[np.ndarray, "d h w c"], options: SaliencyOptions) -> float:
    """The range of the modality whose share noise is, over the whole volume.

    Not over the part that the network is given: so that instances compare.
    """
    return float(np.ptp(x[..., options.channel]))


def target_of(
    mask: Bool[np.ndarray, "u v w"],
    class_index: int,
    of: Of,
    *,
    tight: bool,
    meaning: Meaning = Meaning(),
) -> Target:
    """The class over the instance, as its mean.

    Args:
        mask: the instance in the input.
        class_index: the class.
        of: what is read.
        tight: give the target the smallest window there is, which pays where a method evaluates it
            hundreds of times; else a cube of 8, 16, 32, ... voxels, so that the instances of a run
            need few programs.
        meaning: what the network's output means.
    """
    said: Any = {"outputs": meaning.outputs, "exclusive": meaning.exclusive}
    target = region(class_index, mask, of=of, reduce="mean", **said)
    assert target.extent is not None
    if tight:
        return target
    side = max(_LEAST_SIDE, 1 << (max(target.extent) - 1).bit_length())
    extent = tuple(min(side, length) for length in mask.shape)
    corner = [
        min(int(first), length - size)
        for first, length, size in zip(target.corner, mask.shape, extent, strict=True)
    ]
    return dataclasses.replace(target, extent=extent, corner=np.asarray(corner, np.int32))


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


def _calls(
    method: str, options: SaliencyOptions, scale: float, instances: int
) -> list[tuple[int, int, Mapping[str, Any]]]:
    """The calls whose mean is the result: first sample, number of samples, arguments."""
    shared = _arguments(method, options, scale, instances)
    if not METHODS[method].takes("first"):
        return [(0, 1, shared)]
    return [
        (at, size, {**shared, "samples": size, "first": jnp.int32(at)})
        for at, size in _parts(method, options)
    ]


def _arguments(
    method: str, options: SaliencyOptions, scale: float, instances: int
) -> dict[str, Any]:
    """What a method is given besides samples."""
    known, shared = METHODS[method], dict(options.given[method])
    if known.needs_key:
        shared["key"] = jax.random.key(options.seed)
    if known.takes("sigma"):
        shared |= {"sigma": options.value(method, "sigma") * scale, "sigma_unit": "absolute"}
    if known.takes("divisor") and options.legacy_divisor:
        shared["divisor"] = float(max(1, instances))
    return shared


def measure(
    values: Float[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"], spacing: Sequence[float]
) -> dict[str, float]:
    """The largest and the smallest value of a map, their distances, and the mean inside.

    Args:
        values: a map.
        mask: the instance in it.
        spacing: size of a voxel in mm along each axis.

    Returns:
        `peak_positive`, the largest value, 0 if none is positive; `peak_negative`, the smallest, 0
        if none is negative; the Euclidean distance of each in mm from the instance's nearest voxel,
        0 inside of it, NaN where there is no such peak; `mean_inside`.
    """
    distance = np.asarray(scipy.ndimage.distance_transform_edt(~mask, sampling=spacing))
    told: dict[str, float] = {}
    for name, signed in (("peak_positive", values), ("peak_negative", -values)):
        at = np.unravel_index(np.argmax(signed), values.shape)
        there = bool(signed[at] > 0)
        told[name] = float(values[at]) if there else 0.0
        told[f"{name}_distance_mm"] = float(distance[at]) if there else float("nan")
    told["mean_inside"] = float(values[mask].mean())
    return told
