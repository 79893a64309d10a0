"""What is explained: the most probable classes, given ones, or one rather than another.

An aim is chosen before any image is seen (`top:2` is "the second most probable class"); seeing an
image makes a target of it. Classifiers and segmentation networks alike: there, the most probable
classes are those predicted at most pixels, and the region is where they are predicted.
"""

import dataclasses
import functools
import math
import shlex
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segcam_jax import _files
from segcam_jax.networks.network import Background, find_background, find_class
from segcam_jax.outputs import Meaning
from segcam_jax.targets import Of, Target
from segcam_jax.types import InputError, TargetError, shortened

TOP = "top:"
_TOLD = 5


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["first", "second"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Difference:
    """The score of one class above that of another: what speaks for it rather than the other.

        S = S_first - S_second

    Attributes:
        first: the class that is explained.
        second: the class that it is compared with.
    """

    first: Target
    second: Target

    def __call__(self, output: Float[Array, "*space k"]) -> Float[Array, ""]:
        """Returns the difference of the two scores."""
        return self.first(output) - self.second(output)


@dataclasses.dataclass(frozen=True)
class Aim:
    """What is explained.

    Attributes:
        name: for files.
        first: a class by name, by number, or by rank (`top:1` is the most probable).
        second: the class that it is compared with, likewise; None: none.
    """

    name: str
    first: str
    second: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """What a network says of an image.

    Attributes:
        order: classes, the most probable first; of a segmentation network, those that it predicts
            anywhere, the most frequent first, the background last.
        shares: the probability of each class, or its share of the pixels.
        masks: where each class is predicted; None for a classifier.
        exclusive: whether classes exclude each other.
        background: the class that no rank means; None: every class may be meant.
    """

    order: list[int]
    shares: Float[np.ndarray, "k"]
    masks: Bool[np.ndarray, "h w k"] | None = None
    background: int | None = None
    exclusive: bool = True

    def drawn(self, class_index: int) -> Int[np.ndarray, "h w"] | None:
        """What figures show: the predicted class of each pixel, -1 where there is none.

        Classes that do not exclude each other overlap: of them, where the given one is predicted.
        """
        if self.masks is None:
            return None
        if not self.exclusive:
            return np.where(self.masks[..., class_index], class_index, -1).astype(np.int32)
        none = ~self.masks.any(-1)
        return np.where(none, -1, self.masks.argmax(-1)).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """An aim, for one image.

    Attributes:
        first: the explained class.
        second: the class that it is compared with.
        region: the explained pixels; None for a classifier.
    """

    first: int
    second: int | None
    region: Bool[np.ndarray, "h w"] | None

    def target(self, of: Of, padded: tuple[int, ...], meaning: Meaning = Meaning()) -> Any:
        """The score to explain, for an output of `padded` positions and a meaning."""
        mask = None
        if self.region is not None:
            sizes = zip(self.region.shape, padded, strict=True)
            mask = np.pad(self.region, [(0, large - small) for small, large in sizes])
        # An array, so that one program serves all classes.
        index: Any = np.asarray(self.first, np.int32)
        one = Target(index, mask, of, outputs=meaning.outputs, exclusive=meaning.exclusive)
        if self.second is None:
            return one
        return Difference(
            one, dataclasses.replace(one, class_index=np.asarray(self.second, np.int32))
        )


def make_aims(
    *, top: int = 1, classes: Sequence[str] = (), difference: Sequence[str] | None = None
) -> list[Aim]:
    """The aims of a gallery.

    Args:
        top: how many of the most probable classes, where no others are named.
        classes: classes by name, number or rank.
        difference: two of them.

    Raises:
        InputError: if `top` is less than 1, or a class is compared with itself.
    """
    if top < 1:
        raise InputError(f"top is {top}; give at least 1")
    if difference is not None and difference[0] == difference[1]:
        raise InputError(f"class {difference[0]!r} does not differ from itself; give two")
    words = list(dict.fromkeys(classes))
    if not words and (difference is None or top > 1):
        words = [f"{TOP}{rank}" for rank in range(1, top + 1)]
    aims = [Aim(_slug(word), word) for word in words]
    if difference is not None:
        first, second = difference
        aims.append(Aim(_files.file_name(f"{_slug(first)}-not-{_slug(second)}"), first, second))
    names = _files.unique_names([aim.name for aim in aims])
    return [dataclasses.replace(aim, name=name) for aim, name in zip(aims, names, strict=True)]


def _slug(word: str) -> str:
    if word.startswith(TOP):
        rank = word.removeprefix(TOP)
        return "predicted" if rank == "1" else f"top{_slug(rank)}"
    return _files.slug(word, "class")


def class_or_rank(word: str, labels: Sequence[str]) -> tuple[str, int]:
    """Reads a class.

    Args:
        word: a name, a number, or `top:N`.
        labels: the names; of several names in one (`"tabby, tabby cat"`), each will do.

    Returns:
        `("class", index)` or `("rank", from 0)`.

    Raises:
        InputError: if the rank is none.
        TargetError: if there is no such class; tells the nearest names.
    """
    if word.startswith(TOP):
        rank = word.removeprefix(TOP)
        if not (rank.isascii() and rank.isdigit() and 1 <= int(rank) <= len(labels)):
            raise InputError(f"class {word!r}; give {TOP}1 to {TOP}{len(labels)}")
        return "rank", int(rank) - 1
    return "class", find_class(word, labels)


def look(
    output: Float[np.ndarray, "*space k"],
    labels: Sequence[str],
    meaning: Meaning = Meaning(),
    background: Background | None = None,
) -> Sight:
    """What an output says.

    Args:
        output: of one image.
        labels: names of the classes.
        meaning: what the output means.
        background: of a segmentation network; None: what `labels` tell of it.
    """
    exclusive = meaning.excludes(output.shape[-1])
    if output.ndim == 1:
        values = output.astype(np.float64)
        if meaning.outputs == "probabilities":
            shares = values
        elif exclusive:
            shares = np.exp(values - np.logaddexp.reduce(values))
        else:
            shares = np.exp(-np.logaddexp(0, -values))
        return Sight(np.argsort(-values, kind="stable").tolist(), shares, exclusive=exclusive)
    masks = np.asarray(meaning.predicted(output))
    counts = masks.reshape(-1, masks.shape[-1]).sum(0)
    background = background or find_background(labels, exclusive=meaning.exclusive)
    index = None if background is None else background.index
    last = np.arange(len(labels)) == (-1 if index is None else index)
    order = [k for k in np.lexsort((-counts, last)).tolist() if counts[k]]
    return Sight(order, counts / math.prod(masks.shape[:-1]), masks, index, exclusive)


def find(aim: Aim, sight: Sight, labels: Sequence[str]) -> Found:
    """What an aim means for an image.

    Raises:
        TargetError: if the network predicts the class at no pixel, or too few classes.
    """
    first = chosen(aim.first, sight, labels)
    second = None if aim.second is None else chosen(aim.second, sight, labels)
    if second == first:
        raise TargetError(f"{aim.first} and {aim.second} are both {labels[first]!r} here")
    if sight.masks is None:
        return Found(first, second, None)
    region = sight.masks[..., first]
    if not region.any():
        seen = ", ".join(labels[k] for k in sight.order[:_TOLD]) or "nothing"
        raise TargetError(f"class {labels[first]!r} is predicted at no pixel; predicted are {seen}")
    return Found(first, second, region)


def chosen(word: str, sight: Sight, labels: Sequence[str]) -> int:
    """The class that a name, a number or a rank means for an image; no rank means the background.

    Raises:
        TargetError: if there is none.
    """
    kind, number = class_or_rank(word, labels)
    if kind == "class":
        return number
    if number >= len(sight.order):
        raise TargetError(f"{word}: only {len(sight.order)} class(es) are predicted here")
    index = sight.order[number]
    if index == sight.background:
        only = "only" if number == 0 else f"{word}: after {number} class(es) only"
        raise TargetError(
            f"{only} the background, class {labels[index]!r}, is predicted here, which is "
            "explained only when asked for; name a class"
        )
    return index


def check_possible(
    logits: Float[np.ndarray, "*space k"],
    index: int,
    region: Bool[np.ndarray, "*space"] | None,
    labels: Sequence[str],
) -> None:
    """Raises `TargetError` if the network rules a class out: a score of -inf has no explanation."""
    values = logits[..., index] if region is None else logits[region][:, index]
    count = int((values == -np.inf).sum())
    if count:
        where = f" at {count} of the {values.size} explained pixels" if values.ndim else ""
        raise TargetError(
            f"class {labels[index]!r} is at -inf{where}: the network rules it out, and nothing "
            "explains that; name another class or region"
        )


def how_chosen(word: str, sight: Sight) -> str:
    """How a class was found, for records: asked for, or by its rank among those predicted."""
    if not word.startswith(TOP):
        return "asked for"
    rank = word.removeprefix(TOP)
    if sight.masks is None:
        return "most probable" if rank == "1" else f"number {rank} in order of probability"
    but = "" if sight.background is None else ", the background left out"
    which = "largest predicted" if rank == "1" else f"number {rank} in order of predicted pixels"
    return f"{which}{but}"


def about_background(
    background: Background | None, labels: Sequence[str], aims: Sequence[Aim], option: str
) -> str:
    """What to say once of a run whose classes are chosen by their rank; empty if nothing.

    Args:
        background: of the network.
        labels: names of the classes.
        aims: what is explained.
        option: of the command line, that names a class.
    """
    words = [word for aim in aims for word in (aim.first, aim.second) if word is not None]
    if background is None or not any(word.startswith(TOP) for word in words):
        return ""
    index, label = background.index, labels[background.index]
    if background.assumed:
        which, name = f"class {index} is taken for the background, for it has no name", str(index)
    else:
        which, name = f"class {index}, {label!r}, is the background", shlex.quote(label)
    return f"{which}: the largest other class is explained; {option} {name} explains the background"


def summary(found: Found, sight: Sight, labels: Sequence[str]) -> dict[str, Any]:
    """What JSON can hold of an aim for an image, and of what is predicted there."""

    def said(k: int) -> dict[str, Any]:
        return {"index": k, "label": labels[k], "share": round(float(sight.shares[k]), 6)}

    return {
        "predicted": [said(k) for k in sight.order[:_TOLD]],
        "explained": said(found.first),
        "rather_than": None if found.second is None else said(found.second),
        "shares_are": "probabilities" if sight.masks is None else "of the pixels",
        "exclusive": sight.exclusive,
    }


def in_words(about: dict[str, Any]) -> str:
    """What a figure says of a `summary`."""

    def said(entry: dict[str, Any]) -> str:
        pixels = "" if about["shares_are"] == "probabilities" else " of the pixels"
        return f"{short(entry['label'])} ({percent(entry['share'])}{pixels})"

    predicted = about["predicted"][:1]
    if about["rather_than"] is not None:
        return f"why {said(about['explained'])} rather than {said(about['rather_than'])}"
    if predicted and predicted[0]["index"] == about["explained"]["index"]:
        return f"predicted {said(about['explained'])}"
    best = "most probable" if about["shares_are"] == "probabilities" else "largest"
    word = "predicted" if about.get("exclusive", True) else best  # Others are predicted, too.
    seen = f", {word} {said(predicted[0])}" if predicted else ""
    return f"explained {said(about['explained'])}{seen}"


def short(label: str) -> str:
    """The first of several names of a class; a number alone is none."""
    name = label.split(",")[0].strip() or label
    return f"class {name}" if name.isdigit() else shortened(name)


def percent(share: float) -> str:
    """A share in words that never claim certainty."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
