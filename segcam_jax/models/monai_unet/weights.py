"""Where the tensors of MONAI's `UNet` go, and which of its modules is which tap.

MONAI nests its levels: `model.0` is the first level down, `model.2` the last one up, and all that
is between them is `model.1.submodule`, which has parts `0`, `1.submodule` and `2` again; the
innermost is the bottleneck.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from segcam_jax.models.monai_unet.config import MonaiUNetConfig
from segcam_jax.models.monai_unet.model import MonaiUNet
from segcam_jax.types import InputError
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, norm_rules

_INNER = "1.submodule"


@dataclasses.dataclass(frozen=True)
class _Place:
    """A convolution: MONAI's name of it and its followers, our path, our tap, our transform."""

    module: str
    adn: str
    path: str
    tap: str
    transform: str


def monai_table(config: MonaiUNetConfig) -> Table:
    """The rules for a state dict of MONAI's `UNet`."""
    rules = []
    for place in _places(config):
        rules += [
            Rule(f"{place.module}.weight", f"{place.path}/kernel", place.transform),
            Rule(f"{place.module}.bias", f"{place.path}/bias"),
        ]
        block = place.path.removesuffix("/conv")
        if place.adn:
            rules += norm_rules(f"{place.adn}.N", f"{block}/norm")
            rules.append(Rule(f"{place.adn}.A.weight", f"{block}/activation/slope", "scalar"))
    return Table(tuple(rules), ignored=("*.num_batches_tracked",))


def monai_taps(model: MonaiUNet) -> dict[str, str]:
    """The taps by MONAI's module names: of all convolutions, and of the outputs of all levels.

    Example:
        >>> from flax import nnx
        >>> from segcam_jax.models.monai_unet import monai_unet
        >>> taps = monai_taps(nnx.eval_shape(monai_unet))
        >>> taps["model.1.submodule.2.conv"], taps["model.1.submodule.2"], taps["model.0"]
        ('decoder2/up', 'decoder2', 'encoder1')
    """
    config, known = model.config, model.convolutions()
    taps = {place.module: place.tap for place in _places(config) if place.tap in known}
    for number, prefix in enumerate(_prefixes(config), 1):
        if number > len(config.strides):
            taps[prefix] = "bottleneck"
        else:
            taps[f"{prefix}.0"] = f"encoder{number}"
            taps[f"{prefix}.2"] = f"decoder{number}" if number > 1 else "logits"
    return taps


