"""Plans of nnU-Net v2: which network a configuration has, and what it does to scans."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec

from segcam_jax import _files, schema
from segcam_jax.data import preparation
from segcam_jax.extras import require
from segcam_jax.types import InputError, nearest_first

T = TypeVar("T")
ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
PLANS, DATASET = "plans.json", "dataset.json"
# Of readers, the order of the axes of an array, as they follow each other in a file: z, y, x.
_REVERSED = (2, 1, 0)
_READERS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS"}
_IMAGE_READERS = ("NaturalImage2DIO",)
_RESAMPLED = "resample_data_or_seg_to_shape"
_NOT_RESAMPLED = "no_resampling_data_or_seg_to_shape"
_OF_IMAGES = ("ZScoreNormalization", "RGBTo01Normalization", "RescaleTo01Normalization")


Number = Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]
Axis = Annotated[int, msgspec.Meta(ge=0, le=2)]
Extent = Annotated[int, msgspec.Meta(ge=1, le=2**15)]
Size = Annotated[float, msgspec.Meta(gt=0)]
Each = Annotated[list[T], msgspec.Meta(min_length=1)]


class Intensities(TypedDict):
    """What a channel's foreground is like."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class Arguments(TypedDict, total=False):
    """The arguments of a network that are read here; its class reads the others."""

    strides: Each[Extent | list[Extent]]


class Architecture(TypedDict):
    """A network's class, and what it is made of."""

    network_class_name: str
    arch_kwargs: NotRequired[Arguments]


class Configuration(TypedDict, total=False):
    """What is read of a configuration; plans before 2.4 have its network apart."""

    inherits_from: str | None
    previous_stage: str | None
    patch_size: Annotated[list[Extent], msgspec.Meta(min_length=2, max_length=3)]
    spacing: Each[Size]
    normalization_schemes: Each[str]
    use_mask_for_norm: Each[bool]
    architecture: Architecture
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    UNet_class_name: str
    UNet_base_num_features: Extent
    unet_max_num_features: Extent
    n_conv_per_stage_encoder: Each[int]
    n_conv_per_stage_decoder: Each[int]
    pool_op_kernel_sizes: Each[Extent | list[Extent]]


class Plans(TypedDict, total=False):
    """What is read of `plans.json`."""

    configurations: dict[str, Configuration]
    image_reader_writer: str
    transpose_forward: Annotated[list[Axis], msgspec.Meta(min_length=3, max_length=3)]
    foreground_intensity_properties_per_channel: dict[str, Intensities]
    foreground_intensity_properties_by_modality: dict[str, Intensities]


