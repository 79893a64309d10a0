"""The commands over volumes as dataclasses."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segcam_jax.cli.arguments import (
    Classes,
    Layouts,
    MaybeCount,
    MaybeFile,
    MaybeName,
    MaybeNumber,
    MaybeOutputs,
    Names,
    Options,
    optional,
)

Volumes = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="VOLUME ...", help_behavior_hint=""),
]
Files = Annotated[tuple[Path, ...], optional("FILE ...")]
Extents = Annotated[tuple[int, ...] | None, optional("VOXELS ...")]


@dataclasses.dataclass(frozen=True)
class Volumetric:
    """What the commands over volumes have in common.

    Attributes:
        volumes: NIfTI or NRRD files: the modalities of one scan in the order of the network's
            channels, then those of the next scan.
        weights: A .safetensors file of a 3D network (`segcam convert --model monai-unet`), the
            bundled `lesions`, the folder of a trained nnU-Net (nnunet:FOLDER, or of one of its
            folds) or of a MONAI bundle (bundle:FOLDER), or a model of your
            own (module.path:factory or file.py:factory).
        checkpoint: As in `segcam explain`.
        layout: As in `segcam explain`.
        mirror: Average an nnU-Net over inputs mirrored along the axes of its training; this takes
            up to 8 times as many passes.
        channels: How many modalities your own model takes. Default: as many as --prefixes
            or --modalities names, or what the model takes, 1 to 4.
        data: Instead of volumes, a folder of scans: each folder PATIENT/SESSION in it has one file
            for each of --prefixes.
        prefixes: With --data, the file names of the modalities, or the beginnings of these names.
        truth: A label map per scan, by which the command calls an instance TP (a lesion that was
            found), FP (a false finding) or FN (a lesion that was missed). A map with one positive
            value is a mask; its connected components are the lesions.
        truth_prefix: With --data, the file name of the label maps, or the beginning of that name.
        truth_labels: What several positive values mean. instances: each value is one lesion, and
            touching lesions stay apart. classes: values are tissues, and the connected components
            of those that count are the lesions.
        truth_classes: With classes, the values that count. Default: all positive values.
        truth_threshold: In a truth of probabilities, values above this are inside.
        ignore_label: The value of unknown voxels, neither lesion nor background.
        modalities: Names of the modalities, for files and tables. Default: the files' names.
        classes: The number or name of one class. Default: the last.
        outputs: What the network returns. Default: what its weights say, or logits.
        multi_label: The classes do not exclude each other: each has a probability of its own, its
            sigmoid, not a share of all (softmax). A single class always has.
        threshold: Voxels with a probability above this are inside.
        preset: ies sets what the authors of Instance SmoothGrad use: 18 neighbours, instances of
            more than 5 voxels; in `segcam context` true positives of 91 to 119 voxels. Options that
            you give override it.
        connectivity: How many neighbours a voxel has in an instance. Default: 26.
        min_voxels: Drop smaller instances, after matching all with the truth. Default: 1.
        min_volume: Drop instances below this volume, in mm^3, after matching all with the truth.
        iou: An instance matches a lesion if their intersection over union is at least this; a
            smaller overlap is WEAK. Default: one common voxel is enough.
        group: Study only instances of these groups: TP, WEAK, FP, IGNORED, FN (--truth).
        normalise: zscore: each modality's non-zero voxels get mean 0 and standard deviation 1.
            Default: what the network's folder says, or zscore.
        resample: Resample volumes onto the grid of the scan's first volume. Default: refuse volumes
            with another grid.
        orientation: The directions of the axes in training, such as RAS or LPS. The command turns
            scans to them, and maps back. Default: what the weights say, or else as in the file.
        spacing: Size in mm of the voxels that the network was trained on, one number or three,
            along these axes. Default: what its weights say.
        match_spacing: Resample scans to that size; maps come back on the file's grid. Default: only
            note a different size.
        roi: Extents of the network's window, one number or three. Default: what its folder says,
            or 96.
        overlap: The overlap of neighbouring windows, as a share of a window. Default: what the
            network's folder says, or 0.25.
        memory_limit: How much memory a method may take besides parameters and input, such as 500MB
            or 2GiB.
        on_error: What to do if a scan or an instance fails: write a row with the reason, or stop
            the run.
        out: Folder of the results. A run that was interrupted there resumes.
        overwrite: Replace another run in that folder; other people's files stay.
    """

    volumes: Volumes = ()
    weights: MaybeName = None
    checkpoint: MaybeFile = None
    layout: Layouts = ()
    mirror: bool = False
    channels: MaybeCount = None
    data: MaybeFile = None
    prefixes: Names = ()
    truth: Files = ()
    truth_prefix: MaybeName = None
    truth_labels: Annotated[
        Literal["instances", "classes"] | None, optional("{instances,classes}")
    ] = None
    truth_classes: Annotated[tuple[int, ...], optional("VALUE ...")] = ()
    truth_threshold: MaybeNumber = None
    ignore_label: Annotated[int | None, optional("VALUE")] = None
    modalities: Names = ()
    classes: Classes = ()
    outputs: MaybeOutputs = None
    multi_label: bool = False
    threshold: float = 0.5
    preset: Annotated[Literal["ies"] | None, optional("{ies}")] = None
    connectivity: Annotated[Literal[6, 18, 26] | None, optional("{6,18,26}")] = None
    min_voxels: MaybeCount = None
    min_volume: float = 0.0
    iou: MaybeNumber = None
    group: Names = ()
    normalise: Annotated[Literal["zscore", "none"] | None, optional("{zscore,none}")] = None
    resample: bool = False
    orientation: Annotated[str | None, optional("LETTERS")] = None
    spacing: Annotated[tuple[float, ...], optional("MM ...")] = ()
    match_spacing: bool = False
    roi: Extents = None
    overlap: MaybeNumber = None
    memory_limit: Annotated[str | None, optional("BYTES")] = None
    on_error: Literal["row", "stop"] = "row"
    out: Path = Path("segcam-volumes")
    overwrite: bool = False


# What is taken where nothing is said: always, and by a preset.
_USUAL: Mapping[str, Any] = {"connectivity": 26, "min_voxels": 1, "max_voxels": None, "group": ()}
_PRESETS: Mapping[str, Mapping[str, Any]] = {"ies": {"connectivity": 18, "min_voxels": 6}}
_OF_CONTEXT: Mapping[str, Mapping[str, Any]] = {
    "ies": {"connectivity": 18, "min_voxels": 91, "max_voxels": 119, "group": ("TP",)}
}


def chosen(command: Volumetric, name: str) -> Any:
    """An option that presets say: as given, as the preset has it, or the usual one."""
    given = getattr(command, name)
    presets = _OF_CONTEXT if isinstance(command, Context) else _PRESETS
    by_preset = presets.get(command.preset or "", {})
    return by_preset.get(name, _USUAL[name]) if given in (None, ()) else given


@dataclasses.dataclass(frozen=True)
class Instances(Volumetric):
    """Explain every instance that a network finds in volumes, as NIfTI maps, tables and figures.

    For example:

      segcam instances flair.nii.gz t1.nii.gz --weights lesions.safetensors --out results

      segcam instances --data cohort --prefixes flair t1 --truth-prefix mask
      --weights lesions.safetensors --option aggregation=max samples=10

    Maps are signed and not normalised, so that you can compare instances, and have the grid of the
    scan's first volume. Every instance has a figure, and all figures share one scale of colours. If
    a run is killed, the same command resumes at the next instance.

    Attributes:
        method: Methods by name (`segcam methods` lists them).
        tap: Where to explain, for methods of activations (`segcam layers` lists names). Default:
            the bottleneck.
        option: Options of methods: samples=10, or instance_smooth_grad.aggregation=max for one of
            them (`segcam methods` lists them).
        of: Explain logits or probabilities, averaged over the instance.
        legacy_divisor: Divide the mean of instance_smooth_grad by the number of predicted
            instances, as the method's authors do, and not by the number of voxels.
        noise_modality: The option sigma is a share of this modality's range over the whole volume;
            give its name, or its number from 0.
        field: What the network gets: a window around the instance, as large as --roi; the whole
            volume; or stitched, the blended windows of the segmentation that the instance lies
            in (for methods of the input).
        seed: The seed of all random numbers.
        features: Also write features.csv: first-order and texture features of the image and of the
            map inside of each instance (extra `metrics`).
    """

    method: Names = ("instance_smooth_grad",)
    tap: Names = ()
    option: Options = ()
    of: Literal["logits", "probabilities"] = "logits"
    legacy_divisor: bool = False
    noise_modality: str = "0"
    field: Literal["window", "volume", "stitched"] = "window"
    seed: int = 0
    features: bool = False
    out: Path = Path("segcam-instances")


@dataclasses.dataclass(frozen=True)
class Context(Volumetric):
    """Measure how much of its surroundings the network needs to find an instance.

    For example:

      segcam context flair.nii.gz t1.nii.gz --weights lesions.safetensors --steps 20

    The command keeps the input inside of the instance and N voxels around it (N dilations), sets
    the rest to 0, and runs the network again, for N from 1 to --steps. Tables and figures show the
    mean probability inside of the instance, and how many instances the network still detects,
    against the distance that is kept: distance_mm is N times the smallest extent of a voxel, and
    reach_mm the largest Euclidean distance, along diagonals and longer voxels. To overlay networks
    that were studied on the same scans, name the folders of their runs:

      segcam context --runs unet nnunet swin --out networks

    Attributes:
        steps: How many dilations to make; each adds one voxel all around.
        max_voxels: Leave out larger instances.
        runs: Instead of volumes, the folders of finished runs. The command makes one table, and
            figures with the mean and the spread of each network. A network has the name of its
            folder.
    """

    steps: int = 34
    max_voxels: Annotated[int | None, optional("N")] = None
    runs: Annotated[tuple[Path, ...], optional("FOLDER ...")] = ()
    out: Path = Path("segcam-context")
