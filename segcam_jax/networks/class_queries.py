"""What is explained: the most probable classes, given ones, or one rather than another.

A query is made before any image is seen (`top:2` is "the second most probable class"); what a
network predicts for an image makes a target of it. Classifiers and segmentation networks alike:
there, the most probable classes are those predicted at most pixels, and the region is where they
are predicted.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax import _files
from segcam_jax.networks.network import Background, find_background
from segcam_jax.outputs import Meaning
from segcam_jax.types import InputError, TargetError, counted, nearest_first, whole_number

_TOP, _PREDICTED = "top:", "predicted"
_RATHER_THAN = " rather than "
_TOLD = 5
_NEAREST = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a network predicts for an image.

    Attributes:
        order: classes, the most probable first; of a segmentation network, those that it predicts
            anywhere, the most frequent first, the background last.
        shares: the probability of each class, or its share of the pixels.
        masks: where each class is predicted; None for a classifier.
        background: the class that no rank means; None: every class may be meant.
    """

    order: list[int]
    shares: Float[np.ndarray, "k"]
    masks: Bool[np.ndarray, "h w k"] | None = None
    background: int | None = None
    exclusive: bool = True

    @classmethod
    def of(
        cls,
        output: Float[np.ndarray, "*space k"],
        labels: Sequence[str],
        meaning: Meaning = Meaning(),
        background: Background | None = None,
    ) -> "Prediction":
        """What an output says.

        Args:
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
            return cls(np.argsort(-values, kind="stable").tolist(), shares, exclusive=exclusive)
        if exclusive:  # As `meaning` has it, without a round through the device.
            first = output.argmax(-1)
            masks = first[..., None] == np.arange(output.shape[-1])
            counts = np.bincount(first.ravel(), minlength=output.shape[-1])
        else:
            masks = np.asarray(meaning.predicted(output))
            counts = masks.reshape(-1, masks.shape[-1]).sum(0)
        background = background or find_background(labels, exclusive=meaning.exclusive)
        index = None if background is None else background.index
        last = np.arange(len(labels)) == (-1 if index is None else index)
        order = [k for k in np.lexsort((-counts, last)).tolist() if counts[k]]
        return cls(order, counts / math.prod(masks.shape[:-1]), masks, index, exclusive)

    def region(self, class_index: int, labels: Sequence[str]) -> Bool[np.ndarray, "h w"]:
        """The pixels predicted as a class, of a segmentation network."""
        assert self.masks is not None
        found = self.masks[..., class_index]
        if not found.any():
            seen = ", ".join(labels[k] for k in self.order[:_TOLD]) or "nothing"
            raise TargetError(
                f"class {labels[class_index]!r} is not predicted at any pixel; the predicted "
                f"classes are {seen}"
            )
        return found

    def drawn(
        self, class_index: int, dtype: type[np.signedinteger] = np.int32
    ) -> Int[np.ndarray, "h w"] | None:
        """What figures show: the predicted class of each pixel, -1 where there is none.

        Classes that do not exclude each other overlap: of them, where the given one is predicted.
        """
        if self.masks is None:
            return None
        if self.exclusive:
            return self.masks.argmax(-1).astype(dtype)
        return np.where(self.masks[..., class_index], class_index, -1).astype(dtype)


@dataclasses.dataclass(frozen=True)
class ClassChoice:
    """One class, before an image is seen.

    Attributes:
        rank: among the predicted classes, from 0; None: the words are its name or its number.
    """

    words: str
    rank: int | None = None

    @classmethod
    def parse(cls, words: str) -> "ClassChoice":
        """Reads a name, a number or a rank: `top:1`, or `predicted`, is the most probable class."""
        words = f"{_TOP}1" if words == _PREDICTED else words
        if not words.startswith(_TOP):
            return cls(words)
        rank = whole_number(words.removeprefix(_TOP))
        if not rank:
            raise InputError(f"class {words!r}; give {_TOP}1, {_TOP}2, ...")
        return cls(words, rank - 1)

    @property
    def slug(self) -> str:
        """The choice in the name of a file."""
        if self.rank is None:
            return _files.slug(self.words, "class")
        return "predicted" if self.rank == 0 else f"top{self.rank + 1}"

    def check(self, labels: Sequence[str]) -> None:
        """Checks what can be checked without an image.

        Raises:
            InputError: if there are fewer classes than the rank.
            TargetError: if there is no such class; the message has the nearest names.
        """
        if self.rank is None:
            find_class(self.words, labels)
        elif self.rank >= len(labels):
            raise InputError(f"class {self.words!r}; give {_TOP}1 to {_TOP}{len(labels)}")

    def resolve(self, prediction: Prediction, labels: Sequence[str]) -> int:
        """The class that is meant for an image; no rank means the background."""
        self.check(labels)
        if self.rank is None:
            return find_class(self.words, labels)
        if self.rank >= len(prediction.order):
            count = len(prediction.order)
            raise TargetError(
                f"{self.words}: the network predicts only {counted(count, 'class')} here"
            )
        index = prediction.order[self.rank]
        if index == prediction.background:
            only = (
                f"{self.words}: after {counted(self.rank, 'class')} only" if self.rank else "only"
            )
            raise TargetError(
                f"{only} the background, class {labels[index]!r}, is predicted here, and it is "
                "explained only if you ask for it; name a class"
            )
        return index


@dataclasses.dataclass(frozen=True)
class ClassQuery:
    """What is explained.

    Attributes:
        name: for files.
        second: the class that it is compared with; None: none.
    """

    name: str
    first: ClassChoice
    second: ClassChoice | None = None

    @classmethod
    def parse(cls, words: str) -> "ClassQuery":
        """Reads a class, as `ClassChoice.parse` does, or `A rather than B`."""
        first, rather, second = (part.strip() for part in words.partition(_RATHER_THAN))
        choice = ClassChoice.parse(first)
        if not rather:
            return cls(choice.slug, choice)
        other = ClassChoice.parse(second)
        if choice == other:
            raise InputError(f"class {first!r} cannot be compared with itself; give two classes")
        return cls(_files.file_name(f"{choice.slug}-not-{other.slug}"), choice, other)

    @property
    def words(self) -> str:
        """As the user said it."""
        return _RATHER_THAN.join(choice.words for choice in self.choices)

    @property
    def choices(self) -> tuple[ClassChoice, ...]:
        """The class, and the one that it is compared with, if there is one."""
        return (self.first,) if self.second is None else (self.first, self.second)

    def check(self, labels: Sequence[str]) -> None:
        """Checks what can be checked without an image, as `ClassChoice.check`."""
        for choice in self.choices:
            choice.check(labels)

    def resolve(self, prediction: Prediction, labels: Sequence[str]) -> tuple[int, int | None]:
        """The classes that the query means for an image: the explained one, and the other."""
        first, *others = (choice.resolve(prediction, labels) for choice in self.choices)
        if first in others:
            both = " and ".join(choice.words for choice in self.choices)
            raise TargetError(f"{both} are both {labels[first]!r} here")
        return first, others[0] if others else None


def parse_queries(words: Sequence[str] = ()) -> tuple[ClassQuery, ...]:
    """Reads what is explained of every image, each by itself; none: the class predicted first."""
    found = [*dict.fromkeys(map(ClassQuery.parse, words or (_PREDICTED,)))]
    names = _files.unique_names([query.name for query in found])
    return tuple(dataclasses.replace(q, name=name) for q, name in zip(found, names, strict=True))


def find_class(words: str, names: Sequence[str]) -> int:
    """The class of a number or a name; of several in one (`"tabby, tabby cat"`), each does.

    Raises:
        TargetError: if there is no such class, or several have this name.
    """
    wanted, number = words.strip().casefold(), whole_number(words)
    folded = [name.casefold() for name in names]
    parts = [[part.strip() for part in name.split(",")] for name in folded]
    for found in (
        [index for index, name in enumerate(names) if name == words],
        [index for index, name in enumerate(folded) if name == wanted],
        [index for index, several in enumerate(parts) if wanted in several],
    ):
        if number is not None and number in found:
            return number
        if len(found) > 1:
            told = ", ".join(f"{index} ({names[index]})" for index in found[:_NEAREST])
            raise TargetError(
                f"class {words!r} is the name of several classes: {told}; give one's number"
            )
        if found:
            return found[0]
    if number is not None and number < len(names):
        return number
    inside = [name for name in names if wanted and wanted in name.casefold()]
    numeric = words.lstrip("-").isdigit()
    near = list(names) if numeric else [*inside, *nearest_first(words, names)]
    near = list(dict.fromkeys(near))
    told = ", ".join(near[:_NEAREST]) + (", ..." if len(near) > _NEAREST else "")
    raise TargetError(
        f"class {words!r} is not a class of the model; it has {len(names)}, 0 to "
        f"{len(names) - 1}: {told}"
    )


def check_possible(
    logits: Float[np.ndarray, "*space k"],
    index: int,
    region: Bool[np.ndarray, "*space"] | None,
    labels: Sequence[str],
) -> None:
    """Raises `TargetError` if the network rules a class out: a score of -inf has no explanation."""
    values = logits[..., index] if region is None else logits[..., index][region]
    count = int((values == -np.inf).sum())
    if count:
        where = f" at {count} of the {values.size} explained pixels" if values.ndim else ""
        raise TargetError(
            f"class {labels[index]!r} is at -inf{where}: the network rules it out, which cannot "
            "be explained; name another class or region"
        )
