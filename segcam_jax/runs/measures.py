"""Metrics by name, with options in words, as a command is given them: each of the type it has."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from segcam_jax import metrics
from segcam_jax.methods import METHODS
from segcam_jax.metrics import Metric
from segcam_jax.metrics.registry import check_option
from segcam_jax.networks.network import Network
from segcam_jax.options import parse_options
from segcam_jax.runs.manifest import NetworkRecord
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric with the options that it is called with.

    Attributes:
        options: name and value of each, in the order of the names.
    """

    metric: Metric
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def folder(self) -> str:
        """Where its parts lie."""
        return self.metric.name

    @property
    def randomises(self) -> bool:
        """Whether it draws the parameters of the network anew."""
        return "draw" in inspect.signature(self.metric.function).parameters

    @property
    def asks_no_map(self) -> bool:
        """Whether it asks the network alone, once for each target."""
        return {"network", "labels"} <= set(self.metric.needs)

    @property
    def at_input(self) -> bool:
        """Whether the network is cut at its input, whatever tap a map is of."""
        known = inspect.signature(self.metric.function).parameters.get("at")
        if known is None or "method" in self.metric.needs:
            return False
        return dict(self.options).get("at", known.default) == INPUT


def measures(names: Sequence[str], words: Sequence[str] = ()) -> tuple[Measure, ...]:
    """Metrics by name, with options: `NAME=VALUE` of all that have it, or `METRIC.NAME=VALUE`.

    Raises:
        InputError: if a metric is unknown, no metric has the option, or its value is of another
            type than the metric says, or out of range.
    """
    found = {each.name: each for each in map(metrics.find, names)}
    given = parse_options(
        words, {name: each.options for name, each in found.items()}, "metric", _of_methods
    )
    for metric, values in given.items():
        for name, value in values.items():
            try:
                check_option(name, value)
            except InputError as error:
                raise InputError(f"--option {metric}.{name}: {error}") from None
    return tuple(Measure(found[n], tuple(sorted(values.items()))) for n, values in given.items())


def _of_methods(option: str) -> str:
    """Whose an option is that no metric has, if it is a method's."""
    having = [each.name for each in METHODS.values() if option in each.options]
    if not having:
        return ""
    more = " and others" if len(having) > 1 else ""
    return (
        f". {option!r} is an option of the method {having[0]}{more}, which --method-option sets "
        "where images are explained"
    )


def check(asked: Sequence[Measure], network: Network | NetworkRecord, *, compares: bool) -> None:
    """Checks metrics against what is explained of a network.

    Args:
        compares: whether a class is explained rather than another one.
    """
    for each in asked:
        needs = set(each.metric.needs)
        if network.classifies and {"mask", "region", "labels"} & needs:
            raise InputError(
                f"{each.metric.name} needs a region, and {network.title} classifies whole images; "
                "leave it out"
            )
        where = dict(each.options).get("where", "all")
        if compares and ({"region", "labels"} & needs or where != "all"):
            raise InputError(
                f"{each.metric.name} reads the region of one class, and the run explains a "
                "class rather than another; leave it out, or score a run of one class"
            )
