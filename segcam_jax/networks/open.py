"""Networks opened by the words that name them, with their classes' names and their images' size."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from segcam_jax import _files, models
from segcam_jax.adapters import from_nnx
from segcam_jax.data.images import Reading
from segcam_jax.data.labels import IMAGENET_CLASSES, check_labels, imagenet_labels, read_labels
from segcam_jax.networks import user_models as own
from segcam_jax.networks.layers import RANDOM, USUAL_SIDE, Subject
from segcam_jax.networks.network import Network, Said, meaning_of, open_network
from segcam_jax.networks.user_code import is_own
from segcam_jax.types import InputError, nearest_first

_SIDES = {"inception": 299}
_SMALLEST = 16


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How networks are opened.

    Attributes:
        size: `(h, w)` that images are brought to; None: 299 for Inception, 224 for other
            classifiers, no change for segmentation networks. Of a user's network of volumes,
            extents that it takes.
        channels: of the images of a user's own model; None finds it out.
        range: of the images' values, none or the two that become 0 and 1.
        normalisation: what is done to images before a user's own model, see `own.moments_of`.
        labels: names of the classes; None takes those of the weights file, ImageNet's for a
            classifier of 1000 classes, or numbers.
        labels_from: what they are called in messages.
        seed: of random weights.
        volumes: whether a network of volumes will do.
        said: what is said of its output.
    """

    size: tuple[int, ...] | None = None
    channels: int | None = None
    range: tuple[float, ...] = ()
    normalisation: str | None = None
    labels: Sequence[str] | None = None
    labels_from: str = "the list of labels"
    seed: int = 0
    volumes: bool = False
    said: Said = Said()

    def with_labels(self, path: str | Path | None) -> "Wanted":
        """The same with the labels of a file, if there is one.

        Raises:
            InputError: if it cannot be read.
        """
        if path is None:
            return self
        labels, origin = read_labels(path), f"labels {str(path)!r}"
        return dataclasses.replace(self, labels=labels, labels_from=origin)


def size_of(numbers: Sequence[int]) -> tuple[int, int] | None:
    """`(h, w)` of no, one or two numbers.

    Raises:
        InputError: if they are more, or too small.
    """
    if not numbers:
        return None
    if len(numbers) > 2 or min(numbers) < _SMALLEST:
        words = " ".join(map(str, numbers))
        raise InputError(
            f"size {words}; give a height and a width (or one number for both) of at least "
            f"{_SMALLEST} pixels"
        )
    return numbers[0], numbers[-1]


def open_subject(
    words: str, wanted: Wanted = Wanted(), *, model: str | None = None, taken: Sequence[str] = ()
) -> Subject:
    """Opens a network.

    Args:
        words: a name or a file as `models.load` takes them, `random:NAME` for a classifier with
            random weights, or `module:factory` for a user's own model.
        wanted: how.
        model: the network expected in a weights file.
        taken: names that the subject must not have.

    Raises:
        InputError: if it cannot be opened, or has another number of classes than labels.
    """
    size, note = wanted.size, ""
    if is_own(words):
        made = own.open_own(
            words,
            size=size,
            channels=wanted.channels,
            normalisation=wanted.normalisation,
            ndims=(2, 3) if wanted.volumes else (2,),
            said=wanted.said,
        )
        network, size, note = made.network, made.size, made.note
    else:
        _check_built_in(words, wanted)
        is_random = words.startswith(RANDOM)
        network = _random(words, wanted) if is_random else _trained(words, model, wanted)
    reading = _reading(wanted, own=is_own(words))
    subject = Subject(_free_name(words, taken), network, network.class_names, size, note, reading)
    if subject.classifies and wanted.said.threshold:
        raise InputError(f"{subject.name} classifies whole images; leave out --threshold")
    if size is None and not is_own(words) and subject.classifies:
        side = _SIDES.get(network.model.name, USUAL_SIDE)
        subject = dataclasses.replace(subject, size=(side, side))
    return dataclasses.replace(subject, labels=_labels(subject, wanted))


def open_subjects(given: Sequence[str], wanted: Wanted = Wanted()) -> list[Subject]:
    """Opens several networks.

    Raises:
        InputError: as `open_subject`, or if none is given, or one twice.
    """
    if not given:
        raise InputError("no model was given; add --models with a name or a file")
    doubled = [word for word in given if given.count(word) > 1]
    if doubled:
        raise InputError(f"model {doubled[0]!r} was given twice")
    subjects: list[Subject] = []
    for words in given:
        taken = [each.name for each in subjects]
        subjects.append(open_subject(words, wanted, taken=taken))
    return subjects


def _reading(wanted: Wanted, *, own: bool) -> Reading:
    """What the values of images mean.

    Raises:
        InputError: if the range is not two numbers.
    """
    if len(wanted.range) not in (0, 2):
        given = " ".join(f"{value:g}" for value in wanted.range)
        raise InputError(f"range {given}; give the value that becomes 0 and that which becomes 1")
    between = (wanted.range[0], wanted.range[1]) if wanted.range else None
    return Reading(between, as_stored=own and wanted.normalisation == "none")


def _check_built_in(words: str, wanted: Wanted) -> None:
    """Raises `InputError` for what holds for users' own models alone."""
    for option in ("channels", "normalisation"):
        if getattr(wanted, option) is not None:
            raise InputError(
                f"--{option} is for models of your own (module:factory); {words!r} knows its own"
            )


def _free_name(words: str, taken: Sequence[str]) -> str:
    stem = Path(words.removeprefix(RANDOM)).name.removesuffix(".safetensors")
    if is_own(words):
        stem = stem.replace(".py:", "-").replace(":", "-")
    return _files.unique_names([_files.file_name(stem) or "model"], taken)[0]


def _trained(words: str, model: str | None, wanted: Wanted) -> Network:
    if words in models.CLASSIFIERS and not Path(words).exists():
        raise InputError(
            f"model {words!r} has no trained weights here; give a file that `segcam convert` "
            f"wrote, or {RANDOM}{words} for random weights"
        )
    return open_network(words, model, volumes=wanted.volumes, said=wanted.said)


def _random(words: str, wanted: Wanted) -> Network:
    seed = wanted.seed
    name = words.removeprefix(RANDOM)
    if name not in models.CLASSIFIERS:
        choices = ", ".join(nearest_first(name, models.CLASSIFIERS))
        raise InputError(f"unknown model {name!r} after {RANDOM!r}; choose from {choices}")
    family, _ = models.CLASSIFIERS[name]
    model = models.randomised(lambda: models.classifier(name, normalisation="imagenet"), seed=seed)
    fn, params = from_nnx(model)
    loaded = models.LoadedModel(family, fn, params, model.config, {})
    digest = _files.digest_of(f"{words} {seed}")
    return Network(words, Path(words), digest, loaded, meaning_of(loaded, wanted.said))


def _labels(subject: Subject, wanted: Wanted) -> list[str]:
    network = subject.network
    classes = network.model.config.classes
    if wanted.labels is not None:
        check_labels(list(wanted.labels), classes, f"{wanted.labels_from}, for {network.given!r},")
        return list(wanted.labels)
    known = network.model.metadata.get("classes")
    if not known and classes == IMAGENET_CLASSES and subject.classifies:
        return imagenet_labels()
    return network.class_names
