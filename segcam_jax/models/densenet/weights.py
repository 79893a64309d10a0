"""Where the tensors of torchvision and Keras go in a DenseNet."""

from segcam_jax.models.densenet.model import DenseNetConfig
from segcam_jax.weights.tables import (
    Layout,
    Rule,
    Shapes,
    Table,
    extents,
    keras_norm_rules,
    norm_rules,
)

_KERAS_EPSILON = 1.001e-5
_LAYER = "blocks/{block-1}/{layer-1}"


def torchvision_table(config: DenseNetConfig, names: tuple[str, ...]) -> Table:
    """The rules for torchvision's DenseNets, whose oldest files write `norm1` as `norm.1`."""
    layer = "features.denseblock{block}.denselayer{layer}"
    transition = "features.transition{block}"
    return Table(
        rules=(
            Rule("features.conv0.weight", "conv/kernel", "conv"),
            *norm_rules("features.norm0", "norm"),
            Rule(f"{layer}.conv{{n}}.weight", f"{_LAYER}/conv{{n}}/kernel", "conv"),
            Rule(f"{layer}.conv.{{n}}.weight", f"{_LAYER}/conv{{n}}/kernel", "conv"),
            *norm_rules(f"{layer}.norm{{n}}", f"{_LAYER}/norm{{n}}"),
            *norm_rules(f"{layer}.norm.{{n}}", f"{_LAYER}/norm{{n}}"),
            *norm_rules(f"{transition}.norm", "transitions/{block-1}/norm"),
            Rule(f"{transition}.conv.weight", "transitions/{block-1}/conv/kernel", "conv"),
            *norm_rules("features.norm5", "last_norm"),
            Rule("classifier.weight", "head/kernel", "dense"),
            Rule("classifier.bias", "head/bias"),
        ),
        ignored=("*.num_batches_tracked",),
    )


def torchvision_sizes(shapes: Shapes) -> dict[str, int]:
    """What the shapes in a file say of the configuration."""
    stem = extents(shapes, "features.conv0.weight", 4, growth=0, in_channels=1)
    return _halved(stem) | extents(shapes, "classifier.weight", 2, classes=0)


def _halved(stem: dict[str, int]) -> dict[str, int]:
    """The stem has twice the growth."""
    return stem | {"growth": stem["growth"] // 2} if stem else {}


def keras_table(config: DenseNetConfig, names: tuple[str, ...]) -> Table:
    """The rules for keras.applications' DenseNets, with one or two Dense layers on top.

    Keras numbers its Dense layers as a session goes, so that their names are taken from the file:
    two are the pooled head of FastAblationCAM, the first one linear.

    Args:
        config: of the network.
        names: the file's, in its order; Keras 2 names the stem `conv1/conv`, Keras 3 `conv1_conv`.
    """
    layer = "conv{block}_block{layer}"
    # In Keras blocks are called conv2 to conv5, and transitions pool2 to pool4.
    place = "blocks/{block-2}/{layer-1}"
    rules = []
    for join in "/_":
        rules.append(Rule(f"conv1{join}conv/kernel", "conv/kernel"))
        rules += keras_norm_rules(f"conv1{join}bn", "norm")
    for number, part in enumerate(("conv1", "conv2"), 1):
        rules += keras_norm_rules(f"{layer}_{number - 1}_bn", f"{place}/norm{number}")
        rules.append(Rule(f"{layer}_{number}_conv/kernel", f"{place}/{part}/kernel"))
    rules += keras_norm_rules("pool{block}_bn", "transitions/{block-2}/norm")
    rules.append(Rule("pool{block}_conv/kernel", "transitions/{block-2}/conv/kernel"))
    rules += keras_norm_rules("bn", "last_norm")
    parts = ("hidden", "head") if config.hidden else ("head",)
    for dense, part in zip(keras_dense(names), parts, strict=False):
        rules += [Rule(f"{dense}/{each}", f"{part}/{each}") for each in ("kernel", "bias")]
    return Table(tuple(rules))


def keras_sizes(shapes: Shapes) -> dict[str, int | float]:
    """What the shapes in a file say of the configuration."""
    sizes: dict[str, int | float] = {"epsilon": _KERAS_EPSILON}
    for name in ("conv1/conv/kernel", "conv1_conv/kernel"):
        sizes |= _halved(extents(shapes, name, 4, growth=-1, in_channels=-2))
    dense = [f"{name}/kernel" for name in keras_dense(tuple(shapes))]
    if dense:
        sizes |= extents(shapes, dense[-1], 2, classes=-1)
    if len(dense) == 2:
        sizes["hidden"] = shapes[dense[0]][-1]
    return sizes


def keras_dense(names: tuple[str, ...]) -> list[str]:
    """The Dense layers of a file, in its order."""
    layers = [name.rpartition("/")[0] for name in names if name.endswith("/kernel")]
    return [name for name in layers if "conv" not in name]


LAYOUTS = {
    "torchvision": Layout(torchvision_table, torchvision_sizes, "imagenet"),
    "keras": Layout(keras_table, keras_sizes, "imagenet"),
}
