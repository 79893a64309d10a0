"""Networks by name, and weights files opened as the functions that the library explains."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segcam_jax import schema
from segcam_jax.adapters import from_nnx
from segcam_jax.data.frames import Frame
from segcam_jax.models import stored as stored
from segcam_jax.models.convolutions import convolution_tap as convolution_tap
from segcam_jax.models.layers import Keys as Keys
from segcam_jax.models.randomised import randomised as randomised
from segcam_jax.models.zoo import (
    CLASSIFIERS as CLASSIFIERS,
    NETWORKS as NETWORKS,
    SEGMENTERS as SEGMENTERS,
    Network as Network,
    classifier as classifier,
    convert as convert,
    efficientnet_lite0_imagenet as efficientnet_lite0_imagenet,
    from_tensors as from_tensors,
    imagenet_file as imagenet_file,
)
from segcam_jax.types import InputError, Outputs, counted, nearest_first, none_of
from segcam_jax.weights import store

_OF_A_RUN = "weights.safetensors"
_UNET_TRAINED = Path(__file__).parent / "unet" / "trained"

BUNDLED: dict[str, Path] = {
    "texture-mnist-biased": _UNET_TRAINED / "texture_mnist_biased.safetensors",
    "texture-mnist-unbiased": _UNET_TRAINED / "texture_mnist_unbiased.safetensors",
    "lesions": Path(__file__).parent / "monai_unet" / "trained" / "lesions.safetensors",
}


@dataclasses.dataclass(frozen=True)
class Installed:
    """Trained weights that another package brings.

    Attributes:
        model: the network's name.
        path: the package's file.
        load: the network with them.
    """

    model: str
    path: Callable[[], Path]
    load: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class _About:
    """What a weights file may say of its network, besides what is told to people."""

    classes: tuple[str, ...] | None = None
    outputs: Outputs | None = None
    multi_label: bool | None = None
    orientation: str | None = None
    spacing: tuple[float, ...] | None = None


INSTALLED: dict[str, Installed] = {
    "efficientnet-lite0-imagenet": Installed(
        "efficientnet_lite", imagenet_file, efficientnet_lite0_imagenet
    )
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network with its weights.

    Attributes:
        name: the network's name, for example `"unet"`.
        fn: `fn(params, x) -> logits`, one example.
        params: its parameters.
        config: the network's configuration; has `in_channels`, `classes`, `ndim`, `multiple`.
        metadata: what the weights file says about itself: class names, scores.
    """

    name: str
    fn: Callable
    params: Any
    config: Any
    metadata: Mapping[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; their numbers where the weights file has none."""
        return self.metadata.get("classes") or [str(k) for k in range(self.config.classes)]


def load(weights: str | Path, *, model: str | None = None) -> LoadedModel:
    """Opens bundled or installed weights by name, or a `.safetensors` file that the library wrote.

    Args:
        weights: a name in `BUNDLED` or `INSTALLED`, a file, or the folder of a training.
        model: the network expected in it; None takes what the file says.

    Raises:
        InputError: if the file is missing, corrupt, of another network, or does not fit.
        MissingExtraError: if weights are asked for whose package is not installed.
    """
    if model is not None and model not in NETWORKS:
        raise none_of(f"unknown model {model!r}", model, NETWORKS)
    network, name, metadata = _opened(weights, model)
    fn, params = from_nnx(network)
    return LoadedModel(name, fn, params, network.config, metadata)


def path_of(weights: str | Path) -> Path:
    """The file of weights given as `load` takes them; that of a folder is `weights.safetensors`.

    Raises:
        InputError: if there is none.
        MissingExtraError: if weights are asked for whose package is not installed.
    """
    if str(weights) in INSTALLED:
        return INSTALLED[str(weights)].path()
    path = BUNDLED.get(str(weights), Path(weights))
    if path.is_dir():
        if not (path / _OF_A_RUN).is_file():
            raise InputError(
                f"weights {str(weights)!r} are a folder without {_OF_A_RUN}, which a training "
                "writes at its end; give the file"
            )
        return path / _OF_A_RUN
    if not path.exists():
        choices = ", ".join(nearest_first(str(weights), (*BUNDLED, *INSTALLED)))
        raise InputError(
            f"weights {str(weights)!r} are neither a file nor bundled; bundled are {choices}"
        )
    return path


def _opened(weights: str | Path, model: str | None) -> tuple[Any, str, Mapping[str, Any]]:
    """The network, its name, and what its weights say of themselves."""
    path = path_of(weights)
    installed = INSTALLED.get(str(weights))
    name = installed.model if installed else store.metadata(path).get("model")
    if not isinstance(name, str):
        raise InputError(
            f"weights file {str(path)!r} was not written by segcam_jax; convert it with `segcam "
            "convert`"
        )
    if name not in NETWORKS or model not in (None, name):
        raise InputError(
            f"weights file {str(path)!r} holds model {name!r}, expected "
            f"{model or ' or '.join(NETWORKS)}"
        )
    if installed:
        return installed.load(), name, {"source": path.name}
    network, metadata = NETWORKS[name].load(path)
    _check_about(metadata, network.config, path)
    return network, name, metadata


def _check_about(metadata: Mapping[str, Any], config: Any, path: Path) -> None:
    """Raises `InputError` if what a weights file says of its network is none of what it may say."""
    origin = f"weights file {str(path)!r}"
    known = [field.name for field in dataclasses.fields(_About)]
    about = {name: value for name, value in metadata.items() if name in known}
    names = schema.read(about, _About, origin).classes
    if names is not None and len(names) != config.classes:
        raise InputError(
            f"{origin} names {counted(len(names), 'class')}, and its network has {config.classes}"
        )
    try:
        Frame.of(metadata)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
