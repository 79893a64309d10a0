"""Where torchvision's tensors go in an Inception-v3."""

from segcam_jax.models.inception.model import AUXILIARY, BLOCKS, STEM, InceptionConfig
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, extents, norm_rules


def torchvision_table(config: InceptionConfig, names: tuple[str, ...]) -> Table:
    """The rules for torchvision's Inception-v3."""
    places = {_foreign(conv.name): f"stem/{index}" for index, conv in enumerate(STEM)}
    for index, (name, branches) in enumerate(BLOCKS.items()):
        for branch in branches:
            for conv in branch.row + branch.fork:
                places[f"{_foreign(name)}.{conv.name}"] = f"blocks/{index}/convs/{conv.name}"
    for index, conv in enumerate(AUXILIARY):
        places[f"AuxLogits.{conv.name}"] = f"auxiliary/convs/{index}"
    rules = []
    for here, there in places.items():
        rules.append(Rule(f"{here}.conv.weight", f"{there}/conv/kernel", "conv"))
        rules += norm_rules(f"{here}.bn", f"{there}/norm")
    for here, there in {"fc": "head", "AuxLogits.fc": "auxiliary/head"}.items():
        rules.append(Rule(f"{here}.weight", f"{there}/kernel", "dense"))
        rules.append(Rule(f"{here}.bias", f"{there}/bias"))
    return Table(tuple(rules), ignored=("*.num_batches_tracked",))


def torchvision_sizes(shapes: Shapes) -> dict[str, int | bool]:
    """What the shapes in a file say of the configuration."""
    return {
        "auxiliary": any(name.startswith("AuxLogits.") for name in shapes),
        **extents(shapes, "Conv2d_1a_3x3.conv.weight", 4, in_channels=1),
        **extents(shapes, "fc.weight", 2, classes=0),
    }


LAYOUTS = {"torchvision": Layout(torchvision_table, torchvision_sizes, "symmetric")}


def _foreign(name: str) -> str:
    """`mixed_5b` is `Mixed_5b` there, `conv2d_1a_3x3` is `Conv2d_1a_3x3`."""
    return name[0].upper() + name[1:]
