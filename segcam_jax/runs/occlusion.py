"""The occlusion study of images: what is occluded in which of them, one image after the other.

No store and no shards: a study has tables of its own, and a record for each image says what they
are of (`reports/occlusion.py`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

import segcam_jax
from segcam_jax import _files
from segcam_jax.engine import Execution
from segcam_jax.metrics import OcclusionStudy, occlusion_study
from segcam_jax.metrics.occlusion import SHARES, Cover, Occluded, check_options
from segcam_jax.networks.class_queries import ClassChoice, Prediction
from segcam_jax.networks.image_inputs import ImageForm, Sample, read_sample
from segcam_jax.networks.image_truths import TruthReading, outside_of_mask, read_labels
from segcam_jax.networks.layers import check_map, find_layer
from segcam_jax.networks.network import Network
from segcam_jax.taps import Split, TapStruct
from segcam_jax.types import UNKNOWN, InputError, SegcamError, TapError

# The first image that can be read says which taps there are.
_TRIED = 256


@dataclasses.dataclass(frozen=True)
class OcclusionOptions:
    """What is occluded, as `occlusion_study` takes it.

    Raises:
        InputError: if an option is out of range.
    """

    shares: Sequence[float] = SHARES
    places: int = 2
    occluded: Sequence[Occluded] = ("foreground", "background")
    value: float = 0.0
    cover: Cover = "linear"

    def __post_init__(self):
        check_options(**vars(self))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageToOcclude:
    """An image, read.

    Attributes:
        truth: the file of its truth; None: what is predicted is occluded.
        tap: whose maps are occluded.
    """

    sample: Sample
    truth: Path | None
    tap: str


@dataclasses.dataclass(frozen=True, eq=False)
class OcclusionJob:
    """What is studied of each image, on one device.

    Attributes:
        choice: the foreground's class.
        layer: where: a word for a tap, as `find_layer` reads it.
        truths: the file of each image's truth; empty: what is predicted.
    """

    network: Network
    choice: ClassChoice
    layer: str
    form: ImageForm
    truths: Mapping[Path, Path]
    reading: TruthReading
    options: OcclusionOptions
    memory_limit: int | None = None

    def check(self, files: Sequence[Path]) -> None:
        """Says before the start what would be said of every image: of the class, of the tap.

        Raises:
            SegcamError: if there is no such class, or no such tap in the first image that can be
                read and that the network takes.
        """
        self.choice.check(self.network.labels)
        tried = set()
        for file in itertools.islice(files, _TRIED):
            try:
                shape = read_sample(file, self.form).padded.shape
                if shape in tried:
                    continue
                tried.add(shape)
                self._taps(shape)
            except TapError:
                raise
            except SegcamError:
                continue  # It is told of when its turn comes.
            self._tap(shape)
            return

    def read(self, file: Path) -> ImageToOcclude:
        """Reads an image; raises `SegcamError` if it cannot be read, or has no such tap."""
        sample = read_sample(file, self.form)
        return ImageToOcclude(sample, self.truths.get(file), self._tap(sample.padded.shape))

    @property
    def settings(self) -> str:
        """A digest of all that is the same for every image; such studies share a table."""
        network = self.network
        return _files.key_of(
            [
                segcam_jax.__version__,
                [*network.key, list(network.labels)],
                [self.choice.words, self.layer, self.form.fit, bool(self.truths)],
                dataclasses.astuple(self.reading),
                dataclasses.astuple(self.options),
            ]
        )

    def key(self, image: ImageToOcclude) -> list[Any]:
        """All that an image's study depends on; raises `InputError` if its truth cannot be read."""
        truth = image.truth and _files.sha256_of(image.truth)
        return [self.settings, image.sample.sha256, truth, image.tap]

    def study(self, image: ImageToOcclude) -> tuple[str, Bool[np.ndarray, "h w"], OcclusionStudy]:
        """Occludes the maps of an image.

        Returns:
            The name of the foreground's class, the foreground, and what its segmentation loses.
        """
        network, sample = self.network, image.sample
        output = network.logits(sample.padded)
        cropped = sample.cropped(output)
        prediction = Prediction.of(cropped, network.labels, network.meaning, network.background)
        index = self.choice.resolve(prediction, network.labels)
        labels, background = self._labels(image, prediction, index)
        mask, label = labels == index, network.labels[index]
        if not mask.any():
            where = "the prediction" if image.truth is None else f"truth {str(image.truth)!r}"
            raise InputError(f"{where} has no pixel of class {label!r}: nothing to occlude")
        padded = np.full(output.shape[:-1], UNKNOWN)
        padded[: mask.shape[0], : mask.shape[1]] = labels
        study = occlusion_study(
            self._split(image.tap, sample.padded.shape),
            network.params,
            sample.padded,
            padded,
            class_index=index,
            background=background,
            exclusive=network.meaning.exclusive,
            threshold=network.meaning.threshold,
            execution=Execution(memory_limit=self.memory_limit),
            **vars(self.options),
        )
        _check_finite(study, label, self.options.value)
        return label, mask, study

    def _labels(
        self, image: ImageToOcclude, prediction: Prediction, index: int
    ) -> tuple[Int[np.ndarray, "h w"], int | None]:
        """The class of each pixel, and the background's; None where nothing is known of it.

        Of predicted classes that overlap, the foreground's alone.
        """
        network, classes = self.network, self.network.config.classes
        background = network.background_index
        background = None if background == index else background
        if image.truth is None:
            labels = prediction.drawn(index)
            assert labels is not None
            known = background if prediction.exclusive else None
            return np.where(labels < 0, classes, labels), known
        outside = outside_of_mask(index, background, classes)
        if outside is None and not self.reading.labels:
            background = None
        labels = read_labels(
            image.truth,
            image.sample,
            self.reading,
            class_index=index,
            outside=classes if outside is None else outside,
            classes=classes,
            fit=self.form.fit,
        )
        return labels, background

    @functools.cache  # noqa: B019 - a job lasts as long as its command.
    def _taps(self, shape: tuple[int, ...]) -> Mapping[str, TapStruct]:
        return self.network.list_taps(shape)

    @functools.cache  # noqa: B019
    def _tap(self, shape: tuple[int, ...]) -> str:
        taps = self._taps(shape)
        tap = find_layer(self.network, self.layer, taps)
        check_map(tap, taps[tap])
        return tap

    @functools.cache  # noqa: B019
    def _split(self, tap: str, shape: tuple[int, ...]) -> Split:
        return self.network.split(tap, shape)


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
