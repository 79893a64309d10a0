"""`segcam layers` and `segcam methods`."""

from segcam_jax.cli import commands, console
from segcam_jax.heatmap import PROFILES
from segcam_jax.methods import METHODS
from segcam_jax.types import InputError

_SIDE = 64


def layers(command: commands.Layers) -> None:
    """Prints the taps of a network, in the order in which they are computed."""
    from segcam_jax.cli.explain import network_words
    from segcam_jax.sweep.factories import is_own
    from segcam_jax.sweep.opening import Wanted, open_subject
    from segcam_jax.sweep.subjects import FIRST, LAST, MIDDLE, find_layer, padded_extent

    size = _size(command)
    if command.network is not None and command.weights is not None:
        raise InputError(f"two networks were given: {command.network} and {command.weights}")
    words, model = network_words(command.network or command.weights, command.model)
    brought = size if is_own(words) else None
    wanted = Wanted(size=brought, channels=command.channels, seed=command.seed)
    subject = open_subject(words, wanted, model=model)
    if subject.note:
        console.note(subject.note)
    config = subject.network.model.config
    asked = size or subject.size or (subject.extent if is_own(words) else (_SIDE, _SIDE))
    height, width = padded_extent(asked, config.multiple)
    if (height, width) != asked:
        console.note(
            f"{asked[0]} x {asked[1]} would be padded to {height} x {width} for this network"
        )
    taps = subject.network.list_taps((height, width, config.in_channels))
    words_of: dict[str, list[str]] = {}
    for word in (FIRST, MIDDLE, LAST):
        words_of.setdefault(find_layer(subject, word, taps), []).append(word)
    default = find_layer(subject, subject.default_layer, taps)
    rows = []
    for name, struct in taps.items():
        *space, channels = struct.shape
        also = words_of.get(name, [])
        if not subject.classifies:
            also = ["the bottleneck" if word == MIDDLE else word for word in also]
        also = [*also, "the default tap"] if name == default else also
        rows.append((name, " x ".join(map(str, space)), channels, ", ".join(also)))
    title = f"Taps of {subject.network.model.name} ({words}) for an image of {height} x {width}"
    console.table(title, ("tap", "positions", "channels", ""), rows)


def _size(command: commands.Layers) -> tuple[int, int] | None:
    """`(h, w)`, of any size that the network takes."""
    if len(command.size) > 2 or any(n < 1 for n in command.size):
        raise InputError(f"size {command.size}; give a height and a width of at least 1")
    return (command.size[0], command.size[-1]) if command.size else None


def methods() -> None:
    """Prints the registry of methods with their options, and the profiles."""
    from segcam_jax.sweep.settings import settings_of

    rows = [
        (each.name, each.explains, each.cost, each.paper, each.notes) for each in METHODS.values()
    ]
    console.table("Methods", ("method", "explains", "cost", "paper", "notes"), rows)
    rows = [
        (method, setting.name, str(setting.default).lower(), setting.choices)
        for method in METHODS
        for setting in settings_of(method).values()
    ]
    console.table(
        "Options of methods, by --option NAME=VALUE", ("method", "option", "default", "is"), rows
    )
    profiles = [(p.name, "yes" if p.signed else "no", p.about) for p in PROFILES.values()]
    console.table("Profiles of heatmaps", ("profile", "signed", "what it does"), profiles)
