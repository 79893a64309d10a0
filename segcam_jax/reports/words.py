"""What figures, tables and notes say of classes and shares."""

import shlex
from collections.abc import Sequence
from typing import Any

from segcam_jax.networks.class_queries import ClassChoice, ClassQuery, Prediction
from segcam_jax.networks.network import Network
from segcam_jax.types import shortened


def how_chosen(choice: ClassChoice, prediction: Prediction) -> str:
    """How a class was found, for records: asked for, or by its rank among those predicted."""
    if choice.rank is None:
        return "asked for"
    number = choice.rank + 1
    if prediction.masks is None:
        return "most probable" if number == 1 else f"number {number} in order of probability"
    but = "" if prediction.background is None else ", the background left out"
    which = "largest predicted" if number == 1 else f"number {number} in order of predicted pixels"
    return f"{which}{but}"


def about_background(network: Network, queries: Sequence[ClassQuery], option: str) -> str:
    """What to say once of a run whose classes are chosen by their rank; empty if nothing.

    Args:
        network: that explains itself.
        queries: what is explained.
        option: of the command line, that names a class.
    """
    background = network.background
    ranked = any(choice.rank is not None for query in queries for choice in query.choices)
    if background is None or not ranked:
        return ""
    index, label = background.index, network.labels[background.index]
    if background.assumed:
        which, name = f"class {index} is taken for the background, for it has no name", str(index)
    else:
        which, name = f"class {index}, {label!r}, is the background", shlex.quote(label)
    return f"{which}: the largest other class is explained; {option} {name} explains the background"


def in_words(about: dict[str, Any]) -> str:
    """What a figure says of a `ResolvedClass.summary`."""

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
