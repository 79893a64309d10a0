"""Metrics by name, with options in words, as a command is given them: each of the type it has."""

import dataclasses
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from segcam_jax import metrics
from segcam_jax.methods import METHODS
from segcam_jax.metrics import Metric
from segcam_jax.metrics.registry import check_option
from segcam_jax.networks.network import Network
from segcam_jax.runs.manifest import NetworkRecord
from segcam_jax.taps import INPUT
from segcam_jax.types import InputError, nearest_first

# What a scoring gives by itself.
_GIVEN = frozenset({"key", "options", "execution", "segments", "count", "draw", "added", "classes"})
_UNIONS = (types.UnionType, Union)
_LARGEST = 10**8  # Of what is counted: more would take years.
_KINDS = {int: f"a whole number up to {_LARGEST:,}", float: "a number", bool: "true or false"}


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
    given: dict[str, dict[str, Any]] = {name: {} for name in found}
    for word in words:
        left, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--option was given {word!r}; give NAME=VALUE or METRIC.NAME=VALUE")
        start, dot, name = left.rpartition(".")
        if dot and start not in found:
            choices = ", ".join(nearest_first(start, found))
            raise InputError(f"--option {word!r}: {start!r} is not scored here, but {choices}")
        kinds = {each: options_of(found[each]) for each in ([start] if dot else found)}
        having = {
            each: options[name].annotation for each, options in kinds.items() if name in options
        }
        if not having:
            raise InputError(f"--option {word!r}: {_unknown(name, kinds)}")
        for metric, kind in having.items():
            try:
                given[metric][name] = _read(value, kind)
                check_option(name, given[metric][name])
            except InputError as error:
                raise InputError(f"--option {word!r}: {error}") from None
            except ValueError:
                raise InputError(f"--option {word!r}: {metric} takes {expected(kind)}") from None
    return tuple(Measure(found[n], tuple(sorted(options.items()))) for n, options in given.items())


def options_of(metric: Metric) -> dict[str, inspect.Parameter]:
    """The options of a metric that a command line can set, by name."""
    known = inspect.signature(metric.function).parameters
    return {
        name: each
        for name, each in known.items()
        if each.kind is each.KEYWORD_ONLY and name not in _GIVEN
    }


def _unknown(name: str, kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with an option that no metric has, and whose it is, if it is a method's."""
    there = dict.fromkeys(option for options in kinds.values() for option in options)
    choices = ", ".join(nearest_first(name, there)) or "none"
    verb = "has" if len(kinds) == 1 else "have"
    said = f"{', '.join(kinds)} {verb} no option {name!r}; there are {choices}"
    of_methods = [each.name for each in METHODS.values() if name in each.options]
    if of_methods:
        more = " and others" if len(of_methods) > 1 else ""
        said += (
            f". {name!r} is an option of the method {of_methods[0]}{more}, which --method-option "
            "sets where images are explained"
        )
    return said


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


def _read(words: str, kind: Any) -> Any:
    """The value of an option, of a type that a signature names; raises `ValueError`."""
    if get_origin(kind) is tuple:
        return tuple(_read(each, get_args(kind)[0]) for each in words.split(","))
    if get_origin(kind) in _UNIONS:  # Of a type, and of None.
        first, *_, last = get_args(kind)
        return None if last is type(None) and words.lower() == "none" else _read(words, first)
    if kind is bool or get_origin(kind) is Literal:
        known = {"true": True, "false": False} if kind is bool else {k: k for k in get_args(kind)}
        if words not in known:
            raise ValueError(words)
        return known[words]
    try:
        number = int(words) if kind is int else float(words)
    except ValueError:
        if kind is Any:
            return words
        raise
    if not math.isfinite(number) or (kind is int and abs(number) > _LARGEST):
        raise ValueError(words)
    return number


def expected(kind: Any) -> str:
    """What an option of a type is given, in words."""
    if get_origin(kind) is tuple:
        return "whole numbers, as 10,20,30"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in _UNIONS:
        return expected(get_args(kind)[0])
    return _KINDS.get(kind, "zeros, mean, blur, or a number")  # Baselines alone are of no type.
