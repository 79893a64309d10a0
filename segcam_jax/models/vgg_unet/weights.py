"""Where the tensors of segmentation_models' `Unet("vgg16")` go, a file of Keras."""

from collections.abc import Mapping

from segcam_jax.models.vgg_unet.model import VggUNetConfig
from segcam_jax.weights.tables import Rule, Table, keras_norm_rules

_PARTS = (
    ("center_block{block}", "center/{block-1}"),
    ("decoder_stage{stage}a", "decoder/{stage}/0"),
    ("decoder_stage{stage}b", "decoder/{stage}/1"),
)


def keras_table(config: VggUNetConfig) -> Table:
    """The rules for a network with BatchNorm in its decoder, as is the default there."""
    rules = []
    for weight in ("kernel", "bias"):
        rules += [
            Rule(f"block{{block}}_conv{{n}}/{weight}", f"encoder/{{block-1}}/{{n-1}}/{weight}"),
            Rule(f"final_conv/{weight}", f"head/{weight}"),
        ]
    for source, target in _PARTS:
        rules.append(Rule(f"{source}_conv/kernel", f"{target}/conv/kernel"))
        rules += keras_norm_rules(f"{source}_bn", f"{target}/norm")
    return Table(tuple(rules))


def keras_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What the shapes in a file say of the configuration."""
    sizes = {}
    if len(first := shapes.get("block1_conv1/kernel", ())) == 4:
        sizes |= {"in_channels": first[-2], "width": first[-1]}
    if len(head := shapes.get("final_conv/kernel", ())) == 4:
        sizes["classes"] = head[-1]
    return sizes
