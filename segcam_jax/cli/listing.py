"""`segcam layers` and `segcam methods`."""

from segcam_jax.cli import commands, console
from segcam_jax.heatmap import PROFILES
from segcam_jax.methods import METHODS
from segcam_jax.types import InputError


def layers(command: commands.Layers) -> None:
    """Prints the taps of a network, in the order in which they are computed."""
    from segcam_jax.sweep.network import open_network

    if min(command.size) < 1:
        raise InputError(f"size {command.size}; give a height and a width of at least 1")
    network = open_network(command.weights, command.model)
    config = network.model.config
    height, width = (-(-n // config.multiple) * config.multiple for n in command.size)
    if (height, width) != command.size:
        console.note(
            f"{command.size[0]} x {command.size[1]} would be padded to {height} x {width} for "
            "this network"
        )
    shape = (height, width, config.in_channels)
    deepest = network.bottleneck(shape)
    rows = []
    for name, struct in network.list_taps(shape).items():
        *space, channels = struct.shape
        mark = "the bottleneck, the default tap" if name == deepest else ""
        rows.append((name, " x ".join(map(str, space)), channels, mark))
    title = f"Taps of {network.model.name} ({command.weights}) for an image of {height} x {width}"
    console.table(title, ("tap", "positions", "channels", ""), rows)


def methods() -> None:
    """Prints the registry of methods, and the profiles."""
    rows = [
        (each.name, each.explains, each.cost, each.paper, each.notes) for each in METHODS.values()
    ]
    console.table("Methods", ("method", "explains", "cost", "paper", "notes"), rows)
    steps = {
        "segcam_jax": "ReLU, resize, / max; in [0, 1]; the default",
        "signed": "resize, / max |.|; in [-1, 1]",
        "raw": "resize; quantitative",
        "pytorch_grad_cam": "as pytorch-grad-cam 1.5.7: ReLU, min-max, resize, ReLU, min-max",
        "captum": "as captum: nearest resize",
        "seg_grad_cam": "as Seg-Grad-CAM's code: resize, ReLU, / max",
        "fast_ablation_cam": "as FastAblationCAM's code: ReLU, / max, resize",
        "ablation_eurocon": "as the Eurocon 2023 code: ReLU, resize",
    }
    profiles = [
        (p.name, "yes" if p.signed else "no", steps.get(p.name, "")) for p in PROFILES.values()
    ]
    console.table("Profiles of heatmaps", ("profile", "signed", "what it does"), profiles)
