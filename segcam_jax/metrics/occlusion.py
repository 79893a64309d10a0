"""The occlusion study of activation maps: what a segmentation loses when parts are covered.

    R      the foreground at the activation's positions: its mask, resized linearly, above 100 / 255
           (a pixel's grey, for a mask of 0 and 255); or all other positions that touch a known
           pixel, the background
    R_sp   the share s of R that lies nearest to place p in it
    A_k    becomes `value` on R_sp, in map k alone, or in all maps at once

Of the output y is read, before and after, T the truth and P what is predicted:

    foreground   mean of y[class] over the foreground
    background   mean of y[background] over the background
    Dice         mean over the classes in T of 2 |P and T| / (|P| + |T|)

References:
    "Ablation studies in activation maps for explainable semantic segmentation in Industry 4.0",
    IEEE Eurocon 2023, and its code, whose Dice (2 I + 1e-10) / (U + I + 1e-10), U the union, is
    the same. Its shares and places are not published: those here are this library's.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.heatmap import resize
from segcam_jax.metrics.removal import touched
from segcam_jax.outputs import THRESHOLD, Meaning, check_class, meaning
from segcam_jax.taps import Split
from segcam_jax.targets import Target, whole_image
from segcam_jax.types import UNKNOWN, InputError, wide

Occluded = Literal["foreground", "background"]
Cover = Literal["linear", "touched"]
_INSIDE = 100 / 255
_PLACES = 100
SHARES = (0.25, 0.5, 0.75, 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quality:
    """What is read of an output; see above.

    Attributes:
        foreground: mean output of the class.
        background: mean output of the background class; NaN where the truth has none of it.
        dice: mean Dice, in [0, 1].
    """

    foreground: Any
    background: Any
    dice: Any


@dataclasses.dataclass(frozen=True)
class Patch:
    """What is occluded.

    Attributes:
        region: `"foreground"` or `"background"`, or `"map"`: every position, an ablation.
        share: of the region's positions.
        place: which of the places, from 1.
    """

    region: Literal["map", "foreground", "background"]
    share: float
    place: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class OcclusionStudy:
    """What a segmentation loses by each occlusion.

    Attributes:
        patches: the occlusions; the first is that of whole maps.
        positions: of the activation, that each covers.
        before: of the unchanged output.
        falls: by patch and map, occluded alone: how far the foreground's and the background's mean
            fall, and how far Dice does. The means' falls are exact to the last digits of float32.
        together: the same by patch, of all maps at once.
    """

    patches: tuple[Patch, ...]
    positions: Bool[np.ndarray, "p *space"]
    before: Quality
    falls: Quality
    together: Quality

    @property
    def order(self) -> Int[np.ndarray, "c"]:
        """The maps, sorted by how far the foreground falls without them, the largest fall first."""
        return np.argsort(-self.falls.foreground[0], kind="stable")

    def chosen(self, region: str, share: float) -> list[int]:
        """The patches of a region and a share: one for each place."""
        kind = (region, share)
        return [n for n, each in enumerate(self.patches) if (each.region, each.share) == kind]

    def rows(self, *, ablations: bool) -> Iterator[dict[str, Any]]:
        """One row per occlusion and map, and one of all maps: before, after, and the fall.

        Args:
            ablations: rows of whole maps, sorted as `order`; else those of parts of them.
        """
        for number, patch in enumerate(self.patches):
            if (patch.region == "map") != ablations:
                continue
            maps = self.order if ablations else np.arange(self.falls.dice.shape[1])
            for each in ("all", *maps.tolist()):
                row: dict[str, Any] = {"map": each}
                if not ablations:
                    row |= dataclasses.asdict(patch)
                    row["positions"] = int(self.positions[number].sum())
                yield row | self._values(number, each)

    def _values(self, patch: int, which: int | str) -> dict[str, float]:
        values = {}
        for name, before in vars(self.before).items():
            alone, together = getattr(self.falls, name), getattr(self.together, name)
            fell = float(together[patch] if which == "all" else alone[patch, which])
            values |= {name: float(before), f"{name}_after": float(before) - fell}
            values[f"{name}_fall"] = fell
        return values


def occlusion_study(
    split: Split,
    params: Any,
    x: Any,
    truth: Int[np.ndarray, "*positions"],
    *,
    class_index: int,
    background: int | None = 0,
    shares: Sequence[float] = SHARES,
    places: int = 2,
    occluded: Sequence[Occluded] = ("foreground", "background"),
    value: float = 0.0,
    cover: Cover = "linear",
    exclusive: bool = True,
    threshold: float | Sequence[float] = THRESHOLD,
    execution: Execution = Execution(),
) -> OcclusionStudy:
    """Occludes shares of the foreground, and of the background, in each map alone and in all maps.

    Every occlusion of every map is a decode, in one program.

    Args:
        split: the model, cut at the tap whose maps are occluded.
        truth: the class of each position of the output, or what is predicted there: -1 is left out
            of all; the number of classes says that it is none of them.
        class_index: the foreground.
        background: the class of the background; None: there is none, and its mean is that of
            `class_index` over all positions of other classes.
        shares: of the foreground's (background's) positions, each above 0 and at most 1.
        places: how many for each share below 1, at most 100. The first lies in the middle, each
            further one farthest from the others.
        occluded: which of the two.
        value: what is occluded becomes this.
        cover: which of the activation's positions are foreground: where its mask, resized
            `"linear"`ly, lies above 100 / 255, as in the source; or all that it has `"touched"`.
        exclusive: whether the classes exclude each other.
        threshold: where they do not, probabilities above it are predicted, one or one per class.

    Returns:
        An `OcclusionStudy`.

    Raises:
        InputError: if the truth does not fit the output, has no foreground, or a region has no
            position at the tap; or an option is out of range.
        TargetError: if there is no such class, thresholds are not one for each class, or nothing
            says what the output holds and what is predicted depends on it.
    """
    labels, mask = _checked(split, truth, class_index, background)
    check_options(shares, places, occluded, value, cover)
    said = meaning(split.outputs, exclusive, threshold).checked(split.output.shape[-1])
    at_tap = _at_tap(mask, split, cover)
    known = np.asarray(touched(jnp.asarray(labels != UNKNOWN), at_tap.shape))
    regions = {"foreground": at_tap, "background": known & ~at_tap}
    covered = [np.ones(at_tap.shape, bool)]
    for name in dict.fromkeys(occluded):
        covered += _covered(name, regions[name], shares, places, split.tap)
    output, before, falls, together = _read(
        split,
        params,
        x,
        whole_image(class_index, exclusive=exclusive),
        jnp.asarray(labels),
        jnp.asarray(np.stack(covered)),
        background=background,
        value=float(value),
        threshold=tuple(np.broadcast_to(said.threshold, split.output.shape[-1:]).tolist()),
        execution=execution,
    )
    if not said.excludes(output.shape[-1]):
        said.check_values(output)
    said.check_exclusive(output)
    found = jax.tree.map(np.asarray, (before, falls, together))
    return OcclusionStudy(patches_of(shares, places, occluded), np.stack(covered), *found)


def patches_of(
    shares: Sequence[float], places: int, occluded: Sequence[Occluded]
) -> tuple[Patch, ...]:
    """What `occlusion_study` occludes with these options, in its order."""
    parts = [
        Patch(name, float(share), place)
        for name in dict.fromkeys(occluded)
        for place in range(1, places + 1)
        for share in shares
        if share < 1 or place == 1
    ]
    return (Patch("map", 1.0), *parts)


def _checked(
    split: Split, truth: Any, class_index: int, background: int | None
) -> tuple[Int[np.ndarray, "*positions"], Bool[np.ndarray, "*positions"]]:
    """The truth, and its foreground."""
    if not hasattr(split.output, "shape"):
        raise InputError("the model returns more than one array; wrap it to return its logits")
    *space, classes = split.output.shape
    for each in (class_index, *([] if background is None else [background])):
        check_class(each, classes)
    if class_index == background:
        raise InputError(f"class {class_index} is the background; the study needs a foreground")
    labels = np.asarray(truth)
    if labels.shape != tuple(space) or labels.dtype.kind not in "iu":
        raise InputError(
            f"the truth has shape {labels.shape} and dtype {labels.dtype}; expected integer labels "
            f"of the output's positions {tuple(space)}"
        )
    wrong = labels[(labels < UNKNOWN) | (labels > classes)]
    if wrong.size:
        raise InputError(
            f"the truth holds label {wrong[0]}; the model has classes 0 to {classes - 1}, "
            f"{classes} for none of them and {UNKNOWN} for unknown"
        )
    mask = labels == class_index
    if not mask.any():
        raise InputError(f"the truth has no position of class {class_index}: nothing to occlude")
    return labels.astype(np.int32), mask


def check_options(
    shares: Sequence[float], places: int, occluded: Sequence[str], value: float, cover: str
) -> None:
    """Checks options of `occlusion_study`, which do not depend on what is studied."""
    if not len(shares) or not all(0 < share <= 1 for share in shares):
        raise InputError(f"shares={tuple(shares)}; give numbers above 0 and at most 1")
    if not 1 <= places <= _PLACES:
        raise InputError(f"places={places}; give 1 to {_PLACES}")
    if not np.isfinite(value):
        raise InputError(f"value={value}; give a finite number")
    wrong = [each for each in occluded if each not in get_args(Occluded)]
    if wrong or not len(occluded):
        raise InputError(f"occluded={tuple(occluded)}; choose from foreground, background")
    if cover not in get_args(Cover):
        raise InputError(f"cover={cover!r}; choose linear or touched")


def _at_tap(mask: Bool[np.ndarray, "*positions"], split: Split, cover: Cover) -> np.ndarray:
    positions = split.activation.shape[:-1]
    if len(positions) != mask.ndim:
        raise InputError(f"tap {split.tap!r} has shape {split.activation.shape}, so it has no maps")
    if cover == "touched":
        return np.asarray(touched(jnp.asarray(mask), positions))
    return np.asarray(resize(jnp.asarray(mask, jnp.float32), positions)) > _INSIDE


def _covered(
    name: Occluded, region: np.ndarray, shares: Sequence[float], places: int, tap: str
) -> Iterator[np.ndarray]:
    """Which positions each share at each place covers."""
    there = np.argwhere(region)
    if not len(there):
        how = {
            "foreground": "it is thinner than one; cover='touched' takes all that it touches",
            "background": "the foreground takes all that is known",
        }
        raise InputError(f"the {name} has no position at tap {tap!r}: {how[name]}")
    nearest, distance = there.mean(0), np.full(len(there), np.inf)
    seed = int(np.argmin(((there - nearest) ** 2).sum(1)))
    for place in range(1, places + 1):
        away = ((there - there[seed]) ** 2).sum(1)
        order = np.argsort(away, kind="stable")
        for share in shares:
            if share == 1 and place > 1:
                continue
            positions = np.zeros(region.shape, bool)
            positions[tuple(there[order[: max(1, round(share * len(there)))]].T)] = True
            yield positions
        distance = np.minimum(distance, away)
        seed = int(np.argmax(distance))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["patches"], meta_fields=["channels", "alone"]
)
@dataclasses.dataclass(frozen=True)
class PatchMasks:
    """Mask p c + k covers patch p in map k; or mask p covers patch p in all maps.

    Attributes:
        alone: one map at a time.
    """

    patches: Bool[Array, "p *space"]
    channels: int
    alone: bool

    def __len__(self) -> int:
        return len(self.patches) * (self.channels if self.alone else 1)

    def __call__(self, index: Int[Array, ""]) -> Float[Array, "*space c"]:
        """The mask of an index."""
        if not self.alone:
            return jnp.where(self.patches[index], 0.0, 1.0)[..., None]
        map = index % self.channels
        there = jnp.arange(self.channels, dtype=map.dtype) == map
        there = there.reshape((1,) * (self.patches.ndim - 1) + (-1,))
        return jnp.where(self.patches[index // self.channels][..., None] & there, 0.0, 1.0)

    def removed(self, values: Float[Array, "*space c"]) -> Float[Array, "m"]:
        """For each mask, the sum of (1 - mask) values."""
        covered = self.patches.reshape(len(self.patches), -1).astype(values.dtype)
        sums = covered @ values.reshape(-1, self.channels)
        return sums.reshape(-1) if self.alone else sums.sum(-1)

    def windows(self, ndim: int) -> dict[int, tuple[np.ndarray, int]]:
        """One map, the last axis, or everything."""
        return {ndim - 1: (np.arange(self.channels), 1)} if self.alone else {}

    def places(self, index: Int[Array, ""], ndim: int) -> dict[int, Int[Array, ""]]:
        """The window of a map starts at it."""
        return {ndim - 1: index % self.channels} if self.alone else {}


@engine.compiled
def _read(
    split: Split,
    params: Any,
    x: Any,
    target: Target,
    truth: Int[Array, "*positions"],
    patches: Bool[Array, "p *space"],
    *,
    background: int | None,
    value: Any,
    threshold: tuple[float, ...],
    execution: Execution,
) -> tuple[Array, Quality, Quality, Quality]:
    """The output, what is read of it, and how far that falls by patch and map, and by patch."""
    activation, carry = engine.encode(split, params, x, execution)
    own = target.class_index
    valid = truth != UNKNOWN
    other = valid & (truth != own) if background is None else truth == background
    theirs = own if background is None else background
    said = Meaning(target.outputs, target.exclusive, threshold)
    true = jax.nn.one_hot(truth, split.output.shape[-1], dtype=bool)
    axes = tuple(range(truth.ndim))
    area, present = true.sum(axes), true.any(axes)

    def mean(output, index, where):
        values = jax.lax.dynamic_index_in_dim(output, jnp.asarray(index), -1, keepdims=False)
        count = where.sum(dtype=jnp.float32)
        return jnp.where(where, values, 0).sum() / jnp.where(count > 0, count, jnp.nan)

    def dice(output):
        found = said.predicted(output) & valid[..., None]
        both, size = (found & true).sum(axes), found.sum(axes) + area
        return jnp.nanmean(jnp.where(present, 2 * both / jnp.maximum(size, 1), jnp.nan))

    def means(output):
        return mean(output, own, truth == own), mean(output, theirs, other)

    output = wide(split.decode(activation, carry))
    before = Quality(*means(output), dice(output))

    def falls(after, change):
        return Quality(*means(change), before.dice - dice(after))

    empty = jnp.full_like(activation, value)
    found = []
    for alone in (True, False):
        masks = PatchMasks(patches, activation.shape[-1], alone)
        each = engine.change_readings(split, activation, carry, masks, falls, execution, empty)
        shape = (len(patches), -1) if alone else (-1,)
        found.append(jax.tree.map(lambda leaf, shape=shape: leaf.reshape(shape), each))
    return output, before, found[0], found[1]
