"""What a run of explanations is asked for: plain values, checked, and what methods get of them."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from segcam_jax.engine.execution import Precision
from segcam_jax.methods import MethodCall, find_all, parse_calls
from segcam_jax.networks.class_queries import ClassQuery, parse_queries
from segcam_jax.networks.image_inputs import Fit
from segcam_jax.networks.regions import Region
from segcam_jax.networks.spec import OpenOptions, Said
from segcam_jax.reports import display
from segcam_jax.taps import INPUT
from segcam_jax.targets import Of
from segcam_jax.types import InputError, Outputs, nearest_first

_CHOICES = {
    "of": get_args(Of),
    "outputs": (None, *get_args(Outputs)),
    "reduce": ("sum", "mean"),
    "fit": get_args(Fit),
    "precision": get_args(Precision),
}
# The types of options whose default is None.
_OF_NONE: dict[str, type] = {
    "class_index": str,
    "outputs": str,
    "min_probability": float,
    "mask_threshold": float,
    "colormap": str,
    "labels": str,
    "normalisation": str,
    "channels": int,
}
_OF_METHODS = ("window", "stride", "samples", "sigma", "steps")
_NUMBERS: dict[str, type] = {"size": int, "range": float, "threshold": float}


@dataclasses.dataclass(frozen=True)
class ExplainOptions:
    """All that determines the maps and figures of a run, but for images and weights.

    Attributes:
        taps: where to explain, as `layers.find_layer` reads it; empty: the bottleneck, of a
            classifier the last block. Input methods always use the input.
        methods: names of methods.
        class_index: number or name of the class; None: those of `classes` or `top`.
        classes: classes by name, number or rank (`top:2`), each explained by itself.
        top: where no class is given, how many of those predicted: the most probable ones of an
            image; the most frequent ones of pixels but the background.
        outputs: what the network's output holds; None: what is known of it.
        multi_label: the classes do not exclude each other: each has a probability of its own.
        threshold: where they do not, probabilities above it are predicted: none (0.5), one number,
            or one per class.
        labels: file of the classes' names; None: those of the weights, or ImageNet's.
        size: of the images, none, one or two numbers; see `OpenOptions`.
        fit: how images are brought to that size.
        range: of the images' values, none or the two that become 0 and 1.
        channels: of a user's own model.
        normalisation: likewise.
        region: the explained pixels, as `Region.parse` reads them.
        min_probability: predicted pixels need a probability above this.
        mask_threshold: of the region `mask:FILE`, what lies above it is inside.
        of: whether logits or probabilities are explained.
        reduce: sum or mean over the region.
        profile: how raw maps become heatmaps: a profile, or `auto`, as `display` has it.
        smoothing: standard deviation in pixels of a Gaussian on the heatmaps; 0 for none.
        window: extent of a window, of methods that have this option.
        stride: distance of windows, likewise.
        samples: noisy copies, likewise.
        sigma: noise as a share of the image's range, likewise.
        steps: points of a quadrature, likewise.
        option: options of methods, as `registry.parse_calls` reads them.
        precision: of convolutions and products after the tap, as in `Execution`.
        seed: of all random numbers.
        colormap: a matplotlib colour table; None: the library's.
    """

    taps: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    class_index: str | None = None
    classes: tuple[str, ...] = ()
    top: int = 1
    outputs: Outputs | None = None
    multi_label: bool = False
    threshold: tuple[float, ...] = ()
    labels: str | None = None
    size: tuple[int, ...] = ()
    fit: Fit = "crop"
    range: tuple[float, ...] = ()
    channels: int | None = None
    normalisation: str | None = None
    region: str = "predicted"
    min_probability: float | None = None
    mask_threshold: float | None = None
    of: Literal["logits", "probabilities"] = "logits"
    reduce: Literal["sum", "mean"] = "sum"
    profile: str = display.AUTO
    smoothing: float = 0.0
    window: int = 1
    stride: int = 1
    samples: int = 50
    sigma: float = 0.15
    steps: int = 50
    option: tuple[str, ...] = ()
    precision: Precision = "float32"
    seed: int = 0
    colormap: str | None = None

    @functools.cached_property
    def queries(self) -> tuple[ClassQuery, ...]:
        """What is explained of every image."""
        words = self.classes if self.class_index is None else (self.class_index,)
        return parse_queries(top=self.top, classes=words)

    @functools.cached_property
    def where(self) -> Region:
        """The explained pixels."""
        return Region.parse(
            self.region, min_probability=self.min_probability, mask_threshold=self.mask_threshold
        )

    @functools.cached_property
    def opening(self) -> OpenOptions:
        """How the network is opened."""
        return OpenOptions.parse(
            size=self.size,
            range=self.range,
            normalisation=self.normalisation,
            labels=self.labels,
            channels=self.channels,
            seed=self.seed,
            said=Said(self.outputs, self.multi_label, self.threshold),
        )

    @functools.cached_property
    def calls(self) -> tuple[MethodCall, ...]:
        """The methods with their options; what is as it was before anybody chose is not given."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = {name: getattr(self, name) for name in _OF_METHODS}
        chosen = {name: value for name, value in given.items() if value != defaults[name]}
        return parse_calls(find_all(self.methods), self.option, chosen)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def from_json(values: Any) -> ExplainOptions:
    """Reads what `to_json` made.

    Raises:
        InputError: if a field is unknown or of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(ExplainOptions)}
    if not isinstance(values, Mapping) or not values.keys() <= fields.keys():
        raise InputError("the options are not those of this version of segcam_jax")
    kwargs: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
    }
    for key, value in kwargs.items():
        default = fields[key].default
        kind = _OF_NONE.get(key) or type(default)
        allowed = (int, float) if kind is float else kind
        each = _NUMBERS.get(key, str)
        inside = not isinstance(value, tuple) or all(type(one) is each for one in value)
        none = value is None and default is None
        boolean = isinstance(value, bool) and kind is not bool
        if not none and (boolean or not isinstance(value, allowed) or not inside):
            raise InputError(f"option {key!r} is {value!r}, not of the type {kind.__name__}")
    return ExplainOptions(**kwargs)


def checked(options: ExplainOptions) -> ExplainOptions:
    """Returns the options with their names resolved.

    Raises:
        InputError: if a name is unknown or a number is out of range.
    """
    names = tuple(method.name for method in find_all(options.methods))
    options = dataclasses.replace(options, methods=names, taps=tuple(dict.fromkeys(options.taps)))
    display.check(options.profile)
    for field, choices in _CHOICES.items():
        if getattr(options, field) not in choices:
            raise InputError(f"`{field}` is {getattr(options, field)!r}; choose from {choices}")
    _check_classes(options)
    # Values are parsed when they are first asked for: their faults are told now.
    _ = options.calls, options.where, options.queries, options.opening
    for field in ("window", "stride", "samples", "steps"):
        if getattr(options, field) < 1:
            raise InputError(f"`{field}` is {getattr(options, field)}; give at least 1")
    for field in ("smoothing", "sigma"):
        value = getattr(options, field)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"`{field}` is {value}; give a finite number that is not negative")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"`seed` is {options.seed}; give a number from 0 to below 2^32")
    _check_colormap(options.colormap)
    return options


def _check_classes(options: ExplainOptions) -> None:
    """Raises `InputError` if classes are chosen in two ways, or predicted pixels are."""
    given = [options.class_index is not None, bool(options.classes), options.top != 1]
    if sum(given) > 1:
        raise InputError("give one of --class-index, --classes and --top")
    if options.threshold and options.min_probability is not None:
        raise InputError("give one of --threshold and --min-probability")


def _check_colormap(name: str | None) -> None:
    import matplotlib

    if name is not None and name not in matplotlib.colormaps:
        near = ", ".join(nearest_first(name, matplotlib.colormaps)[:5])
        raise InputError(f"unknown colormap {name!r}; the nearest of matplotlib's are {near}")


def pairs(options: ExplainOptions, taps: Sequence[str]) -> list[tuple[MethodCall, str]]:
    """The methods, each at every tap where it looks, in the order of the methods."""
    return [
        (call, tap)
        for call in options.calls
        for tap in ((INPUT,) if call.method.explains == "input" else taps)
    ]