def monai_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the names and shapes in a file say of the configuration.

    Strides leave no trace in weights: they are 2, unless an option says otherwise.
    """
    residual = "model.0.conv.unit0.conv.weight" in shapes
    inner = "conv.unit0" if residual else ""
    first = ".".join(filter(None, ("model.0", inner)))
    last = "model.2.0" if residual else "model.2"
    stem, head = (shapes.get(f"{name}.conv.weight", ()) for name in (first, last))
    if len(stem) not in (4, 5) or len(head) != len(stem):
        return {}
    channels, prefix = [], "model"
    while level := shapes.get(".".join(filter(None, (f"{prefix}.0", inner, "conv.weight")))):
        channels.append(level[0])
        prefix = f"{prefix}.{_INNER}"
    if bottom := shapes.get(".".join(filter(None, (prefix, inner, "conv.weight")))):
        channels.append(bottom[0])
    norm = "instance"
    if f"{first}.adn.N.weight" in shapes:
        tracked = f"{first}.adn.N.running_mean" in shapes
        norm = "batch" if tracked else "instance_affine"
    units = [name for name in shapes if name.startswith("model.0.conv.unit")]
    return {
        "in_channels": stem[1],
        "classes": head[1],
        "ndim": len(stem) - 2,
        "channels": tuple(channels),
        "strides": (2,) * (len(channels) - 1),
        "kernel_size": _one(stem[2:]),
        "up_kernel_size": _one(head[2:]),
        "num_res_units": len({name.split(".")[3] for name in units}),
        "norm": norm,
        "bias": f"{first}.conv.bias" in shapes,
    }


def monai_check(shapes: Shapes, origin: str) -> None:
    """Refuses other networks of MONAI, and other activations than a PReLU of one slope."""
    if not (_has(shapes, "model.0.") and _has(shapes, "model.2.")):
        raise InputError(
            f"weights of {origin!r} do not belong to MONAI's U-Net, `monai.networks.nets.UNet`; "
            f"its other networks are not supported (the first of {len(shapes)} tensors is "
            f"{next(iter(shapes), None)!r}); choose another model"
        )
    slopes = {name: shape for name, shape in shapes.items() if name.endswith(".adn.A.weight")}
    several = next((name for name, shape in slopes.items() if math.prod(shape) > 1), None)
    if several is not None or not slopes:
        found = "no PReLU" if several is None else f"{slopes[several]} slopes in {several}"
        raise InputError(
            f"weights of {origin!r} have {found}; of `monai.networks.nets.UNet` only the default "
            "activation is supported, act='PRELU' with one slope for all channels"
        )


def monai_assumed(config: MonaiUNetConfig, *, strides: bool) -> list[str]:
    """What weights of this configuration do not tell: another network could have the same ones.

    Args:
        strides: whether they are assumed, too; else they were given.
    """
    assumed = []
    if strides:
        words = "-".join(str(each).strip("()").replace(", ", "x") for each in config.strides)
        assumed.append(f"strides {words} (else give --strides)")
    if config.norm == "instance_affine":
        assumed.append("affine instance normalisation (GroupNorm is not supported)")
    elif config.norm == "instance":
        assumed.append("instance normalisation (none at all is not supported)")
    return [*assumed, "activations after normalisation (MONAI's adn_ordering='NDA')"]


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _one(extents: tuple[int, ...]) -> int | tuple[int, ...]:
    return extents[0] if len(set(extents)) == 1 else extents


def _prefixes(config: MonaiUNetConfig) -> Iterator[str]:
    """MONAI's name of what holds each level, and that of the bottleneck."""
    for level in range(len(config.channels)):
        yield ".".join(["model", *[_INNER] * level])


def _places(config: MonaiUNetConfig) -> Iterator[_Place]:
    *outer, innermost = _prefixes(config)
    for n, prefix in enumerate(outer):
        yield from _level(f"{prefix}.0", f"encoder/{n}", f"encoder{n + 1}", config)
    yield from _level(innermost, "bottleneck", "bottleneck", config)
    for n, prefix in enumerate(outer):
        # Our decoder counts in the order in which it runs, from the deepest level.
        path, name = f"decoder/{len(outer) - 1 - n}", f"decoder{n + 1}"
        up = f"{prefix}.2.0" if config.num_res_units else f"{prefix}.2"
        yield _Place(f"{up}.conv", f"{up}.adn", f"{path}/up/conv", f"{name}/up", "transposed_conv")
        if config.num_res_units:
            yield _unit(f"{prefix}.2.1.conv.unit0", f"{path}/unit/units/0", f"{name}/conv1")


def _level(module: str, path: str, name: str, config: MonaiUNetConfig) -> Iterator[_Place]:
    if not config.num_res_units:
        yield _unit(module, f"{path}/units/0", f"{name}/conv1")
        return
    for unit in range(config.num_res_units):
        yield _unit(f"{module}.conv.unit{unit}", f"{path}/units/{unit}", f"{name}/conv{unit + 1}")
    yield _Place(f"{module}.residual", "", f"{path}/shortcut", f"{name}/shortcut", "conv")


def _unit(module: str, path: str, tap: str) -> _Place:
    return _Place(f"{module}.conv", f"{module}.adn", f"{path}/conv", tap, "conv")


LAYOUTS = {
    "monai": Layout(lambda config, names: monai_table(config), monai_sizes, check=monai_check)
}
