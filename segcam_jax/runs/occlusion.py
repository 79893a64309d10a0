"""The kernel that occludes activation maps: the study of each image, one after the other.

occluded   (row, patch, y, x)                 which positions each patch covers
alone      (row, patch, reading, channel)     how far what is read falls, of each map by itself
together   (row, patch, reading)              of all maps at once
before     (row, reading)                     foreground, background, Dice of the unchanged output
region, prediction, truth, image              as of explanations; the region is the foreground
"""

import dataclasses
from typing import ClassVar, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from segcam_jax.engine import Execution
from segcam_jax.methods import MethodCall
from segcam_jax.metrics import OcclusionStudy, occlusion_study
from segcam_jax.metrics.occlusion import (
    SHARES,
    Cover,
    Occluded,
    Patch,
    Quality,
    check_options,
    patches_of,
)
from segcam_jax.networks.class_queries import Prediction
from segcam_jax.networks.image_inputs import Sample
from segcam_jax.networks.image_truths import outside_of_mask
from segcam_jax.networks.layers import default_layer, find_layers
from segcam_jax.networks.network import Network
from segcam_jax.runs import results
from segcam_jax.runs.items import Item
from segcam_jax.runs.job import Job, OpenJob
from segcam_jax.runs.programs import ImageKernel
from segcam_jax.runs.reading import Failure
from segcam_jax.runs.shard import Explained, Group, Loaded, Ran
from segcam_jax.runs.store import Block, Variable
from segcam_jax.runs.stored_run import StoredRun
from segcam_jax.runs.work import Goal, StudyOptions
from segcam_jax.types import UNKNOWN, InputError, SegcamError

READ = ("foreground", "background", "dice")
TRUTH = "truth:"
_OCCLUDED, _ALONE, _TOGETHER, _BEFORE = "occluded", "alone", "together", "before"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OccludeOptions(StudyOptions):
    """All that determines what is stored, but for the images; see `occlusion_study`."""

    UNUSED: ClassVar[frozenset[str]] = frozenset(
        ("methods", "options", "region", "min_probability", "mask_threshold", "of", "reduce")
        + ("precision", "store", "store_images", "importance")
    )

    shares: tuple[float, ...] = SHARES
    places: int = 2
    occluded: tuple[Occluded, ...] = get_args(Occluded)
    value: float = 0.0
    cover: Cover = "linear"
    store_images: bool = True  # Figures are drawn of the run alone.

    def __post_init__(self):
        super().__post_init__()
        check_options(self.shares, self.places, self.occluded, self.value, self.cover)
        if len(self.classes) > 1 or len(self.taps) > 1 or "all" in self.taps:
            raise InputError("an occlusion study takes one class and one tap; give one of each")
        object.__setattr__(self, "shares", tuple(sorted(set(self.shares))))

    @property
    def calls(self) -> tuple[MethodCall, ...]:
        """No method runs."""
        return ()

    @property
    def patches(self) -> tuple[Patch, ...]:
        """What is occluded in each image."""
        return patches_of(self.shares, self.places, self.occluded)

    def check(self, network: Network, goals: object = ()) -> None:
        """Checks the network; raises `InputError` or `TargetError`."""
        if network.classifies:
            raise InputError(
                f"{network.name} classifies whole images, but this command studies segmentations; "
                "use `segcam explain --method ablation_cam`"
            )
        (query,) = self.queries
        if query.second is not None:
            raise InputError(f"an occlusion study takes one class, not {query.words!r}")
        super().check(network)


class OccludeJob(Job):
    """A run of occlusion studies; its options are `OccludeOptions`."""

    @staticmethod
    def kind() -> type[OpenJob]:
        """What it is when it is open."""
        return OpenOccludeJob


