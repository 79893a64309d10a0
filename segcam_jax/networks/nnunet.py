"""nnU-Net v2 by the folder of a trained model: its network, and what it does to scans.

FOLDER/plans.json, dataset.json          the architecture, preprocessing, the names of labels
FOLDER/fold_0/checkpoint_final.pth, ...  weights; the mean of all folds' logits is the output

No code in a file runs. The preprocessing is nnU-Net's: axes, the box of what is not 0, intensities,
resampling (`data.preparation`); windows and their weights as well (`engine.sliding`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segcam_jax import _files, models
from segcam_jax.adapters import from_torch
from segcam_jax.adapters.torch_checkpoints import load_tensors
from segcam_jax.data import preparation
from segcam_jax.networks.network import FolderConfig, Network, Recipe
from segcam_jax.networks.plans import DATASET, PLANS, Plan
from segcam_jax.networks.spec import NNUNET, NetworkSpec, OpenOptions
from segcam_jax.types import InputError, counted
from segcam_jax.weights import foreign
from segcam_jax.weights.torch_files import TorchFile

_CHECKPOINT = "checkpoint_final.pth"
_ALL = "fold_all"
_STEP = 0.5  # of nnU-Net's windows, as a share of a window


@dataclasses.dataclass(frozen=True)
class MeanOfPasses:
    """The mean of a network's outputs: over folds' parameters, and over mirrored inputs.

    Attributes:
        folds: names of the folds, keys of the parameters.
        mirrored: axes along which each pass is mirrored, and its output mirrored back.
    """

    fn: Callable
    folds: tuple[str, ...]
    mirrored: tuple[tuple[int, ...], ...] = ((),)

    def __call__(self, params: Mapping[str, Any], x: Float[Array, "*space c"]) -> Array:
        """The mean of the logits."""
        passes = itertools.product(self.folds, self.mirrored)
        outputs = [jnp.flip(self.fn(params[f], jnp.flip(x, axes)), axes) for f, axes in passes]
        return sum(outputs[1:], outputs[0]) / len(outputs)


@dataclasses.dataclass(frozen=True)
class NormalisedImage:
    """A network of images that are normalised by their own values.

    Statistics count as constants: gradients are those of the network, divided.
    """

    fn: Callable
    schemes: tuple[preparation.Scheme, ...]

    def __call__(self, params: Any, x: Float[Array, "h w c"]) -> Array:
        """The logits of an image in [0, 1]."""
        channels = [self._normalised(x[..., at], each) for at, each in enumerate(self.schemes)]
        return self.fn(params, jnp.stack(channels, -1))

    def _normalised(self, x: Float[Array, "h w"], scheme: preparation.Scheme) -> Array:
        values = jax.lax.stop_gradient(x)
        if isinstance(scheme, preparation.ZScore):
            return (x - values.mean()) / jnp.maximum(values.std(), 1e-8)
        if isinstance(scheme, preparation.Linear) and scheme.start is None:
            return (x - values.min()) / jnp.maximum(values.max() - values.min(), 1e-8)
        return x


def open_nnunet(spec: NetworkSpec, options: OpenOptions = OpenOptions(ndims=(3, 2))) -> Network:
    """Opens a trained nnU-Net.

    The folder of one fold, or its checkpoint, stands for that fold alone. At a layer, the first
    fold is `NAME`, the second `NAME#2`; passes of mirrored inputs likewise.

    Args:
        spec: `nnunet:FOLDER`.
        options: `mirror` for the mean over mirrored inputs, along the axes that the checkpoint
            allows; what dimensions will do, and what is said of the output.

    Raises:
        InputError: if files are missing, broken or of another network, or do what is unknown.
        MissingExtraError: if torch, torchax or dynamic_network_architectures is not installed.
    """
    folder, files = _checkpoints(Path(spec.words.removeprefix(NNUNET)))
    read = {file: _read(file) for file in files}
    first = read[files[0]].content
    plan = Plan.read(folder, str(first["init_args"]["configuration"]))
    names = {str(each.content["init_args"]["configuration"]) for each in read.values()}
    if len(names) > 1:
        raise InputError(f"{str(folder)!r}: its folds belong to {' and '.join(sorted(names))}")
    options.check_ndim(plan.ndim, spec.words)
    images = plan.ndim == 2
    plan.check_kind()
    recipe = None if images else Recipe(plan.steps, plan.patch, 1 - _STEP, "nnunet")
    fn, params = _network(plan, read)
    mirrored = _mirrored(first, options.mirror, spec)
    fn = MeanOfPasses(fn, tuple(params), mirrored) if len(params) * len(mirrored) > 1 else fn
    params = params if isinstance(fn, MeanOfPasses) else next(iter(params.values()))
    if images:
        fn = NormalisedImage(fn, plan.image_schemes)
    config = FolderConfig(len(plan.channels), len(plan.classes), plan.multiples)
    about = {"classes": plan.classes}
    name = plan.architecture[0]
    meaning = options.said.meaning(config.classes, outputs="logits", multi_label=plan.regions)
    digest = _files.digest_of(
        " ".join(map(_files.sha256_of, (*files, plan.path, folder / DATASET))) + str(mirrored)
    )
    return Network(
        spec,
        plan.path,
        digest,
        models.LoadedModel(name, fn, params, config, about),
        meaning,
        note=_note(spec, plan, files, mirrored),
        recipe=recipe,
    )


def _note(
    spec: NetworkSpec, plan: Plan, files: Sequence[Path], mirrored: Sequence[tuple[int, ...]]
) -> str:
    what = "regions" if plan.regions else "classes"
    patch = " x ".join(map(str, plan.patch))
    note = (
        f"{spec.words} is {plan.architecture[0]} of {plan.name}: {what} {', '.join(plan.classes)}; "
        f"channels {', '.join(plan.channels)}; windows of {patch}; "
        f"{counted(len(files), 'fold')}"
    )
    if len(mirrored) > 1:
        note += f", each mirrored in {len(mirrored)} ways"
    if plan.ndim == 2:
        note += "; it takes an image in one piece, whereas nnU-Net cuts a larger image into windows"
    if len(files) * len(mirrored) > 1:
        note += "; NAME is a layer of the first pass, NAME#2 the same layer of the next"
    return note


def _checkpoints(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a trained model, and the checkpoints that are meant."""
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; give the folder that holds {PLANS}")
    fold = path.parent if path.is_file() else path
    folder = fold.parent if fold.name.startswith("fold_") else fold
    if not (folder / PLANS).is_file():
        raise InputError(
            f"{str(folder)!r} holds no {PLANS}; give the folder of a trained nnU-Net, which is "
            "named TRAINER__PLANS__CONFIGURATION"
        )
    if path.is_file():
        return folder, [path]
    folds = [fold] if fold != folder else sorted(p for p in folder.glob("fold_*") if p.is_dir())
    numbered = [each for each in folds if each.name != _ALL]
    found = [each / _CHECKPOINT for each in numbered or folds if (each / _CHECKPOINT).is_file()]
    if not found:
        others = [str(p.relative_to(folder)) for each in folds for p in sorted(each.glob("*.pth"))]
        hint = f"; name one of {', '.join(others)}" if others else ""
        raise InputError(f"{str(path)!r} holds no fold with {_CHECKPOINT}{hint}")
    return folder, found


