"""What figures, tables and notes say of classes and shares."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from segcam_jax.networks.class_queries import ClassQuery
from segcam_jax.networks.network import Network
from segcam_jax.runs.manifest import NetworkRecord
from segcam_jax.types import shortened


def about_background(network: Network, queries: Sequence[ClassQuery], option: str) -> str:
    """What to say once of a run whose classes are chosen by their rank; empty if nothing.

    Args:
        option: of the command line, that names a class.
    """
    background = network.background
    ranked = any(choice.rank is not None for query in queries for choice in query.choices)
    if background is None or not ranked:
        return ""
    index, label = background.index, network.labels[background.index]
    if background.assumed:
        which, name = f"class {index} has no name and is assumed to be the background", str(index)
    else:
        which, name = f"class {index}, {label!r}, is the background", shlex.quote(label)
    return f"{which}: the largest other class is explained; {option} {name} explains the background"


def explained(about: Mapping[str, Any]) -> str:
    """What a row of a run's table explains: a class, or one rather than another."""
    rather = about["rather_than"]
    return short(about["class"]) + (f" rather than {short(rather)}" if rather else "")


def in_words(about: Mapping[str, Any], network: NetworkRecord) -> str:
    """What a network predicts for a row of a run's table, and what of it is explained."""
    of = "" if network.classifies else " of the pixels"

    def said(name: str, share: float | None) -> str:
        return short(name) + ("" if share is None else f" ({percent(share)}{of})")

    this = said(about["class"], about["share"])
    if about["rather_than"]:
        return f"why {this} rather than {short(about['rather_than'])}"
    if about["predicted"] in (None, about["class"]):
        word = "explained" if about["predicted"] is None else "predicted"
        return f"{word} {this}"
    # Where classes do not exclude each other, others are predicted, too.
    word = "most probable" if network.classifies else "largest"
    word = "predicted" if network.meaning.excludes(len(network.labels)) else word
    return f"explained {this}, {word} {said(about['predicted'], about['predicted_share'])}"


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
