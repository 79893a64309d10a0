"""Figures that compare: rows of stored runs below each other, one map per method beside the image.

A line is what one network says of one image and class at one layer; the lines of a figure differ in
the layer, in the class (target) or in the network.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from segcam_jax import viz
from segcam_jax.methods import METHODS
from segcam_jax.networks.regions import short_words
from segcam_jax.reports import words
from segcam_jax.reports.display import Display, in_words, is_signed
from segcam_jax.reports.figures import Look, Subject, drawable, drawn, heading
from segcam_jax.reports.images import Pair, displays, pairs, subject_of, units
from segcam_jax.runs import StoredRun
from segcam_jax.runs.table import NEGATIVE
from segcam_jax.types import shortened

Kind = Literal["layer", "layers", "targets", "models"]


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """What a network says of a row of its run, at a layer.

    Attributes:
        methods: those that are shown; empty: all.
    """

    run: StoredRun
    row: int
    tap: str
    methods: tuple[str, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Its maps: those at the layer, and those of methods that explain the input."""
        order = self.run.manifest.options["method"]
        there = pairs(self.run, [self.row])
        found = {pair for pair in there if pair[1] == self.tap or _of_input(pair[0])}
        found = {pair for pair in found if not self.methods or pair[0] in self.methods}
        return tuple(sorted(found, key=lambda pair: order.index(pair[0])))

    @property
    def hidden(self) -> Iterator[tuple[str, float]]:
        """The share of each map that ReLU hides, by its method."""
        about = self.run.row(self.row)
        return ((method, about[f"{method}.{tap}{NEGATIVE}"]) for method, tap in self.pairs)

    def maps(self) -> dict[str, Float[np.ndarray, "u v"]]:
        """Its raw maps, by method."""
        return {method: self.run.map(self.row, tap, method) for method, tap in self.pairs}

    @property
    def place(self) -> str:
        """The layer, and the positions that it has."""
        method = next((method for method, tap in self.pairs if tap == self.tap), None)
        if method is None:
            return self.tap
        return f"{self.tap}, {' x '.join(map(str, self.run.map(self.row, self.tap, method).shape))}"


def layers(run: StoredRun, row: int) -> list[str]:
    """The layers that a row is explained at; the input, where all methods explain that."""
    there = pairs(run, [row])
    hidden = dict.fromkeys(tap for method, tap in there if not _of_input(method))
    return list(hidden) or list(dict.fromkeys(tap for _, tap in there))


def comparison(lines: Sequence[Line], kind: Kind, look: Look = Look()) -> Figure:
    """Draws lines below each other.

    Args:
        lines: of one image, from top to bottom.
    """
    methods = list(dict.fromkeys(method for line in lines for method, _ in line.pairs))
    signed = is_signed(look.profile, (each for line in lines for each in line.hidden))
    rows: list[viz.Row] = []
    subjects: list[Subject] = []
    shown: list[Display] = []
    for line in lines:
        found, _ = displays(line.run, line.row, line.pairs, look, signed=signed)
        by_method = {method: each for (method, _), each in found.items()}
        subjects.append(subject_of(line.run, line.row))
        rows.append(_row(line, kind, subjects[-1], [by_method.get(method) for method in methods]))
        shown += found.values()
    title, subtitle = _titles(lines, kind, subjects[0])
    return viz.gallery(
        rows,
        [heading(method) for method in methods],
        style=look.style,
        title=title,
        subtitle=subtitle,
        caption=f"{_score(lines)} {in_words(shown, chosen=look.profile, signed=signed)}",
    )


def _row(line: Line, kind: Kind, subject: Subject, shown: Sequence[Display | None]) -> viz.Row:
    label, detail = _label(line, kind)
    return viz.Row(drawable(subject.pixels), drawn(shown), label, detail, subject.region)


def _label(line: Line, kind: Kind) -> tuple[str, str]:
    """What stands left of a row: what it differs in from the others."""
    about, network = line.run.row(line.row), line.run.manifest.network
    if kind == "layers":
        return line.tap, line.place.removeprefix(line.tap).lstrip(", ")
    if kind == "targets":
        rather = about["rather_than"]
        detail = f"rather than {words.short(rather)}" if rather else words.percent(about["share"])
        if not isinstance(line.run.manifest.options.get("region", ""), str):
            detail += f"\n{short_words(about['region'])}"
        return words.short(about["class"]), detail
    if kind == "models":
        return network.title, f"{words.in_words(about, network)}\n{line.place}"
    return "", ""


def _titles(lines: Sequence[Line], kind: Kind, subject: Subject) -> tuple[str, str]:
    """Title and subtitle: what all rows have in common."""
    line, name = lines[0], shortened(subject.name)
    about, network = line.run.row(line.row), line.run.manifest.network
    title, background = network.title, network.background
    if background is not None and background.assumed:
        title += f", {words.short(network.labels[background.index])} assumed to be the background"
    regions = not all(line.run.manifest.network.classifies for line in lines)
    outlined = "; outlined: the explained pixels" if regions else ""
    if kind == "models":
        places = {each.place for each in lines}
        at = places.pop() if len(places) == 1 else "the last layer of each"
        return f"{name}: {len(lines)} networks", f"{at}{outlined}"
    if kind == "targets":
        first = about["predicted"]
        predicted = f", predicted {words.short(first)}" if first else ""
        return f"{name}: {len(lines)} targets{predicted}", f"{title}; {line.place}{outlined}"
    at = "one row per layer" if kind == "layers" else line.place
    return f"{name}: {words.in_words(about, network)}", f"{title}; {at}{outlined}"


def _score(lines: Sequence[Line]) -> str:
    """What is explained in all rows, in units of the output."""
    names = dict.fromkeys(
        ("difference of " if line.run.row(line.row)["rather_than"] else "") + units(line.run)
        for line in lines
    )
    regions = [line.run for line in lines if not line.run.manifest.network.classifies]
    reduce = regions[0].manifest.options.get("reduce", "sum") if regions else ""
    how = {"": "", "sum": ", summed over the outlined pixels"}
    how["mean"] = ", averaged over the outlined pixels"
    return f"Explained: {' and '.join(names)}{how[reduce]}."


def _of_input(method: str) -> bool:
    return METHODS[method].explains == "input"
