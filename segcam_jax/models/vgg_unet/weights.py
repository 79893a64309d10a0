"""Where the tensors of segmentation_models' `Unet("vgg16")` go, a file of Keras."""

from segcam_jax.models.vgg_unet.model import VggUNetConfig
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, extents, keras_norm_rules

_PARTS = (
    ("center_block{block}", "center/{block-1}"),
    ("decoder_stage{stage}a", "decoder/{stage}/0"),
    ("decoder_stage{stage}b", "decoder/{stage}/1"),
)


def keras_table(config: VggUNetConfig, names: tuple[str, ...]) -> Table:
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


def keras_sizes(shapes: Shapes) -> dict[str, int]:
    """What the shapes in a file say of the configuration."""
    first = extents(shapes, "block1_conv1/kernel", 4, in_channels=-2, width=-1)
    return first | extents(shapes, "final_conv/kernel", 4, classes=-1)


LAYOUTS = {"keras": Layout(keras_table, keras_sizes, "none")}
