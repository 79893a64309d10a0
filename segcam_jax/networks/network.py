"""A network opened for a sweep: its weights' digest, its taps and splits, its logits."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from segcam_jax import _files, models, taps
from segcam_jax._jaxpr import probabilities
from segcam_jax.networks import user_faults as blame
from segcam_jax.networks.user_code import is_own
from segcam_jax.outputs import THRESHOLD, Meaning, declared
from segcam_jax.targets import Of
from segcam_jax.types import InputError, Outputs, SegcamError, TargetError, nearest_first

_NEAREST = 12


@dataclasses.dataclass(frozen=True)
class Said:
    """What a user says of a network's output.

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
                "--threshold is for classes that do not exclude each other (--multi-label); "
                "predicted pixels of others are narrowed by --min-probability"
            )
        several: Any = self.threshold if len(self.threshold) > 1 else None
        threshold = several or (self.threshold[0] if self.threshold else THRESHOLD)
        return Meaning(self.outputs or outputs, exclusive, threshold).checked(classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with its weights, as a sweep uses it.

    Attributes:
        given: the weights as the user named them.
        path: their file.
        sha256: of that file.
        model: the network.
        meaning: what its output means.
    """

    given: str
    path: Path
    sha256: str
    model: models.LoadedModel
    meaning: Meaning = Meaning("logits")

    @property
    def key(self) -> list[Any]:
        """What its answers depend on."""
        return [self.sha256, self.meaning.to_json()]

    @functools.cached_property
    def _forward(self):
        return jax.jit(self.model.fn)

    @property
    def class_names(self) -> list[str]:
        """A name for every class: those of the weights' file, numbers where it has none."""
        known = [str(name) for name in self.model.class_names]
        return [*known, *map(str, range(len(known), self.model.config.classes))]

    def logits(self, padded: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w k"]:
        """The network's output for one image, on the host: logits, or probabilities.

        Raises:
            InputError: if it is NaN or infinite; -inf is how some networks rule a class out.
            TargetError: if it is not what is said of it.
        """
        with self._blamed(padded.shape):
            output = np.asarray(self._forward(self.model.params, padded), np.float32)
        ruled_out = (output == -np.inf).all(-1).any()
        if ruled_out or not (np.isfinite(output) | (output == -np.inf)).all():
            raise InputError(
                "the network's output holds NaN or infinite values; its weights are broken"
            )
        self.meaning.check_values(output)
        return output

    def predicted_labels(self, output: Float[np.ndarray, "*space k"]) -> Int[np.ndarray, "*space"]:
        """The predicted class of each position, -1 where none is; the first of several.

        Raises:
            TargetError: if the output is not what is said of it.
        """
        self.meaning.check_values(output)
        masks = np.asarray(self.meaning.predicted(output))
        return np.where(masks.any(-1), masks.argmax(-1), -1)

    def list_taps(self, shape: tuple[int, ...]) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The taps with their shapes for an image of a shape `h w c`."""
        x = jax.ShapeDtypeStruct(shape, np.float32)
        with self._blamed(shape):
            return taps.list_taps(self.model.fn, self.model.params, x)

    def bottleneck(self, shape: tuple[int, ...]) -> str:
        """The tap at the coarsest resolution, for images of a shape `h w c`."""
        return taps.bottleneck(self.list_taps(shape))

    def split(self, tap: str, shape: tuple[int, ...]) -> taps.Split:
        """The network cut at a tap, for images of a shape `h w c`."""
        x = jax.ShapeDtypeStruct(shape, np.float32)
        with self._blamed(shape):
            return taps.split(
                self.model.fn, tap, self.model.params, x, outputs=self.meaning.outputs
            )

    def exclusive_doubt(self) -> str:
        """What there is to say of named classes without a background; else empty."""
        classes, names = self.model.config.classes, self.model.metadata.get("classes") or ()
        if not (self.meaning.excludes(classes) and names) or find_background(names):
            return ""
        return (
            f"{self.given}: none of its classes is called background; they are taken to exclude "
            "each other (softmax). If they have a probability each (sigmoid), say --multi-label"
        )

    def explained_as(self, of: Of) -> str:
        """What there is to say of logits that are asked for where there are none; else empty."""
        if of == "probabilities" or self.meaning.outputs != "probabilities":
            return ""
        return f"{self.given}: its output holds probabilities, which are explained as they are"

    @contextlib.contextmanager
    def _blamed(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Says in one line where a user's own model fails; other faults are this library's."""
        try:
            yield
        except SegcamError:
            raise
        except Exception as error:
            if not is_own(self.given) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            size = " x ".join(map(str, shape))
            what = "an image" if len(shape) == 3 else "a volume"
            raise InputError(
                f"{self.given} fails on {what} of {size}: {blame.in_words(error)}"
            ) from None


def open_network(
    weights: str, model: str | None = None, *, volumes: bool = False, said: Said = Said()
) -> Network:
    """Opens bundled weights by name, or a file, for 2D images.

    Args:
        weights: as `models.load` takes them.
        model: the network expected in the file.
        volumes: whether a network of volumes will do, too.
        said: what the user says of its output.

    Raises:
        InputError: if they cannot be opened, or the network is not one of 2D images.
    """
    path = models.path_of(weights)
    loaded = models.load(weights, model=model)
    if loaded.config.ndim != 2 and not volumes:
        raise InputError(
            f"weights {weights!r} are of a {loaded.config.ndim}D network, and this command takes "
            "2D images: explain volumes by `segcam instances` or `segcam context`"
        )
    return Network(weights, path, _files.sha256_of(path), loaded, meaning_of(loaded, said))


def meaning_of(loaded: models.LoadedModel, said: Said) -> Meaning:
    """What the output of a network means: as said, or as its weights say; else logits."""
    about = loaded.metadata
    return said.meaning(
        loaded.config.classes,
        outputs=about.get("outputs", "logits"),
        multi_label=bool(about.get("multi_label")),
    )


def check_map(tap: str, struct: jax.ShapeDtypeStruct) -> None:
    """Checks that a map of a tap's positions can be drawn over the input.

    Raises:
        InputError: if it has none, or positions of its own.
    """
    if taps.is_map(struct):
        return
    shape = tuple(struct.shape)
    what = "no positions"
    if math.prod(shape[:-1]) > 1:
        what = f"positions of its own, {' x '.join(map(str, shape[:-1]))}, not the image's"
    raise InputError(
        f"tap {tap!r} has shape {shape} and {what}, so no map; name an earlier one "
        "(`segcam layers` lists them)"
    )


def find_class(words: str, names: Sequence[str]) -> int:
    """The class of a number or a name; of several names in one (`"tabby, tabby cat"`), each does.

    Raises:
        TargetError: if there is no such class; the nearest name comes first.
    """
    wanted = words.strip().casefold()
    folded = [name.casefold() for name in names]
    if words in names or wanted in folded:
        return list(names).index(words) if words in names else folded.index(wanted)
    for index, name in enumerate(folded):
        if wanted in [part.strip() for part in name.split(",")]:
            return index
    if words.isascii() and words.isdigit() and int(words) < len(names):
        return int(words)
    inside = [name for name in names if wanted and wanted in name.casefold()]
    numeric = words.lstrip("-").isdigit()
    near = list(names) if numeric else [*inside, *nearest_first(words, names)]
    near = list(dict.fromkeys(near))
    told = ", ".join(near[:_NEAREST]) + (", ..." if len(near) > _NEAREST else "")
    raise TargetError(
        f"class {words!r} is not a class of the model; it has {len(names)}, 0 to "
        f"{len(names) - 1}: {told}"
    )


def traced_meaning(
    fn: Callable, params: Any, x: Any, classes: int, said: Said
) -> tuple[Meaning, str]:
    """What the output of a user's own model means, and how that is known, in words.

    As said or as its adapter was told; else as its last operations tell, where a sigmoid over
    several classes means that they do not exclude each other.
    """
    told = declared(fn, said.outputs)
    ending = probabilities.ending_of(fn, params, x)
    apart = not told and ending == "sigmoid" and classes > 1
    found = told or ("probabilities" if ending else None)
    meaning = said.meaning(classes, outputs=found, multi_label=apart)
    each = " of classes that do not exclude each other" if not meaning.exclusive else ""
    if told:
        though = f", though it ends in a {ending}" if ending and told == "logits" else ""
        return meaning, f"its output holds {told}{each}, as declared{though}"
    if ending:
        return meaning, f"its output ends in a {ending}, so it holds probabilities{each}"
    return meaning, f"its output is taken for logits{each}"


@dataclasses.dataclass(frozen=True)
class Background:
    """The class that stands for what no other class is.

    Attributes:
        index: of the class.
        assumed: whether its number alone says so.
    """

    index: int
    assumed: bool


def find_background(
    names: Sequence[str], *, exclusive: bool = True, known: Sequence[str] = ()
) -> Background | None:
    """The background among the classes of a segmentation network.

    It is the class named background, in any case and with underscores around (`__background__`).
    Where no name says so and class 0 has no name but its number, class 0 is taken for it, as nearly
    all label maps have it: among classes that exclude each other, for others need none.

    Args:
        names: of the classes, a number where nothing is known.
        exclusive: whether a pixel has one class only.
        known: names that the weights hold, where the user has given others.

    Returns:
        None if there is no background, or one class only.
    """
    if len(names) < 2:
        return None
    for each in (names, known):
        parts = [[part.strip().strip("_").casefold() for part in n.split(",")] for n in each]
        found = [index for index, words in enumerate(parts) if "background" in words]
        if found:
            return Background(found[0], False)
    return Background(0, True) if exclusive and names[0] == "0" else None
