"""The U-Net on disk, and where the tensors of its sources' files go."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from segcam_jax.models import stored
from segcam_jax.models.unet.model import UNet, UNetConfig
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, keras_norm_rules, norm_rules

_TORCH_EPSILON = 1e-5
_INSIDE = "bottleneck.bottleneckconv1.weight"
_UNPUBLISHED = (
    "the decoder's names, which the source does not publish: upconv3, decoder3.dec3conv1, "
    "dec3norm1, ... to conv, as in the U-Net that its encoder is named as"
)


def save_unet(path: str | Path, model: UNet, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a U-Net: its tensors, its configuration and what `metadata` adds.

    Args:
        path: the `.safetensors` file to write.
        metadata: what JSON can hold, for example class names and scores.
    """
    stored.save(path, "unet", model, metadata or {})


def load_unet(path: str | Path) -> tuple[UNet, dict[str, Any]]:
    """Reads a U-Net that `save_unet` wrote.

    Raises:
        InputError: if the file is not a U-Net's, or a tensor does not fit; every one is named.
    """
    return stored.load(path, "unet", lambda config: UNet(config, rngs=nnx.Rngs(0)), UNetConfig)


def torch_table(config: UNetConfig, names: tuple[str, ...]) -> Table:
    """The rules for the U-Net of the Eurocon 2023 paper, and for that which it was made of.

    Its deepest level is called `encoder4`, after three poolings; in the other one, of Buda et al.
    (2019), `bottleneck`. Names of the decoder are those of the latter: the former's are not
    published.
    """
    deepest = f"encoder{config.depth + 1}.enc{config.depth + 1}"
    rules = _torch_block("bottleneck.bottleneck" if _INSIDE in names else deepest, "bottleneck")
    for level in range(1, config.depth + 1):
        ours = f"decoder/{config.depth - level}"
        rules += _torch_block(f"encoder{level}.enc{level}", f"encoder/{level - 1}")
        rules += _torch_block(f"decoder{level}.dec{level}", ours)
        up = f"upsample/{config.depth - level}"
        rules.append(Rule(f"upconv{level}.weight", f"{up}/kernel", "transposed_conv"))
        rules.append(Rule(f"upconv{level}.bias", f"{up}/bias"))
    rules += [Rule("conv.weight", "head/kernel", "conv"), Rule("conv.bias", "head/bias")]
    return Table(tuple(rules), ignored=("*.num_batches_tracked",))


def torch_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the names and shapes in such a file say of the configuration."""
    first, head = shapes.get("encoder1.enc1conv1.weight", ()), shapes.get("conv.weight", ())
    levels = sum(f"encoder{level}.enc{level}conv1.weight" in shapes for level in range(1, 17))
    if len(first) != 4 or len(head) != 4 or levels + (_INSIDE in shapes) < 2:
        return {}
    return {
        "in_channels": first[1],
        "classes": head[0],
        "width": first[0],
        "depth": levels if _INSIDE in shapes else levels - 1,
        "upsample": "transposed",
        "halve": "upsample",
        "bias": False,
        "epsilon": _TORCH_EPSILON,
    }


def torch_assumed(names: Iterable[str]) -> list[str]:
    """What such a file of these names does not tell, in words."""
    order = "upsampling is concatenated before the skip; poolings and upsamplings are of 2"
    return [order] if _INSIDE in names else [_UNPUBLISHED, order]


def from_bgr(model: UNet) -> None:
    """Turns the first convolution of a network of blue, green, red to take red, green, blue."""
    kernel = model.encoder[0].conv1.conv.kernel
    kernel.set_value(jnp.flip(kernel[...], -2))


def _torch_block(source: str, target: str) -> list[Rule]:
    rules = [Rule(f"{source}conv{{n}}.weight", f"{target}/conv{{n}}/conv/kernel", "conv")]
    return [*rules, *norm_rules(f"{source}norm{{n}}", f"{target}/conv{{n}}/norm")]


def keras_table(config: UNetConfig, names: tuple[str, ...]) -> Table:
    """The rules for CSBDeep's U-Net, as Seg-Grad-CAM trains it (`weights.h5`).

    Keras numbers its BatchNorms as a session goes, in the order in which the network is built.
    """
    blocks = [
        (f"down_level_{level}_no_{n}", f"encoder/{level}/conv{n + 1}")
        for level in range(config.depth)
        for n in (0, 1)
    ]
    blocks += [(f"middle_{n}", f"bottleneck/conv{n // 2 + 1}") for n in (0, 2)]
    for level in reversed(range(config.depth)):
        place = f"decoder/{config.depth - 1 - level}"
        blocks += [(f"up_level_{level}_no_{n}", f"{place}/conv{n // 2 + 1}") for n in (0, 2)]
    norms = _of_layers(names, "gamma")
    rules = []
    for (conv, place), norm in zip(blocks, norms, strict=False):
        rules += [Rule(f"{conv}/{each}", f"{place}/conv/{each}") for each in ("kernel", "bias")]
        rules += keras_norm_rules(norm, f"{place}/norm")
    for head in _heads(names):
        rules += [Rule(f"{head}/{each}", f"head/{each}") for each in ("kernel", "bias")]
    return Table(tuple(rules))


def keras_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the names and shapes in such a file say of the configuration."""
    first = shapes.get("down_level_0_no_0/kernel", ())
    heads = [shapes[f"{head}/kernel"] for head in _heads(tuple(shapes))]
    if len(first) not in (4, 5) or len(heads) != 1:
        return {}
    depth = sum(f"down_level_{level}_no_0/kernel" in shapes for level in range(16))
    return {
        "in_channels": first[-2],
        "classes": heads[0][-1],
        "width": first[-1],
        "depth": depth,
        "ndim": len(first) - 2,
    }


def _heads(names: tuple[str, ...]) -> list[str]:
    """The convolutions without a name of CSBDeep's: the last one, to the classes."""
    named = re.compile(r"(down|up)_level_\d+_no_\d+|middle_\d+")
    return [each for each in _of_layers(names, "kernel") if not named.fullmatch(each)]


def _of_layers(names: tuple[str, ...], weight: str) -> list[str]:
    """The layers that have a weight, by the number at the end of their names."""
    layers = [name.removesuffix(f"/{weight}") for name in names if name.endswith(f"/{weight}")]

    def number(layer):
        found = re.search(r"(\d+)$", layer)
        return int(found[1]) if found else 0

    return sorted(layers, key=number)


LAYOUTS = {
    "torch": Layout(torch_table, torch_sizes),
    "keras": Layout(keras_table, keras_sizes),
}
