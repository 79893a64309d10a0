"""`segcam layers` and `segcam methods`."""

import math
import textwrap
from collections.abc import Iterable

from segcam_jax.cli import commands, console
from segcam_jax.heatmap import PROFILES
from segcam_jax.methods import METHODS
from segcam_jax.metrics import METRICS
from segcam_jax.options import Option
from segcam_jax.types import InputError

_SIDE = 64


def layers(command: commands.Layers) -> None:
    """Prints the taps of a network, in the order in which they are computed."""
    from segcam_jax.networks.layers import FIRST, LAST, MIDDLE, default_layer, find_layer
    from segcam_jax.networks.open import open_network
    from segcam_jax.networks.spec import NetworkSpec, OpenOptions
    from segcam_jax.taps import is_map

    size = _size(command)
    if command.network is not None and command.weights is not None:
        raise InputError(f"two networks were given: {command.network} and {command.weights}")
    spec = NetworkSpec.parse(command.network or command.weights)
    users = spec.kind == "user"
    brought = size if size and users else None
    options = OpenOptions(
        brought, command.channels, seed=command.seed, ndims=(2, 3), layout=command.layout
    )
    network = open_network(spec, options)
    if network.note:
        console.note(network.note)
    config = network.config
    described = users or network.recipe is not None
    usual = network.size or (network.extent if described else (_SIDE,) * config.ndim)
    extents = _fitting(size or usual, network.multiples)
    taps = network.list_taps((*extents, config.in_channels))
    words_of: dict[str, list[str]] = {}
    # The commands over volumes take taps by their names alone.
    for word in (FIRST, MIDDLE, LAST) if config.ndim == 2 else (MIDDLE,):
        words_of.setdefault(find_layer(network, word, taps), []).append(word)
    default = find_layer(network, default_layer(network), taps)
    rows = []
    for name, struct in taps.items():
        *space, channels = struct.shape
        also = words_of.get(name, [])
        if not network.classifies:
            also = ["the bottleneck" if word == MIDDLE else word for word in also]
        also = [*also, "the default tap"] if name == default else also
        also = also if is_map(struct) or math.prod(space) == 1 else ["positions of its own"]
        lies = (struct.inside, struct.evidence)
        rows.append((name, " x ".join(map(str, space)), channels, ", ".join(also), *lies))
    what = "an image" if config.ndim == 2 else "a volume"
    title = f"Taps of {network.model.name} ({spec.words}) for {what} of {_times(extents)}"
    columns = ("tap", "positions", "channels", "", "inside", "which are the channels")
    console.table(title, columns, rows)


def _size(command: commands.Layers) -> tuple[int, ...]:
    """The numbers that were given, if any; how many there must be, the network says."""
    from segcam_jax.networks.spec import LARGEST

    if len(command.size) > 3 or any(not 1 <= n <= LARGEST for n in command.size):
        raise InputError(
            f"--size was given {_times(command.size)}; give a height and a width of 1 to {LARGEST}"
        )
    return command.size


def _fitting(size: tuple[int, ...], multiples: tuple[int, ...]) -> tuple[int, ...]:
    """The size along every axis, with what is missing to a multiple, which is said."""
    ndim = len(multiples)
    if len(size) not in (1, ndim):
        raise InputError(
            f"--size was given {_times(size)}; the network is {ndim}D: give one number, or {ndim}"
        )
    asked = size * ndim if len(size) == 1 else size
    extents = tuple(-(-n // each) * each for n, each in zip(asked, multiples, strict=True))
    if extents != asked:
        console.note(f"{_times(asked)} would be padded to {_times(extents)} for this network")
    return extents


def _times(numbers: Iterable[int]) -> str:
    return " x ".join(map(str, numbers))


def methods(_: commands.Methods) -> None:
    """Prints the registries of methods, with their options, and of metrics, and the profiles."""
    print("Methods, by --method NAME; their options by --option NAME=VALUE\n")
    for method in METHODS.values():
        where = "the input" if method.explains == "input" else "a layer"
        facts = [f"{method.title}, at {where}", method.cost, method.paper, method.notes]
        options = [
            f"{option.given} ({option.choices}): {option.about}"
            for option in method.options.values()
        ]
        _entry(method.name, facts, options)
    print("Metrics, by `segcam score --metric NAME`; their options by --option NAME=VALUE\n")
    way = {True: "higher is better", False: "lower is better", None: ""}
    for metric in METRICS.values():
        needs = f"needs {', '.join(metric.needs)}" if metric.needs else ""
        facts = [metric.title, way[metric.higher_is_better], needs, metric.cost, metric.paper]
        options = [
            f"{option.given} ({option.choices}){_about(option)}"
            for option in metric.options.values()
        ]
        _entry(metric.name, facts, options)
    print("Profiles of heatmaps, by --profile NAME\n")
    for profile in PROFILES.values():
        _entry(profile.name, [profile.about, "signed" if profile.signed else "not signed"])


def _about(option: Option) -> str:
    """What an option of a metric means; of those that many metrics share, as `deletion` says it."""
    said = option.about
    if option.name in ("at", "baseline", "by") and said in ("", "as in `deletion`"):
        said = METRICS["deletion"].options[option.name].about
    return f": {said}" if said else ""


def _entry(name: str, facts: Iterable[str], options: Iterable[str] = ()) -> None:
    """Prints a name, what there is to know of it, and its options, in 80 columns."""
    print(name)
    paragraphs = [("", "; ".join(filter(None, facts))), *(("  ", option) for option in options)]
    for indent, text in paragraphs:
        lines = textwrap.wrap(text, 74 - len(indent), break_on_hyphens=False)
        print(textwrap.indent("\n  ".join(lines), f"    {indent}"))
    print()