class Dataset(TypedDict, total=False):
    """What is read of `dataset.json`."""

    channel_names: dict[Number, str]
    modality: dict[Number, str]
    labels: dict[str, int | Number | Each[int]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration of plans, with the labels of its dataset.

    Attributes:
        path: of the plans.
        name: `3d_fullres` or the like.
        plans: all of the file.
        configuration: the part of that name, with what it inherits.
        dataset: of `dataset.json`.
    """

    path: Path
    name: str
    plans: Mapping[str, Any]
    configuration: Mapping[str, Any]
    dataset: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, name: str) -> "Plan":
        """The configuration of a name in a folder.

        Raises:
            InputError: if the files are missing or broken, have no such configuration, or it is the
                second stage of a cascade.
        """
        path = folder / PLANS
        plans, dataset = _json(path, Plans), _json(folder / DATASET, Dataset)
        found, chain = {}, [name]
        while chain[-1] is not None:
            known = plans.get("configurations") or {}
            if chain[-1] not in known or len(set(chain)) < len(chain):
                raise InputError(
                    f"{str(path)!r} has no configuration {chain[-1]!r}; it has {', '.join(known)}"
                )
            found = {**known[chain[-1]], **found}
            chain.append(known[chain[-1]].get("inherits_from"))
        plan = cls(path, name, plans, found, dataset)
        if before := found.get("previous_stage"):
            raise InputError(
                f"{str(path)!r}: {name} is a cascade's second stage, which needs the segmentation "
                f"of {before} besides the scan; give the folder of {before}, or of 3d_fullres"
            )
        return plan

    def check_kind(self) -> None:
        """Raises `InputError` if the network segments the slices of volumes."""
        if self.ndim == 2 and self.plans.get("image_reader_writer") not in _IMAGE_READERS:
            raise InputError(
                f"{str(self.path)!r}: {self.name} segments volumes slice by slice, which no "
                "command supports; give the folder of 3d_fullres"
            )

    def get(self, key: str) -> Any:
        """A value of the configuration.

        Raises:
            InputError: if it is missing.
        """
        if key not in self.configuration:
            raise InputError(f"{str(self.path)!r} lacks {key!r} in {self.name}")
        return self.configuration[key]

    @property
    def patch(self) -> tuple[int, ...]:
        """Extents of the network's window."""
        return tuple(map(int, self.get("patch_size")))

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def channels(self) -> list[str]:
        """Names of the channels of an input, in order."""
        names = self.dataset.get("channel_names") or self.dataset.get("modality")
        if not names:
            raise InputError(f"{str(self.path.with_name(DATASET))!r} names no channels")
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def regions(self) -> bool:
        """Whether classes are regions, which overlap."""
        labels = self._labels.values()
        return any(isinstance(each, list) and len(each) > 1 for each in labels)

    @property
    def _labels(self) -> Mapping[str, Any]:
        labels = self.dataset.get("labels")
        if not isinstance(labels, dict) or labels.get("background") != 0:
            raise InputError(
                f"{str(self.path.with_name(DATASET))!r} has no labels with the background 0"
            )
        return {name: value for name, value in labels.items() if name != "ignore"}

    @property
    def classes(self) -> list[str]:
        """Names of the output's channels: of regions, without a background."""
        labels = self._labels
        if self.regions:
            return [name for name, value in labels.items() if value not in (0, [0])]
        values = {
            name: value[0] if isinstance(value, list) else value for name, value in labels.items()
        }
        return sorted(values, key=lambda name: int(values[name]))

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """The network's class and the arguments of its constructor, for plans of all versions.

        Raises:
            InputError: if the class is unknown.
        """
        told = self.configuration.get("architecture")
        path = told["network_class_name"] if told else self.get("UNet_class_name")
        name = path.rpartition(".")[2]
        if name not in ARCHITECTURES:
            raise InputError(
                f"{str(self.path)!r}: the architecture {path!r} of {self.name} is unknown; known "
                f"are {', '.join(nearest_first(name, ARCHITECTURES))}. Any torch.nn.Module is "
                "explained by a function that makes it: --weights file.py:make --checkpoint FILE"
            )
        return name, dict(told.get("arch_kwargs", {})) if told else self._old_arguments(name)

    def _old_arguments(self, name: str) -> dict[str, Any]:
        """The arguments of a constructor, of plans before 2.4."""
        blocks, get = self.get("n_conv_per_stage_encoder"), self.get
        base, most = get("UNet_base_num_features"), get("unet_max_num_features")
        of_stages = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
        return {
            "n_stages": len(blocks),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
            "conv_op": f"torch.nn.Conv{self.ndim}d",
            "kernel_sizes": get("conv_kernel_sizes"),
            "strides": get("pool_op_kernel_sizes"),
            of_stages: blocks,
            "n_conv_per_stage_decoder": get("n_conv_per_stage_decoder"),
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{self.ndim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }

    @property
    def multiples(self) -> tuple[int, ...]:
        """What extents of a window must be multiples of, along each axis."""
        strides = self.architecture[1].get("strides")
        if strides is None:
            raise InputError(f"{str(self.path)!r} lacks the strides of {self.name}")
        each = [[int(s)] * self.ndim if isinstance(s, int) else list(map(int, s)) for s in strides]
        if any(len(one) != self.ndim for one in each):
            raise InputError(f"{str(self.path)!r}: strides {strides} of {self.ndim} axes")
        return tuple(math.prod(along) for along in zip(*each, strict=True))

    def module(self) -> Any:
        """The network, with random weights.

        Raises:
            InputError: if the architecture does not have these arguments.
            MissingExtraError: if torch or dynamic_network_architectures is not installed.
        """
        name, arguments = self.architecture
        unet = require("dynamic_network_architectures.architectures.unet", extra="nnunet")
        torch = require("torch", extra="nnunet")
        for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
            if isinstance(path := arguments.get(key), str):
                arguments[key] = self._layer(torch.nn, path)
        try:
            return getattr(unet, name)(
                input_channels=len(self.channels),
                num_classes=len(self.classes),
                deep_supervision=False,
                **arguments,
            )
        except Exception as error:  # Whatever a constructor makes of arguments that it cannot take.
            raise InputError(
                f"{str(self.path)!r}: {name} cannot be made from {self.name}: {error}"
            ) from None

    def _layer(self, layers: Any, path: str) -> Any:
        """A layer of torch by its path; nothing else is imported."""
        found = getattr(layers, path.rpartition(".")[2], None)
        if not path.startswith("torch.nn.") or found is None:
            raise InputError(f"{str(self.path)!r} names {path!r}, which is not a layer of torch.nn")
        return found

    @property
    def steps(self) -> tuple[preparation.Step, ...]:
        """What is done to scans.

        Raises:
            InputError: if a reader, a normalisation or a resampling is unknown.
        """
        reader = self.plans.get("image_reader_writer", "SimpleITKIO")
        if reader not in _READERS:
            self._unknown("reader", reader, _READERS)
        oriented = _READERS[reader]
        order = [_REVERSED[axis] for axis in self.plans.get("transpose_forward", (0, 1, 2))]
        if len(set(order)) < len(order):
            raise InputError(f"{str(self.path)!r}: transpose_forward names an axis twice")
        resize = self._resize()
        return (
            *([preparation.Orient(oriented)] if oriented else ()),
            preparation.Exchange((order[0], order[1], order[2])),
            preparation.CropToNonzero(),
            preparation.Normalise(tuple(self._scheme(at) for at in range(len(self.channels)))),
            *([resize] if resize else ()),
        )

    def _unknown(self, what: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> None:
        choices = ", ".join(nearest_first(name, known))
        raise InputError(f"{str(self.path)!r}: {what} {name!r} is unknown; known are {choices}")

    def _resize(self) -> preparation.Resize | None:
        name = self.configuration.get("resampling_fn_data", _RESAMPLED)
        if name == _NOT_RESAMPLED:
            return None
        if name != _RESAMPLED:
            self._unknown("resampling", name, (_RESAMPLED, _NOT_RESAMPLED))
        said = {"order": 3, "order_z": 0, **self.configuration.get("resampling_fn_data_kwargs", {})}
        if said["order_z"] != 0:
            raise InputError(
                f"{str(self.path)!r}: resampling with order_z {said['order_z']}; known is 0"
            )
        spacing = tuple(float(size) for size in self.get("spacing"))
        return preparation.Resize(spacing, said["order"], said.get("force_separate_z"))

    def _scheme(self, channel: int) -> preparation.Scheme:
        name = self._of_channel("normalization_schemes", channel).removesuffix("Normalization")
        if name == "ZScore":
            return preparation.ZScore(inside=self._of_channel("use_mask_for_norm", channel))
        if name == "CT":
            found = self._intensities(channel)
            bounds = (float(found["percentile_00_5"]), float(found["percentile_99_5"]))
            deviation = max(float(found["std"]), 1e-8)
            return preparation.Linear(float(found["mean"]), deviation, before=bounds)
        known = {
            "RescaleTo01": preparation.Linear(),
            "RGBTo01": preparation.Linear(0.0, 255.0),
            "No": preparation.Linear(0.0, 1.0),
        }
        if name not in known:
            self._unknown("normalisation", name, ("ZScore", "CT", *known))
        return known[name]

    def _of_channel(self, key: str, channel: int) -> Any:
        values = self.get(key)
        if channel >= len(values):
            raise InputError(
                f"{str(self.path)!r}: {key} of {self.name} has no entry for channel {channel}"
            )
        return values[channel]

    def _intensities(self, channel: int) -> Mapping[str, Any]:
        for key in ("per_channel", "by_modality"):
            found = self.plans.get(f"foreground_intensity_properties_{key}", {})
            if str(channel) in found:
                return found[str(channel)]
        raise InputError(f"{str(self.path)!r} lacks the intensities of its foreground")

    @property
    def image_schemes(self) -> tuple[preparation.Scheme, ...]:
        """How images are normalised, in ways that do not depend on what units they are in.

        Raises:
            InputError: if it is done in another way, or within a mask.
        """
        for at, name in enumerate(self.get("normalization_schemes")):
            masked = name == "ZScoreNormalization" and self._of_channel("use_mask_for_norm", at)
            if masked or name not in _OF_IMAGES:
                raise InputError(
                    f"{str(self.path)!r}: {name}{' within a mask' if masked else ''} is unknown of "
                    f"images; known are {', '.join(_OF_IMAGES)}, of whole images"
                )
        return tuple(self._scheme(at) for at in range(len(self.channels)))


def _json(path: Path, kind: type) -> dict[str, Any]:
    found = _files.read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} is missing, or not JSON of nnU-Net")
    schema.check(found, kind, f"{str(path)!r} is not as nnU-Net writes it")
    return found
