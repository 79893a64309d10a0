"""Layers by word: the taps that first, middle, last and conv:N stand for, or taps by name."""

import math
from collections.abc import Mapping, Sequence

import jax

from segcam_jax import models, taps
from segcam_jax.networks.network import Network
from segcam_jax.taps import INPUT, PLACES
from segcam_jax.types import InputError, TapError, near, whole_number

CONVOLUTION = "conv:"
ALL = "all"
FIRST, MIDDLE, LAST = PLACES
Taps = Mapping[str, jax.ShapeDtypeStruct]


def default_layer(network: Network) -> str:
    """Where to explain a network: the last block of a classifier, the bottleneck of others."""
    return LAST if network.classifies else MIDDLE


def tap_at(place: str | None, given: Taps, classes: int | None) -> str:
    """The first, the middle or the last of `stages`.

    Args:
        place: `first`, `middle` or `last`, where the middle of a segmentation network is its
            bottleneck. None: `last` for a classifier, else `middle`.
        given: the taps of the network.
        classes: of a segmentation network; None for a classifier.

    Raises:
        TapError: if no tap has positions.
    """
    blocks = stages(given, classes)
    if not blocks:
        raise TapError(
            "no tap of the model has positions of the image: name one by segcam.tap, or explain "
            "the input, tap='input'"
        )
    place = place or (LAST if classes is None else MIDDLE)
    if place == MIDDLE and classes is not None:
        return taps.bottleneck({name: given[name] for name in blocks})
    return blocks[{FIRST: 0, MIDDLE: (len(blocks) - 1) // 2, LAST: -1}[place]]


def find_layer(network: Network, word: str, given: Taps | None = None) -> str:
    """The tap that a word stands for.

    Args:
        word: `first`, `middle` or `last`: the first, the middle and the last of `stages`, where the
            middle of a segmentation network is its bottleneck, and the input where there is none;
            `conv:N`: the N-th convolution, counted from 1; else the name of a tap.
        given: its taps, for an image of another size; None takes `network.taps`.

    Raises:
        InputError: if there is no such convolution.
        TapError: if there is no such tap; the message has the nearest names.
    """
    if word.startswith(CONVOLUTION):
        return _convolution(network, word)
    given = network.taps if given is None else given
    if word in given:
        return word
    if word in PLACES:
        classes = None if network.classifies else network.config.classes
        has_input = INPUT in given and not stages(given, classes)
        return INPUT if has_input else tap_at(word, given, classes)
    raise TapError(
        f"unknown layer {word!r} of {network.name}{near(word, [*given, *PLACES])}; "
        "`segcam layers` lists all, and first, middle, last and conv:N work too"
    )


def find_layers(network: Network, words: Sequence[str], given: Taps) -> tuple[str, ...]:
    """The taps that words stand for, each once; `all` is every layer that has a map.

    Args:
        words: as `find_layer` reads them, or `all`; none: the layer where a network is explained.
        given: its taps, for an image of the size in question.

    Raises:
        InputError: if a tap has no map, or as `find_layer`.
        TapError: as `find_layer`.
    """
    found: list[str] = []
    for word in words or (default_layer(network),):
        if word == ALL and word not in given:
            found += [name for name in given if name != INPUT and _has_map(given[name])]
        else:
            found.append(find_layer(network, word, given))
            check_map(found[-1], given[found[-1]])
    return tuple(dict.fromkeys(found))


def _has_map(struct: jax.ShapeDtypeStruct) -> bool:
    return taps.is_map(struct) and math.prod(struct.shape[:-1]) > 1


def stages(given: Taps, classes: int | None = None) -> list[str]:
    """The outputs of a network's blocks, in order of evaluation.

    A block is a tap whose name has no `/`, or that has taps inside (`layer1/block2` has
    `layer1/block2/conv1`). Where its ReLU is tapped after it (`features`, then `features/relu`),
    that is the block's output. The input, the logits and what has no positions, or positions of its
    own (tokens, heads), are no blocks.
    Where no tap is a block, each with positions is taken for one.

    Args:
        classes: of a segmentation network: a last tap of so many channels holds the logits, too.
    """
    order = {name: number for number, name in enumerate(given)}
    spatial = [
        name for name, struct in given.items() if name not in (INPUT, "logits") and _has_map(struct)
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


def check_map(tap: str, struct: jax.ShapeDtypeStruct) -> None:
    """Checks that a map of a tap's positions can be drawn over the input."""
    if taps.is_map(struct):
        return
    shape = tuple(struct.shape)
    what = "no positions"
    if math.prod(shape[:-1]) > 1:
        what = f"positions of its own, {' x '.join(map(str, shape[:-1]))}, not the image's"
    raise InputError(
        f"tap {tap!r} has shape {shape} and {what}, so it has no map; name an earlier tap "
        "(`segcam layers` lists them)"
    )


def _convolution(network: Network, word: str) -> str:
    words = word.removeprefix(CONVOLUTION)
    number = whole_number(words)
    family = models.NETWORKS.get(network.model.name)
    if family is None or not hasattr(family.model, "convolutions"):
        raise InputError(f"{network.name} does not number its convolutions; name a tap")
    if number is None:
        raise InputError(f"layer {word!r}: {words!r} is not a number; give {CONVOLUTION}1 or more")
    return family.convolution_tap(network.config, number)
