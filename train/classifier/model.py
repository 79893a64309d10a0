"""The network of a classifier's training: made new, or continued from weights of other classes."""

import dataclasses
from typing import Any

from flax import nnx

from segcam_jax import models
from segcam_jax.models import Keys, Network
from segcam_jax.types import InputError, none_of
from train import steps
from train.classifier.config import ClassifierConfig

# What is made anew for other classes, and what `freeze` leaves to be trained.
HEAD = ("hidden", "head")
HEAD_PARAMETERS = nnx.All(nnx.Param, lambda path, value: path[0] in HEAD)
_OPTIONS = ("hidden", "growth", "width", "normalisation")


def make_model(config: ClassifierConfig, class_names: tuple[str, ...]) -> tuple[str, Any]:
    """The network of a run, as it starts.

    Returns:
        `(family, model)`: what weights files call the network, and the network.
    """
    name, _ = _named(config)
    family = models.NETWORKS[name]
    start = None if config.start is None else _opened(config.start, name)
    shape = model_config(config, len(class_names), start[0].config if start else None)
    model = family.model(shape, rngs=Keys(config.seed))
    if start is not None:
        steps.take_over(model, *start, class_names, head=HEAD)
    return name, model


def model_config(config: ClassifierConfig, classes: int, before: Any | None) -> Any:
    """The network's configuration.

    Args:
        before: the configuration of the network to start from, if there is one.
    """
    name, fields = _named(config)
    family = models.NETWORKS[name]
    options = _options(config, family)
    if before is None:
        default = "imagenet" if config.channels == 3 else "symmetric"
        options = {"normalisation": default} | options
        shape = family.config(**fields, in_channels=config.channels, **options)
    else:
        shape = _continued(config, before, fields, options)
    shape = dataclasses.replace(shape, classes=classes)
    if hasattr(shape, "hidden") and config.hidden is None and not shape.hidden:
        abstract: Any = nnx.eval_shape(lambda: family.make(shape))
        shape = dataclasses.replace(shape, hidden=abstract.head.in_features)
    return shape


def _named(config: ClassifierConfig) -> tuple[str, dict[str, Any]]:
    """The family of the run's model, and what its name says of the configuration."""
    if config.model not in models.CLASSIFIERS:
        raise none_of(f"unknown model {config.model!r}", config.model, models.CLASSIFIERS)
    return models.CLASSIFIERS[config.model]


def _options(config: ClassifierConfig, family: Network) -> dict[str, Any]:
    """The options that were given, all of them the network's."""
    given = {name: getattr(config, name) for name in _OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(family.config)}  # pyright: ignore
    for name in given:
        if name not in known:
            raise InputError(f"{config.model} has no `{name}`; leave it out")
    return given


def _opened(start: str, family: str) -> tuple[Any, dict[str, Any]]:
    """The network to start from, and what its weights say of themselves."""
    installed = models.INSTALLED.get(start)
    if installed is None:
        return models.NETWORKS[family].load(models.path_of(start))
    if installed.model != family:
        raise InputError(f"{start!r} holds model {installed.model!r}, the run is of {family!r}")
    return installed.load(), {}


def _continued(
    config: ClassifierConfig, before: Any, fields: dict[str, Any], options: dict[str, Any]
) -> Any:
    """The configuration of the network to start from, if the run's is the same."""
    fixed = {name: value for name, value in options.items() if name != "hidden"}
    wanted = {**fields, "in_channels": config.channels, **fixed}
    other = {name: value for name, value in wanted.items() if getattr(before, name) != value}
    if other:
        name, value = next(iter(other.items()))
        raise InputError(
            f"`start` {config.start!r} has {name} {getattr(before, name)!r}, the run {value!r}; "
            "they must be the same"
        )
    hidden = options.get("hidden")
    return before if hidden is None else dataclasses.replace(before, hidden=hidden)
