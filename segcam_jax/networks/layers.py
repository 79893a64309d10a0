"""What is looked at: a network with its classes' names, its images' size and its layers by word."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from segcam_jax import models, taps
from segcam_jax.data.images import Reading
from segcam_jax.networks import image_inputs as pictures
from segcam_jax.networks.network import Background, Network, find_background
from segcam_jax.networks.user_models import USUAL_SIDE, USUAL_VOLUME
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError, TapError, nearest_first

RANDOM = "random:"
CONVOLUTION = "conv:"
FIRST, MIDDLE, LAST = "first", "middle", "last"
_NEAREST = 6
Taps = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network that images are shown to.

    Attributes:
        name: for files and tables; no other subject's.
        network: with its weights.
        labels: a name for every class.
        size: `(h, w)` that images are brought to, or the only extents of a volume; None where any
            size will do.
        note: what was found out about a user's own model, in words.
        reading: what the values of its images' files mean.
    """

    name: str
    network: Network
    labels: list[str]
    size: tuple[int, ...] | None = None
    note: str = ""
    reading: Reading = dataclasses.field(default_factory=Reading)

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.network.given.startswith(RANDOM)

    @property
    def title(self) -> str:
        """The name, and whether there is anything to be learned from it."""
        return f"{self.name} (random weights)" if self.random else self.name

    @property
    def key(self) -> list[Any]:
        """What the network's answers depend on."""
        return [*self.network.key, self.size, self.reading.range, self.reading.as_stored]

    @functools.cached_property
    def taps(self) -> Taps:
        """Its taps, for an image of its size, or of one that every such network takes."""
        return self.network.list_taps((*self.extent, self.network.model.config.in_channels))

    @property
    def extent(self) -> tuple[int, ...]:
        """The size that images are brought to, or some that such a network takes."""
        config = self.network.model.config
        usual = USUAL_SIDE if config.ndim == 2 else USUAL_VOLUME
        return padded_extent(self.size or (usual,) * config.ndim, config.multiple)

    @property
    def classifies(self) -> bool:
        """Whether the output is one vector of logits, not one for each pixel."""
        model = self.network.model
        families = {family for family, _ in models.CLASSIFIERS.values()}
        return getattr(model.config, "classifies", model.name in families)

    @property
    def background(self) -> Background | None:
        """The class of a segmentation network that is explained only when asked for."""
        if self.classifies:
            return None
        known = self.network.model.class_names
        exclusive = self.network.meaning.exclusive
        return find_background(self.labels, exclusive=exclusive, known=known)

    @property
    def default_layer(self) -> str:
        """Where to explain it: the last block of a classifier, the bottleneck of others."""
        return LAST if self.classifies else MIDDLE


def padded_extent(size: tuple[int, ...], multiple: int) -> tuple[int, ...]:
    """Extents with what is missing to a multiple."""
    return tuple(-(-n // multiple) * multiple for n in size)


def read(path: Path, subject: Subject, fit: pictures.Fit):
    """An image file for a network, as `pictures.read` gives it."""
    config, size = subject.network.model.config, subject.size
    assert size is None or len(size) == 2
    return pictures.read(
        path,
        channels=config.in_channels,
        size=size,
        multiple=config.multiple,
        fit=fit,
        reading=subject.reading,
    )


def stages(given: Taps, classes: int | None = None) -> list[str]:
    """The outputs of a network's blocks, in order of evaluation.

    A block is a tap whose name has no `/`, or that has taps inside (`layer1/block2` has
    `layer1/block2/conv1`). Where its ReLU is tapped after it (`features`, then `features/relu`),
    that is the block's output. The input, the logits and what has no positions, or positions of its
    own (tokens, heads), are no blocks.
    Where no tap is a block, each with positions is taken for one.

    Args:
        given: the taps.
        classes: of a segmentation network: a last tap of so many channels holds the logits, too.
    """
    order = {name: number for number, name in enumerate(given)}
    spatial = [
        name
        for name, struct in given.items()
        if name not in (INPUT, "logits")
        and taps.is_map(struct)
        and math.prod(struct.shape[:-1]) > 1
    ]
    if len(spatial) > 1 and given[spatial[-1]].shape[-1] == classes:
        spatial.pop()
    parents = {name.rpartition("/")[0] for name in given}
    blocks = [name for name in spatial if "/" not in name or name in parents] or spatial
    outputs = set()
    for name in blocks:
        relu = f"{name}/relu"
        outputs.add(relu if order.get(relu, -1) > order[name] else name)
    return sorted(outputs, key=order.__getitem__)


def find_layer(subject: Subject, word: str, given: Taps | None = None) -> str:
    """The tap that a word stands for.

    Args:
        subject: the network.
        word: `first`, `middle` or `last`: the first, the middle and the last of `stages`, where the
            middle of a segmentation network is its bottleneck, and the input where there is none;
            `conv:N`: the N-th convolution, counted from 1; else the name of a tap.
        given: its taps, for an image of another size; None takes `subject.taps`.

    Raises:
        InputError: if there is no such convolution.
        TapError: if there is no such tap; tells the nearest names.
    """
    if word.startswith(CONVOLUTION):
        return _convolution(subject, word)
    given = subject.taps if given is None else given
    if word in given:
        return word
    if word in (FIRST, MIDDLE, LAST):
        classes = subject.network.model.config.classes
        blocks = stages(given, None if subject.classifies else classes)
        if not blocks and INPUT in given:
            return INPUT
        if not blocks:
            raise TapError(f"{subject.name} has no tap with positions; its layers have no maps")
        if word == MIDDLE and not subject.classifies:
            return taps.bottleneck({name: given[name] for name in blocks})
        return blocks[{FIRST: 0, MIDDLE: (len(blocks) - 1) // 2, LAST: -1}[word]]
    near = ", ".join(nearest_first(word, [*given, FIRST, MIDDLE, LAST])[:_NEAREST])
    raise TapError(
        f"unknown layer {word!r} of {subject.name}; the nearest names are {near} "
        "(`segcam layers` lists all; first, middle, last and conv:N work too)"
    )


def _convolution(subject: Subject, word: str) -> str:
    number = word.removeprefix(CONVOLUTION)
    family = models.NETWORKS.get(subject.network.model.name)
    if family is None:
        raise InputError(f"{subject.name} does not number its convolutions; name a tap")
    if not (number.isascii() and number.isdigit()):
        raise InputError(f"layer {word!r}: {number!r} is no number; give {CONVOLUTION}1 or more")
    model = nnx.eval_shape(lambda: family.make(subject.network.model.config))
    return models.convolution_tap(model, int(number))
