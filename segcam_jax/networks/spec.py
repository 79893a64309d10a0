"""Which network a user names, and how it is opened: what a command line says, parsed."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segcam_jax import models
from segcam_jax.data.labels import read_labels
from segcam_jax.models.layers import NORMALISATIONS
from segcam_jax.networks import user_code
from segcam_jax.outputs import THRESHOLD, Meaning
from segcam_jax.types import InputError, Outputs, counted, nearest_first

RANDOM = "random:"
NNUNET = "nnunet:"
BUNDLE = "bundle:"
_SMALLEST, LARGEST = 16, 2**15
Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Which network.

    Attributes:
        kind: `"weights"` of a file or by name, `"random"` weights, a `"user"`'s own model, or the
            folder of a trained `"nnunet"` or of a `"bundle"` of MONAI.
    """

    words: str
    kind: Literal["weights", "random", "user", "nnunet", "bundle"]

    @classmethod
    def parse(cls, weights: str | None) -> "NetworkSpec":
        """Reads what `--weights` says.

        Args:
            weights: a name or a file as `models.load` takes them, `random:NAME`,
                `nnunet:FOLDER`, `bundle:FOLDER`, or `module:factory`.
        """
        if weights is None:
            raise InputError(
                "no weights were given; add --weights with a file, a bundled name or module:factory"
            )
        if weights.startswith(NNUNET):
            return cls(weights, "nnunet")
        if weights.startswith(BUNDLE):
            return cls(weights, "bundle")
        if user_code.is_factory(weights):
            return cls(weights, "user")
        return cls(weights, "random" if weights.startswith(RANDOM) else "weights")

    def from_anywhere(self, absolute: Path) -> "NetworkSpec":
        """The same, its file by its whole path where the name of it leads nowhere from here."""
        name, colon, factory = self.words.partition(":")
        ends = {"user": (".py",), "weights": (".safetensors",)}
        is_file = Path(name).suffix in ends.get(self.kind, ())
        of_folder = self.kind == "weights" and Path(name).name == absolute.parent.name
        if not (is_file or of_folder) or Path(name).exists() or not absolute.is_file():
            return self
        return NetworkSpec(f"{absolute}{colon}{factory}", self.kind)


@dataclasses.dataclass(frozen=True)
class Said:
    """What a user states about a network's output.

    Attributes:
        outputs: `"logits"` or `"probabilities"`; None: what is known otherwise.
        multi_label: the classes do not exclude each other.
        threshold: probabilities above it are predicted then: none, one number, or one per class.
    """

    outputs: Outputs | None = None
    multi_label: bool = False
    threshold: tuple[float, ...] = ()

    def meaning(
        self, classes: int, *, outputs: Outputs | None, multi_label: bool = False
    ) -> Meaning:
        """What the output means, with what is known otherwise.

        Raises:
            InputError: if a threshold is given for classes that exclude each other.
            TargetError: if a threshold is out of range, or thresholds are not as many as classes.
        """
        exclusive = not (self.multi_label or multi_label)
        if self.threshold and exclusive and classes > 1:
            raise InputError(
                "--threshold is for classes that do not exclude each other (--multi-label); for "
                "other classes, narrow the predicted pixels with --min-probability"
            )
        several: Any = self.threshold if len(self.threshold) > 1 else None
        threshold = several or (self.threshold[0] if self.threshold else THRESHOLD)
        return Meaning(self.outputs or outputs, exclusive, threshold).checked(classes)

    def meaning_of(self, loaded: models.LoadedModel) -> Meaning:
        """What the output of weights means: as said, or as they say; else logits."""
        about = loaded.metadata
        return self.meaning(
            loaded.config.classes,
            outputs=about.get("outputs", "logits"),
            multi_label=bool(about.get("multi_label")),
        )


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What is done to an image in [0, 1] before a model.

    Attributes:
        moments: mean and standard deviation of each channel, or of all; None: images stay.
    """

    words: str
    moments: Moments | None

    @classmethod
    def parse(cls, words: str) -> "Normalisation":
        """Reads `imagenet`, `symmetric`, ..., or `MEAN/DEVIATION` of numbers, as `0.5,0.4,0.4`."""
        if words in NORMALISATIONS:
            return cls(words, NORMALISATIONS[words])
        mean, _, deviation = words.partition("/")
        try:
            first, second = (tuple(map(float, part.split(","))) for part in (mean, deviation))
        except ValueError:
            choices = ", ".join(nearest_first(words, NORMALISATIONS))
            raise InputError(
                f"unknown normalisation {words!r}; choose from {choices}, or give MEAN/DEVIATION, "
                "for example 0.5,0.5,0.5/0.25,0.25,0.25"
            ) from None
        if not (np.isfinite([*first, *second]).all() and min(second) > 0):
            raise InputError(f"normalisation {words!r}; give finite means and positive deviations")
        return cls(words, (first, second))

    def check(self, channels: int) -> None:
        """Raises `InputError` if its numbers are not for so many channels."""
        if self.moments and any(len(each) not in (1, channels) for each in self.moments):
            raise InputError(
                f"normalisation {self.words!r} is not for {counted(channels, 'channel')}"
            )


NO_NORMALISATION = Normalisation("none", None)


def check_seed(seed: int) -> None:
    """Raises `InputError` if it is not a seed of random numbers."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed was given {seed}; give a number from 0 to below 2^32")