class OccludeKernel(ImageKernel):
    """Occludes the activation maps of images, on one device."""

    def tap(self, shape: tuple[int, ...]) -> str:
        """The layer, for images of a shape `h w c`."""
        words = self.options.taps or (default_layer(self.network),)
        return find_layers(self.network, words, self.network.list_taps(shape))[0]

    def check(self, shape: tuple[int, ...]) -> None:
        """Finds the layer for images of a shape `h w c`."""
        self.tap(shape)

    def _goal(
        self,
        goal: Goal,
        sample: Sample,
        output: Float[np.ndarray, "*space k"],
        prediction: Prediction,
    ) -> Explained:
        index, _ = goal.query.resolve(prediction, self.network.labels)
        return Explained(goal, index, None, None, prediction)

    def _explain(self, group: Group) -> None:
        ran = Ran(())
        group.found.append(ran)
        for member, (goal, *_) in enumerate(group.goals):
            if isinstance(goal, Failure):
                continue
            try:
                mask, study = self._study(goal, group.loaded[member], group.members[member])
            except SegcamError as error:
                group.goals[member] = [Failure.of(error)]
                continue
            group.goals[member] = [dataclasses.replace(goal, region=mask)]
            ran.batches.append(([(member, (0,))], [study]))
        group.programs.append(f"occlude {group.name}")

    def _study(
        self, goal: Explained, loaded: Loaded, item: Item
    ) -> tuple[Bool[np.ndarray, "h w"], OcclusionStudy]:
        """The foreground of an image, and what its segmentation loses."""
        network, options, index = self.network, self.options, goal.class_index
        assert isinstance(options, OccludeOptions)
        labels, background = self._labels(goal, loaded)
        mask, label = labels == index, network.labels[index]
        if not mask.any():
            where = "the prediction" if item.truth is None else f"truth {item.truth!r}"
            raise InputError(f"{where} has no pixel of class {label!r}: nothing to occlude")
        image = loaded.sample.padded
        split = network.split(self.tap(image.shape), image.shape)
        padded = np.full(split.output.shape[:-1], UNKNOWN)
        padded[: mask.shape[0], : mask.shape[1]] = labels
        study = occlusion_study(
            split,
            network.params,
            image,
            padded,
            class_index=index,
            background=background,
            shares=options.shares,
            places=options.places,
            occluded=options.occluded,
            value=options.value,
            cover=options.cover,
            exclusive=network.meaning.exclusive,
            threshold=network.meaning.threshold,
            execution=Execution(memory_limit=self.execution.memory_limit),
        )
        _check_finite(study, label, options.value)
        return mask, study

    def _labels(self, goal: Explained, loaded: Loaded) -> tuple[Int[np.ndarray, "h w"], int | None]:
        """The class of each pixel, and the background's; None where nothing is known of it.

        Of predicted classes that overlap, the foreground's alone.
        """
        classes, index, truth = self.network.config.classes, goal.class_index, loaded.truth
        background = self.network.background_index
        background = None if background == index else background
        if truth is None:
            labels = goal.prediction.drawn(index)
            assert labels is not None
            known = background if goal.prediction.exclusive else None
            return np.where(labels < 0, classes, labels), known
        if self.options.truth_labels:
            return truth, background
        outside = outside_of_mask(index, background, classes)
        labels = np.where(truth == 1, index, classes if outside is None else outside)
        return labels, None if outside is None else background

    def _of_group(self, group: Group) -> tuple[list[Block], list[results.Row]]:
        """The arrays of the images of one extent, and their rows."""
        blocks, rows = super()._of_group(group)
        for row, item in zip(rows, group.members, strict=True):
            row["region"] = "predicted" if item.truth is None else f"{TRUTH}{item.truth}"
        found = [(member, study) for ran in group.found for ((member, _),), (study,) in ran.batches]
        if not found:
            return blocks, rows
        tap = self.tap(group.loaded[0].sample.padded.shape)
        variables = _variables([study for _, study in found], tap)
        numbers = np.array([group.members[member].index for member, _ in found], np.int64)
        return [*blocks, Block(group.name, numbers, variables)], rows


class OpenOccludeJob(OpenJob):
    """A run of occlusion studies whose network is open and whose images are listed."""

    kernel_of = OccludeKernel

    def check(self) -> None:
        """Raises `InputError` also if the list says what is to be explained of each image."""
        self.items.check_plain()
        super().check()


def _variables(studies: list[OcclusionStudy], tap: str) -> tuple[Variable, ...]:
    def stacked(of: str, axis: int) -> np.ndarray:
        each = [
            np.stack([np.asarray(getattr(getattr(study, of), name)) for name in READ], axis)
            for study in studies
        ]
        return np.stack(each).astype(np.float32)

    positions = np.stack([study.positions for study in studies])
    return (
        Variable(_OCCLUDED, ("row", "patch", "y.tap", "x.tap"), positions, {"tap": tap}),
        Variable(_ALONE, ("row", "patch", "reading", "channel"), stacked("falls", 1)),
        Variable(_TOGETHER, ("row", "patch", "reading"), stacked("together", 1)),
        Variable(_BEFORE, ("row", "reading"), stacked("before", 0)),
    )


def stored_study(run: StoredRun, row: int) -> tuple[OcclusionStudy, str]:
    """The study of a row, and the tap whose maps it occludes.

    Raises:
        InputError: if the row has none, or a file was lost or changed by hand.
    """
    options = OccludeOptions.of_words(run.manifest.options, f"the manifest of {str(run.path)!r}")
    found = {n: run.values(row, n) for n in (_OCCLUDED, _ALONE, _TOGETHER, _BEFORE)}
    tap = run.tap_of(row, _OCCLUDED)
    known = {name: values for name, values in found.items() if values is not None}
    if tap is None or len(known) < len(found) or len(known[_OCCLUDED]) != len(options.patches):
        raise InputError(f"{str(run.path)!r} has no study of row {row}, or was changed by hand")
    before, together = Quality(*known[_BEFORE]), Quality(*known[_TOGETHER].T)
    falls = Quality(*np.moveaxis(known[_ALONE], 1, 0))
    return OcclusionStudy(options.patches, known[_OCCLUDED], before, falls, together), tap


def _check_finite(study: OcclusionStudy, label: str, value: float) -> None:
    """Raises `InputError` if a mean is infinite; that of a background that is nowhere is NaN."""
    for name, before in vars(study.before).items():
        if name == "background" and np.isnan(before):
            continue
        falls = getattr(study.falls, name), getattr(study.together, name)
        if not all(np.isfinite(values).all() for values in (before, *falls)):
            what = "the foreground" if name != "background" else "the background"
            if np.isfinite(before) and value:
                raise InputError(
                    f"the output for {what} is not finite where maps are set to {value:g}; give a "
                    "--value nearer to 0"
                )
            raise InputError(
                f"the output for {what} is -inf somewhere, before or after an occlusion of class "
                f"{label!r}: the network rules a class out there, and no mean can fall from that; "
                "name another class"
            )
