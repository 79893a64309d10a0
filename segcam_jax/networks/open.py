"""Networks opened by the words that name them, with their classes' names and their images' size."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from segcam_jax import _files, models
from segcam_jax.adapters import from_nnx
from segcam_jax.data.images import Reading
from segcam_jax.data.labels import IMAGENET_CLASSES, check_labels, imagenet_labels
from segcam_jax.networks.bundles import open_bundle
from segcam_jax.networks.network import USUAL_SIDE, Network
from segcam_jax.networks.nnunet import open_nnunet
from segcam_jax.networks.spec import (
    BUNDLE,
    NNUNET,
    NO_NORMALISATION,
    RANDOM,
    NetworkSpec,
    OpenOptions,
    parse_layouts,
)
from segcam_jax.networks.user_models import open_user_model
from segcam_jax.types import InputError, none_of

_SIDES = {"inception": 299}
_PYTORCH = (".pth", ".pt", ".ckpt")


def open_network(
    spec: NetworkSpec, options: OpenOptions = OpenOptions(), *, taken: Sequence[str] = ()
) -> Network:
    """Opens a network.

    Args:
        taken: names that the network must not have.
    """
    _check(spec, options)
    network = _OPENERS[spec.kind](spec, options)
    as_stored = spec.kind == "user" and options.normalisation == NO_NORMALISATION
    name, reading = name_of(spec, taken), Reading(options.range, as_stored=as_stored)
    layouts = parse_layouts(options.layout)
    said = {"reading": reading, "layouts": layouts, "opening": options}
    network = dataclasses.replace(network, name=name, **said)
    if network.classifies and options.said.threshold:
        raise InputError(f"{name} classifies whole images; leave out --threshold")
    return dataclasses.replace(network, labels=_labels(network, options))


def name_of(spec: NetworkSpec, taken: Sequence[str] = ()) -> str:
    """The name of a network for files and tables, which none of others is."""
    stem = spec.words
    for prefix in (RANDOM, NNUNET, BUNDLE):
        stem = stem.removeprefix(prefix)
    stem = Path(stem).name.removesuffix(".safetensors")
    if spec.kind == "user":
        stem = stem.replace(".py:", "-").replace(":", "-")
    return _files.unique_names([_files.file_name(stem) or "model"], taken)[0]


def _check(spec: NetworkSpec, options: OpenOptions) -> None:
    """Raises `InputError` if an option is for networks of another kind."""
    if options.mirror and spec.kind != "nnunet":
        raise InputError(f"--mirror is for {NNUNET}FOLDER; leave it out for {spec.words!r}")
    if spec.kind == "user":
        return
    for option in ("channels", "normalisation", "checkpoint"):
        if getattr(options, option) is not None:
            raise InputError(
                f"--{option} is for models of your own (module:factory); {spec.words!r} knows its "
                "own"
            )


def _built_in(spec: NetworkSpec, options: OpenOptions) -> Network:
    """A network of this library, with the weights of a file or random ones."""
    if spec.kind == "random":
        path, (digest, loaded) = Path(spec.words), _random(spec, options.seed)
    else:
        path, (digest, loaded) = _path(spec, options), _trained(spec, options)
    network = Network(spec, path, digest, loaded, options.said.meaning_of(loaded))
    if few := loaded.metadata.get(models.stored.STORED_AS):
        note = f"{spec.words}: its weights are {few}, and segcam computes with them in float32"
        network = dataclasses.replace(network, note=note)
    side = _SIDES.get(loaded.name, USUAL_SIDE) if network.classifies else None
    return dataclasses.replace(network, size=options.size or (side and (side, side)))


def _path(spec: NetworkSpec, options: OpenOptions) -> Path:
    """The file of weights, before it is read."""
    words = spec.words
    if 2 not in options.ndims and words.lower().endswith(_PYTORCH):
        raise InputError(
            f"weights {words!r} are a checkpoint of PyTorch; make a file of them: `segcam "
            f"convert {words} --model monai-unet --out weights.safetensors`"
        )
    if words in models.CLASSIFIERS and not Path(words).exists():
        raise InputError(
            f"model {words!r} has no trained weights here; give a file that `segcam convert` "
            f"wrote, or {RANDOM}{words} for random weights"
        )
    return models.path_of(words)


def _trained(spec: NetworkSpec, options: OpenOptions) -> tuple[str, models.LoadedModel]:
    """Digest and network of a file of weights."""
    loaded = models.load(spec.words)
    options.check_ndim(getattr(loaded.config, "ndim", 2), spec.words)
    return _files.sha256_of(models.path_of(spec.words)), loaded


def _random(spec: NetworkSpec, seed: int) -> tuple[str, models.LoadedModel]:
    """Digest and network of a classifier with random weights."""
    name = spec.words.removeprefix(RANDOM)
    if name not in models.CLASSIFIERS:
        raise none_of(f"unknown model {name!r} after {RANDOM!r}", name, models.CLASSIFIERS)
    family, _ = models.CLASSIFIERS[name]
    model = models.randomised(lambda: models.classifier(name, normalisation="imagenet"), seed=seed)
    fn, params = from_nnx(model)
    digest = _files.digest_of(f"{spec.words} {seed}")
    return digest, models.LoadedModel(family, fn, params, model.config, {})


def _labels(network: Network, options: OpenOptions) -> list[str]:
    """A name for every class: as given, as the weights' file says; numbers where it has none."""
    classes, model = network.config.classes, network.model
    if options.labels is not None:
        origin = f"{options.labels_from}, for {network.spec.words!r},"
        check_labels(list(options.labels), classes, origin)
        return list(options.labels)
    if not model.metadata.get("classes") and classes == IMAGENET_CLASSES and network.classifies:
        return imagenet_labels()
    known = [str(name) for name in model.class_names]
    return [*known, *map(str, range(len(known), classes))]


_OPENERS = {
    "user": open_user_model,
    "nnunet": open_nnunet,
    "bundle": open_bundle,
    "weights": _built_in,
    "random": _built_in,
}