@dataclasses.dataclass(frozen=True)
class OpenOptions:
    """How networks are opened.

    Attributes:
        size: `(h, w)` that images are brought to; None: 299 for Inception, 224 for other
            classifiers, no change for segmentation networks. Of a user's network of volumes,
            extents that it takes.
        channels: of the images of a user's own model; None finds it out.
        range: the values of images that become 0 and 1.
        normalisation: what is done to images before a user's own model.
        labels: names of the classes; None takes those of the weights file, ImageNet's for a
            classifier of 1000 classes, or numbers.
        labels_from: what they are called in messages.
        ndims: what will do, the first first: 2 for networks of images, 3 for those of volumes.
        checkpoint: state dict that is loaded into a user's own PyTorch module.
        layout: of taps inside of the model, as `parse_layouts` reads it.
        mirror: a trained nnU-Net's output is the mean over mirrored inputs.
    """

    size: tuple[int, ...] | None = None
    channels: int | None = None
    range: tuple[float, float] | None = None
    normalisation: Normalisation | None = None
    labels: tuple[str, ...] | None = None
    labels_from: str = "the list of labels"
    seed: int = 0
    ndims: tuple[int, ...] = (2,)
    said: Said = Said()
    checkpoint: Path | None = None
    layout: tuple[str, ...] = ()
    mirror: bool = False

    def check_ndim(self, ndim: int, words: str) -> None:
        """Raises `InputError` if a network, named by its words, has dimensions that will not do."""
        if ndim in self.ndims:
            return
        if 2 in self.ndims:
            raise InputError(
                f"weights {words!r} belong to a {ndim}D network, but this command takes 2D "
                "images; explain volumes with `segcam instances` or `segcam context`"
            )
        raise InputError(
            f"weights {words!r} belong to a {ndim}D network, but this command takes volumes; "
            "explain images with `segcam explain`"
        )

    def __post_init__(self):
        check_seed(self.seed)
        if self.channels is not None and self.channels < 1:
            raise InputError(f"--channels was given {self.channels}; give at least 1")

    @classmethod
    def of(cls, said: Any) -> "OpenOptions":
        """Reads what is said of a network of images.

        Args:
            said: has the options of `segcam explain`, as the command line gives them.
        """
        size, range, normalisation = said.size, said.range, said.normalisation
        if size and not (len(size) <= 2 and _SMALLEST <= min(size) <= max(size) <= LARGEST):
            words = " ".join(map(str, size))
            raise InputError(
                f"--size was given {words}; give a height and a width (or one number for both) of "
                f"{_SMALLEST} to {LARGEST} pixels"
            )
        if len(range) not in (0, 2):
            given = " ".join(f"{value:g}" for value in range)
            raise InputError(
                f"--range was given {given}; give the value that becomes 0 and the value that "
                "becomes 1"
            )
        options = cls(
            size=(size[0], size[-1]) if size else None,
            channels=said.channels,
            range=(range[0], range[1]) if range else None,
            normalisation=None if normalisation is None else Normalisation.parse(normalisation),
            seed=said.seed or 0,
            said=Said(said.outputs, said.multi_label, tuple(said.threshold)),
            checkpoint=None if said.checkpoint is None else Path(said.checkpoint),
            layout=tuple(said.layout),
            mirror=said.mirror,
        )
        if said.labels is None:
            return options
        names, origin = tuple(read_labels(said.labels)), f"labels {str(said.labels)!r}"
        return dataclasses.replace(options, labels=names, labels_from=origin)


def parse_layouts(words: Sequence[str]) -> Mapping[str, str]:
    """Reads `TAP=chw`, ...: how taps lie inside of a model, without a batch."""
    found = {}
    for word in words:
        tap, equals, letters = word.rpartition("=")
        rest = letters.replace("c", "", 1)
        in_order = rest in ("dhw", "hw", "h", "w") or set(rest) == {"n"}
        if not (tap and equals and "c" in letters and in_order):
            raise InputError(
                f"--layout was given {word!r}; give TAP=LETTERS, the tap's axes as they lie "
                "inside of the model, without a batch: chw, hwc, cdhw, or n for positions that "
                "are not the image's (nc)"
            )
        if found.setdefault(tap, letters) != letters:
            raise InputError(f"--layout was given {tap!r} twice: {found[tap]} and {letters}")
    return found
