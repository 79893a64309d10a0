"""A MONAI bundle by its folder: its network of `monai.networks.nets`, and what it does to scans.

FOLDER/configs/inference.json   network_def, preprocessing, inferer, postprocessing
FOLDER/configs/metadata.json    names of channels and classes, if it is there
FOLDER/models/model.pt          the state dict

References (`@key`, `@key::part`) are followed. Expressions (`$...`) are Python, and are not run:
those of literals are read, others are refused where they would matter, as are transforms that are
not known.
"""

import ast
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import msgspec

from segcam_jax import _files, models, schema
from segcam_jax.adapters import from_torch
from segcam_jax.adapters.torch_checkpoints import load_checkpoint
from segcam_jax.data import preparation
from segcam_jax.data.volume import check_orientation
from segcam_jax.engine.sliding import Windows
from segcam_jax.extras import require
from segcam_jax.networks.network import FolderConfig, Network, Recipe
from segcam_jax.networks.spec import BUNDLE, NetworkSpec, OpenOptions
from segcam_jax.types import InputError, nearest_first

_CONFIG, _METADATA = Path("configs/inference.json"), Path("configs/metadata.json")
_MODEL = Path("models/model.pt")
_TARGET = "_target_"
# Hardly a network halves extents more often.
_HALVED = 32
# Transforms that change neither values nor the grid.
_PASSED = ("LoadImage", "EnsureChannelFirst", "EnsureType", "CastToType", "ToTensor", "ToDevice")


class Transform(TypedDict):
    """What is read of a transform, besides by its class."""

    _target_: str


class Section(TypedDict, total=False):
    """What is read of an object in a configuration, besides by its class."""

    _target_: Required[str]
    transforms: list[Transform]
    roi_size: int | list[int | None] | None
    overlap: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    mode: str


class Channels(TypedDict, total=False):
    """What metadata say of an input or output."""

    channel_def: dict[Annotated[str, msgspec.Meta(pattern="^[0-9]+$")], str]


class Format(TypedDict, total=False):
    """What metadata say of all inputs and outputs."""

    inputs: dict[str, Channels]
    outputs: dict[str, Channels]


