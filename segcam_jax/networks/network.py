"""A network with its weights: what its output means, which images it takes, its taps and splits."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from segcam_jax import engine, faults, models, taps
from segcam_jax.data.images import Reading
from segcam_jax.data.preparation import Step
from segcam_jax.engine.sliding import Windows
from segcam_jax.networks.spec import NetworkSpec, OpenOptions
from segcam_jax.outputs import Meaning
from segcam_jax.taps import Split, TapStruct
from segcam_jax.targets import Of
from segcam_jax.types import InputError, SegcamError, TapError, near

USUAL_SIDE = 224
USUAL_VOLUME = 64


@dataclasses.dataclass(frozen=True)
class Background:
    """The class that stands for what no other class is.

    Attributes:
        assumed: whether its number alone says so.
    """

    index: int
    assumed: bool


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """What is known of a network that the folder of a training framework describes.

    Attributes:
        multiples: what extents must be multiples of, along each axis.
        classifies: never; each position has logits.
    """

    in_channels: int
    classes: int
    multiples: tuple[int, ...]
    classifies: bool = False

    @property
    def ndim(self) -> int:
        """2 of images, 3 of volumes."""
        return len(self.multiples)

    @property
    def multiple(self) -> int:
        """A multiple that serves all axes."""
        return math.lcm(*self.multiples)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is run over scans, as the folder of its training framework says.

    Attributes:
        preparation: what is done to a scan first.
        overlap: of neighbouring windows, as a share of a window.
        windows: whose grid and weights they have.
    """

    preparation: tuple[Step, ...]
    roi: tuple[int, ...]
    overlap: float
    windows: Windows


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network that images are shown to.

    Attributes:
        spec: which one the user named.
        path: the file of its weights or of its source.
        sha256: of its weights, or of all that a user's own model is made of.
        model: the network.
        meaning: what its output means.
        name: for files and tables; no other network of a run has it.
        labels: a name for every class.
        size: `(h, w)` that images are brought to, or the only extents of a volume; None where any
            size will do.
        note: what was found out about a user's own model, or its weights, in words.
        reading: what the values of its images' files mean.
        layouts: how taps lie inside of it, where that is said: `"chw"` has its channels first.
        recipe: how it is run over scans, where its folder says so.
        opening: how it was opened.
    """

    spec: NetworkSpec
    path: Path
    sha256: str
    model: models.LoadedModel
    meaning: Meaning = Meaning("logits")
    name: str = ""
    labels: Sequence[str] = ()
    size: tuple[int, ...] | None = None
    note: str = ""
    reading: Reading = dataclasses.field(default_factory=Reading)
    layouts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recipe: Recipe | None = None
    opening: OpenOptions = OpenOptions()

    @property
    def config(self) -> Any:
        """The network's configuration: `in_channels`, `classes`, `ndim`, `multiple`."""
        return self.model.config

    @property
    def params(self) -> Any:
        """Its parameters."""
        return self.model.params

    @property
    def fn(self) -> Callable:
        """`fn(params, x) -> output`, one example."""
        return self.model.fn

    @property
    def key(self) -> list[Any]:
        """What its answers depend on."""
        reading = [self.reading.range, self.reading.as_stored]
        said = [sorted(self.layouts.items())] if self.layouts else []
        return [self.sha256, self.meaning.to_json(self.config.classes), self.size, *reading, *said]

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.spec.kind == "random"

    @property
    def title(self) -> str:
        """The name, and whether there is anything to be learned from it."""
        return f"{self.name} (random weights)" if self.random else self.name

    @property
    def multiples(self) -> tuple[int, ...]:
        """What the extents of an image must be multiples of, along each axis."""
        return getattr(self.config, "multiples", (self.config.multiple,) * self.config.ndim)

    @property
    def extent(self) -> tuple[int, ...]:
        """The size that images are brought to, or some that such a network takes."""
        usual = USUAL_SIDE if self.config.ndim == 2 else USUAL_VOLUME
        size = self.size or (self.recipe.roi if self.recipe else (usual,) * self.config.ndim)
        return tuple(-(-n // each) * each for n, each in zip(size, self.multiples, strict=True))

    @functools.cached_property
    def taps(self) -> Mapping[str, TapStruct]:
        """Its taps, for an image of its size, or of one that every such network takes."""
        return self.list_taps((*self.extent, self.config.in_channels))

    @property
    def classifies(self) -> bool:
        """Whether the output is one vector of logits, not one for each pixel."""
        families = {family for family, _ in models.CLASSIFIERS.values()}
        return getattr(self.config, "classifies", self.model.name in families)

    @property
    def background(self) -> Background | None:
        """The class of a segmentation network that is explained only when asked for."""
        if self.classifies:
            return None
        known, exclusive = self.model.class_names, self.meaning.exclusive
        return find_background(self.labels, exclusive=exclusive, known=known)

    @property
    def background_index(self) -> int | None:
        """The number of that class."""
        return None if self.background is None else self.background.index

    @functools.cached_property
    def _forward(self) -> Callable:
        return engine.compiled_function(self.fn)

    def logits(self, padded: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "*space k"]:
        """The network's output for one image, on the host: logits, or probabilities.

        Raises:
            InputError: if it is NaN or infinite; -inf is how some networks rule a class out.
            TargetError: if it is not what was declared.
        """
        with self.blamed(padded.shape):
            output = np.asarray(self._forward(self.params, padded), np.float32)
        self.check_output(output)
        return output

    def check_output(self, output: Float[np.ndarray, "*space k"]) -> None:
        """Checks the output for one image.

        Raises:
            InputError: if it is NaN or infinite; -inf is how some networks rule a class out.
            TargetError: if it is not what was declared.
        """
        if not np.isfinite(output).all():
            out = output == -np.inf
            if out.all(-1).any() or not (np.isfinite(output) | out).all():
                raise InputError(
                    "the network's output holds NaN or infinite values; its weights are broken"
                )
        self.meaning.check_values(output)

    def list_taps(self, shape: tuple[int, ...]) -> Mapping[str, TapStruct]:
        """The taps with their shapes for an image of a shape `h w c`."""
        x = jax.ShapeDtypeStruct(shape, np.float32)
        with self.blamed(shape):
            found = taps.list_taps(self.fn, self.params, x, channel_axes=self._channel_axes)
        for tap, letters in self.layouts.items():
            if tap not in found:
                raise TapError(f"--layout was given {tap!r}, which is not a tap{near(tap, found)}")
            if len(letters) != len(found[tap].inside):
                raise TapError(
                    f"--layout was given {tap}={letters}; the tap has {found[tap].shape}, "
                    f"{len(found[tap].inside)} axes"
                )
        return found

    @property
    def _channel_axes(self) -> Mapping[str, int]:
        return {tap: letters.index("c") for tap, letters in self.layouts.items()}

    def bottleneck(self, shape: tuple[int, ...]) -> str:
        """The tap at the coarsest resolution, for images of a shape `h w c`."""
        return taps.bottleneck(self.list_taps(shape))

    def split(self, tap: str, shape: tuple[int, ...]) -> Split:
        """The network cut at a tap, for images of a shape `h w c`."""
        x = jax.ShapeDtypeStruct(shape, np.float32)
        with self.blamed(shape):
            return taps.split(
                self.fn,
                tap,
                self.params,
                x,
                outputs=self.meaning.outputs,
                channel_axis=self._channel_axes.get(tap),
            )

    def exclusive_doubt(self) -> str:
        """What there is to say of named classes without a background; else empty."""
        classes, names = self.config.classes, self.model.metadata.get("classes") or ()
        if not (self.meaning.excludes(classes) and names) or find_background(names):
            return ""
        return (
            f"{self.spec.words}: none of its classes is called background, and segcam assumes "
            "that they exclude each other (softmax). If each has its own probability (sigmoid), "
            "give --multi-label"
        )

    def explained_as(self, of: Of) -> str:
        """What there is to say of logits that are asked for where there are none; else empty."""
        if of == "probabilities" or self.meaning.outputs != "probabilities":
            return ""
        return f"{self.spec.words}: its output holds probabilities, which segcam explains unchanged"

    @contextlib.contextmanager
    def blamed(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Says in one line where a user's own model fails; other faults are this library's."""
        try:
            yield
            return
        except faults.ModelError as error:
            cause, how = error.__cause__ or error, error.rest
        except (SegcamError, KeyboardInterrupt):
            raise
        except BaseException as error:  # A user's own model may end the program, too.
            cause, how = error, f": {faults.words_of(error)}"
        if self.spec.kind not in ("user", "nnunet", "bundle") or "RESOURCE_EXHAUSTED" in str(cause):
            raise cause
        size = " x ".join(map(str, shape))
        what = "an image" if len(shape) == 3 else "a volume"
        raise InputError(f"{self.spec.words} fails on {what} of {size}{how}") from None


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
