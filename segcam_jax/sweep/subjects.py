"""What galleries and embeddings look at: networks by name, their classes' names, their layers."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from segcam_jax import models, taps
from segcam_jax.adapters import from_nnx
from segcam_jax.data.labels import IMAGENET_CLASSES, check_labels, imagenet_labels
from segcam_jax.sweep.network import Network, open_network
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError, TapError, nearest_first

RANDOM = "random:"
CONVOLUTION = "conv:"
FIRST, MIDDLE, LAST = "first", "middle", "last"
_SIDES = {"inception": 299}
_USUAL_SIDE = 224
_SMALLEST = 16
_NEAREST = 6
Taps = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network that images are shown to.

    Attributes:
        name: for files and tables; no other subject's.
        network: with its weights.
        labels: a name for every class.
        side: of the square that images are brought to; None where any size will do.
    """

    name: str
    network: Network
    labels: list[str]
    side: int | None

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
        return [self.network.sha256, self.side]

    @functools.cached_property
    def taps(self) -> Taps:
        """Its taps, for an image of its size, or of one that every such network takes."""
        config = self.network.model.config
        side = self.side or config.multiple * -(-_USUAL_SIDE // config.multiple)
        return self.network.list_taps((side, side, config.in_channels))

    @functools.cached_property
    def classifies(self) -> bool:
        """Whether the output is one vector of logits, not one for each pixel."""
        return classifies(self.network)


def classifies(network: Network) -> bool:
    """Whether the network's output is one vector of logits, not one for each pixel."""
    config = network.model.config
    side = config.multiple * -(-_USUAL_SIDE // config.multiple)
    x = jax.ShapeDtypeStruct((side, side, config.in_channels), np.float32)
    return len(jax.eval_shape(network.model.fn, network.model.params, x).shape) == 1


def open_subjects(
    given: Sequence[str],
    *,
    size: int | None = None,
    labels: Sequence[str] | None = None,
    labels_from: str = "",
    seed: int = 0,
) -> list[Subject]:
    """Opens networks by name.

    Args:
        given: names and files as `models.load` takes them, or `random:NAME` for a classifier with
            random weights.
        size: the square that images are brought to; None: 299 for Inception, 224 for other
            classifiers, no change for segmentation networks.
        labels: names of the classes; None takes those of the weights file, ImageNet's for a
            classifier of 1000 classes, or numbers.
        labels_from: what they are called in messages.
        seed: of random weights.

    Raises:
        InputError: if one cannot be opened, is given twice, or has another number of classes.
    """
    if not given:
        raise InputError("no model was given; add --models with a name or a file")
    if size is not None and size < _SMALLEST:
        raise InputError(f"size {size}; give at least {_SMALLEST} pixels")
    doubled = [word for word in given if given.count(word) > 1]
    if doubled:
        raise InputError(f"model {doubled[0]!r} was given twice")
    subjects: list[Subject] = []
    for word in given:
        network = _random(word, seed) if word.startswith(RANDOM) else _trained(word)
        name = _free_name(word, [each.name for each in subjects])
        one_vector = classifies(network)
        side = size
        if side is None and one_vector:
            side = _SIDES.get(network.model.name, _USUAL_SIDE)
        names = _labels(network, labels, labels_from or "the list of labels", one_vector)
        subjects.append(Subject(name, network, names, side))
    return subjects


def _free_name(word: str, taken: Sequence[str]) -> str:
    stem = Path(word.removeprefix(RANDOM)).name.removesuffix(".safetensors") or "model"
    name, number = stem, 2
    while name.casefold() in {each.casefold() for each in taken}:
        name, number = f"{stem}-{number}", number + 1
    return name


def _trained(word: str) -> Network:
    if word in models.CLASSIFIERS and not Path(word).exists():
        raise InputError(
            f"model {word!r} has no trained weights here; give a file that `segcam convert` "
            f"wrote, or {RANDOM}{word} for random weights"
        )
    return open_network(word)


def _random(word: str, seed: int) -> Network:
    name = word.removeprefix(RANDOM)
    if name not in models.CLASSIFIERS:
        choices = ", ".join(nearest_first(name, models.CLASSIFIERS))
        raise InputError(f"unknown model {name!r} after {RANDOM!r}; choose from {choices}")
    family, _ = models.CLASSIFIERS[name]
    model = models.randomised(lambda: models.classifier(name, normalisation="imagenet"), seed=seed)
    fn, params = from_nnx(model)
    loaded = models.LoadedModel(family, fn, params, model.config, {})
    digest = hashlib.sha256(f"{word} {seed}".encode()).hexdigest()
    return Network(word, Path(word), digest, loaded)


def _labels(
    network: Network, labels: Sequence[str] | None, origin: str, one_vector: bool
) -> list[str]:
    classes = network.model.config.classes
    if labels is not None:
        check_labels(list(labels), classes, f"{origin}, for {network.given!r},")
        return list(labels)
    known = network.model.metadata.get("classes")
    if not known and one_vector and classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return network.class_names


def stages(given: Taps) -> list[str]:
    """The outputs of a network's blocks, in order of evaluation.

    A block is a tap whose name has no `/`, or that has taps inside (`layer1/block2` has
    `layer1/block2/conv1`). Where its ReLU is tapped after it (`features`, then `features/relu`),
    that is the block's output. The input, the logits and what has no positions are no blocks.
    """
    order = {name: number for number, name in enumerate(given)}
    spatial = [name for name, struct in given.items() if len(struct.shape) > 1]
    parents = {name.rpartition("/")[0] for name in given}
    blocks = [
        name
        for name in spatial
        if name not in (INPUT, "logits") and ("/" not in name or name in parents)
    ]
    outputs = set()
    for name in blocks:
        relu = f"{name}/relu"
        outputs.add(relu if order.get(relu, -1) > order[name] else name)
    return sorted(outputs, key=order.__getitem__)


def find_layer(subject: Subject, word: str) -> str:
    """The tap that a word stands for.

    Args:
        subject: the network.
        word: `first`, `middle` or `last`: the first, the middle and the last of `stages`, where the
            middle of a segmentation network is its bottleneck; `conv:N`: the N-th convolution,
            counted from 1; else the name of a tap.

    Raises:
        InputError: if there is no such convolution.
        TapError: if there is no such tap; tells the nearest names.
    """
    if word.startswith(CONVOLUTION):
        return _convolution(subject, word)
    if word in subject.taps:
        return word
    if word in (FIRST, MIDDLE, LAST):
        blocks = stages(subject.taps)
        if not blocks:
            raise TapError(f"{subject.name} has no tap with positions; its layers have no maps")
        if word == MIDDLE and not subject.classifies:
            return taps.bottleneck({name: subject.taps[name] for name in blocks})
        return blocks[{FIRST: 0, MIDDLE: (len(blocks) - 1) // 2, LAST: -1}[word]]
    near = ", ".join(nearest_first(word, [*subject.taps, FIRST, MIDDLE, LAST])[:_NEAREST])
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
