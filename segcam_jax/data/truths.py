"""Truths: which lesions a label map holds, and which of its voxels are unknown.

What the values of a file mean is not in the file. One positive value is a mask, whose connected
components are the lesions. Several may number lesions (touching ones stay apart) or name tissues
(as edema and core in BraTS, which are parts of one lesion): a doubt that is asked, not guessed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.data.instances import Instances, label_instances, measured
from segcam_jax.types import InputError, counted

Meaning = Literal["instances", "classes"]
# Largest values of integer types, by custom "unknown" where they stand beside small labels.
_UNKNOWN = (127, 255, 32767, 65535)
_ROUNDING = 1e-3  # scaled integers are off by this much at most
# Volumes are read as float32, which makes this of the next larger integer, too.
_LARGEST = 2**24
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class TruthOptions:
    """What the values of a truth mean.

    Attributes:
        labels: `"instances"`: each positive value is one lesion; `"classes"`: values are tissues,
            and the connected components of those that count are the lesions. None: a truth of one
            positive value is a mask, one of several is refused.
        classes: the values that count, for `"classes"`; empty: all positive ones.
        ignore: the value of what is unknown: neither lesion nor background.
        threshold: values strictly above it are inside, for probabilities; None: values are labels.
    """

    labels: Meaning | None = None
    classes: tuple[int, ...] = ()
    ignore: int | None = None
    threshold: float | None = None

    def if_unknown(self, value: int) -> str:
        """What to do where a value means unknown; commands without `ignore` say another."""
        return f"add --ignore-label={value}"


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """A truth, read.

    Attributes:
        lesions: its instances, numbered from 1: by their values, or by their first voxels.
        ignored: where nothing is known; None: nowhere.
        notes: what may be otherwise than it was taken for.
    """

    lesions: Instances
    ignored: Bool[np.ndarray, "*space"] | None
    notes: tuple[str, ...]


def read_truth(
    values: Float[np.ndarray, "*space"] | Int[np.ndarray, "*space"],
    options: TruthOptions = TruthOptions(),
    *,
    connectivity: int | None = None,
    spacing: Sequence[float] | None = None,
    voxel_volume: float | None = None,
) -> Truth:
    """The lesions of a truth.

        inside   = values > threshold | values > 0 | values in classes
        lesions  = components(inside), or {values == v} for each positive v ("instances")

    Voxels of the ignored value are in neither.

    Args:
        values: labels, or with a threshold numbers of any kind.
        connectivity: neighbours of a position, of components; as in `find_instances`.
        spacing: size of a voxel in mm along each axis; None: 1 mm.
        voxel_volume: in mm^3 (mm^2); None: the product of `spacing`.

    Raises:
        InputError: if values are not finite, negative or no integers and no threshold is given; if
            several are positive and it is not said what they mean; or if options contradict.
    """
    check_options(options)
    inside, ignored, notes = _parts(np.asarray(values), options)
    size = {"spacing": spacing, "voxel_volume": voxel_volume}
    if options.labels == "instances":
        _, dense = np.unique(inside, return_inverse=True)
        numbers = dense.reshape(inside.shape) + (0 if (inside == 0).any() else 1)
        lesions = measured(numbers, **size)
    else:
        lesions = label_instances(inside > 0, connectivity=connectivity, **size)
    return Truth(lesions, ignored if ignored.any() else None, notes)


def check_values(values: np.ndarray, options: TruthOptions) -> None:
    """Raises what `read_truth` would, which takes the components of the values as well."""
    check_options(options)
    _parts(np.asarray(values), options)


def check_options(options: TruthOptions) -> None:
    """Raises `InputError` if the options contradict one another."""
    if options.labels not in (None, "instances", "classes"):
        raise InputError(f"truth labels {options.labels!r}; choose from instances, classes")
    if options.classes and options.labels == "instances":
        raise InputError(
            f"truth classes {list(options.classes)} need truth labels 'classes', not 'instances'"
        )
    wrong = [each for each in options.classes if each <= 0 or each == options.ignore]
    if wrong:
        raise InputError(f"truth class {wrong[0]}; give positive values other than the ignored one")
    if options.ignore == 0:
        raise InputError("ignore label 0 is the background; give the value of unknown voxels")
    if options.threshold is not None:
        if not np.isfinite(options.threshold):
            raise InputError(f"truth threshold {options.threshold}; give a finite number")
        if options.labels or options.classes:
            raise InputError(
                "a truth threshold is for probabilities, truth labels and classes are for label "
                "maps; give one of them"
            )


def _parts(
    values: np.ndarray, options: TruthOptions
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The labels of what is inside, 0 elsewhere; where it is unknown; and remarks."""
    if not np.isfinite(values).all():
        raise InputError("the truth holds NaN or infinite values")
    ignored = np.zeros(values.shape, bool) if options.ignore is None else values == options.ignore
    if options.threshold is not None:
        return (values > options.threshold) & ~ignored, ignored, ()
    labels = np.rint(values)
    fractions = (np.abs(values - labels) > _ROUNDING) & ~ignored
    if fractions.any():
        found = values[fractions]
        raise InputError(
            f"the truth holds {counted(found.size, 'value')} besides integers, from "
            f"{found.min():.4g} to {found.max():.4g}; if they are probabilities, give a threshold "
            "for what is inside (--truth-threshold 0.5)"
        )
    labels = np.where(ignored, 0, labels)
    if labels.size and labels.max() >= _LARGEST:
        raise InputError(
            f"the truth holds {labels.max():.0f}; labels from {_LARGEST} on cannot be told apart"
        )
    labels = labels.astype(np.int32)
    found = np.unique(labels)
    if (found < 0).any():
        count, least = int((labels < 0).sum()), int(found[0])
        raise InputError(
            f"the truth holds negative values in {counted(count, 'voxel')}, the least is {least}; "
            f"if it means unknown, {options.if_unknown(least)}, or give a threshold for what is "
            "inside (--truth-threshold 0)"
        )
    positive = found[found > 0].tolist()
    unknown = _unknown(positive)
    if options.labels is None and not options.classes and len(positive) > 1:
        raise InputError(_question(positive, unknown, options))
    if options.classes:
        labels = np.where(np.isin(labels, options.classes), labels, 0)
        unknown = unknown if unknown in options.classes else None
    return labels, ignored, () if unknown is None else (_remark(unknown, options),)


def _unknown(positive: Sequence[int]) -> int | None:
    """The label that looks like one of what is unknown."""
    apart = len(positive) > 1 and positive[-2] < positive[-1] - 1
    return positive[-1] if apart and positive[-1] in _UNKNOWN else None


def _remark(unknown: int, options: TruthOptions) -> str:
    return (
        f"{unknown} stands beside smaller labels and counts as a lesion; if it means unknown, "
        f"{options.if_unknown(unknown)}"
    )


def _question(positive: Sequence[int], unknown: int | None, options: TruthOptions) -> str:
    shown = ", ".join(map(str, positive[:_SHOWN])) + (", ..." if len(positive) > _SHOWN else "")
    first = " ".join(map(str, [each for each in positive if each != unknown][:2]))
    hint = "" if unknown is None else f"; if {unknown} means unknown, {options.if_unknown(unknown)}"
    return (
        f"the truth holds {len(positive)} positive values ({shown}); state what they are: "
        "--truth-labels instances (each value is one lesion; touching ones stay apart) or "
        "--truth-labels classes (tissues; the connected components of those that count, which "
        f"--truth-classes {first} chooses, are the lesions){hint}"
    )
