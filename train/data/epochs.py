"""The order in which a training sees its images: each of them once an epoch, anew in every one."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Which image is seen when.

    Attributes:
        members: the images that are trained on.
        count: how often each is seen.
        batch: images a step.
        seed: of the orders; each epoch adds its number to it.
    """

    members: Int[np.ndarray, "m"]
    count: int
    batch: int
    seed: tuple[int, ...]

    def __len__(self) -> int:
        """The images of all steps."""
        return max(self.ends) * self.batch

    @functools.cached_property
    def ends(self) -> dict[int, int]:
        """The steps in which epochs are complete -> those epochs, from 1."""
        count = len(self.members)
        return {-(-epoch * count // self.batch): epoch for epoch in range(1, self.count + 1)}

    def image(self, position: int) -> int:
        """The image at a position of all that are seen one after another."""
        epoch, place = divmod(int(position), len(self.members))
        return int(self.members[_order((*self.seed, epoch), len(self.members))[place]])


@functools.lru_cache(maxsize=4)
def _order(seed: tuple[int, ...], count: int) -> Int[np.ndarray, "m"]:
    return np.random.default_rng(seed).permutation(count)
