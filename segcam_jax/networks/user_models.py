"""A user's own model as a `Network`: which images or volumes it takes is found out by trying.

Nothing is run for that, shapes alone are traced: with a batch of one and without, with three
channels and with one (of volumes, with one to four), and, where no size is given, which sizes a
segmentation network can halve. Convolutions must go along the axes of what is given.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segcam_jax import faults, models
from segcam_jax.adapters import program
from segcam_jax.adapters.calls import ArgumentError
from segcam_jax.networks import user_code
from segcam_jax.networks.network import USUAL_SIDE, USUAL_VOLUME, Network
from segcam_jax.networks.spec import (
    NO_NORMALISATION,
    Moments,
    NetworkSpec,
    Normalisation,
    OpenOptions,
    Said,
)
from segcam_jax.networks.user_code import Made
from segcam_jax.outputs import Meaning, declared
from segcam_jax.types import InputError, SegcamError, counted

_CHANNELS = {2: (3, 1), 3: (1, 2, 3, 4)}
_NOUNS = {2: "image", 3: "volume"}
_COMMANDS = {
    2: "`segcam explain` takes it",
    3: "explain volumes with `segcam instances` or `segcam context`",
}
# What to do about a call with further arguments.
_ONE_INPUT = (
    "a command gives the model only an image or a volume; let the factory give it the rest, as "
    "in segcam_jax.from_nnx(model, NAME=VALUE)"
)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Odd multiples of 64: an extent of so many plus m can be halved as often as m, and no further.
_ODD = (3 * 64, 5 * 64, 7 * 64)


@dataclasses.dataclass(frozen=True)
class UserConfig:
    """What is known of a user's model.

    Attributes:
        classifies: whether the logits are of the image, not of each pixel.
        multiple: what extents must be multiples of.
        extents: the only ones that a network of volumes takes; None: all such multiples.
    """

    in_channels: int
    classes: int
    classifies: bool
    multiple: int = 1
    ndim: int = 2
    extents: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model with what is done to an image before it, and to its logits after it.

    Attributes:
        moments: mean and standard deviation of each channel, or of all; None: images stay.
        one_example: what the model's adapter was told of its inputs.
    """

    fn: Callable
    moments: Moments | None
    one_example: bool = False

    @property
    def channel_axis(self) -> int | None:
        """Where the model has channels, as its adapter was told."""
        return getattr(self.fn, "channel_axis", None)

    @property
    def initialised(self) -> Callable | None:
        """How the model's parameters are drawn anew, as its adapter tells."""
        return getattr(self.fn, "initialised", None)

    def __call__(self, params: Any, x: Float[Array, "*space c"]) -> Array:
        """The logits of an image in [0, 1]; coarser ones of pixels are resized to the image."""
        if self.moments is not None:
            axes = tuple(range(x.ndim - 1))
            mean, deviation = (
                jnp.expand_dims(jnp.asarray(each, x.dtype), axes) for each in self.moments
            )
            x = (x - mean) / deviation
        output = self.fn(params, x)
        if output.ndim == x.ndim and output.shape[:-1] != x.shape[:-1]:
            shape = (*x.shape[:-1], output.shape[-1])
            output = jax.image.resize(output, shape, "linear", antialias=False)
        return output


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """A way of calling the model that works."""

    fn: Callable
    params: Any
    shape: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Of the image or volume."""
        return self.shape[:-1]

    @property
    def ndim(self) -> int:
        """2 of an image, 3 of a volume."""
        return len(self.extents)

    @property
    def classifies(self) -> bool:
        """Whether there is one vector of logits."""
        return len(self.output) == 1

    @property
    def coarser(self) -> bool:
        """Whether logits of pixels are fewer than pixels."""
        return not self.classifies and self.output[:-1] != self.extents

    @property
    def image(self) -> jax.ShapeDtypeStruct:
        """What the model is given."""
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Failure:
    """Why a way of calling the model does not work.

    Attributes:
        lines: in the user's code, of the calls that led to it, the outermost first.
        returned: whether the model returned something, which was wrong.
    """

    words: str
    lines: tuple[int, ...] = ()
    returned: bool = False


class _WrongOutput(InputError):
    """A model that runs, but does not return logits."""


def open_user_model(spec: NetworkSpec, options: OpenOptions = OpenOptions()) -> Network:
    """Opens what a factory of a user's own file makes.

    Images are brought to `options.size`; without one to 224 x 224 for a classifier, and for a
    segmentation network they stay as they are, if it takes more than one size. Of volumes, these
    extents are tried first. One number is for all axes.
    """
    size, normalisation = options.size, options.normalisation or NO_NORMALISATION
    made = user_code.make(spec.words)
    weights = user_code.load(made, options.checkpoint)
    fit = _fit(made, size, options.channels, options.ndims)
    count, moments = fit.shape[-1], normalisation.moments
    normalisation.check(count)
    multiple, brought = 1, fit.extents
    # Images are brought to the size that is given; volumes stay as they are.
    if not fit.classifies and (size is None or fit.ndim == 3):
        found = _multiple(fit)
        multiple, brought = (1, fit.extents) if found is None else (found, None)
    fn = fit.fn
    if moments or fit.coarser:
        fn = Prepared(fit.fn, moments, program.is_one_example(fit.fn))
    only = brought if fit.ndim == 3 else None
    config = UserConfig(count, fit.output[-1], fit.classifies, multiple, fit.ndim, only)
    loaded = models.LoadedModel(made.name, fn, fit.params, config, {})
    digest = _digest(made, fit, [brought, multiple, moments])
    meaning, about_outputs = _meaning(fit, options.said)
    note = f"{_note(made, fit, brought, multiple, normalisation)}; {about_outputs}{weights}"
    return Network(spec, made.file, digest, loaded, meaning, size=brought, note=note)


def _meaning(fit: _Fit, said: Said) -> tuple[Meaning, str]:
    """What the output means, and how that is known, in words.

    As said or as the model's adapter was told; else as its last operations tell, where a sigmoid
    over several classes means that they do not exclude each other.
    """
    classes, told = fit.output[-1], declared(fit.fn, said.outputs)
    ending = program.output_ending(fit.fn, fit.params, fit.image)
    apart = not told and ending == "sigmoid" and classes > 1
    found = told or ("probabilities" if ending else None)
    meaning = said.meaning(classes, outputs=found, multi_label=apart)
    each = " of classes that do not exclude each other" if not meaning.exclusive else ""
    if told:
        though = f", though it ends in a {ending}" if ending and told == "logits" else ""
        return meaning, f"its output holds {told}{each}, as declared{though}"
    if ending:
        return meaning, f"its output ends in a {ending}, so it holds probabilities{each}"
    return meaning, f"segcam assumes that its output holds logits{each}"


def _fit(
    made: Made, size: tuple[int, ...] | None, channels: int | None, ndims: Sequence[int]
) -> _Fit:
    """The first way of calling the model that works.

    Raises:
        InputError: of the call that came furthest; or that the model takes images, not volumes, or
            the other way about.
    """
    failures: list[_Failure] = []
    for ndim in ndims:
        for shape in _shapes(size, channels, ndim):
            if found := _fitting(made, shape, failures):
                return found
    for ndim, noun in _NOUNS.items():
        if ndim in ndims and _shapes(size, channels, ndim):
            continue
        if any(_fitting(made, shape, []) for shape in _shapes(None, channels, ndim)):
            what = f"{made.words} is a network of {noun}s"
            if ndim in ndims:
                raise InputError(f"{what}: size {_times(size or ())}; give one number, or {ndim}")
            wanted = " or ".join(f"{_NOUNS[each]}s" for each in ndims)
            raise InputError(f"{what}, this command needs one of {wanted}: {_COMMANDS[ndim]}")
    if not failures:
        raise InputError(f"size {_times(size or ())}; give one number, or one for each axis")
    furthest = max(failures, key=lambda failure: (failure.returned, failure.lines))
    sizes = "--size H W" if 2 in ndims else "--roi"
    hint = "" if furthest.returned else f"; if it takes others, give {sizes} and --channels N"
    raise InputError(furthest.words + hint)


def _shapes(size: tuple[int, ...] | None, channels: int | None, ndim: int) -> list[tuple[int, ...]]:
    """The shapes of images or volumes that are tried; none if the size has other axes."""
    usual = (USUAL_SIDE if ndim == 2 else USUAL_VOLUME,) * ndim
    if size is not None and len(size) not in (1, ndim):
        return []
    given = usual if size is None else size * ndim if len(size) == 1 else size
    # A volume is run window by window: one that fails may have the wrong extents alone.
    spaces = [given] if ndim == 2 else list(dict.fromkeys([given, usual]))
    tried = (channels,) if channels else _CHANNELS[ndim]
    return [(*space, count) for space in spaces for count in tried]


def _fitting(made: Made, shape: tuple[int, ...], failures: list[_Failure]) -> _Fit | None:
    """A way of calling the model on a shape; if none works, `failures` are told why."""
    for fn, params in _callings(made):
        try:
            fit = _Fit(fn, params, shape, _output(fn, params, shape))
            _check_axes(fit)
            return fit
        except ArgumentError as error:
            words = f"{made.words}: {error.fact}; {_ONE_INPUT}"
            failures.append(_Failure(words, returned=True))
        except SegcamError as error:
            returned = isinstance(error, _WrongOutput)
            failures.append(_Failure(f"{made.words}: {error}", returned=returned))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A user's own model may end the program, too.
            lines = tuple(line for _, line in faults.lines_of(error))
            what = f"{_a(_NOUNS[len(shape) - 1])} of {_times(shape)}"
            words = f"{made.words} fails on {what}: {faults.words_of(error)}"
            failures.append(_Failure(words, lines))
    return None


def _callings(made: Made) -> Iterator[tuple[Callable, Any]]:
    """The model with a batch of one, as most are written, and without, if that makes a difference.

    A model that is written for a batch could take the rows of one image for examples, and would
    not always fail; hence the order.
    """
    yield made.batched
    if made.single[0] != made.batched[0]:
        yield made.single


def _check_axes(fit: _Fit) -> None:
    """Raises `_WrongOutput` where convolutions show that an axis was taken for a batch."""
    axes = program.convolved_axes(fit.fn, fit.params, fit.image)
    if axes not in (None, 1, fit.ndim) and not program.is_one_example(fit.fn):
        raise _WrongOutput(
            f"its convolutions run along {axes} axes, but {_a(_NOUNS[fit.ndim])} has {fit.ndim}"
        )


def _output(fn: Callable, params: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the logits: `k`, or `h w k` (`d h w k`) no finer than the image (volume)."""
    output = jax.eval_shape(fn, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    if not isinstance(output, jax.ShapeDtypeStruct):
        kinds = f"a {type(output).__name__} of {len(jax.tree.leaves(output))} array(s)"
        first = repr(next(iter(output))) if isinstance(output, dict) and output else "0"
        raise _WrongOutput(
            f"the model returns {kinds}, expected the logits alone; let the factory return "
            f"segcam_jax.from_nnx(model, output=lambda out: out[{first}]) or the like"
        )
    found = tuple(output.shape)
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise _WrongOutput(
            f"the model returns {output.dtype} values, expected floating-point logits"
        )
    what = _NOUNS[len(shape) - 1]
    if len(found) not in (1, len(shape)):
        raise _WrongOutput(
            f"the model returns shape {found} for {_a(what)} of {_times(shape)}; "
            f"expected k logits, or {'h w k' if what == 'image' else 'd h w k'} of them (without "
            "the batch)"
        )
    ratios = {m / n for n, m in zip(found[:-1], shape[:-1], strict=True)} if found[1:] else {1}
    if len(ratios) > 1 or any(not ratio.is_integer() for ratio in map(float, ratios)):
        both = "both" if what == "image" else "all axes"
        raise _WrongOutput(
            f"the model returns {_times(found[:-1])} logits for {_a(what)} of "
            f"{_times(shape[:-1])}; expected the same number, or a half, a quarter, ... along "
            f"{both}"
        )
    return found


def _multiple(fit: _Fit) -> int | None:
    """The least multiple that extents must have; None if the network takes other sizes not at all.

    A network halves an extent some times, and fails, or returns another size, where it is odd.
    """
    for multiple in _MULTIPLES:
        space = tuple(extent + multiple for extent in _ODD[: fit.ndim])
        try:
            found = _output(fit.fn, fit.params, (*space, fit.shape[-1]))
        except Exception:
            continue
        if len(found) > 1 and found[0] * fit.shape[0] == space[0] * fit.output[0]:
            return multiple
    return None


def _digest(made: Made, fit: _Fit, prepared: Sequence[Any]) -> str:
    """A digest of the parameters, the source, how images are prepared, and what the model holds."""
    words = Path(made.words).name  # Wherever the file is named from.
    digest = hashlib.sha256(f"{words} {made.source} {prepared}".encode())
    leaves = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(fit.params)
    ]
    held = program.held_values(fit.fn, fit.params, fit.image)
    for name, leaf in [*leaves, *((f"held {n}", value) for n, value in enumerate(held))]:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _note(
    made: Made, fit: _Fit, size: tuple[int, ...] | None, multiple: int, normalisation: Normalisation
) -> str:
    noun, channels = _NOUNS[fit.ndim], fit.shape[-1]
    if size is not None:
        image = f"{_a(noun)} of {_times((*size, channels))}"
    else:
        image = f"{_a(noun)} of any size, {counted(channels, 'channel')}"
        padded = "padded to" if fit.ndim == 2 else "in windows of"
        image += f", {padded} multiples of {multiple}" if multiple > 1 else ""
    each = "pixel" if fit.ndim == 2 else "voxel"
    of = image if fit.classifies else f"each {each} of {image}"
    what = f"{counted(fit.output[-1], 'class')} for {of}"
    ratio = fit.extents[0] / fit.output[0]
    coarser = f"; its logits are resized by {ratio:g}" if fit.coarser else ""
    return f"{made.words} is {made.name}: {what}; normalisation {normalisation.words}{coarser}"


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