class Metadata(TypedDict, total=False):
    """What is read of `metadata.json`."""

    network_data_format: Format


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The configuration of a bundle.

    Attributes:
        metadata: of `metadata.json`; empty if there is none.
    """

    path: Path
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """The configuration in a folder; raises `InputError` if there is none."""
        found = _files.read_json(folder / _CONFIG)
        if not isinstance(found, dict):
            raise InputError(
                f"{str(folder / _CONFIG)!r} is missing, or not JSON; give the folder of a bundle"
            )
        about = _files.read_json(folder / _METADATA) or {}
        schema.check(about, Metadata, f"{str(folder / _METADATA)!r} is not as MONAI writes it")
        return cls(folder / _CONFIG, found, about)

    def resolved(self, value: Any, seen: tuple[str, ...] = ()) -> Any:
        """A value with its references followed, and expressions of literals read."""
        if isinstance(value, dict):
            return {key: self.resolved(each, seen) for key, each in value.items()}
        if isinstance(value, list):
            return [self.resolved(each, seen) for each in value]
        if not isinstance(value, str):
            return value
        if value.startswith("@"):
            if value in seen:
                raise InputError(f"{str(self.path)!r}: {value!r} refers to itself")
            return self.resolved(self._at(value), (*seen, value))
        if value.startswith("$"):
            try:
                return ast.literal_eval(value[1:].strip())
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                raise InputError(
                    f"{str(self.path)!r} holds the expression {value!r}, but segcam runs no code "
                    "of a bundle; write the value there"
                ) from None
        return value

    def _at(self, reference: str) -> Any:
        found: Any = self.config
        for part in reference[1:].replace("#", "::").split("::"):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise InputError(f"{str(self.path)!r}: {reference!r} does not exist") from None
        return found

    def section(self, key: str) -> Mapping[str, Any] | None:
        """A part that makes an object, its references followed; None if there is none."""
        found = self.config.get(key)
        found = self.resolved(found) if isinstance(found, (dict, str)) else found
        if not (isinstance(found, dict) and _TARGET in found):
            return None
        schema.check(found, Section, f"{str(self.path)!r} is not as MONAI reads it: {key}")
        return found

    def network(self) -> tuple[str, dict[str, Any]]:
        """The network's class, and the arguments of its constructor."""
        for key in ("network_def", "network", "net"):
            told = self.config.get(key)
            if isinstance(told, dict) and _TARGET in told:
                found = self.section(key)
                assert found is not None
                arguments = {k: v for k, v in found.items() if not k.startswith("_")}
                return found[_TARGET], arguments
        met = self.config.get("network_def", self.config.get("network"))
        raise InputError(
            f"{str(self.path)!r} names no network of monai.networks.nets under network_def"
            + (f", but {met!r}" if met is not None else "")
        )

    @property
    def steps(self) -> tuple[preparation.Step, ...]:
        """What is done to scans."""
        told = self.section("preprocessing")
        transforms = [] if told is None else told.get("transforms", [told])
        on = [each for each in transforms if each.get("_disabled_") not in (True, "true", "True")]
        made = [step for each in on for step in self._steps(each)]
        resampled = False
        for step in made:
            if resampled and isinstance(step, preparation.Orient):
                raise InputError(f"{str(self.path)!r}: Orientation follows Spacing; exchange them")
            resampled = resampled or isinstance(step, preparation.Respace)
        return tuple(made)

    def _steps(self, told: Mapping[str, Any]) -> list[preparation.Step]:
        name = _class_of(told).removesuffix("d").removesuffix("Dict")
        if name in _PASSED:
            return []
        if name not in _TRANSFORMS:
            known = ", ".join(nearest_first(name, (*_TRANSFORMS, *_PASSED)))
            raise InputError(
                f"{str(self.path)!r}: the transform {told[_TARGET]!r} is unknown; known are {known}"
            )
        given = {key: value for key, value in told.items() if not key.startswith("_")}
        given = {key: value for key, value in given.items() if key not in _OF_DICTIONARIES}
        try:
            return [_TRANSFORMS[name](**given)]
        except (TypeError, ValueError, LookupError) as error:
            why = str(error).replace("_" + name.lower(), name)
            raise InputError(f"{str(self.path)!r}: {told[_TARGET]}: {why}") from None

    @property
    def window(self) -> tuple[tuple[int, ...] | None, float, Windows]:
        """Extents of the network's window, if they are said, their overlap and weights."""
        told = self.section("inferer")
        if told is None:
            return None, 0.25, "constant"
        if _class_of(told) not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
            raise InputError(
                f"{str(self.path)!r}: the inferer {told[_TARGET]!r} is unknown; known is "
                "SlidingWindowInferer"
            )
        roi = told.get("roi_size")
        windows: Windows = "monai" if told.get("mode", "constant") == "gaussian" else "constant"
        extents = (roi,) * 3 if isinstance(roi, int) else tuple(roi or ())
        if len(extents) != 3 or not all(isinstance(n, int) and n > 0 for n in extents):
            raise InputError(f"{str(self.path)!r}: roi_size {roi!r}; three extents are needed")
        return extents, float(told.get("overlap", 0.25)), windows

    @property
    def multi_label(self) -> bool:
        """Whether the output goes through a sigmoid."""
        told = self.section("postprocessing") or {}
        each = told.get("transforms", [told])
        return any(bool(one.get("sigmoid")) for one in each if isinstance(one, dict))

    def names(self, side: str) -> list[str]:
        """Names of the channels of an input or output, if metadata say them."""
        form = self.metadata.get("network_data_format", {})
        said = next(iter(form.get(side, {}).values()), {}).get("channel_def", {})
        return [str(said[key]) for key in sorted(said, key=int)]


_OF_DICTIONARIES = ("keys", "allow_missing_keys", "dtype", "lazy", "track_meta", "device")


def _class_of(told: Mapping[str, Any]) -> str:
    return str(told.get(_TARGET, "")).rpartition(".")[2]


def _orientation(axcodes: str) -> preparation.Step:
    return preparation.Orient(check_orientation("".join(axcodes)))


def _spacing(
    pixdim: Sequence[float] | float, mode: Any = "bilinear", padding_mode: str = "border"
) -> preparation.Step:
    sizes = (pixdim,) * 3 if isinstance(pixdim, (int, float)) else tuple(pixdim)
    modes = mode if isinstance(mode, list) else [mode]
    if len(sizes) != 3 or not all(isinstance(size, (int, float)) and size > 0 for size in sizes):
        raise ValueError(f"pixdim {pixdim!r}; three positive sizes are known")
    if modes[0] not in ("bilinear", 1) or padding_mode != "border":
        raise ValueError(
            f"mode {mode!r}, padding_mode {padding_mode!r}; known are bilinear, border"
        )
    return preparation.Respace(tuple(map(float, sizes)))


def _range(
    a_min: float,
    a_max: float,
    b_min: float | None = None,
    b_max: float | None = None,
    clip: bool = False,
) -> preparation.Step:
    low, high = (0.0, 1.0) if b_min is None or b_max is None else (b_min, b_max)
    if not a_max > a_min or (clip and (b_min is None or b_max is None)):
        raise ValueError(f"a_min {a_min}, a_max {a_max}, b_min {b_min}, b_max {b_max}")
    after = (float(low), float(high)) if clip else None
    scheme = preparation.Linear(a_min, a_max - a_min, high - low, low, after=after)
    return preparation.Normalise((scheme,))