def _read(path: Path) -> TorchFile:
    """A checkpoint of nnU-Net v2."""
    file = foreign.open_torch(path)
    found = file.content
    told = found.get("init_args") if isinstance(found, Mapping) else None
    if not (isinstance(told, Mapping) and "configuration" in told and "network_weights" in found):
        raise InputError(
            f"checkpoint {str(path)!r} is not one of nnU-Net v2: it holds no network_weights, or "
            "does not name their configuration"
        )
    return file


def _network(plan: Plan, read: Mapping[Path, TorchFile]) -> tuple[Callable, dict[str, Any]]:
    """The network as a function, and the parameters of each fold."""
    module = plan.module()
    fn, params = None, {}
    for path, file in read.items():
        tensors = foreign.tensors_of(file, file.content["network_weights"], path)
        load_tensors(module, tensors, path)
        found, own = from_torch(module.eval())
        fn, params[path.parent.name] = fn or found, own
    assert fn is not None
    return fn, params


def _mirrored(
    checkpoint: Mapping[str, Any], asked: bool, spec: NetworkSpec
) -> tuple[tuple[int, ...], ...]:
    """The axes of each pass: none alone, or every set of those that may be mirrored."""
    if not asked:
        return ((),)
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if not axes:
        raise InputError(f"{spec.words!r} was trained without mirroring; leave out --mirror")
    axes = tuple(map(int, axes))
    return tuple(
        chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)
    )
