"""What is explained of every image of a run: as a person says it, and parsed."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from segcam_jax import schema
from segcam_jax.engine.execution import Precision
from segcam_jax.methods import MethodCall, find_all, parse_calls
from segcam_jax.networks.class_queries import ClassQuery, parse_queries
from segcam_jax.networks.image_inputs import Fit
from segcam_jax.networks.image_truths import TruthReading
from segcam_jax.networks.network import Network
from segcam_jax.networks.regions import Region
from segcam_jax.networks.spec import NetworkSpec, OpenOptions, check_seed
from segcam_jax.types import InputError, Outputs

# What a person types, and the field of `StudyOptions`.
_WORDS = {"tap": "taps", "method": "methods", "option": "options", "class": "classes"}
_FIELDS = {field: word for word, field in _WORDS.items()}
# What files of an older version say, and what it is called now.
_RENAMED = {"model": "weights"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """All that determines what is stored, but for the images: as a command line or a file says it.

    Attributes:
        weights: which network, as `NetworkSpec.parse` reads it.
        taps: where to explain: taps, `first`, `middle`, `last`, `conv:N` or `all`; none: the
            bottleneck, of a classifier the last block. Methods of the input use the input.
        methods: by name.
        options: of the methods, as `parse_calls` reads them.
        importance: weights of the channels, of a method that takes some.
        classes: by name, number or rank (`top:2`), each explained by itself, or `A rather than B`;
            `predicted` is `top:1`, as is none.
        outputs: what the network's output holds; None: what is known of it.
        multi_label: the classes do not exclude each other.
        threshold: where they do not, the probability above which they are predicted.
        checkpoint: file of weights for a user's own PyTorch module.
        mirror: a trained nnU-Net's output is the mean over mirrored inputs.
        labels: file of the classes' names.
        size: height and width that images are brought to, or one number for both.
        fit: how they are.
        range: the values of the files that become 0 and 1.
        channels: of a user's own model.
        normalisation: likewise.
        layout: of taps inside of the model, as `parse_layouts` reads it.
        region: the explained pixels, as `Region.parse` reads them; of several each by itself.
        min_probability: predicted pixels need a probability above this.
        mask_threshold: of the region `mask:FILE`, what lies above it is inside.
        truth: files or folders of masks, or maps of classes, that figures show; one for each image.
        truth_threshold: of these masks, as `TruthReading` has it.
        truth_value: likewise.
        truth_labels: likewise.
        of: whether logits or probabilities are explained.
        reduce: sum or mean over the region.
        precision: of convolutions and products after a tap, as in `Execution`.
        seed: of all random numbers.
        store: the type of stored maps.
        store_images: whether images are stored too.
        shard: items of a shard; None: 64, fewer of large images.
        batch: images at once; None: as many as serve, see `engine.images_at_once`.
    """

    # Words that a file cannot have.
    UNUSED: ClassVar[frozenset[str]] = frozenset()

    weights: str | None = None
    taps: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    importance: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    outputs: Outputs | None = None
    multi_label: bool = False
    threshold: tuple[float, ...] = ()
    checkpoint: str | None = None
    mirror: bool = False
    labels: str | None = None
    size: tuple[int, ...] = ()
    fit: Fit = "crop"
    range: tuple[float, ...] = ()
    channels: int | None = None
    normalisation: str | None = None
    layout: tuple[str, ...] = ()
    region: str | tuple[str, ...] = "predicted"
    min_probability: float | None = None
    mask_threshold: float | None = None
    truth: tuple[str, ...] = ()
    truth_threshold: float | None = None
    truth_value: int | None = None
    truth_labels: bool = False
    of: Literal["logits", "probabilities"] = "logits"
    reduce: Literal["sum", "mean"] = "sum"
    precision: Precision = "float32"
    seed: int = 0
    store: Literal["float32", "float16"] = "float32"
    store_images: bool = False
    shard: int | None = None
    batch: int | None = None

    def __post_init__(self):
        for name in ("shard", "batch"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise InputError(f"--{name} was given {given}; give at least 1")
        if self.batch is not None and self.batch & (self.batch - 1):
            raise InputError(f"--batch was given {self.batch}; give a power of two")
        check_seed(self.seed)
        if self.threshold and self.min_probability is not None:
            raise InputError("give one of --threshold and --min-probability")

    @functools.cached_property
    def queries(self) -> tuple[ClassQuery, ...]:
        """What is explained of an image that does not say so itself."""
        return parse_queries(self.classes)

    @functools.cached_property
    def regions(self) -> tuple[Region, ...]:
        """The explained pixels of an image that does not say so itself, each by themselves.

        Raises:
            InputError: if there are none, or as `Region.parse`.
        """
        words = (self.region,) if isinstance(self.region, str) else self.region
        if not words:
            raise InputError("no region was given; give at least one, such as `predicted`")
        return tuple(map(self.region_of, dict.fromkeys(words)))

    @property
    def where(self) -> Region:
        """The first of these."""
        return self.regions[0]

    def region_of(self, words: str) -> Region:
        """A region, narrowed as the options say."""
        of_file = words.partition(":")[0].strip().lower() == "mask"
        threshold = self.mask_threshold if of_file else None
        return Region.parse(words, min_probability=self.min_probability, mask_threshold=threshold)

    @functools.cached_property
    def truth_reading(self) -> TruthReading:
        """What the values of truths mean."""
        said = (self.truth_threshold, self.truth_value, self.truth_labels)
        return TruthReading.parse(self.truth, *said)

    @functools.cached_property
    def calls(self) -> tuple[MethodCall, ...]:
        """The methods with their options."""
        calls = parse_calls(find_all(self.methods), self.options)
        taking = [call.method.name for call in calls if call.method.takes("weights")]
        if bool(taking) != bool(self.importance):
            raise InputError(
                f"{taking[0]} needs weights of the channels; give a file of them (--importance)"
                if taking
                else "--importance gives channel weights, but no chosen method takes them"
            )
        given = (("weights", self.importance),) if taking else ()
        return tuple(
            dataclasses.replace(call, options=tuple(sorted((*call.options, *given))))
            if call.method.name in taking
            else call
            for call in calls
        )

    @functools.cached_property
    def opening(self) -> OpenOptions:
        """How the network is opened."""
        return OpenOptions.of(self)

    @property
    def network(self) -> NetworkSpec:
        """Which network."""
        return NetworkSpec.parse(self.weights)

    def checked(self) -> Self:
        """Itself, all of it parsed, methods by the names of the registry.

        Raises:
            InputError: if a name is unknown, or a value is out of range.
        """
        _ = self.network, self.queries, self.where, self.calls, self.opening, self.truth_reading
        names = tuple(call.method.name for call in self.calls)
        return dataclasses.replace(self, methods=names, taps=tuple(dict.fromkeys(self.taps)))

    def check(self, network: Network, goals: Iterable["Goal"] = ()) -> None:
        """Checks what can be checked with the network and without an image.

        Args:
            network: that explains itself.
            goals: what is explained of images that say so themselves.

        Raises:
            InputError: if pixels are chosen of a classifier, or a method compares classes by itself
                and a class is to be explained rather than another.
            TargetError: if it has no such class.
        """
        own = tuple(goals)
        queries = dict.fromkeys((*self.queries, *(goal.query for goal in own)))
        for query in queries:
            query.check(network.labels)
        contrasting = [call.method.name for call in self.calls if call.method.contrasts]
        compared = [query.words for query in queries if query.second is not None]
        if contrasting and compared:
            raise InputError(
                f"{contrasting[0]} compares classes by itself; explain one class, not "
                f"{compared[0]!r}"
            )
        if not network.classifies:
            return
        if len(self.regions) > 1:
            raise InputError(
                f"{network.name} classifies whole images, but {len(self.regions)} regions were "
                "given; leave out --region"
            )
        kinds = {*(region.kind for region in self.regions), *(goal.region.kind for goal in own)}
        given = self.min_probability is not None or not kinds <= {"predicted", "all"}
        if given or self.truth or self.reduce != "sum":
            raise InputError(
                f"{network.name} classifies whole images; leave out regions, masks, truths, "
                "--min-probability and --reduce"
            )

    def to_words(self) -> dict[str, Any]:
        """Values that JSON and TOML can hold, by the words of the command line; no defaults."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            _FIELDS.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != defaults[name]
        }

    @classmethod
    def _several(cls, field: str) -> bool:
        """Whether a field takes several values."""
        return isinstance(getattr(cls, field, None), tuple)

    @classmethod
    def of_words(cls, words: Mapping[str, Any], origin: str) -> Self:
        """Reads what `to_words` or a person wrote.

        Args:
            words: values by the words of the command line, dashes or underscores in them.
            origin: what holds them, in messages.

        Raises:
            InputError: if a word is unknown, or a value is of another type.
        """
        known = [_FIELDS.get(field.name, field.name) for field in dataclasses.fields(cls)]
        given = {}
        for word, value in words.items():
            plain = word.replace("-", "_")
            plain = plain if plain in known else _RENAMED.get(plain, plain)
            if plain in given:
                raise InputError(f"{origin} gives {plain!r} by two names; leave one out")
            if _WORDS.get(plain, plain) in cls.UNUSED:
                raise InputError(f"{origin} has the key {word!r}, which has no meaning here")
            one = isinstance(value, (str, int, float)) and cls._several(_WORDS.get(plain, plain))
            given[plain] = [value] if one else value
        return schema.read(given, cls, origin, words=_FIELDS)


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is explained of an image, where a list says so for each.

    Attributes:
        name: of both, where regions tell apart what is explained; empty: that of the class.
    """

    query: ClassQuery
    region: Region
    name: str = ""

    @property
    def title(self) -> str:
        """What it is called among those of an image."""
        return self.name or self.query.name