def _scale(minv: float = 0.0, maxv: float = 1.0, channel_wise: bool = False) -> preparation.Step:
    return preparation.Normalise(
        (preparation.Linear(gain=maxv - minv, shift=minv),), together=not channel_wise
    )


def _normalise(
    subtrahend: float | None = None,
    divisor: float | None = None,
    nonzero: bool = False,
    channel_wise: bool = False,
) -> preparation.Step:
    numbers = (subtrahend, divisor)
    if numbers != (None, None):
        if nonzero or not all(isinstance(each, (int, float)) for each in numbers):
            raise ValueError("subtrahend and divisor; known are two numbers, without nonzero")
        return preparation.Normalise((preparation.Linear(subtrahend, divisor),))
    scheme = preparation.NonzeroZScore() if nonzero else preparation.ZScore()
    return preparation.Normalise((scheme,), together=not channel_wise)


_TRANSFORMS = {
    "Orientation": _orientation,
    "Spacing": _spacing,
    "ScaleIntensityRange": _range,
    "ScaleIntensity": _scale,
    "NormalizeIntensity": _normalise,
}


def open_bundle(spec: NetworkSpec, options: OpenOptions = OpenOptions(ndims=(3,))) -> Network:
    """Opens a MONAI bundle of a segmentation network of volumes.

    Args:
        spec: `bundle:FOLDER`.

    Raises:
        InputError: if files are missing, broken or of another network, or do what is unknown.
        MissingExtraError: if torch, torchax or monai is not installed.
    """
    folder = Path(spec.words.removeprefix(BUNDLE))
    bundle = Bundle.read(folder)
    target, arguments = bundle.network()
    ndim = arguments.get("spatial_dims", 3)
    options.check_ndim(ndim, spec.words)
    if ndim != 3:
        raise InputError(f"{spec.words!r} is a bundle for images; segcam reads bundles for volumes")
    steps, (roi, overlap, windows) = bundle.steps, bundle.window
    module = _module(bundle, target, arguments)
    weights = folder / _MODEL
    load_checkpoint(module, weights)
    fn, params = from_torch(module.eval())
    channels = arguments.get("in_channels", arguments.get("input_channels"))
    classes = arguments.get("out_channels", arguments.get("num_classes"))
    if not (isinstance(channels, int) and isinstance(classes, int)):
        raise InputError(f"{str(bundle.path)!r} does not say in_channels and out_channels")
    recipe = Recipe(steps, roi or (96,) * 3, overlap, windows)
    names = bundle.names("outputs")
    names = names if len(names) == classes else []
    meaning = options.said.meaning(classes, outputs="logits", multi_label=bundle.multi_label)
    digest = _files.digest_of(" ".join(map(_files.sha256_of, (bundle.path, weights))))
    name = target.rpartition(".")[2]
    # It takes its window; what else it takes, larger instances ask for.
    multiples = tuple(math.gcd(extent, _HALVED) for extent in recipe.roi)
    config = FolderConfig(channels, classes, multiples)
    return Network(
        spec,
        weights,
        digest,
        models.LoadedModel(name, fn, params, config, {"classes": names}),
        meaning,
        note=_note(spec, bundle, name, recipe),
        recipe=recipe,
    )


def _note(spec: NetworkSpec, bundle: Bundle, name: str, recipe: Recipe) -> str:
    kinds = [type(step).__name__ for step in recipe.preparation]
    kind = "sigmoid" if bundle.multi_label else "softmax"
    return (
        f"{spec.words} is {name}, {kind}; scans are prepared by {', '.join(kinds) or 'nothing'}; "
        f"windows of {' x '.join(map(str, recipe.roi))}, overlap {recipe.overlap:g}"
    )


def _module(bundle: Bundle, target: str, arguments: Mapping[str, Any]) -> Any:
    """The network, with random weights."""
    nets = require("monai.networks.nets", extra="bundle")
    torch = require("torch", extra="bundle")
    name = target.rpartition(".")[2]
    found = getattr(nets, name, None)
    known = "." not in target or target.startswith("monai.networks.nets.")
    if not known or not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise InputError(
            f"{str(bundle.path)!r}: {target!r} is not a network of monai.networks.nets; any "
            "torch.nn.Module is explained by a function that makes it: --weights file.py:make "
            "--checkpoint FILE"
        )
    try:
        return found(**arguments)
    except Exception as error:  # Whatever a constructor makes of arguments that it cannot take.
        raise InputError(f"{str(bundle.path)!r}: {name} cannot be made from it: {error}") from None
