"""Where torchvision's tensors go in a ResNet."""

from segcam_jax.models.resnet.model import ResNetConfig
from segcam_jax.weights.tables import Layout, Rule, Shapes, Table, extents, norm_rules


def torchvision_table(config: ResNetConfig, names: tuple[str, ...]) -> Table:
    """The rules for torchvision's ResNets."""
    here, there = "layer{stage}.{block}", "stages/{stage-1}/{block}"
    last = 3 if config.bottleneck else 2
    inner = [
        rule for n in range(1, last) for rule in norm_rules(f"{here}.bn{n}", f"{there}/norm{n}")
    ]
    return Table(
        rules=(
            Rule("conv1.weight", "conv/kernel", "conv"),
            *norm_rules("bn1", "norm"),
            Rule(f"{here}.conv{{n}}.weight", f"{there}/conv{{n}}/kernel", "conv"),
            *inner,
            *norm_rules(f"{here}.bn{last}", f"{there}/residual_norm"),
            Rule(f"{here}.downsample.0.weight", f"{there}/shortcut/kernel", "conv"),
            *norm_rules(f"{here}.downsample.1", f"{there}/shortcut_norm"),
            Rule("fc.weight", "head/kernel", "dense"),
            Rule("fc.bias", "head/bias"),
        ),
        ignored=("*.num_batches_tracked",),
    )


def torchvision_sizes(shapes: Shapes) -> dict[str, int]:
    """What the shapes in a file say of the configuration."""
    stem = extents(shapes, "conv1.weight", 4, width=0, in_channels=1)
    return stem | extents(shapes, "fc.weight", 2, classes=0)


LAYOUTS = {"torchvision": Layout(torchvision_table, torchvision_sizes, "imagenet")}
