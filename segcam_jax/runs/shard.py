"""A shard on its way through the kernel: its images by extent, and what became of each so far."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from segcam_jax.methods import MethodCall
from segcam_jax.networks.class_queries import Prediction
from segcam_jax.networks.image_inputs import Sample
from segcam_jax.runs.items import ImageFile, Item
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.work import Goal
from segcam_jax.types import Explanation, SegcamError

# An image of a group, and those of its targets that are explained at once.
Asked = tuple[int, Sequence[int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """An item as it was read.

    Attributes:
        file: its file, when it was opened.
        truth: the class of each pixel, or 1 inside of a mask; None: it has no truth.
    """

    sample: Sample
    file: ImageFile
    truth: Int[np.ndarray, "h w"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """What is explained of an image by one of its targets.

    Attributes:
        second: the class that it is compared with; None: none.
        region: its pixels; None for a classifier.
    """

    goal: Goal
    class_index: int
    second: int | None
    region: Bool[np.ndarray, "h w"] | None
    prediction: Prediction


@dataclasses.dataclass(frozen=True)
class Place:
    """A method at a tap."""

    call: MethodCall
    tap: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Ran:
    """Methods that ran on the same images, in batches.

    Attributes:
        batches: of each batch the members of the group, and for each place what came of them, on
            the device, with leading axes `n t`; a batch that was filled up has more than it says. A
            kernel without methods has no places, and what it computes of each member.
    """

    places: tuple[Place, ...]
    batches: list[tuple[list[Asked], Sequence[Any]]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Group:
    """The images of one extent of a shard, and what became of them so far.

    Attributes:
        extent: `(h, w)` of the images.
        outputs: of the network, in batches.
        goals: for each image, what is explained of it, or why that is not.
        found: explanations of the images that have any.
        programs: names of those that ran.
    """

    extent: tuple[int, int]
    members: list[Item] = dataclasses.field(default_factory=list)
    loaded: list[Loaded] = dataclasses.field(default_factory=list)
    outputs: list[Any] = dataclasses.field(default_factory=list)
    goals: list[list[Explained | Failure]] = dataclasses.field(default_factory=list)
    found: list[Ran] = dataclasses.field(default_factory=list)
    programs: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its part of the store."""
        return f"{self.extent[0]}x{self.extent[1]}"

    def fail(self, error: SegcamError) -> None:
        """Takes an error for what all of its images have instead of results."""
        for parts in (self.outputs, self.found, self.programs):
            parts.clear()
        counts = [len(goals) for goals in self.goals] or [1] * len(self.members)
        self.goals = [[Failure.of(error)] * count for count in counts]

    @property
    def places(self) -> tuple[Place, ...]:
        """The methods that ran, each at a tap."""
        return tuple(dict.fromkeys(place for ran in self.found for place in ran.places))

    def explanations(self, place: Place) -> Iterator[tuple[list[Asked], Explanation]]:
        """Those of a place on the host: of what, and leading axes `n t`."""
        for ran in (ran for ran in self.found if place in ran.places):
            index = ran.places.index(place)
            counts = [len(asked) for asked, _ in ran.batches]

            def joined(*leaves: Any, counts: Sequence[int] = counts) -> np.ndarray:
                parts = zip(leaves, counts, strict=True)
                return np.concatenate([np.asarray(leaf)[:count] for leaf, count in parts])

            found = jax.tree.map(joined, *(batch[index] for _, batch in ran.batches))
            yield [each for asked, _ in ran.batches for each in asked], found

    @property
    def padded(self) -> tuple[int, int]:
        """`(u, v)` that the network is given."""
        height, width, _ = self.loaded[0].sample.padded.shape
        return height, width


@dataclasses.dataclass(eq=False)
class Pending:
    """A shard on its way.

    Attributes:
        failures: of items that could not be read.
    """

    failures: list[tuple[Item, Failure]] = dataclasses.field(default_factory=list)
    groups: dict[tuple[int, int], Group] = dataclasses.field(default_factory=dict)

    def waits_for(self) -> list[Any]:
        """Arrays that are ready when the shard is."""
        return [ran.batches for group in self.groups.values() for ran in group.found]
